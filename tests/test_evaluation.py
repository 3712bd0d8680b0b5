import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmerc.checkpoint import load_checkpoint
from mmerc.corpus import Corpus, Features
from mmerc.errors import CheckpointError, CorpusError, FeatureError
from mmerc.evaluation import evaluate, find_checkpoints
from mmerc.examples import Examples
from mmerc.experiments.runs import plan, train_in_turn
from mmerc.metrics import score
from mmerc.training import Listener, train
from tiny import LABELS, RECIPES, config, make_bert, tables, task, write


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2)), out)
    return out


@pytest.fixture(scope="module")
def folds(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a cross-validation."""
    out = tmp_path_factory.mktemp("folds")
    runs = plan(corpus, out, [0, 1], cross_validate=True)
    for _ in train_in_turn(corpus, config("df-erc", epochs=2), runs, False, "cpu", lambda _: Listener()):
        pass
    return out


def predictions(path: Path, corpus: Corpus, dialogues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and probabilities, one dialogue at a time."""
    pipeline = load_checkpoint(path).pipeline
    examples = Examples.from_corpus(corpus, pipeline.network.modalities)
    rows = [corpus.rows(np.array([d])) for d in dialogues]
    return np.concatenate(rows), np.concatenate(
        [pipeline.infer(examples, np.array([d])).probabilities for d in dialogues]
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_is_scored_on_its_own_predictions(corpus: Corpus, trained: Path, split: str) -> None:
    (found,) = evaluate(trained, corpus, split)
    rows, expected = predictions(trained, corpus, corpus.split(split))
    assert found.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.scores == score(found.probabilities, corpus.targets[rows], LABELS)
    assert (found.seed, found.fold_count, found.checkpoints) == (0, 0, (trained,))
    assert found.contributions is not None
    assert found.contributions.shape == (len(rows), 2)
    assert found.context_weight is not None
    assert found.context_weight.shape == (len(rows),)


def test_labels_do_not_enter_predictions(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    frame, features = tables()
    frame["label"] = np.roll(frame["label"], 1)
    other = write(tmp_path / "c", frame, features)
    assert (evaluate(trained, other)[0].probabilities == evaluate(trained, corpus)[0].probabilities).all()


def test_folds_are_pooled(corpus: Corpus, folds: Path) -> None:
    found = evaluate(folds, corpus)
    assert [e.seed for e in found] == [0, 1]
    for evaluation in found:
        assert evaluation.fold_count == 3
        assert evaluation.rows.tolist() == list(range(len(corpus)))
        pooled = np.zeros((len(corpus), 3), dtype=np.float32)
        for number in corpus.folds:
            rows, values = predictions(
                folds / f"seed-{evaluation.seed}" / f"fold-{number}", corpus, corpus.fold(number)["test"]
            )
            pooled[rows] = values
        np.testing.assert_allclose(evaluation.probabilities, pooled, atol=1e-6)
        assert evaluation.scores == score(evaluation.probabilities, corpus.targets, LABELS)
    assert found[0].scores != found[1].scores
    assert evaluate(folds / "seed-1", corpus)[0].scores == found[1].scores


def test_one_fold_is_scored_on_its_test_fold(corpus: Corpus, folds: Path) -> None:
    (found,) = evaluate(folds / "seed-0" / "fold-1", corpus)
    assert set(corpus.utterances["fold"].iloc[found.rows]) == {1}


@pytest.mark.parametrize("left", [1, 2])
def test_a_missing_fold(corpus: Corpus, folds: Path, tmp_path: Path, left: int) -> None:
    for number in range(left):
        shutil.copytree(folds / "seed-0" / f"fold-{number}", tmp_path / f"fold-{number}")
    missing = list(range(left, 3))
    with pytest.raises(CheckpointError, match="not finished; resume the run before evaluating") as caught:
        evaluate(tmp_path, corpus)
    assert f"seed 0: fold {missing}" in str(caught.value)


def test_a_fold_that_the_corpus_lacks(folds: Path, tmp_path: Path) -> None:
    frame, features = tables()
    frame["fold"] = frame["fold"].where(frame["fold"] != 2, 1)
    with pytest.raises(CorpusError, match="has no fold 2"):
        evaluate(folds / "seed-0", write(tmp_path / "c", frame, features))


def test_two_runs_of_one_seed(corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(trained, tmp_path / name)
    assert find_checkpoints(tmp_path) == [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(CheckpointError, match=r"several checkpoints have seed 0 .*one run folder at a time"):
        evaluate(tmp_path, corpus)


def test_no_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
            evaluate(path, corpus)


def test_a_split_that_is_not_there(corpus: Corpus, trained: Path) -> None:
    with pytest.raises(CorpusError, match="no split 'dev'; it has: test, train, validation"):
        evaluate(trained, corpus, "dev")


def test_other_labels_or_another_order(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tells joy, sadness, anger; .* labelled anger, sadness, joy"):
        evaluate(trained, write(tmp_path / "order", labels=LABELS[::-1]))
    with pytest.raises(CheckpointError, match="is labelled joy, sadness, anger, fear"):
        evaluate(trained, write(tmp_path / "more", labels=(*LABELS, "fear")))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: f._replace(recipe={"kind": "other"}),
            ["width 5", str(RECIPES["text"]), "{'kind': 'other'}"],
        ),
        (lambda f: f._replace(values=f.values[:, :4]), ["expects width 5", "has width 4"]),
    ],
)
def test_another_recipe(
    trained: Path, tmp_path: Path, change: Callable[[Features], Features], said: list[str]
) -> None:
    frame, features = tables()
    with pytest.raises(FeatureError, match="'text' was made by different recipes") as caught:
        evaluate(trained, write(tmp_path / "c", frame, {**features, "text": change(features["text"])}))
    assert all(part in str(caught.value) for part in said)


def test_a_modality_that_is_not_there(trained: Path, tmp_path: Path) -> None:
    frame, features = tables()
    with pytest.raises(FeatureError, match=r"needs the modality 'audio', which .* does not have"):
        evaluate(trained, write(tmp_path / "c", frame, {"text": features["text"]}))


def test_further_modalities_do_not_matter(corpus: Corpus, tmp_path: Path) -> None:
    frame, features = tables()
    train(task(corpus, config("text-only", epochs=1)), tmp_path / "run")
    only = write(tmp_path / "c", frame, {"text": features["text"]})
    (one,), (other,) = evaluate(tmp_path / "run", corpus), evaluate(tmp_path / "run", only)
    assert (one.probabilities == other.probabilities).all()


def test_an_encoder_trained_along_needs_no_text_vectors(tmp_path: Path) -> None:
    frame, features = tables()
    corpus = write(tmp_path / "c", frame, {"audio": features["audio"]})
    run = config("late-fusion", text_encoder={"name": str(make_bert(tmp_path / "bert"))}, epochs=1)
    train(task(corpus, run), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").info.modalities.keys() == {"audio", "text"}
    assert evaluate(tmp_path / "run", corpus)[0].scores.utterances == len(corpus.rows(corpus.split("test")))


def test_nothing_to_score(trained: Path, tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[frame["split"] == "test", "label"] = None
    with pytest.raises(CorpusError, match="no utterance has a label"):
        evaluate(trained, write(tmp_path / "c", frame, features))
