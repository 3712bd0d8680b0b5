"""Where the sound and the pictures of each utterance are: the table `media.parquet` of a corpus folder.

One row per utterance. Files are named relative to the media root, which the provenance holds as
`media_root`. The sound and the pictures of an utterance may lie in different files (IEMOCAP), and in one
half of a split screen.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, cast

from mmerc.errors import CorpusError
from mmerc.manifest import require_intact

if TYPE_CHECKING:  # workers that decode media need this module, but neither pandas nor torch
    import pandas as pd

    from mmerc.corpus import Corpus

Crop = Literal["", "left", "right"]
COLUMNS: Final = {
    "audio_file": "string",  # null: the utterance has no sound
    "audio_start_ms": "Int64",  # null: from the start of the file
    "audio_end_ms": "Int64",  # null: to its end
    "visual_file": "string",
    "visual_start_ms": "Int64",
    "visual_end_ms": "Int64",
    "visual_crop": "string",  # "", "left" or "right" half of the picture
}
LONGEST_MS: Final = 10**12  # 30 years


class Source(NamedTuple):
    """The place of one utterance in a media file."""

    file: Path
    start_ms: int = 0
    end_ms: int | None = None  # None: to the end of the file
    crop: Crop = ""


def media_table(columns: Mapping[str, object]) -> "pd.DataFrame":
    """Return a table that `write_corpus(tables={"media": …})` takes; a column left out is null."""
    import pandas as pd

    frame = pd.DataFrame(dict(columns)).reindex(columns=list(COLUMNS)).astype(COLUMNS)
    return frame.fillna({"visual_crop": ""})


def read_sources(
    corpus: "Corpus", modality: Literal["audio", "visual"], root: Path | None = None
) -> list[Source | None]:
    """Return the place of every utterance's sound or pictures; None where it has none.

    Args:
        corpus: a corpus that was made from media
        modality: which of the two
        root: where the media files are, if not where they were

    Raises:
        CorpusError: the corpus does not say where its media are, or the root is missing.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = corpus.path / "media.parquet"
    try:
        require_intact(corpus.path, corpus.manifest, path.name)
        stored = pq.read_table(path)
        stored.validate(full=True)  # that text is UTF-8: nothing else looks
        table = stored.to_pandas().reindex(columns=list(COLUMNS)).astype(COLUMNS)
    except FileNotFoundError:
        raise CorpusError(
            f"{corpus.path} does not say where its media are: make it with `mmerc extract SOURCE --out DIR`"
        ) from None
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): extract the corpus again") from None
    if len(table) != len(corpus):
        raise CorpusError(f"{path} has {len(table)} rows, the corpus {len(corpus)} utterances")
    times = table[[name for name in COLUMNS if name.endswith("_ms")]]
    if (times.abs() > LONGEST_MS).any(axis=None):
        raise CorpusError(f"{path} holds a time of more than {LONGEST_MS} ms: extract the corpus again")
    folder = root or Path(str(corpus.manifest.provenance.get("media_root", "")))
    if not folder.is_dir():
        raise CorpusError(
            f"the media folder {str(folder)!r} does not exist: say where it is with --media-root"
        )
    crops = table["visual_crop"].fillna("") if modality == "visual" else pd.Series("", index=table.index)
    return [
        None
        if pd.isna(file)
        else Source(
            folder / str(file),
            0 if pd.isna(start) else int(start),
            None if pd.isna(end) else int(end),
            cast(Crop, str(crop)),
        )
        for file, start, end, crop in zip(
            table[f"{modality}_file"],
            table[f"{modality}_start_ms"],
            table[f"{modality}_end_ms"],
            crops,
            strict=True,
        )
    ]
