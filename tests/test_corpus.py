import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmerc import corpus as corpus_module
from mmerc.corpora.checking import check
from mmerc.corpus import MISSING, SCHEMA, Corpus, Features, draw_validation, slice_rows, write_corpus
from mmerc.errors import CorpusError, TrainingError
from mmerc.evaluation import evaluate
from mmerc.manifest import seal
from mmerc.training import train
from tiny import LABELS, RECIPES, WIDTHS, tables, task, write


@pytest.fixture
def own(corpus: Corpus, tmp_path: Path) -> Path:
    """A copy of the corpus that a test may spoil."""
    return Path(shutil.copytree(corpus.path, tmp_path / "own"))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Round trip


def test_what_is_written_is_read(corpus: Corpus) -> None:
    frame, features = tables()
    opened = Corpus.open(str(corpus.path))
    assert (opened.name, opened.labels, len(opened)) == ("tiny", LABELS, len(frame))
    for column in frame:
        assert opened.utterances[column].tolist() == frame[column].tolist()
    assert opened.utterances["start_ms"].isna().all()
    assert [opened.labels[k] for k in opened.targets] == frame["label"].tolist()
    assert {m: x.width for m, x in opened.modalities.items()} == WIDTHS
    for name, given_features in features.items():
        values, present = opened.features(name)
        assert present.tolist() == given_features.present.tolist()
        assert torch.equal(values[present], torch.from_numpy(given_features.values)[present])
        assert not values[~present].any()
        assert opened.modalities[name].recipe == RECIPES[name]
    assert opened.manifest.provenance == {"source": "tests"}


def test_dialogues_are_slices(corpus: Corpus) -> None:
    ids = corpus.utterances["dialogue_id"].tolist()
    assert corpus.dialogue_ids == sorted(set(ids))
    for number, name in enumerate(corpus.dialogue_ids):
        start, stop = corpus.offsets[number : number + 2]
        assert set(ids[start:stop]) == {name}
        assert corpus.rows(np.array([number])).tolist() == list(range(start, stop))


def test_a_conversation_has_all_that_is_known(tmp_path: Path) -> None:
    frame, features = tables(2)
    frame["start_ms"] = range(0, 1000 * len(frame), 1000)
    frame.loc[1, ["speaker", "text", "label", "start_ms"]] = None
    corpus = write(tmp_path / "c", frame, features)
    conversation = corpus.conversation(0)
    assert conversation.id == "d00"
    assert [u.start_ms for u in conversation][:1] == [0]
    second = conversation.utterances[1]
    assert (second.speaker, second.text, second.label, second.start_ms) == ("", "", None, None)
    for row, utterance in enumerate(conversation):
        given_here = {m for m, f in features.items() if f.present[row]}
        assert set(utterance.features) == given_here
        for m in given_here:
            assert (utterance.features[m] == features[m].values[row]).all()
    assert corpus.targets[1] == MISSING


def test_any_text_survives(tmp_path: Path) -> None:
    frame, features = tables(2)
    texts = ["😀👩‍👩‍👧", "電車が\nlate", "late " * 10_000, '"quoted", \\ and\ttabs', ""]
    frame["text"] = [texts[i % len(texts)] for i in range(len(frame))]
    assert write(tmp_path / "c", frame, features).utterances["text"].tolist() == frame["text"].tolist()


def test_further_tables_lie_beside(tmp_path: Path) -> None:
    frame, features = tables(2)
    truth = pd.DataFrame({"reliability": np.linspace(0, 1, len(frame))})
    write_corpus(
        tmp_path / "c", name="c", labels=LABELS, utterances=frame, features=features, provenance={},
        tables={"truth": truth},
    )  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "c" / "truth.parquet"), truth)


# Writing


