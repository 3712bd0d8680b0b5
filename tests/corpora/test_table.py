import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.corpora.checking import check
from mmerc.corpora.table import import_table
from mmerc.errors import CorpusError, FeatureError, MmercError

SHARED = Path(__file__).resolve().parents[2] / "../shared/data"
ROWS = [
    ("d1", 0, "Ann", "Hello.", "joy", "train"),
    ("d1", 1, "Ben", "Hi, you.", "sad", "train"),
    ("d2", 0, "Ann", "What?", "sad", "Dev"),
    ("d3", 0, "Cid", "", "", "test"),
]
FRAME = pd.DataFrame(ROWS, columns=["dialogue_id", "utterance_index", "speaker", "text", "label", "split"])


def _csv(folder, frame=FRAME, name="u.csv"):
    frame.to_csv(folder / name, index=False)
    return folder / name


def _npy(folder, values, name="audio.npy"):
    np.save(folder / name, np.asarray(values, dtype=np.float32))
    return folder / name


def _notes(corpus):
    return " | ".join(corpus.manifest.provenance["notes"])


def test_a_table_with_its_features_becomes_a_corpus(tmp_path):
    audio = np.arange(8).reshape(4, 2)
    corpus = import_table(_csv(tmp_path), {"audio": _npy(tmp_path, audio)}, tmp_path / "mine")
    assert corpus.name == "mine"
    assert corpus.dialogue_ids == ["d1", "d2", "d3"]
    assert corpus.labels == ("joy", "sad")
    assert "alphabetical: joy, sad" in _notes(corpus)
    assert corpus.utterances["split"].tolist() == ["train", "train", "validation", "test"]
    assert corpus.targets.tolist() == [0, 1, 1, -1]
    values, present = corpus.features("audio")
    np.testing.assert_array_equal(values.numpy(), audio)
    assert present.all()


def test_json_lines_and_csv_give_the_same_corpus(tmp_path):
    path = tmp_path / "u.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in FRAME.to_dict("records")), encoding="utf-8")
    one = import_table(_csv(tmp_path), {}, tmp_path / "one")
    two = import_table(path, {}, tmp_path / "two")
    pd.testing.assert_frame_equal(one.utterances, two.utterances)


def test_columns_are_mapped_and_labels_ordered(tmp_path):
    frame = FRAME.rename(columns={"dialogue_id": "conv", "label": "emotion"}).assign(score=1.5)
    corpus = import_table(
        _csv(tmp_path, frame),
        {},
        tmp_path / "out",
        columns={"dialogue_id": "conv", "label": "emotion"},
        labels=["sad", "fear", "joy"],
    )
    assert corpus.labels == ("sad", "fear", "joy")
    assert corpus.targets.tolist() == [2, 0, 0, -1]
    assert "dialogue_id from conv" in _notes(corpus)
    assert "not used: score" in _notes(corpus)


