import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from mmerc.checkpoint import load_checkpoint
from mmerc.config import read_yaml
from mmerc.corpus import MISSING, Corpus, Features
from mmerc.errors import ConfigError, CorpusError, FeatureError, TrainingError
from mmerc.evaluation import evaluate
from mmerc.experiments.runs import Run, task_of
from mmerc.metrics import score
from mmerc.models import MODELS, resolve
from mmerc.recognizer import load
from mmerc.run_state import warnings_about
from mmerc.task import class_weights
from mmerc.training import Listener, Trainer, train
from tiny import ALWAYS, LABELS, config, every_model, make_bert, tables, task, write, written

Frame = Any


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


# Repeating


@pytest.mark.parametrize("model", every_model())
def test_a_seed_repeats_bit_for_bit(corpus: Corpus, tmp_path: Path, model: str) -> None:
    run = config(model, epochs=1, modality_dropout=0.3, ema_decay=0.5 if model == "df-erc" else 0.0)
    for out, seed in (("first", 0), ("again", 0), ("other", 1)):
        torch.rand(7)  # what was drawn before does not matter
        train(task(corpus, run, seed), tmp_path / out)
    first, again, other = (written(tmp_path / out) for out in ("first", "again", "other"))
    assert first == again
    assert first["weights"] != other["weights"]
    assert first["log"] != other["log"]


