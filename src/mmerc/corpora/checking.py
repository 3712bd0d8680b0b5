"""What is wrong with a corpus: every problem with its row and field, and how the classes are spread."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from mmerc.corpus import SPLITS, Corpus
from mmerc.errors import CorpusError
from mmerc.manifest import damaged, file_sums

NO_GROUP, NO_LABEL = "(no split)", "(no label)"
SAME_CONTENT = 3  # so many utterances with the same texts are no coincidence


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. `row` counts from 0 in `utterances.parquet`; None concerns more than one row."""

    severity: Literal["error", "warning"]
    row: int | None
    field: str
    message: str


def check(corpus: Corpus, deep: bool = False) -> list[Problem]:
    """Return all problems of a corpus, errors first. No finding hides another.

    With `deep`, every file of the folder is read and compared with its checksum.
    """
    parts = (_order, _speech, _times, _labels, _splits, _same_content, _classes, _features)
    problems = [problem for part in (*parts, *([_files] if deep else [])) for problem in part(corpus)]
    return sorted(problems, key=lambda p: p.severity)


def groups(corpus: Corpus) -> "pd.Series[Any]":
    """Return the evaluation group of every row: its split, else `fold 0` …, else None."""
    split, fold = corpus.utterances["split"].astype(object), corpus.utterances["fold"]
    folds = ("fold " + fold.astype("string")).astype(object)
    group = split.where(split.notna(), folds)
    return group.where(group.notna(), None)


def group_names(corpus: Corpus) -> list[str]:
    """Return the groups that occur: splits in the order train, validation, test, then folds."""
    found = set(groups(corpus).dropna())
    ordered = [*SPLITS, *(f"fold {number}" for number in corpus.folds)]
    return [g for g in ordered if g in found] + sorted(found - set(ordered))


def class_counts(corpus: Corpus) -> pd.DataFrame:
    """Return the number of utterances per group (rows) and label (columns).

    Utterances without a group or without a label are counted under `NO_GROUP` and `NO_LABEL`; the row
    and the column are there only when there are such utterances.
    """
    group = groups(corpus).fillna(NO_GROUP)
    label = corpus.utterances["label"].astype(object).fillna(NO_LABEL)
    rows = [*group_names(corpus), *([NO_GROUP] if (group == NO_GROUP).any() else [])]
    columns = [*corpus.labels, *([NO_LABEL] if (label == NO_LABEL).any() else [])]
    return pd.crosstab(group, label).reindex(index=rows, columns=columns, fill_value=0)


def _rows(mask: Any) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.asarray(pd.array(mask, dtype="boolean").fillna(False), dtype=bool))


