"""MELD.Raw: the clips of MELD beside its transcripts (Poria et al., ACL 2019; MELD.Raw.tar.gz).

What the files need: each split is an archive of its own with a folder of its own name; clips lie beside the
resource forks of another system (`._dia0_utt0.mp4`), beside clips of utterances that are in no transcript,
and, in the test split, beside second versions of 132 clips (`final_videos_testdia93_utt6.mp4`).

The second versions are told apart from copies by people who listened to them: at least three published
preparations of MELD take them for the clips that belong to the transcript, and the plain ones of these
utterances for wrong cuts. MELD's authors say only that they may be ignored (declare-lab/MELD#22), and so
they are unless `second_versions` is set.
"""

from pathlib import Path

import pandas as pd

from mmerc.corpora import records
from mmerc.corpora.label_maps import LabelMap
from mmerc.corpora.meld import FILES, read_transcripts
from mmerc.corpus import Corpus, write_corpus
from mmerc.errors import CorpusError
from mmerc.media import media_table

FOLDERS = {
    "train": "train_splits",
    "validation": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
ARCHIVES = {"train": "train", "validation": "dev", "test": "test"}
SECOND = "final_videos_test"

_MINUTES = "minutes long: cut with the transcript's wrong times (declare-lab/MELD#20)"
_DISTURBED = "disturbed sound (declare-lab/MELD#9)"
_OTHER_WORDS = "says other words than the transcript (declare-lab/MELD#9)"
_TOO_SHORT = "shorter than 0.1 s, like its times in the transcript"
KNOWN_BROKEN = {
    ("train", "dia125_utt3"): "corrupt: cannot be decoded (declare-lab/MELD#39, #52)",
    ("validation", "dia110_utt7"): "missing from the archive (declare-lab/MELD#22, #27)",
    ("test", "dia38_utt4"): _MINUTES,
    ("test", "dia220_utt0"): _MINUTES,
    ("train", "dia309_utt0"): "wrongly cut, and the transcript holds a stage direction (declare-lab/MELD#20)",
    ("train", "dia793_utt0"): _DISTURBED,
    ("train", "dia164_utt5"): _DISTURBED,
    ("train", "dia682_utt1"): _DISTURBED,
    ("train", "dia529_utt2"): _DISTURBED,
    ("train", "dia1029_utt1"): _DISTURBED,
    ("train", "dia1008_utt1"): _DISTURBED,
    ("train", "dia241_utt2"): _OTHER_WORDS,
    ("train", "dia757_utt7"): _OTHER_WORDS,
    ("train", "dia485_utt0"): _OTHER_WORDS,
    ("train", "dia71_utt0"): _TOO_SHORT,
    ("train", "dia179_utt8"): _TOO_SHORT,
    ("train", "dia312_utt9"): _TOO_SHORT,
    ("train", "dia332_utt1"): _TOO_SHORT,
    ("train", "dia406_utt2"): _TOO_SHORT,
    ("train", "dia523_utt10"): _TOO_SHORT,
    ("validation", "dia99_utt3"): _TOO_SHORT,
    ("validation", "dia108_utt5"): _TOO_SHORT,
}  # (split, clip) → what is wrong with it


def is_meld_raw(source: Path) -> bool:
    """Return whether a folder looks like an unpacked MELD.Raw."""
    return bool(_clip_folders(source))


def import_meld_raw(
    source: Path,
    out: Path,
    *,
    transcripts: Path | None = None,
    label_map: LabelMap | None = None,
    second_versions: bool = False,
) -> Corpus:
    """Import the clips in `source` and their transcripts into the corpus folder `out`, without features.

    A clip is one utterance from its beginning to its end; `start_ms` and `end_ms` remain the times in the
    episode. An utterance whose clip is missing keeps its place, without media. `provenance["notes"]` counts
    what is missing, what is in no transcript, and the clips that are known to be broken (`KNOWN_BROKEN`).

    Args:
        source: the folder that MELD.Raw.tar.gz unpacks to, with its three archives unpacked inside.
        out: the corpus folder.
        transcripts: folder with the three transcripts, if not in `source` (or in its folder `train`).
        label_map: see `mmerc.corpora.meld.read_transcripts`.
        second_versions: take `final_videos_test…` for the 132 test clips that have one.

    Raises:
        CorpusError: no clips, an archive that is not unpacked, clips without a transcript, or a broken one.
    """
    root = source.resolve()
    folders = _clip_folders(root)
    if not folders:
        raise CorpusError(_no_clips(source))
    paths = _transcripts(root, transcripts)
    if unknown := [split for split in folders if split not in paths]:
        raise CorpusError(
            f"{folders[unknown[0]]} holds clips, but there is no {FILES[unknown[0]]}, neither in "
            f"{transcripts or source} nor in its folder {ARCHIVES[unknown[0]]}: download it from "
            "github.com/declare-lab/MELD (data/MELD) and name its folder (--transcript)"
        )
    read = read_transcripts(paths, label_map)
    files, notes = [], []
    for split in paths:
        wanted = read.utterances.loc[read.utterances["split"] == split, "media"].astype(str).tolist()
        found, told = _clips(split, wanted, folders.get(split), root, second_versions)
        files += found
        notes += told
    return write_corpus(
        out,
        name="meld",
        labels=read.labels,
        utterances=read.utterances,
        features={},
        tables={"media": media_table({"audio_file": files, "visual_file": files})},
        provenance={
            **read.provenance,
            "source": "MELD.Raw (Poria et al., ACL 2019)",
            "media_root": str(root),
            "notes": [*read.provenance["notes"], *notes, *_known_broken(read.utterances, files)],
        },
    )


def _places(root: Path, split: str) -> list[Path]:
    """Return the folders in which the archive of a split may have been unpacked."""
    return [root, root / ARCHIVES[split], root / "MELD.Raw", root / "MELD.Raw" / ARCHIVES[split]]


def _clip_folders(root: Path) -> dict[str, Path]:
    found = {}
    for split, name in FOLDERS.items():
        there = [place / name for place in _places(root, split) if (place / name).is_dir()]
        if there:
            found[split] = there[0]
    return found


def _transcripts(root: Path, folder: Path | None) -> dict[str, Path]:
    found = {}
    for split, name in FILES.items():
        there = [place / name for place in _places(folder or root, split) if (place / name).is_file()]
        if there:
            found[split] = there[0]
    return found


def _clips(
    split: str, wanted: list[str], folder: Path | None, root: Path, second_versions: bool
) -> tuple[list[str | None], list[str]]:
    """Return the file of each utterance of a split, relative to `root`, and notes for people."""
    if folder is None:
        message = f"{split}: there is no folder {FOLDERS[split]}: its {len(wanted)} utterances have no clips"
        return [None] * len(wanted), [message]
    there = {path.name for path in folder.glob("*.mp4") if not path.name.startswith("._")}
    second = {SECOND + name for name in wanted} & there
    taken = second if second_versions else set()
    inside = folder.relative_to(root)
    files: list[str | None] = []
    for name in wanted:
        name = SECOND + name if SECOND + name in taken else name
        files.append((inside / name).as_posix() if name in there else None)
    notes = []
    if missing := [name for name, file in zip(wanted, files, strict=True) if file is None]:
        notes.append(f"{split}: {len(missing)} of {len(wanted)} clips missing: {records.first_few(missing)}")
    if extra := sorted(there - set(wanted) - second):
        notes.append(f"{split}: {len(extra)} clips in no transcript, not used: {records.first_few(extra)}")
    if second:
        which = "used in place of the plain ones" if second_versions else "not used"
        notes.append(f"{split}: {len(second)} clips have a second version {SECOND}…, {which}")
    return files, notes


def _known_broken(utterances: pd.DataFrame, files: list[str | None]) -> list[str]:
    present = {
        (str(split), str(media).removesuffix(".mp4"))
        for split, media, file in zip(utterances["split"], utterances["media"], files, strict=True)
        if file is not None and SECOND not in file
    }
    known = [f"{split} {name}" for split, name in KNOWN_BROKEN if (split, name) in present]
    if not known:
        return []
    return [f"{len(known)} clips are known to be broken, and kept: {records.first_few(known)}"]


def _no_clips(source: Path) -> str:
    packed = [f"{name}.tar.gz" for name in ARCHIVES.values() if (source / f"{name}.tar.gz").is_file()]
    if packed:
        return f"{source}: unpack {', '.join(packed)} first, inside this folder (`tar xzf {packed[0]}`)"
    known = ", ".join(FOLDERS.values())
    return f"{source} holds none of MELD.Raw's folders of clips: {known}"
