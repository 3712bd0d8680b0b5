import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmerc.corpora.checking import NO_GROUP, NO_LABEL, check, class_counts, group_names, ranges
from mmerc.corpus import SCHEMA, Corpus, Features, write_corpus
from mmerc.manifest import seal

LABELS = ("joy", "sad")


def _sound(folder):
    """Six dialogues of four utterances, two in each split; every split has both classes."""
    rows = [
        {
            "dialogue_id": f"d{dialogue}",
            "utterance_index": index,
            "speaker": "AB"[index % 2],
            "text": f"text {dialogue} {index}",
            "start_ms": 1000 * index,
            "end_ms": 1000 * index + 500,
            "label": LABELS[index % 2],
            "split": ("train", "validation", "test")[dialogue // 2],
        }
        for dialogue in range(6)
        for index in range(4)
    ]
    values = np.arange(24 * 3, dtype=np.float32).reshape(24, 3)
    audio = Features(values, np.ones(24, dtype=bool), {"kind": "imported"})
    return write_corpus(
        folder,
        name="sound",
        labels=LABELS,
        utterances=pd.DataFrame(rows),
        features={"audio": audio},
        provenance={},
    )


def _spoil(corpus, **cells):
    """Write values into the table as another tool would, past all checks: column={row: value}."""
    table = corpus.utterances.copy()
    for column, values in cells.items():
        for row, value in values.items():
            table.loc[row, column] = value
    pq.write_table(pa.Table.from_pandas(table, SCHEMA), corpus.path / "utterances.parquet")
    seal(corpus.path)
    return Corpus.open(corpus.path)


def _spoil_audio(corpus, change):
    path = corpus.path / "features" / "audio.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path)
    return Corpus.open(corpus.path)


def _where(problems):
    return [(p.severity, p.row, p.field) for p in problems]


@pytest.fixture
def corpus(tmp_path):
    return _sound(tmp_path / "corpus")


def test_a_sound_corpus_has_no_problems(corpus):
    assert check(corpus) == []


@pytest.mark.parametrize(
    ("cells", "expected", "message"),
    [
        ({"utterance_index": {2: 1}}, ("error", 2, "utterance_index"), "utterance 1 of 'd0' occurs more"),
        ({"utterance_index": {1: 9}}, ("error", 2, "utterance_index"), "out of order: 2 comes after 9"),
        ({"dialogue_id": {3: "d9", 4: "d0"}}, ("error", 4, "dialogue_id"), "'d0' goes on here"),
        ({"label": {5: "jou"}}, ("error", 5, "label"), "unknown label 'jou'; labels are joy, sad"),
        ({"text": {7: "  "}}, ("warning", 7, "text"), "empty text"),
        ({"text": {7: None}}, ("warning", 7, "text"), "empty text"),
        ({"start_ms": {3: 9999}}, ("error", 3, "start_ms"), "starts at 9999 ms, after its end at 3500 ms"),
        ({"start_ms": {3: -1}}, ("error", 3, "start_ms"), "-1 ms is negative"),
        ({"split": {6: "test"}}, ("error", 6, "split"), "in split train and, from here, in split test"),
        ({"split": {6: None}}, ("error", 6, "split"), "'d1' is in split train and, from here, in split none"),
        ({"split": {20: "dev"}}, ("error", 20, "split"), "unknown split 'dev'"),
        ({"fold": {2: 3}}, ("error", 2, "fold"), "'d0' is in fold none and, from here, in fold 3"),
    ],
)  # fmt: skip
def test_a_broken_cell_is_found_with_row_and_field(corpus, cells, expected, message):
    problems = check(_spoil(corpus, **cells))
    found = [p for p in problems if (p.severity, p.row, p.field) == expected]
    assert len(found) == 1
    assert message in found[0].message


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(["label", "text", "start_ms", "split"]), st.sets(st.integers(0, 23)), min_size=1
    )
)
def test_no_problem_hides_another(tmp_path_factory, broken):
    corpus = _sound(tmp_path_factory.mktemp("check") / "corpus")
    values = {"label": "?", "text": "", "start_ms": 10**6, "split": "?"}
    severity = {"label": "error", "text": "warning", "start_ms": "error", "split": "error"}
    problems = check(_spoil(corpus, **{f: dict.fromkeys(rows, values[f]) for f, rows in broken.items()}))
    found = set(_where(problems))
    whole_text = len(broken.get("text", ())) == 24
    expected = {
        (severity[f], r, f) for f, rows in broken.items() for r in rows if not (f == "text" and whole_text)
    }
    assert expected <= found
    assert [p.severity for p in problems] == sorted(p.severity for p in problems)


