"""A corpus on disk: conversations and one feature table per modality, in a plain folder.

corpus.json                      manifest: format, labels in order, modalities, provenance, checksums
utterances.parquet               one row per utterance; the rows of a dialogue are contiguous
features/<modality>.safetensors  values (N, d) float32, present (N,) bool
<name>.parquet                   further tables with one row per utterance (`scripted`: truth)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mmerc.batch import MISSING
from mmerc.conversation import Conversation, Utterance
from mmerc.errors import CorpusError
from mmerc.feature_file import FeatureFile, open_features
from mmerc.manifest import (
    FORMAT,
    Manifest,
    Modality,
    file_sums,
    first_problem,
    put_file,
    read_manifest,
    require_intact,
    write_manifest,
)
from mmerc.storage import LOCK, atomic_folder, atomic_path, exclusive

__all__ = [
    "MISSING", "SCHEMA", "SPLITS", "Corpus", "Features", "Manifest", "Modality", "add_table",
    "draw_validation", "intact_features", "slice_rows", "write_corpus",
]  # fmt: skip

TABLE = "utterances.parquet"
SPLITS = ("train", "validation", "test")

SCHEMA = pa.schema(
    [
        pa.field("dialogue_id", pa.string(), nullable=False),
        pa.field("utterance_index", pa.int64(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("text", pa.string()),
        pa.field("start_ms", pa.int64()),
        pa.field("end_ms", pa.int64()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("fold", pa.int64()),
        pa.field("media", pa.string()),
    ]
)


class Features(NamedTuple):
    """One modality of a corpus that is to be written."""

    values: npt.NDArray[np.float32]  # (N, d)
    present: npt.NDArray[np.bool_]  # (N,)
    recipe: dict[str, Any]


class Corpus:
    """A corpus folder, opened lazily: the utterance table at once, features on first use.

    A dialogue d is the slice `offsets[d]:offsets[d + 1]` of every per-utterance array.
    """

    def __init__(self, path: Path, manifest: Manifest, utterances: pd.DataFrame) -> None:
        self.path = path
        self.manifest = manifest
        self.utterances = utterances
        self._intact: set[str] = set()  # modalities whose checksums were compared
        numbers, _ = pd.factorize(utterances["dialogue_id"])  # a string object for each row would take GBs
        starts = np.flatnonzero(np.diff(numbers, prepend=-2))
        self.offsets: npt.NDArray[np.int64] = np.r_[starts, len(numbers)].astype(np.int64)
        self.dialogue_ids: list[str] = [str(name) for name in utterances["dialogue_id"].iloc[starts]]

    @classmethod
    def open(cls, path: str | Path) -> "Corpus":
        """Open the corpus folder `path`.

        Raises:
            CorpusError: not a corpus folder, of another format version, or with a broken table.
        """
        path = Path(path)
        manifest = read_manifest(path)
        table_path = path / TABLE
        try:
            require_intact(path, manifest, TABLE)
            frame = _read_table(table_path)
        except FileNotFoundError:
            raise CorpusError(f"{table_path} is missing: import the corpus again") from None
        except (pa.ArrowException, KeyError, OSError) as error:
            raise CorpusError(f"{table_path} cannot be read ({error}): import the corpus again") from None
        if frame.empty:
            raise CorpusError(f"{table_path} holds no utterances")
        for name in (f.name for f in SCHEMA if not f.nullable):
            if frame[name].isna().any():
                row = int(frame[name].isna().to_numpy().argmax())
                raise CorpusError(f"{table_path}: row {row} has no {name}: import the corpus again")
        return cls(path, manifest, frame)

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def name(self) -> str:
        """Name of the corpus."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names; the position is the class index."""
        return self.manifest.labels

    @property
    def modalities(self) -> dict[str, Modality]:
        """The feature tables, by name."""
        return self.manifest.modalities

    @cached_property
    def targets(self) -> npt.NDArray[np.int64]:
        """Class index of every utterance, (N,); `MISSING` where there is no label.

        Raises:
            CorpusError: a label that the manifest does not list, with its row.
        """
        codes, names = pd.factorize(self.utterances["label"])  # −1: none
        unknown = [code for code, name in enumerate(names) if name not in self.labels]
        if unknown:
            row = int(np.isin(codes, unknown).argmax())
            raise CorpusError(
                f"{self.path}: row {row}: unknown label {self.utterances['label'].iloc[row]!r}; "
                f"labels are {', '.join(self.labels)}"
            )
        classes = [*(self.labels.index(name) for name in names), MISSING]
        return np.array(classes, dtype=np.int64)[codes]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of dialogues × utterances; "" where there is none."""
        column = self.utterances["text"].fillna("").tolist()
        return [column[start:stop] for start, stop in pairwise(self.offsets)]

    @cached_property
    def folds(self) -> tuple[int, ...]:
        """The fold numbers that occur, sorted; empty for a corpus without folds."""
        return tuple(sorted(int(f) for f in self.utterances["fold"].dropna().unique()))

    def features(self, modality: str) -> tuple[Tensor, Tensor]:
        """Return `values` (N, d) float32 and `present` (N,) bool of a modality, mapped from the disk.

        Raises:
            CorpusError: the modality does not exist, or its file is missing, broken or of another shape.
        """
        return self._open(modality)[:2]

    def _open(self, modality: str) -> FeatureFile:
        if modality not in self.modalities:
            known = ", ".join(self.modalities) or "none; run `mmerc corpus encode-text` for text"
            raise CorpusError(f"{self.path} has no modality {modality!r}; it has: {known}")
        return open_features(self.path / _feature_file(modality), len(self), self.modalities[modality].width)

    def rows(self, dialogues: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the utterance rows of the given dialogues, one dialogue after the other."""
        return slice_rows(self.offsets, dialogues)

    def split(self, name: str) -> npt.NDArray[np.int64]:
        """Return the dialogue numbers of a split, in corpus order.

        Raises:
            CorpusError: no dialogue has that split.
        """
        first = self.utterances["split"].iloc[self.offsets[:-1]]
        found = np.flatnonzero((first == name).fillna(False).to_numpy(dtype=bool))
        if not len(found):
            have = ", ".join(sorted(first.dropna().unique())) or "none"
            hint = "; it has folds: use --cross-validate" if self.folds else ""
            raise CorpusError(f"{self.path} has no split {name!r}; it has: {have}{hint}")
        return found

    def fold(self, number: int, validation_share: float = 0.2) -> dict[str, npt.NDArray[np.int64]]:
        """Return the dialogue numbers of train, validation and test when fold `number` is the test set.

        Validation dialogues come from the training folds by `draw_validation`.

        Raises:
            CorpusError: the corpus has no such fold, or fewer than two dialogues in the others.
        """
        if number not in self.folds:
            raise CorpusError(f"{self.path} has no fold {number}; it has: {self.folds or 'none'}")
        first = self.utterances["fold"].iloc[self.offsets[:-1]]
        test = (first == number).fillna(False).to_numpy(dtype=bool)
        rest = np.flatnonzero(~test & first.notna().to_numpy())
        if len(rest) < 2:
            raise CorpusError(
                f"{self.path}: the folds other than {number} hold {len(rest)} dialogues: "
                "training and validation need one each"
            )
        count = min(max(1, round(validation_share * len(rest))), len(rest) - 1)
        phase = (self.folds.index(number) + 0.5) / len(self.folds)
        drawn = set(draw_validation([self.dialogue_ids[d] for d in rest], count, phase))
        chosen = np.array([self.dialogue_ids[d] in drawn for d in rest], dtype=bool)
        return {"train": rest[~chosen], "validation": rest[chosen], "test": np.flatnonzero(test)}

    def conversation(self, dialogue: int) -> Conversation:
        """Return dialogue number `dialogue` with its texts, labels and features."""
        start, stop = self.offsets[dialogue], self.offsets[dialogue + 1]
        tables = {m: self.features(m) for m in self.modalities}
        utterances = []
        for row in range(start, stop):
            fields = self.utterances.iloc[row]
            known = {k: None if pd.isna(fields[k]) else fields[k] for k in SCHEMA.names}
            vectors = {m: values[row].numpy() for m, (values, present) in tables.items() if present[row]}
            utterances.append(
                Utterance(
                    text=known["text"] or "",
                    speaker=known["speaker"] or "",
                    label=known["label"],
                    start_ms=None if known["start_ms"] is None else int(known["start_ms"]),
                    end_ms=None if known["end_ms"] is None else int(known["end_ms"]),
                    features=vectors,
                )
            )
        return Conversation(tuple(utterances), id=self.dialogue_ids[dialogue])

    def add_modality(self, name: str, features: Features) -> "Corpus":
        """Write (or replace) one feature table and return the corpus as it is then.

        An interruption leaves the corpus as it was or, for a moment, without the modality that was to be
        replaced. What other processes have added since this corpus was opened stays.

        Raises:
            CorpusError: the table does not have one row per utterance, or another corpus is there by now.
        """
        width = _checked(name, features, len(self)).shape[1]
        modality = Modality(width=width, recipe=features.recipe)
        return self._put(_feature_file(name), lambda path: _write_features(path, features), {name: modality})

    def _put(self, file: str, write: Callable[[Path], None], adds: Mapping[str, Modality]) -> "Corpus":
        with exclusive(self.path, CorpusError):
            now = read_manifest(self.path)
            if now.files.get(TABLE) != self.manifest.files.get(TABLE):
                raise CorpusError(
                    f"{self.path} was replaced by another corpus meanwhile: run the command again"
                )
            return Corpus(self.path, put_file(self.path, now, file, write, adds), self.utterances)