@settings(deadline=None, max_examples=40)
@given(st.permutations(range(6)))
def test_scattered_rows_are_sorted_with_their_features(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("table")
    frame = pd.DataFrame(
        {
            "dialogue_id": ["a", "a", "a", "b", "b", "c"],
            "utterance_index": [1, 2, 5, 0, 1, 0],
            "text": [*"uvwxyz"],
            "label": [*"ppqqpq"],
        }
    )
    values = np.arange(6)[order]
    corpus = import_table(_csv(folder, frame.iloc[order]), {"audio": _npy(folder, values)}, folder / "out")
    expected = {text: row for row, text in enumerate("uvwxyz")}
    table = corpus.utterances
    assert [expected[text] for text in table["text"]] == corpus.features("audio")[0][:, 0].tolist()
    assert corpus.dialogue_ids == list(dict.fromkeys(frame["dialogue_id"].iloc[order]))
    assert table.groupby("dialogue_id")["utterance_index"].apply(lambda x: x.is_monotonic_increasing).all()
    moved = table["text"].tolist() != frame["text"].iloc[order].tolist()
    assert ("scattered or out of order" in _notes(corpus)) == moved


def test_without_an_index_the_rows_of_a_dialogue_are_numbered(tmp_path):
    frame = FRAME.drop(columns="utterance_index").iloc[[0, 2, 1, 3]]
    corpus = import_table(_csv(tmp_path, frame), {}, tmp_path / "out")
    assert corpus.utterances["utterance_index"].tolist() == [0, 1, 0, 0]
    assert corpus.utterances["text"].tolist()[:2] == ["Hello.", "Hi, you."]


def test_validation_dialogues_are_drawn_by_the_fixed_rule(tmp_path):
    frame = pd.DataFrame(
        {"dialogue_id": [*"abcdefgh"], "label": [*"xyxyxyxy"], "split": ["train"] * 7 + ["test"]}
    )
    corpus = import_table(_csv(tmp_path, frame), {}, tmp_path / "out", validation=2)
    assert [corpus.dialogue_ids[d] for d in corpus.split("validation")] == ["b", "f"]
    with pytest.raises(CorpusError, match="cannot be drawn"):
        import_table(tmp_path / "u.csv", {}, tmp_path / "out", validation=7)
    with pytest.raises(CorpusError, match="cannot be drawn"):
        import_table(_csv(tmp_path), {}, tmp_path / "out", validation=1)  # it has validation dialogues


def _with(column, value, row=1):
    frame = FRAME.astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (FRAME.rename(columns={"dialogue_id": "dialog_id"}), {}, "'dialog_id'.*--column dialogue_id=NAME"),
        (FRAME.drop(columns="label"), {}, "no column 'label'"),
        (FRAME, {"columns": {"lable": "label"}}, "no field 'lable'.*did you mean 'label'"),
        (FRAME, {"columns": {"text": "txt"}}, "no column 'txt'.*did you mean 'text'"),
        (_with("utterance_index", 0), {}, "line 3: dialogue 'd1', utterance 0 was already in line 2"),
        (_with("utterance_index", "x"), {}, "line 3: 'utterance_index' is 'x'"),
        (_with("utterance_index", "inf"), {}, "line 3: 'utterance_index' is 'inf'"),
        (_with("dialogue_id", ""), {}, "line 3: 'dialogue_id' is empty"),
        (_with("split", "tset"), {}, "line 3: unknown split 'tset'"),
        (FRAME, {"labels": ["joy", "sadness"]}, "line 3: unknown label 'sad'"),
        (FRAME, {"labels": ["joy", "joy", "sad"]}, "all different"),
        (FRAME.assign(label="joy"), {}, "at least two labels"),
        (FRAME, {"labels": ["joy", "", "sad"]}, "none empty; there are: joy, '', sad"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused_and_nothing_is_written(tmp_path, frame, options, message):
    with pytest.raises(CorpusError, match=message):
        import_table(_csv(tmp_path, frame), {}, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ({"audio": np.zeros((3, 2))}, {}, "3 rows, .* has 4 utterances"),
        ({"audio": [[1, np.nan]] * 4}, {}, "4 rows .* row 0: column 1"),
        ({"../audio": np.zeros((4, 2))}, {}, "letters, digits"),
        ({"audio": np.zeros((4, 2))}, {"keys": {"text": "x"}}, "'text', which has no file"),
    ],
)
def test_features_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, features, options, message):
    files = {m: _npy(tmp_path, values) for m, values in features.items()}
    with pytest.raises(FeatureError, match=message):
        import_table(_csv(tmp_path), files, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_any_script_and_a_very_long_text_survive(tmp_path):
    texts = ["こんにちは 🙂", "مرحبا", "a\nb\u2028c", "word " * 10_000]
    corpus = import_table(_csv(tmp_path, FRAME.assign(text=texts)), {}, tmp_path / "out")
    assert corpus.utterances["text"].tolist() == [text.strip() for text in texts]


def test_labels_given_make_an_unlabelled_corpus_possible(tmp_path):
    corpus = import_table(
        _csv(tmp_path, FRAME.drop(columns="label")), {}, tmp_path / "out", labels=["joy", "sad"]
    )
    assert (corpus.targets == -1).all()


KEYS = st.sampled_from(
    ["dialogue_id", "utterance_index", "speaker", "text", "start_ms", "label", "split", "fold"]
)
JSON = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(KEYS, JSON), max_size=4))
def test_any_json_ends_in_a_corpus_or_our_own_error(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    path = folder / "u.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    try:
        corpus = import_table(
            path, {}, folder / "out", columns={"dialogue_id": "dialogue_id"}, labels=["0", "1"]
        )
    except MmercError:
        assert not (folder / "out").exists()
    else:
        assert len(corpus) == len(rows)


@settings(deadline=None)
@given(st.binary(max_size=100), st.sampled_from([".csv", ".jsonl"]))
def test_random_bytes_end_in_our_own_errors(tmp_path_factory, content, suffix):
    folder = tmp_path_factory.mktemp("table")
    path = folder / f"u{suffix}"
    path.write_bytes(b"dialogue_id,label\n" + content if suffix == ".csv" else content)
    try:
        import_table(path, {}, folder / "out")
    except MmercError:
        assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("name", "dialogues", "classes"),
    [("hazumi1911", 26, [178, 881, 1380]), ("hazumi2010", 33, [67, 881, 1850])],
)
def test_the_real_tables(tmp_path, name, dialogues, classes):
    source = SHARED / name
    if not source.exists():
        pytest.skip(f"{name} is not here")
    files = {m: source / f"{m}.npy" for m in ("text", "audio", "visual")}
    labels = ["negative", "neutral", "positive"]
    corpus = import_table(source / "utterances.csv", files, tmp_path / name, labels=labels)
    assert len(corpus.dialogue_ids) == dialogues
    assert np.bincount(corpus.targets).tolist() == classes
    assert corpus.folds == (0, 1, 2, 3, 4)
    for modality, file in files.items():
        np.testing.assert_array_equal(corpus.features(modality)[0].numpy(), np.load(file))
    assert {(p.severity, p.field) for p in check(corpus)} == {("warning", "text")}
