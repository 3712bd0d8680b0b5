"""Any corpus as a table: a file of utterances, and one file of feature vectors per modality."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mmerc.corpora import records
from mmerc.corpora.arrays import read_features, require_modality_name
from mmerc.corpora.label_maps import LabelMap, apply_label_map, map_note
from mmerc.corpus import SCHEMA, SPLITS, Corpus, Features, draw_validation, write_corpus
from mmerc.errors import CorpusError, FeatureError

SPLIT_NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
WHOLE_NUMBERS = ("utterance_index", "start_ms", "end_ms", "fold", "clip_start_ms", "clip_end_ms")


class Table(NamedTuple):
    """A file of utterances, read."""

    utterances: pd.DataFrame  # dialogues by first appearance, utterances by index
    lines: npt.NDArray[np.int64]  # (N,) where each stands in the file
    order: npt.NDArray[np.int64]  # (N,) its position among the records of the file
    labels: list[str]
    provenance: dict[str, Any]


def import_table(
    utterances: Path,
    features: Mapping[str, Path],
    out: Path,
    *,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    validation: int = 0,
    keys: Mapping[str, str] | None = None,
    label_map: LabelMap | None = None,
) -> Corpus:
    """Import a table of utterances and its feature files into the corpus folder `out`.

    The rows of a feature file are aligned with the records of `utterances`. Rows that are scattered or
    out of order are sorted together with their features: dialogues by first appearance, utterances by
    index. What was recognised and done is told in `provenance["notes"]`.

    Args:
        utterances: .csv, .tsv, .jsonl or .ndjson, one record per utterance.
        features: modality → .npy, .npz, .safetensors or .parquet (see `read_features`).
        out: the corpus folder.
        columns: field of the corpus → column of the file; a field that is not in it is taken from the
            column of the same name, where there is one. Only `dialogue_id` and `label` have to be there,
            and `label` not when `labels` are given. Without `utterance_index` the rows are numbered.
        labels: label names in class order; by default those of the map, or those that occur, sorted.
        name: name of the corpus; by default that of the folder.
        validation: number of training dialogues to turn into the validation split (`draw_validation`).
        keys: modality → name of the array in its file.
        label_map: what becomes of the labels in the file.

    Raises:
        CorpusError: a broken file or a value that cannot be used, with file, line and column.
        FeatureError: a feature file that cannot be used, or has another number of rows.
    """
    table = read_table(
        utterances, columns=columns or {}, labels=labels, label_map=label_map, validation=validation
    )
    loaded = _load_features(features, keys or {}, utterances, len(table.order))
    return write_corpus(
        out,
        name=name or out.resolve().name,
        labels=table.labels,
        utterances=table.utterances,
        features={
            m: Features(f.values[table.order], f.present[table.order], f.recipe) for m, f in loaded.items()
        },
        provenance=table.provenance,
    )


def read_table(
    path: Path,
    *,
    columns: Mapping[str, str],
    labels: Sequence[str] | None,
    label_map: LabelMap | None = None,
    validation: int = 0,
    further: Sequence[str] = (),
) -> Table:
    """Read and check a file of utterances; for the arguments see `import_table`.

    Args:
        path: the file.
        columns: field → column.
        labels: label names; an empty list: no labels are read.
        label_map: what becomes of the labels in the file.
        validation: number of validation dialogues to draw.
        further: fields to read besides those of a corpus.

    Raises:
        CorpusError: a broken file or a value that cannot be used, with file, line and column.
    """
    rows = records.read_records(path)
    used = _resolve_columns(rows, path, columns, labels, label_map, further)
    frame = _fields(rows, used, path)
    order = _order(frame, rows.index, path)
    notes = []
    if label_map is not None and "label" in frame:
        given = frame["label"]
        frame["label"] = apply_label_map(given, label_map, path)
        notes.append(map_note(given, label_map))
        labels = label_map.labels if labels is None else labels
    names = _label_names(frame, rows.index, path, labels)
    notes = [f"read {path.name}", *_notes(used, labels, names, order), *notes]
    unused = [str(name) for name in rows.columns if name not in used.values()]
    if unused:
        notes.append(f"columns that are not used: {', '.join(unused)}")
    frame = frame.iloc[order].reset_index(drop=True)
    if validation:
        notes.append(_draw(frame, validation, path))
    provenance = {
        "source": "table",
        "file": path.name,
        "sha256": records.sha256(path),
        "columns": used,
        "notes": notes,
    }
    return Table(frame, rows.index.to_numpy()[order], order, names, provenance)


def _resolve_columns(
    table: pd.DataFrame,
    path: Path,
    columns: Mapping[str, str],
    labels: Sequence[str] | None,
    label_map: LabelMap | None,
    further: Sequence[str],
) -> dict[str, str]:
    fields = [*SCHEMA.names, *further]
    for field in columns:
        if field not in fields:
            near = records.nearest(field, fields)
            raise CorpusError(f"a corpus has no field {field!r}{near}; its fields are: {', '.join(fields)}")
    same = {field: field for field in fields if field in table.columns}
    used = {field: (same | dict(columns)).get(field) for field in fields}
    for field in ("dialogue_id", "label") if labels is None or label_map is not None else ("dialogue_id",):
        used[field] = used[field] or field
    if labels is not None and not labels:
        used["label"] = None
    for field, source in used.items():
        if source is not None:
            records.column(table, source, path, f". Map it with --column {field}=NAME")
    return {field: source for field, source in used.items() if source is not None}


def _fields(table: pd.DataFrame, used: Mapping[str, str], path: Path) -> pd.DataFrame:
    frame = pd.DataFrame(index=range(len(table)))
    for field, source in used.items():
        convert: Any = records.integers if field in WHOLE_NUMBERS else records.strings
        values = convert(records.column(table, source, path), path)
        if field in ("dialogue_id", "utterance_index"):
            values = records.required(values, table, source, path)
        if field == "split":
            values = [_split_name(v, line, path) for v, line in zip(values, table.index, strict=True)]
        frame[field] = pd.array(values, dtype="Int64") if field in WHOLE_NUMBERS else values
    if "utterance_index" not in used:
        frame["utterance_index"] = frame.groupby("dialogue_id").cumcount()
    if "text" in frame:
        frame["text"] = frame["text"].fillna("")
    return frame


def _split_name(value: str | None, line: int, path: Path) -> str | None:
    if value is None:
        return None
    if value.lower() not in SPLIT_NAMES:
        known = ", ".join(SPLIT_NAMES)
        raise CorpusError(f"{path}, line {line}: unknown split {value!r}; names of splits: {known}")
    return SPLIT_NAMES[value.lower()]


def _order(frame: pd.DataFrame, lines: "pd.Index[int]", path: Path) -> npt.NDArray[np.int64]:
    # Positions of the rows: dialogues by first appearance, utterances by index.
    twice = frame.duplicated(["dialogue_id", "utterance_index"]).to_numpy()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        dialogue, index = frame["dialogue_id"][row], frame["utterance_index"][row]
        same = (frame["dialogue_id"] == dialogue) & (frame["utterance_index"] == index)
        first = lines[int(np.flatnonzero(same.to_numpy())[0])]
        raise CorpusError(
            f"{path}, line {lines[row]}: dialogue {dialogue!r}, utterance {index} was already in line {first}"
        )
    dialogues = pd.factorize(frame["dialogue_id"])[0]
    return np.lexsort([frame["utterance_index"].to_numpy(dtype=np.int64), dialogues])


def _label_names(
    frame: pd.DataFrame, lines: "pd.Index[int]", path: Path, labels: Sequence[str] | None
) -> list[str]:
    given = frame["label"] if "label" in frame else pd.Series([None] * len(frame), dtype=object)
    names = sorted(given.dropna().unique()) if labels is None else list(labels)
    if labels is not None and not names:
        return []  # wanted without labels
    if len(set(names) - {""}) < max(2, len(names)):
        have = ", ".join(name or "''" for name in names) or "none"
        raise CorpusError(
            f"{path}: at least two labels are needed, all different, none empty; there are: {have}"
        )
    unknown = np.flatnonzero((given.notna() & ~given.isin(names)).to_numpy())
    if len(unknown):
        label = given.iloc[unknown[0]]
        raise CorpusError(
            f"{path}, line {lines[unknown[0]]}: unknown label {label!r}{records.nearest(label, names)}; "
            f"labels are {', '.join(names)}"
        )
    return names


def _load_features(
    features: Mapping[str, Path], keys: Mapping[str, str], utterances: Path, count: int
) -> dict[str, Features]:
    for modality in (*features, *keys):
        require_modality_name(modality)
        if modality not in features:
            raise FeatureError(f"a key is given for modality {modality!r}, which has no file")
    loaded = {m: read_features(path, keys.get(m)) for m, path in features.items()}
    for modality, table in loaded.items():
        if len(table.values) != count:
            raise FeatureError(
                f"{features[modality]} has {len(table.values)} rows, {utterances} has {count} utterances: "
                "they must match one to one"
            )
    return loaded


def _notes(
    used: Mapping[str, str], given: Sequence[str] | None, labels: Sequence[str], order: npt.NDArray[np.int64]
) -> list[str]:
    notes = [f"columns: {', '.join(f if f == c else f'{f} from {c}' for f, c in used.items())}"]
    if given is None:
        notes.append(f"the order of the labels is alphabetical: {', '.join(labels)}; --labels sets another")
    if "utterance_index" not in used:
        notes.append("utterances are numbered in the order of the rows")
    moved = int((order != np.arange(len(order))).sum())
    if moved:
        notes.append(f"{moved} rows were scattered or out of order: sorted, with their features")
    return notes


def _draw(frame: pd.DataFrame, count: int, path: Path) -> str:
    split = frame["split"] if "split" in frame else pd.Series(dtype=object)
    training = list(frame["dialogue_id"][split == "train"].unique())
    if (split == SPLITS[1]).any() or count >= len(training):
        raise CorpusError(
            f"{path}: {count} validation dialogues cannot be drawn: that takes a split column with more "
            f"training dialogues than that ({len(training)} here) and no validation dialogues yet"
        )
    drawn = draw_validation(training, count)
    frame.loc[frame["dialogue_id"].isin(drawn), "split"] = SPLITS[1]
    return f"{count} validation dialogues were drawn from the training dialogues: {', '.join(drawn)}"