def write_corpus(
    path: str | Path,
    *,
    name: str,
    labels: Sequence[str],
    utterances: pd.DataFrame,
    features: Mapping[str, Features],
    provenance: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Corpus:
    """Write a corpus folder, replacing one that is there, and open it.

    Args:
        path: the folder.
        name: name of the corpus.
        labels: label names in class order; none for a corpus to predict, not to train or score on.
        utterances: columns of `SCHEMA`; a missing column is filled with nulls.
        features: one table per modality, rows as in `utterances`.
        provenance: where the data comes from and what was done to it.
        tables: further tables to store beside the utterances.

    Raises:
        CorpusError: no utterances, scattered dialogues, a feature table of another length, an unknown
            label, a single label or one that occurs twice, or a folder at `path` that is not a corpus.
    """
    path = Path(path)
    if path.exists() and not (path / "corpus.json").exists() and not _is_empty(path):
        raise CorpusError(f"{path} exists and is not a corpus folder: choose another output folder")
    frame = utterances.reindex(columns=SCHEMA.names)
    ids = frame["dialogue_id"].to_numpy()
    if not len(ids):
        raise CorpusError("there are no utterances to write")
    runs = ids[np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])]
    if len(set(runs)) != len(runs):
        twice = next(i for n, i in enumerate(runs) if i in set(runs[:n]))
        raise CorpusError(f"the rows of dialogue {twice!r} are not next to each other")
    for modality, table in features.items():
        _checked(modality, table, len(frame))
    try:
        manifest = Manifest(
            format=FORMAT,
            name=name,
            labels=tuple(labels),
            modalities={m: Modality(width=f.values.shape[1], recipe=f.recipe) for m, f in features.items()},
            provenance=dict(provenance),
        )
    except ValidationError as error:
        raise CorpusError(f"{path} cannot be written: {first_problem(error)}") from None
    _ = Corpus(path, manifest, frame).targets  # refuses unknown labels
    with exclusive(path, CorpusError), atomic_folder(path) as folder:
        pq.write_table(pa.Table.from_pandas(frame, SCHEMA, preserve_index=False), folder / TABLE)
        for modality, table in features.items():
            with atomic_path(folder / _feature_file(modality)) as temporary:
                _write_features(temporary, table)
        for title, extra in (tables or {}).items():
            extra.to_parquet(folder / f"{title}.parquet", index=False)
        write_manifest(folder, manifest.model_copy(update={"files": file_sums(folder)}))
    return Corpus.open(path)