@pytest.mark.parametrize("chunk", [1, 5])
def test_a_corpus_read_in_chunks_is_the_same_corpus(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    train(task(corpus, config("late-fusion")), tmp_path / "whole")
    for module in ("examples", "run_state"):
        monkeypatch.setattr(f"mmerc.{module}.CHUNK", chunk)
    train(task(corpus, config("late-fusion")), tmp_path / "chunks")
    assert written(tmp_path / "chunks") == written(tmp_path / "whole")


def test_the_saved_config_repeats_the_run(corpus: Corpus, tmp_path: Path) -> None:
    run = config("df-erc", class_weights=0.5, schedule="cosine")
    train(task(corpus, run), tmp_path / "first")
    again = resolve("df-erc", read_yaml(tmp_path / "first" / "config.yaml"))
    assert again == run
    train(task(corpus, again), tmp_path / "again")
    assert written(tmp_path / "first") == written(tmp_path / "again")


def test_training_learns(corpus: Corpus, tmp_path: Path) -> None:
    progress = train(task(corpus, config("df-erc", epochs=12)), tmp_path / "run")
    losses = [record["losses"]["emotion"] for record in progress.history]
    assert losses[-1] < 0.6 * losses[0]
    assert progress.best_score > 0.5


# Protocol


def disturbed(kind: str, rows: np.ndarray) -> tuple[Frame, dict[str, Features]]:
    """The tables with other labels, features, texts or speakers in the given rows."""
    frame, features = tables()
    if kind == "labels":
        frame.loc[rows, "label"] = [LABELS[(LABELS.index(x) + 1) % 3] for x in frame["label"][rows]]
    elif kind == "no labels":
        frame.loc[rows, "label"] = None
    else:
        frame.loc[rows, ["text", "speaker"]] = "late"
        for name, table in features.items():
            values, present = table.values.copy(), table.present.copy()
            values[rows] = 100.0
            present[rows] = ~present[rows]
            features[name] = Features(values, present, table.recipe)
    return frame, features


@pytest.mark.parametrize("kind", ["labels", "no labels", "features"])
@pytest.mark.parametrize("fold", [None, 1])
def test_the_test_split_changes_nothing(corpus: Corpus, tmp_path: Path, kind: str, fold: int | None) -> None:
    run = config("df-erc", class_weights=1.0, epochs=2)
    dialogues = corpus.split("test") if fold is None else corpus.fold(fold)["test"]
    other = write(tmp_path / "other", *disturbed(kind, corpus.rows(dialogues)))
    for name, source in (("plain", corpus), ("disturbed", other)):
        train(task_of(source, run, Run(tmp_path / name, 0, fold)), tmp_path / name)
    assert written(tmp_path / "plain") == written(tmp_path / "disturbed")


@pytest.mark.slow
def test_the_test_split_of_an_encoder_trained_along_changes_nothing(
    corpus: Corpus, tmp_path: Path, bert: Path
) -> None:
    run = config(text_encoder={"name": str(bert)}, epochs=1)
    other = write(tmp_path / "other", *disturbed("features", corpus.rows(corpus.split("test"))))
    for name, source in (("plain", corpus), ("disturbed", other)):
        train(task(source, run), tmp_path / name)
    assert written(tmp_path / "plain") == written(tmp_path / "disturbed")


def test_validation_decides_on_the_epoch_alone(corpus: Corpus, tmp_path: Path) -> None:
    rows = corpus.rows(corpus.split("validation"))
    for kind in ("labels", "features"):
        other = write(tmp_path / kind, *disturbed(kind, rows))
        for name, source in (("plain", corpus), ("other", other)):
            train(task(source, config(epochs=3, class_weights=1.0)), tmp_path / f"{kind}-{name}")
        plain, changed = (tmp_path / f"{kind}-{name}" for name in ("plain", "other"))
        assert [r["losses"] for r in log(plain)] == [r["losses"] for r in log(changed)]
        assert written(plain)["last"] == written(changed)["last"]
        assert [r["validation"] for r in log(plain)] != [r["validation"] for r in log(changed)]


@pytest.mark.parametrize("kind", ["labels", "features"])
def test_training_data_matter(corpus: Corpus, tmp_path: Path, kind: str) -> None:
    other = write(tmp_path / "other", *disturbed(kind, corpus.rows(corpus.split("train"))))
    for name, source in (("plain", corpus), ("other", other)):
        train(task(source, config(epochs=1)), tmp_path / f"run-{name}")
    assert written(tmp_path / "run-plain")["last"] != written(tmp_path / "run-other")["last"]


# Selection


@pytest.mark.parametrize(
    ("model", "training"),
    [
        *((model, {}) for model in ALWAYS),
        *(pytest.param(m, {}, marks=pytest.mark.slow) for m in MODELS if m not in ALWAYS),
        *((model, {"ema_decay": 0.9}) for model in ("df-erc", "cfn-esa")),  # they count in buffers
        ("late-fusion", {"standardize": False}),
    ],
    ids=str,
)
def test_the_checkpoint_is_that_of_the_best_epoch(
    corpus: Corpus, tmp_path: Path, model: str, training: dict[str, Any]
) -> None:
    progress = train(task(corpus, config(model, epochs=3, **training)), tmp_path / "run")
    records = log(tmp_path / "run")
    assert records == progress.history
    scores = [record["validation"]["weighted_f1"] for record in records]
    assert progress.best_epoch == scores.index(max(scores)) + 1
    info = load_checkpoint(tmp_path / "run").info
    assert info.epoch == progress.best_epoch
    assert info.validation == records[info.epoch - 1]["validation"]
    (found,) = evaluate(tmp_path / "run", corpus, "validation")
    assert found.scores.to_dict() == {
        k: v for k, v in info.validation.items() if not k.startswith("context_weight")
    }
    truth = corpus.targets[corpus.rows(corpus.split("validation"))]
    assert found.scores.weighted_f1 == pytest.approx(
        f1_score(truth, found.probabilities.argmax(1), average="weighted", zero_division=0)
    )


def scripted(monkeypatch: pytest.MonkeyPatch, scores: list[float]) -> None:
    """Let the validation scores be these, epoch after epoch."""
    validate = Trainer._validate

    def scored(self: Trainer, listener: Listener) -> dict[str, Any]:
        return validate(self, listener) | {"weighted_f1": scores[self.progress.epoch]}

    monkeypatch.setattr(Trainer, "_validate", scored)


@pytest.mark.parametrize(
    ("scores", "best", "last"),
    [
        ([0.3, 0.5, 0.5, 0.4, 0.5, 0.9, 0.9, 0.9], 2, 5),  # a tie: the earliest; patience ends before the 0.9
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], 8, 8),
        ([0.0] * 8, 1, 4),
        ([0.5, 0.1, 0.1, 0.6, 0.1, 0.1, 0.1, 0.9], 4, 7),
    ],
)
def test_patience_and_ties(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float], best: int, last: int
) -> None:
    train(task(corpus, config(epochs=best, patience=8)), tmp_path / "short")
    scripted(monkeypatch, scores)
    progress = train(task(corpus, config(epochs=8, patience=3)), tmp_path / "run")
    assert (progress.best_epoch, progress.epoch, progress.best_score) == (best, last, scores[best - 1])
    # The weights are those with which a run of that many epochs ends.
    assert written(tmp_path / "run")["weights"] == written(tmp_path / "short")["last"]


def test_averaged_weights_are_the_mean_of_the_steps(corpus: Corpus) -> None:
    trainer = Trainer(task(corpus, config(ema_decay=0.999, batch_size=1)), torch.device("cpu"))
    trainer.fit_statistics()
    expected = {k: v.double().clone() for k, v in trainer.pipeline.state_dict().items()}
    step = trainer._step
    taken = 0

    def followed(batch: Any) -> Any:
        nonlocal taken
        values = step(batch)
        taken += 1
        decay = min(0.999, taken / (taken + 10))
        for name, value in trainer.pipeline.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
        return values

    trainer._step = followed
    trainer.run_epoch(Listener())
    assert taken == len(trainer.task.train)
    for name, value in trainer.best.items():
        torch.testing.assert_close(value.double(), expected[name], atol=1e-5, rtol=1e-5)