def test_features_that_are_not_finite_or_absent(corpus):
    def change(tensors):
        tensors["values"][4, 1:] = torch.nan
        tensors["values"][9] = torch.inf
        tensors["values"][11] = torch.nan
        tensors["present"][10:14] = False
        return tensors

    problems = check(_spoil_audio(corpus, change))
    assert _where(problems) == [
        ("error", 4, "features/audio"),
        ("error", 9, "features/audio"),
        ("warning", None, "features/audio"),
    ]
    assert "2 of 3 values are not finite: columns 1-2" in problems[0].message
    assert "4 of 24 utterances (16.7%) have no audio: rows 10-13" in problems[2].message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {**t, "values": t["values"][:, :2].contiguous()}, r"\(24, 2\).* say values F32 \(24, 3\)"),
        (lambda t: {**t, "values": t["values"].double()}, "values F64"),
        (lambda t: {"values": t["values"]}, "cannot be read"),
        (lambda t: {**t, "present": torch.zeros(24, dtype=torch.bool)}, "no utterance has this modality"),
    ],
)
def test_a_feature_file_that_does_not_fit_is_a_problem_and_the_rest_is_still_checked(corpus, change, message):
    problems = check(_spoil(_spoil_audio(corpus, change), label={0: "?"}))
    assert _where(problems) == [("error", 0, "label"), ("error", None, "features/audio")]
    assert re.search(message, problems[1].message)


def test_a_missing_feature_file_is_a_problem(corpus):
    (corpus.path / "features" / "audio.safetensors").unlink()
    assert _where(check(corpus)) == [("error", None, "features/audio")]


def test_classes_and_splits_that_are_absent(corpus):
    problems = check(_spoil(corpus, label=dict.fromkeys(range(16, 24), "joy")))
    assert [p.message for p in problems] == ["test has no utterance labelled 'sad'"]
    problems = check(_spoil(corpus, split=dict.fromkeys(range(16, 24), "train"), label={}))
    assert "no dialogue is in split 'test'" in [p.message for p in problems]
    problems = check(_spoil(corpus, split=dict.fromkeys(range(24))))
    assert "neither splits nor folds: nothing can be trained on it" in [p.message for p in problems]
    problems = check(
        _spoil(corpus, split={**dict.fromkeys(range(16), "train"), **dict.fromkeys(range(20, 24))})
    )
    assert [p.message for p in problems if "never used" in p.message] == [
        "4 utterances are in no split or fold and are never used: rows 20-23"
    ]


def test_the_same_conversation_in_two_splits_is_told(corpus):
    same = {row: f"text 0 {row % 4}" for row in (8, 9, 10, 11)}
    problems = check(_spoil(corpus, text=same))
    assert _where(problems) == [("warning", 8, "text")]
    assert "'d2' (validation) has the same texts as 'd0' (train)" in problems[0].message
    within = {row: f"text 0 {row % 4}" for row in (4, 5, 6, 7)}
    assert check(_spoil(corpus, text={**{r: f"other {r}" for r in same}, **within})) == []


def test_class_counts_agree_with_a_plain_loop(corpus):
    corpus = _spoil(corpus, label={0: None, 5: None}, split=dict.fromkeys(range(20, 24)))
    counts = class_counts(corpus)
    assert counts.index.tolist() == ["train", "validation", "test", NO_GROUP]
    assert counts.columns.tolist() == ["joy", "sad", NO_LABEL]
    for group in counts.index:
        for label in counts.columns:
            expected = sum(
                (NO_GROUP if pd.isna(row["split"]) else row["split"]) == group
                and (NO_LABEL if pd.isna(row["label"]) else row["label"]) == label
                for _, row in corpus.utterances.iterrows()
            )
            assert counts.loc[group, label] == expected


def test_folds_are_groups_in_numeric_order(corpus):
    folds = {row: (10, 2, 0, 1, 3, 4)[row // 4] for row in range(24)}
    corpus = _spoil(corpus, split=dict.fromkeys(range(24)), fold=folds)
    assert group_names(corpus) == ["fold 0", "fold 1", "fold 2", "fold 3", "fold 4", "fold 10"]
    assert check(corpus) == []


@given(st.sets(st.integers(0, 40), min_size=1))
def test_ranges_name_exactly_the_rows(rows):
    text = ranges(np.array(sorted(rows)))
    ends = [part.split("-") for part in text.split(", ")]
    assert {n for part in ends for n in range(int(part[0]), int(part[-1]) + 1)} == rows
    assert len(ends) == sum(n - 1 not in rows for n in rows)