def intact_features(corpus: Corpus, modality: str) -> FeatureFile:
    """Return a modality for a run, which reads all of it; the first time, compare the file's checksum.

    Raises:
        CorpusError: as `Corpus.features`, or the file is damaged.
    """
    file = corpus._open(modality)
    if modality not in corpus._intact:
        require_intact(corpus.path, corpus.manifest, _feature_file(modality))
        corpus._intact.add(modality)
    return file


def add_table(corpus: Corpus, name: str, table: pd.DataFrame) -> Corpus:
    """Write (or replace) a further table of a corpus, `<name>.csv`; return the corpus as it is then."""
    return corpus._put(f"{name}.csv", lambda path: table.to_csv(path, index=False, lineterminator="\n"), {})


def slice_rows(offsets: npt.NDArray[np.int64], dialogues: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows `offsets[d]:offsets[d + 1]` of each dialogue d, one after the other, (N,)."""
    lengths = offsets[dialogues + 1] - offsets[dialogues]
    ends = np.cumsum(lengths)
    shift = offsets[dialogues] - np.r_[0, ends[:-1]]
    return np.repeat(shift, lengths) + np.arange(lengths.sum())


def draw_validation(dialogue_ids: Sequence[str], count: int, phase: float = 0.5) -> list[str]:
    """Draw `count` ids by a fixed rule: one from each of `count` equal stretches of the sorted ids.

    `phase` in [0, 1) says where in the stretch: its middle, unless the folds of a cross-validation are to
    validate on different dialogues. The rule depends on the ids alone, so every seed and every model
    validates on the same dialogues. For the 120 training dialogues of IEMOCAP and `count` 12 these are the
    positions 5, 15, …, 115.
    """
    ordered = sorted(dialogue_ids)
    return [ordered[int((i + phase) * len(ordered) / count)] for i in range(count)]


def _read_table(path: Path) -> pd.DataFrame:
    """Read the utterances column by column: a corpus of millions must not be in memory twice."""
    file = pq.ParquetFile(path)
    kinds = {pa.int64(): pd.Int64Dtype()}.get
    columns = {}
    for field in SCHEMA:
        column = file.read([field.name])[field.name].cast(field.type)
        column.validate(full=True)  # that text is UTF-8: nothing else looks
        columns[field.name] = column.to_pandas(types_mapper=kinds)
    return pd.DataFrame(columns, copy=False)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and all(inside.name == LOCK for inside in path.iterdir())  # left by a killed import


def _checked(name: str, features: Features, count: int) -> npt.NDArray[np.float32]:
    values = features.values
    if values.ndim != 2 or len(values) != count or features.present.shape != (count,):
        raise CorpusError(
            f"modality {name!r}: values {values.shape} and present {features.present.shape}, "
            f"expected one row for each of {count} utterances"
        )
    if not values.shape[1]:
        raise CorpusError(f"modality {name!r} has no columns")
    return values


def _feature_file(modality: str) -> str:
    return f"features/{modality}.safetensors"


def _write_features(path: Path, features: Features) -> None:
    present = torch.from_numpy(np.array(features.present, dtype=bool))
    values = torch.from_numpy(np.array(features.values, dtype=np.float32))
    values[~present] = 0.0  # an absent vector has no content
    try:
        save_file({"values": values, "present": present}, path)
    except SafetensorError as error:
        raise CorpusError(f"{path} cannot be written ({error}): is there room on the disk?") from None
