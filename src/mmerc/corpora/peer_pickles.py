"""The feature pickles that are handed on in the field: IEMOCAP and MELD as MMGCN, SDT, COSMIC use them.

    import_pickle(sources, out, *, text="text_1", meld_csv=None) -> Corpus

reads one file, or two that belong together (audio and visual features from one, RoBERTa's from COSMIC's).
`provenance["layout"]` and `provenance["notes"]` of the corpus say what was recognised and done.

What is kept: features, labels, speakers, sentences, and IEMOCAP's utterance ids (as `media`, they name the
clips). Sentiments and MELD's last field are not read. Dialogues keep their ids, MELD's as `"0"`, `"1"`, …
in the order of the numbers, IEMOCAP's sorted.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmerc.corpora.meld import FILES, import_meld
from mmerc.corpora.peer_layouts import LABELS, Id, PeerFile, read_peer_file
from mmerc.corpora.records import sha256
from mmerc.corpus import Corpus, Features, draw_validation, write_corpus
from mmerc.errors import CorpusError

# The peers number MELD's dialogues through: training, development and test files one after the other.
MELD_RANGES = {"train": range(1039), "validation": range(1039, 1153), "test": range(1153, 1433)}
VALIDATION_SHARE = 0.1  # 12 of IEMOCAP's 120 training dialogues
_ALIKE = 0.5  # similarity from which two sentences count as versions of each other


def import_pickle(
    sources: Sequence[Path], out: Path, *, text: str = "text_1", meld_csv: Path | None = None
) -> Corpus:
    """Import one feature pickle, or two that are to be joined, into the corpus folder `out`.

    Of the four RoBERTa layers `text_1` to `text_4` the one that `text` names is stored as the modality
    `text`, the others under their own names. Of two files, the one with audio and visual features gives
    everything but the text features and, if only the other has them, the validation dialogues.

    Splits: validation dialogues that a file lists are used. Otherwise MELD's are those of the official
    split, by number; for IEMOCAP a tenth of the training dialogues is drawn (`draw_validation`).
    Dialogues that no split lists, or that have no utterances, are left out; the provenance names them.

    A vector of NaN is an absent one. A vector of zeros stays, as it cannot be told from a measured one;
    the provenance counts them per modality (`all_zero_rows`).

    Args:
        sources: the files, in any order.
        out: the corpus folder.
        text: which text features become the modality `text`.
        meld_csv: folder of MELD's `*_sent_emo.csv`. The sentences are compared with it, dialogue by dialogue;
            the provenance counts those that differ.

    Raises:
        CorpusError: a file is refused, damaged, of an unknown layout or inconsistent (with dialogue and
            field), the files do not belong together, or the splits contradict each other or `meld_csv`.
    """
    main, textual = _roles([read_peer_file(Path(source)) for source in sources])
    names = _modalities(main, textual, text)
    splits = _splits(main, textual)
    lengths = _lengths(main, textual, splits)
    dialogues = sorted(dialogue for dialogue, count in lengths.items() if count)
    if not dialogues:
        raise CorpusError(f"{main.path} lists no dialogue with utterances in any split")
    frame = _utterances(main, dialogues, splits)
    compared = _compare_with_csv(main, dialogues, frame, meld_csv)
    features = {name: _features(file, field, dialogues) for name, (file, field) in names.items()}
    left_out = {
        "empty": [str(dialogue) for dialogue, count in lengths.items() if not count],
        "in_no_split": [str(dialogue) for dialogue in main.tables["labels"] if dialogue not in splits],
    }
    return write_corpus(
        out,
        name=main.layout.corpus,
        labels=LABELS[main.layout.corpus],
        utterances=frame,
        features=features,
        provenance={
            **_origin(main, textual),
            "notes": _notes(main, textual, names["text"][1], frame),
            "dialogues_left_out": left_out,
            "all_zero_rows": {m: int((~f.values.any(axis=1)).sum()) for m, f in features.items()},
            "absent_rows": {m: int((~f.present).sum()) for m, f in features.items()},
            **_label_differences(main, textual, dialogues),
            **compared,
        },
    )


def _roles(files: Sequence[PeerFile]) -> tuple[PeerFile, PeerFile]:
    """Return the file of labels, sentences, audio and visual, and the file of text features."""
    if len(files) == 1:
        return files[0], files[0]
    if len(files) != 2:
        raise CorpusError(f"{len(files)} files: give one feature pickle, or two that are to be joined")
    first, second = files if "audio" in files[0].tables else (files[1], files[0])
    found = f"{first.path} is {first.layout.name}, {second.path} is {second.layout.name}"
    if "audio" not in first.tables or "audio" in second.tables:
        raise CorpusError(
            f"join a file with audio and visual features and one with text only (COSMIC's): {found}"
        )
    if first.layout.corpus != second.layout.corpus:
        raise CorpusError(f"the files are of different corpora: {found}")
    return first, second


def _distinct(main: PeerFile, textual: PeerFile) -> list[PeerFile]:
    return [main] if main is textual else [main, textual]


def _modalities(main: PeerFile, textual: PeerFile, text: str) -> dict[str, tuple[PeerFile, str]]:
    """Return modality → the file and field that it comes from."""
    if text not in textual.texts:
        have = ", ".join(textual.texts)
        raise CorpusError(f"{textual.path} has no text features {text!r}; it has: {have}")
    texts = {"text" if field == text else field: (textual, field) for field in textual.texts}
    return texts | {field: (main, field) for field in ("audio", "visual") if field in main.tables}


def _splits(main: PeerFile, textual: PeerFile) -> dict[Id, str]:
    """Return the split of every dialogue that is in one."""
    source = textual if textual.listed.get("validation") else main
    for file in _distinct(main, textual):
        _require_disjoint(file, file)
    if main is not textual:
        _require_disjoint(main, textual)
        _require_disjoint(textual, main)
    if not source.listed.get("validation"):
        return _official_meld(source) if source.layout.corpus == "meld" else _drawn(source)
    # A training list may hold the validation dialogues too, as MELD's do.
    return {d: split for split in ("train", "validation", "test") for d in source.listed[split]}


def _require_disjoint(learning: PeerFile, testing: PeerFile) -> None:
    for split in ("train", "validation"):
        common = learning.listed.get(split, frozenset()) & testing.listed["test"]
        if common:
            raise CorpusError(
                f"dialogue {_first(common)} is a {split} dialogue in {learning.path} "
                f"and a test dialogue in {testing.path}: a file is damaged, or they do not belong together"
            )


def _official_meld(file: PeerFile) -> dict[Id, str]:
    splits: dict[Id, str] = {}
    for listed, allowed in {"train": ("train", "validation"), "test": ("test",)}.items():
        for dialogue in sorted(file.listed[listed], key=int):
            official = _official_split(dialogue)
            if official not in allowed:
                raise CorpusError(
                    f"{file.path}: dialogue {dialogue} is a {listed} dialogue, but by MELD's official split "
                    f"{f'it is one of {official}' if official else 'there is no such dialogue'} "
                    f"(0-1038 train, 1039-1152 validation, 1153-1432 test)"
                )
            splits[dialogue] = official
    return splits


def _official_split(dialogue: Id) -> str | None:
    return next((split for split, numbers in MELD_RANGES.items() if dialogue in numbers), None)


def _drawn(file: PeerFile) -> dict[Id, str]:
    train = [str(dialogue) for dialogue in file.listed["train"]]
    count = max(1, round(VALIDATION_SHARE * len(train))) if len(train) > 1 else 0
    splits: dict[Id, str] = dict.fromkeys(train, "train")
    splits |= dict.fromkeys(draw_validation(train, count), "validation")
    return splits | dict.fromkeys(file.listed["test"], "test")


def _lengths(main: PeerFile, textual: PeerFile, dialogues: Iterable[Id]) -> dict[Id, int]:
    lengths = main.lengths(dialogues)
    if main is textual:
        return lengths
    extra = {d for d in main.listed["train"] | main.listed["test"] if d not in lengths}
    if extra:
        raise CorpusError(f"dialogue {_first(extra)} is in {main.path}, but in no split of {textual.path}")
    for dialogue, count in textual.lengths(dialogues).items():
        if count != lengths[dialogue]:
            raise CorpusError(
                f"dialogue {dialogue} has {lengths[dialogue]} utterances in {main.path}, "
                f"but {count} in {textual.path}: the files do not belong together"
            )
    return lengths


def _utterances(file: PeerFile, dialogues: Sequence[Id], splits: Mapping[Id, str]) -> pd.DataFrame:
    frames = []
    for dialogue in dialogues:
        labels = file.labels(dialogue)
        frames.append(
            {
                "dialogue_id": [str(dialogue)] * len(labels),
                "utterance_index": range(len(labels)),
                "speaker": file.speakers(dialogue),
                "text": file.sentences(dialogue),
                "label": labels,
                "split": [splits[dialogue]] * len(labels),
                "media": file.media(dialogue),
            }
        )
    columns = frames[0] if frames else {"dialogue_id": []}
    return pd.DataFrame({name: [value for frame in frames for value in frame[name]] for name in columns})


def _features(file: PeerFile, field: str, dialogues: Sequence[Id]) -> Features:
    values, present = file.features(field, dialogues)
    return Features(values, present, {"kind": "imported", "layout": file.layout.name, "field": field})


def _compare_with_csv(
    file: PeerFile, dialogues: Sequence[Id], frame: pd.DataFrame, folder: Path | None
) -> dict[str, Any]:
    """Check sentences against the official transcripts; return what the provenance says about it."""
    if folder is None:
        return {}
    if file.layout.corpus != "meld":
        raise CorpusError(f"{file.path} is not a file of MELD: its sentences are not in {folder}")
    missing = [name for name in FILES.values() if not (folder / name).is_file()]
    if missing:
        raise CorpusError(f"{folder} has no {missing[0]}: all of MELD's three transcripts are needed")
    with tempfile.TemporaryDirectory() as scratch:
        official = import_meld(folder, Path(scratch) / "meld").utterances.groupby("dialogue_id")["text"]
        transcripts = {str(name): list(texts) for name, texts in official}
    spoken = {str(name): list(texts) for name, texts in frame.groupby("dialogue_id")["text"]}
    differing = sum(_differing(file, d, spoken[str(d)], transcripts) for d in dialogues)
    return {"meld_csv": {"compared_utterances": len(frame), "differing_utterances": differing}}


def _differing(
    file: PeerFile, dialogue: Id, sentences: Sequence[str], transcripts: Mapping[str, Sequence[str]]
) -> int:
    """Count the sentences of a dialogue that differ; refuse if most are other sentences altogether."""
    split = _official_split(dialogue)
    if split is None:
        raise CorpusError(f"{file.path}: MELD has no dialogue {dialogue}; the last is 1432")
    number = int(dialogue) - MELD_RANGES[split].start
    where = f"{file.path}: dialogue {dialogue} should be dialogue {number} of {FILES[split]}"
    expected = transcripts.get(f"{split}_{number}")
    if expected is None:
        raise CorpusError(f"{where}, which has no such dialogue")
    if len(expected) != len(sentences):
        raise CorpusError(f"{where}, but has {len(sentences)} utterances instead of {len(expected)}")
    pairs = [(_letters(a), _letters(b)) for a, b in zip(sentences, expected, strict=True)]
    changed = [pair for pair in pairs if pair[0] != pair[1]]
    other = sum(SequenceMatcher(None, *pair, autojunk=False).ratio() < _ALIKE for pair in changed)
    if 2 * other > len(pairs):
        raise CorpusError(
            f"{where}, but {other} of its {len(pairs)} sentences are others: the ids do not follow MELD"
        )
    return len(changed)


def _letters(sentence: str) -> str:
    """Reduce a sentence to what encodings, quotes and spacing leave alone."""
    return "".join(c for c in sentence.lower() if c.isascii() and c.isalnum())


def _label_differences(main: PeerFile, textual: PeerFile, dialogues: Sequence[Id]) -> dict[str, int]:
    if main is textual:
        return {}
    pairs = ((main.labels(d), textual.labels(d)) for d in dialogues)
    return {"differing_labels": sum(int((np.array(a) != np.array(b)).sum()) for a, b in pairs)}


def _origin(main: PeerFile, textual: PeerFile) -> dict[str, Any]:
    files = _distinct(main, textual)
    return {
        "source": "feature pickle",
        "layout": " + ".join(file.layout.name for file in files),
        "files": [
            {"file": file.path.name, "layout": file.layout.name, "sha256": sha256(file.path)}
            for file in files
        ],
    }


def _notes(main: PeerFile, textual: PeerFile, text: str, frame: pd.DataFrame) -> list[str]:
    notes = [f"{file.path.name}: recognised as {file.layout}" for file in _distinct(main, textual)]
    if len(textual.texts) > 1:
        notes.append(f"modality text is {text}, one of {', '.join(textual.texts)}")
    drawn = frame.loc[frame["split"] == "validation", "dialogue_id"].unique()
    if any(file.listed.get("validation") for file in (main, textual)):
        how = "as the file lists them"
    elif main.layout.corpus == "meld":
        how = "MELD's official ones, by number"
    else:
        how = f"evenly spaced over the sorted training ids: {', '.join(drawn)}"
    return [*notes, f"{len(drawn)} validation dialogues, {how}"]


def _first(dialogues: Iterable[Id]) -> Id:
    return min(dialogues, key=lambda d: (isinstance(d, str), d))