def test_the_log_says_what_is_suspicious(corpus: Corpus, tmp_path: Path) -> None:
    progress = train(task(corpus, config("df-erc", epochs=1, learning_rate=1e-12)), tmp_path / "run")
    (record,) = progress.history
    assert set(record) == {"epoch", "losses", "validation", "warnings"}
    assert {"emotion", "hinge_active"} <= set(record["losses"])
    assert record["warnings"] == warnings_about(record["validation"])
    constant = {"never_predicted": ["joy"], "context_weight_mean": 0.98, "context_weight_sd": 0.01}
    assert [text.split(":")[0] for text in warnings_about(constant)] == [
        "never predicted on validation",
        "the context gate decides nothing",
    ]
    assert warnings_about(constant | {"never_predicted": [], "context_weight_sd": 0.2}) == []


def test_a_listener_hears_every_epoch(corpus: Corpus, tmp_path: Path) -> None:
    heard: list[Any] = []

    class Recording(Listener):
        def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
            heard.append((epoch, done, total))

        def epoch(self, record: dict[str, Any]) -> None:
            heard.append(record)

    train(task(corpus, config(epochs=2)), tmp_path / "run", listener=Recording())
    count = len(corpus.split("train"))
    assert heard == [(1, count, count), log(tmp_path / "run")[0], (2, count, count), log(tmp_path / "run")[1]]


# Classes and labels


def test_class_weights_follow_the_counts(corpus: Corpus) -> None:
    targets = corpus.targets[corpus.rows(corpus.split("train"))]
    counts = np.bincount(targets)
    for exponent in (0.5, 1.0, 2000.0):
        weights = class_weights(task(corpus), exponent)
        assert weights is not None
        np.testing.assert_allclose(
            weights / weights[0], (counts / counts[0]) ** -exponent, rtol=1e-5, atol=1e-30
        )
        assert float(weights[targets].mean()) == pytest.approx(1.0)
    assert class_weights(task(corpus), None) is None
    assert class_weights(task(corpus), 0.0).tolist() == [1.0] * 3