def test_a_failing_write_leaves_the_old_corpus(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(own)
    save = corpus_module.save_file

    def fail_on_the_second(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "text" in path.name:
            raise OSError("no space left on device")
        save(tensors, path)

    monkeypatch.setattr(corpus_module, "save_file", fail_on_the_second)
    with pytest.raises(OSError, match="no space"):
        write(own, *tables(seed=1))
    assert snapshot(own) == before
    assert [p.name for p in own.parent.iterdir()] == ["own"]
    monkeypatch.undo()
    write(own, *tables(seed=1))
    assert snapshot(own) != before


def test_other_folders_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CorpusError, match="is not a corpus folder: choose another"):
        write(tmp_path)
    with pytest.raises(CorpusError, match="is not a corpus folder"):
        write(tmp_path / "thesis.txt")
    (tmp_path / "empty").mkdir()
    assert len(write(tmp_path / "empty"))


def test_scattered_dialogues_are_refused(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[len(frame) - 1, "dialogue_id"] = "d00"
    with pytest.raises(CorpusError, match="dialogue 'd00' are not next to each other"):
        write(tmp_path / "c", frame, features)
    assert not (tmp_path / "c").exists()


def test_unknown_labels_are_refused(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[[4, 7], "label"] = "sad"
    with pytest.raises(CorpusError, match="row 4: unknown label 'sad'; labels are joy, sadness, anger"):
        write(tmp_path / "c", frame, features)


def test_labels_are_two_at_least_and_differ(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"labels: .*the label 'joy' occurs twice"):
        write(tmp_path / "c", labels=(*LABELS, "joy"))
    with pytest.raises(CorpusError, match=r"labels: .*'joy' is the only label: at least two are needed"):
        write(tmp_path / "c", labels=LABELS[:1])


def test_a_corpus_without_labels_is_one_to_look_at_but_not_to_learn_from(tmp_path: Path) -> None:
    frame, features = tables()
    unlabelled = write(tmp_path / "c", frame.assign(label=None), features, labels=())
    assert Corpus.open(unlabelled.path).labels == ()
    assert (unlabelled.targets == MISSING).all()
    assert any("no labels" in problem.message for problem in check(unlabelled))
    with pytest.raises(TrainingError, match="no utterance of the training split has a label"):
        train(task(unlabelled), tmp_path / "run")
    train(task(write(tmp_path / "labelled")), tmp_path / "run")
    with pytest.raises(CorpusError, match="has no labels: there is nothing to score"):
        evaluate(tmp_path / "run", unlabelled)


def test_no_utterances(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no utterances"):
        write(tmp_path / "c", tables()[0].iloc[:0], {})


@pytest.mark.parametrize("spoilt", ["rows", "present", "flat", "empty"])
def test_feature_tables_of_another_shape_are_refused(tmp_path: Path, spoilt: str) -> None:
    frame, features = tables()
    table = features["text"]
    features["text"] = {
        "rows": table._replace(values=table.values[1:]),
        "present": table._replace(present=table.present[1:]),
        "flat": table._replace(values=table.values[:, 0]),
        "empty": table._replace(values=table.values[:, :0]),
    }[spoilt]
    with pytest.raises(CorpusError, match="modality 'text'"):
        write(tmp_path / "c", frame, features)


def test_a_modality_is_added_and_replaced(own: Path) -> None:
    opened = Corpus.open(own)
    rows = len(opened)
    for width in (2, 3):
        new = Features(np.ones((rows, width), np.float32), np.arange(rows) % 2 == 0, {"kind": str(width)})
        returned = opened.add_modality("visual", new)
        for corpus in (returned, Corpus.open(own)):
            assert corpus.modalities["visual"].width == width
            assert corpus.modalities["visual"].recipe == {"kind": str(width)}
            assert corpus.features("visual")[0].sum(1).tolist() == [width * (i % 2 == 0) for i in range(rows)]
            assert corpus.utterances.equals(opened.utterances)
    assert "visual" not in opened.modalities
    with pytest.raises(CorpusError, match="modality 'visual'"):
        opened.add_modality("visual", Features(np.ones((1, 2), np.float32), np.ones(1, bool), {}))


def test_an_interrupted_addition_leaves_the_corpus(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(own)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(corpus_module, "save_file", fail)
    opened = Corpus.open(own)
    with pytest.raises(OSError, match="no space"):
        opened.add_modality(
            "text", Features(np.ones((len(opened), 2), np.float32), np.ones(len(opened), bool), {})
        )
    assert snapshot(own) == before


# Opening what is broken


def test_not_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(CorpusError, match=r"is not a corpus folder: it has no corpus\.json"):
            Corpus.open(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format"),
        ({"labels": ["joy"]}, "labels"),
        ({"labels": ["joy", "joy"]}, "labels"),
        ({"surprise": 1}, "surprise"),
        ({"modalities": {"text": {"width": 0, "recipe": {}}}}, "modalities.text.width"),
    ],
)
def test_a_manifest_with_a_wrong_field(own: Path, change: dict[str, object], said: str) -> None:
    path = own / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(CorpusError, match=f"corpus.json: {said}: "):
        Corpus.open(own)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_manifest_that_is_no_manifest(own: Path, content: bytes) -> None:
    (own / "corpus.json").write_bytes(content)
    with pytest.raises(CorpusError, match=r"corpus\.json"):
        Corpus.open(own)


def test_a_missing_table(own: Path) -> None:
    (own / "utterances.parquet").unlink()
    with pytest.raises(CorpusError, match=r"utterances\.parquet is missing: import the corpus again"):
        Corpus.open(own)


def test_a_truncated_table(own: Path) -> None:
    path = own / "utterances.parquet"
    for content in (path.read_bytes()[:-20], b"", b"no parquet at all"):
        path.write_bytes(content)
        with pytest.raises(CorpusError, match=r"utterances\.parquet is damaged: its checksum"):
            Corpus.open(own)
        seal(own)
        with pytest.raises(CorpusError, match=r"utterances\.parquet cannot be read"):
            Corpus.open(own)


def test_a_table_with_other_columns(own: Path) -> None:
    table = pq.read_table(own / "utterances.parquet")
    words = pa.array(["first"] * len(table))
    for broken in (
        table.drop_columns(["label"]),
        table.set_column(table.schema.get_field_index("utterance_index"), "utterance_index", words),
    ):
        pq.write_table(broken, own / "utterances.parquet")
        seal(own)
        with pytest.raises(CorpusError, match=r"utterances\.parquet cannot be read"):
            Corpus.open(own)
    pq.write_table(table.slice(0, 0), own / "utterances.parquet")
    seal(own)
    with pytest.raises(CorpusError, match="holds no utterances"):
        Corpus.open(own)


@pytest.mark.parametrize("name", ["dialogue_id", "text", "label"])
@pytest.mark.parametrize("cell", [b"\xff\xfe", b"\xed\xa0\x80"], ids=["no UTF-8", "a surrogate"])
def test_text_that_is_not_utf8_is_refused(own: Path, name: str, cell: bytes) -> None:
    table = pq.read_table(own / "utterances.parquet")
    ends = np.arange(len(table) + 1, dtype=np.int32) * len(cell)
    cells = [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(cell * len(table))]
    column = pa.Array.from_buffers(pa.string(), len(table), cells)
    pq.write_table(
        table.set_column(table.schema.get_field_index(name), name, column), own / "utterances.parquet"
    )
    seal(own)
    with pytest.raises(CorpusError, match=r"utterances\.parquet cannot be read \(.*UTF8.*import the corpus"):
        Corpus.open(own)


@pytest.mark.parametrize("name", ["dialogue_id", "utterance_index"])
def test_rows_without_a_place_are_refused(own: Path, name: str) -> None:
    frame = pd.read_parquet(own / "utterances.parquet").astype({name: object})
    frame.loc[3, name] = None
    frame.to_parquet(own / "utterances.parquet")
    seal(own)
    with pytest.raises(CorpusError, match=f"row 3 has no {name}"):
        Corpus.open(own)


def test_a_label_that_the_manifest_lacks(own: Path) -> None:
    frame = Corpus.open(own).utterances
    frame.loc[3, "label"] = "bliss"
    pq.write_table(pa.Table.from_pandas(frame, SCHEMA, preserve_index=False), own / "utterances.parquet")
    seal(own)
    with pytest.raises(CorpusError, match="row 3: unknown label 'bliss'"):
        _ = Corpus.open(own).targets


def test_features_that_are_missing_or_broken(own: Path) -> None:
    path = own / "features" / "text.safetensors"
    content = path.read_bytes()
    opened = Corpus.open(own)
    with pytest.raises(CorpusError, match="has no modality 'visual'; it has: audio, text"):
        opened.features("visual")
    for broken in (content[:-8], content[:20], b"", b"\x00" * 64):
        path.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"text\.safetensors cannot be read"):
            opened.features("text")
    path.unlink()
    with pytest.raises(CorpusError, match=r"text\.safetensors is missing"):
        opened.features("text")


@pytest.mark.parametrize("wrong", ["width", "rows", "present", "dtype", "names"])
def test_features_that_do_not_fit_the_manifest(own: Path, wrong: str) -> None:
    opened = Corpus.open(own)
    values, present = (x.clone() for x in opened.features("text"))
    tensors = {
        "width": {"values": values[:, 1:].contiguous(), "present": present},
        "rows": {"values": values[1:].contiguous(), "present": present[1:].contiguous()},
        "present": {"values": values, "present": present.float()},
        "dtype": {"values": values.double(), "present": present},
        "names": {"vectors": values, "present": present},
    }[wrong]
    corpus_module.save_file(tensors, own / "features" / "text.safetensors")
    with pytest.raises(CorpusError, match=r"text\.safetensors"):
        opened.features("text")


# Splits and folds


def test_splits_are_disjoint_and_complete(corpus: Corpus) -> None:
    parts = [set(corpus.split(name).tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(corpus.dialogue_ids)
    assert set.union(*parts) == set(range(len(corpus.dialogue_ids)))
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        rows = corpus.rows(np.array(sorted(part)))
        assert set(corpus.utterances["split"].iloc[rows]) == {name}


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[frame["split"] == "validation", "split"] = None
    corpus = write(tmp_path / "c", frame, features)
    with pytest.raises(CorpusError, match="no split 'validation'; it has: test, train; it has folds"):
        corpus.split("validation")
    frame["split"] = frame["fold"] = None
    with pytest.raises(CorpusError, match=r"no split 'train'; it has: none$"):
        write(tmp_path / "c", frame, features).split("train")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_folds_are_disjoint_and_complete(corpus: Corpus, share: float) -> None:
    assert corpus.folds == (0, 1, 2)
    tested: list[int] = []
    for number in corpus.folds:
        parts = {name: set(part.tolist()) for name, part in corpus.fold(number, share).items()}
        assert sum(map(len, parts.values())) == len(corpus.dialogue_ids)
        assert set.union(*parts.values()) == set(range(len(corpus.dialogue_ids)))
        assert set(corpus.utterances["fold"].iloc[corpus.rows(np.array(sorted(parts["test"])))]) == {number}
        assert len(parts["validation"]) == max(
            1, round(share * (len(parts["train"]) + len(parts["validation"])))
        )
        tested += parts["test"]
    assert sorted(tested) == list(range(len(corpus.dialogue_ids)))


def test_dialogues_without_a_fold_stay_out(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[frame["dialogue_id"] == "d04", "fold"] = None
    corpus = write(tmp_path / "c", frame, features)
    for number in corpus.folds:
        assert 4 not in np.concatenate(list(corpus.fold(number).values()))
    with pytest.raises(CorpusError, match=r"no fold 7; it has: \(0, 1, 2\)"):
        corpus.fold(7)


def test_validation_leaves_something_to_train_on(corpus: Corpus, tmp_path: Path) -> None:
    assert len(corpus.fold(0, 0.99)["train"]) == 1
    frame, _ = tables()
    two = write(tmp_path / "c", frame[frame["dialogue_id"].isin(["d00", "d01"])], {})
    with pytest.raises(CorpusError, match="the folds other than 0 hold 1 dialogues"):
        two.fold(0)


def test_the_rule_that_draws_validation_dialogues() -> None:
    ids = [f"{i:03}" for i in range(120)]
    shuffled = [ids[i] for i in np.random.default_rng(0).permutation(120)]
    assert draw_validation(shuffled, 12) == [ids[i] for i in range(5, 120, 10)]


@given(st.sets(st.text(max_size=4), min_size=1, max_size=40), st.data())
def test_validation_is_drawn_without_repetition(ids: set[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(ids)))
    drawn = draw_validation(list(ids), count)
    assert len(set(drawn)) == len(drawn) == count
    assert set(drawn) <= ids
    assert drawn == sorted(drawn)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.data())
def test_rows_equal_the_loop(lengths: list[int], data: st.DataObject) -> None:
    offsets = np.r_[0, np.cumsum(lengths)]
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=15))
    expected = [row for d in chosen for row in range(offsets[d], offsets[d + 1])]
    assert slice_rows(offsets, np.array(chosen, dtype=np.int64)).tolist() == expected