def ranges(rows: npt.NDArray[np.int64]) -> str:
    """Return sorted row numbers in short: `3-9, 14, 20-33`."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _order(corpus: Corpus) -> Iterator[Problem]:
    table = corpus.utterances
    same_dialogue = table["dialogue_id"] == table["dialogue_id"].shift()
    twice = table.duplicated(["dialogue_id", "utterance_index"])
    for row in _rows(twice):
        name, index = table["dialogue_id"].iloc[row], table["utterance_index"].iloc[row]
        yield Problem(
            "error", int(row), "utterance_index", f"utterance {index} of {name!r} occurs more than once"
        )
    for row in _rows(same_dialogue & (table["utterance_index"] < table["utterance_index"].shift()) & ~twice):
        before, index = table["utterance_index"].iloc[row - 1], table["utterance_index"].iloc[row]
        yield Problem("error", int(row), "utterance_index", f"out of order: {index} comes after {before}")
    seen: set[str] = set()
    for start, name in zip(corpus.offsets[:-1], corpus.dialogue_ids, strict=True):
        if name in seen:
            message = f"dialogue {name!r} goes on here: its rows are not next to each other"
            yield Problem("error", int(start), "dialogue_id", message)
        seen.add(name)


def _speech(corpus: Corpus) -> Iterator[Problem]:
    text = corpus.utterances["text"].fillna("").str.strip()
    if not text.any():
        yield Problem("warning", None, "text", "no utterance has a text")
        return
    for row in _rows(text == ""):
        yield Problem("warning", int(row), "text", "empty text")


def _times(corpus: Corpus) -> Iterator[Problem]:
    start, end = corpus.utterances["start_ms"], corpus.utterances["end_ms"]
    for row in _rows(start > end):
        message = f"starts at {start[row]} ms, after its end at {end[row]} ms"
        yield Problem("error", int(row), "start_ms", message)
    for field, values in (("start_ms", start), ("end_ms", end)):
        for row in _rows(values < 0):
            yield Problem("error", int(row), field, f"{values[row]} ms is negative")


def _labels(corpus: Corpus) -> Iterator[Problem]:
    label = corpus.utterances["label"]
    known = ", ".join(corpus.labels)
    for row in _rows(label.notna() & ~label.isin(corpus.labels)):
        yield Problem("error", int(row), "label", f"unknown label {label[row]!r}; labels are {known}")


def _splits(corpus: Corpus) -> Iterator[Problem]:
    table = corpus.utterances
    for row in _rows(table["split"].notna() & ~table["split"].isin(SPLITS)):
        message = f"unknown split {table['split'][row]!r}; splits are {', '.join(SPLITS)}"
        yield Problem("error", int(row), "split", message)
    for field in ("split", "fold"):
        values = table[field].astype("string").fillna("none")
        first = values.groupby(table["dialogue_id"]).transform("first")
        # One finding per dialogue and further value, at the row where that value first appears.
        mixed = table.assign(value=values)[values != first].drop_duplicates(["dialogue_id", "value"])
        for row, name, value in zip(mixed.index, mixed["dialogue_id"], mixed["value"], strict=True):
            message = f"dialogue {name!r} is in {field} {first[row]} and, from here, in {field} {value}"
            yield Problem("error", int(row), field, message)
    group = groups(corpus)
    if group.isna().all():
        yield Problem("warning", None, "split", "neither splits nor folds: nothing can be trained on it")
    elif group.isna().any():
        rows = _rows(group.isna())
        message = f"{len(rows)} utterances are in no split or fold and are never used: rows {ranges(rows)}"
        yield Problem("warning", None, "split", message)
    if table["split"].notna().any():
        for name in (name for name in SPLITS if not (table["split"] == name).any()):
            yield Problem("warning", None, "split", f"no dialogue is in split {name!r}")


def _same_content(corpus: Corpus) -> Iterator[Problem]:
    texts = corpus.utterances["text"].fillna("").str.strip().tolist()
    group = groups(corpus).tolist()
    seen: dict[tuple[str, ...], list[int]] = {}
    for dialogue, (start, stop) in enumerate(zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)):
        spoken = tuple(texts[start:stop])
        if len(spoken) < SAME_CONTENT or not any(spoken):
            continue
        for other in seen.get(spoken, []):
            first = group[corpus.offsets[other]]
            if first != group[start]:
                message = (
                    f"dialogue {corpus.dialogue_ids[dialogue]!r} ({group[start]}) has the same texts as "
                    f"{corpus.dialogue_ids[other]!r} ({first}): same content on both sides"
                )
                yield Problem("warning", int(start), "text", message)
        seen.setdefault(spoken, []).append(dialogue)


def _classes(corpus: Corpus) -> Iterator[Problem]:
    if not corpus.labels:
        yield Problem("warning", None, "label", "no labels: nothing can be trained or scored on it")
    counts = class_counts(corpus)
    for group in group_names(corpus):
        for label in corpus.labels:
            if not counts.loc[group, label]:
                yield Problem("warning", None, "label", f"{group} has no utterance labelled {label!r}")


def _features(corpus: Corpus) -> Iterator[Problem]:
    for modality in corpus.modalities:
        field = f"features/{modality}"
        try:
            tensors = corpus.features(modality)
        except CorpusError as error:
            yield Problem("error", None, field, str(error))
            continue
        values, present = (tensor.numpy() for tensor in tensors)
        absent = np.flatnonzero(~present)
        if len(absent) == len(corpus):
            yield Problem("error", None, field, "no utterance has this modality")
        elif len(absent):
            share = f"{len(absent)} of {len(corpus)} utterances ({len(absent) / len(corpus):.1%})"
            yield Problem("warning", None, field, f"{share} have no {modality}: rows {ranges(absent)}")
        bad = ~np.isfinite(values) & present[:, None]
        for row in np.flatnonzero(bad.any(axis=1)):
            columns = np.flatnonzero(bad[row])
            message = f"{len(columns)} of {values.shape[1]} values are not finite: columns {ranges(columns)}"
            yield Problem("error", int(row), field, message)


def _files(corpus: Corpus) -> Iterator[Problem]:
    said = corpus.manifest.files
    if not said:
        message = "no checksums, as in all corpora of older versions: `mmerc corpus seal` adds them"
        yield Problem("warning", None, "corpus.json", message)
        return
    found = file_sums(corpus.path)
    for name in sorted(said.keys() | found.keys()):
        if name not in found:
            yield Problem("error", None, name, f"{corpus.path / name} is missing: import the corpus again")
        elif name not in said:
            yield Problem("warning", None, name, "no checksum: something else put this file here")
        elif said[name] != found[name]:
            yield Problem("error", None, name, str(damaged(corpus.path, name)))