def test_class_weights_by_name(corpus: Corpus, tmp_path: Path) -> None:
    given = {"anger": 3.0, "joy": 1.0, "sadness": 2.0}
    train(task(corpus, config(epochs=1, class_weights=given)), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run").info.class_weights == given
    for wrong in ({"joy": 1.0}, {**given, "fear": 1.0}, {**given, "Joy": 1.0}):
        with pytest.raises(ConfigError, match="must name each label once: joy, sadness, anger"):
            class_weights(task(corpus), wrong)


def test_a_class_that_training_lacks(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[(frame["label"] == "anger") & (frame["split"] == "train"), "label"] = "joy"
    corpus = write(tmp_path / "c", frame, features)
    weights = class_weights(task(corpus), 1.0)
    assert weights is not None
    assert weights[2] == 0
    assert torch.isfinite(weights).all()
    progress = train(task(corpus, config(class_weights=1.0)), tmp_path / "run")
    assert all(np.isfinite(r["losses"]["emotion"]) for r in progress.history)
    assert progress.history[-1]["validation"]["per_class"]["anger"]["support"] > 0


@pytest.mark.parametrize("model", every_model())
def test_utterances_without_a_label_are_left_out(tmp_path: Path, model: str) -> None:
    frame, features = tables()
    hidden = frame.index[(frame.index % 3 == 0) | (frame["dialogue_id"] == "d00")]
    frame.loc[hidden, "label"] = None
    corpus = write(tmp_path / "c", frame, features)
    progress = train(task(corpus, config(model, batch_size=1, epochs=1)), tmp_path / "run")
    assert all(np.isfinite(list(r["losses"].values())).all() for r in progress.history)
    known = (corpus.targets != MISSING)[corpus.rows(corpus.split("validation"))].sum()
    assert progress.history[0]["validation"]["utterances"] == known
    (found,) = evaluate(tmp_path / "run", corpus, "test")
    rows = corpus.rows(corpus.split("test"))
    assert len(found.probabilities) == len(rows) > found.scores.utterances
    labelled = corpus.targets[rows] != MISSING
    assert found.scores == score(found.probabilities[labelled], corpus.targets[rows][labelled], LABELS)


@pytest.mark.parametrize(("split", "said"), [("train", "training"), ("validation", "validation")])
def test_no_label_at_all(tmp_path: Path, split: str, said: str) -> None:
    frame, features = tables()
    frame.loc[frame["split"] == split, "label"] = None
    corpus = write(tmp_path / "c", frame, features)
    with pytest.raises(TrainingError, match=f"no utterance of the {said} split has a label"):
        train(task(corpus), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# What cannot be trained on


def test_a_corpus_without_a_validation_split(tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[frame["split"] == "validation", "split"] = "train"
    with pytest.raises(CorpusError, match="no split 'validation'"):
        task(write(tmp_path / "c", frame, features))


def test_features_that_are_not_finite(tmp_path: Path) -> None:
    frame, features = tables()
    row = int(np.flatnonzero(features["text"].present)[3])
    features["text"].values[row, 1] = np.nan
    corpus = write(tmp_path / "c", frame, features)
    with pytest.raises(FeatureError, match=f"'text' has 1 rows with NaN or infinity, the first is row {row}"):
        train(task(corpus), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_modality_that_the_corpus_lacks(corpus: Corpus, tmp_path: Path) -> None:
    run = replace(config("late-fusion"), modalities=("visual",))
    with pytest.raises(ConfigError, match="no modality 'visual'; it has: audio, text"):
        train(task(corpus, run), tmp_path / "run")


@pytest.mark.parametrize("batch_size", [1, 100])
def test_a_run_that_diverges(corpus: Corpus, tmp_path: Path, batch_size: int) -> None:
    run = config(learning_rate=1e38, warmup_steps=0, clip_norm=0.0, batch_size=batch_size)
    with pytest.raises(TrainingError, match=r"epoch \d: .* not finite; try a lower training.learning_rate"):
        train(task(corpus, run), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.json").exists()


def test_a_folder_that_holds_a_run(corpus: Corpus, tmp_path: Path) -> None:
    train(task(corpus, config(epochs=1)), tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(TrainingError, match="already holds a run: use --resume"):
        train(task(corpus, config(epochs=1)), tmp_path / "run")
    assert {p: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def test_utterances_that_lack_every_modality(tmp_path: Path) -> None:
    frame, features = tables()
    for table in features.values():
        table.present[::4] = False
        table.present[frame["dialogue_id"] == "d01"] = False
    corpus = write(tmp_path / "c", frame, features)
    progress = train(task(corpus, config("df-erc", batch_size=1, modality_dropout=0.4)), tmp_path / "run")
    assert all(np.isfinite(list(r["losses"].values())).all() for r in progress.history)
    assert np.isfinite(evaluate(tmp_path / "run", corpus)[0].probabilities).all()


@pytest.mark.parametrize("model", every_model())
def test_half_precision_trains(corpus: Corpus, tmp_path: Path, model: str) -> None:
    progress = train(task(corpus, config(model, precision="bf16", epochs=1)), tmp_path / "run")
    assert np.isfinite(progress.history[-1]["losses"]["emotion"])
    assert {v.dtype for v in load_file(tmp_path / "run" / "model.safetensors").values()} <= {
        torch.float32,
        torch.int64,
    }


# End to end


def test_an_encoder_is_trained_along(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bert(tmp_path / "bert")
    key = "embeddings.word_embeddings.weight"
    before = load_file(folder / "model.safetensors")[key].clone()  # mapped, the file could not be removed
    run = config("df-erc", text_encoder={"name": str(folder)}, encoder_learning_rate=1e-3, epochs=2)
    train(task(corpus, run), tmp_path / "run")
    (there,) = evaluate(tmp_path / "run", corpus)
    conversation = corpus.conversation(0)
    said = load(tmp_path / "run").predict(conversation).to_json()
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert not torch.equal(after[f"encoder.model.{key}"], before)
    # Elsewhere, without the encoder that training started from.
    shutil.rmtree(folder)
    moved = shutil.move(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (here,) = evaluate(Path("../moved"), corpus)
    assert (here.probabilities == there.probabilities).all()
    assert load("../moved").predict(conversation).to_json() == said
    assert load(moved).labels == LABELS


def test_training_utterances_without_any_features(tmp_path: Path) -> None:
    frame, features = tables()
    empty = {m: x._replace(present=np.zeros(len(frame), dtype=bool)) for m, x in features.items()}
    corpus = write(tmp_path / "c", frame, empty)
    with pytest.raises(TrainingError, match="no utterance of the training split has any of: text"):
        train(task(corpus), tmp_path / "run")
    assert not (tmp_path / "run").exists()
