import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate
from mmerc.metrics import summarise
from mmerc.models import MODELS
from mmerc.training import Listener, train
from tiny import LABELS, SMALL, config, tables, task, write, written

Command = Callable[..., tuple[int, str, str]]
TRAINING = {"epochs": 2, "batch_size": 4, "warmup_steps": 2, "learning_rate": 0.02}
VALUES = {f"network.{k}": v for k, v in SMALL["late-fusion"].items()} | {
    f"training.{k}": v for k, v in TRAINING.items()
}
SETTINGS = ["--preset", "plain"] + [
    part for key, value in VALUES.items() for part in ("--set", f"{key}={value}")
]


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("late-fusion", epochs=2)), out)
    return out


@pytest.fixture
def training(mmerc: Command, corpus: Corpus, tmp_path: Path) -> Command:
    """Train late fusion with further arguments; the run's folder is `run`."""

    def call(*arguments: Any, model: str = "late-fusion") -> tuple[int, str, str]:
        where = ("--corpus", corpus.path, "--out", tmp_path / "run", "--device", "cpu")
        return mmerc("train", model, *where, *SETTINGS, *arguments)

    return call


def assert_one_line(result: tuple[int, str, str], *said: str) -> None:
    code, _, err = result
    assert code == 2
    *notes, last = err.splitlines()
    assert last.startswith("error: ")
    assert all("run(s)" in note for note in notes)
    for part in said:
        assert part in err


# Training


@pytest.mark.slow
def test_the_whole_road_as_a_user_goes_it(corpus: Corpus, tmp_path: Path) -> None:
    chat = tmp_path / "chat.jsonl"
    vectors = {m: [0.5] * x.width for m, x in corpus.modalities.items()}
    chat.write_text(json.dumps({"text": "oh no", "speaker": "Ann", "features": vectors}), encoding="utf-8")
    script = "import sys; from mmerc.cli.main import run; run()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def mmerc(*arguments: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            check=True, capture_output=True, encoding="utf-8", env=environment, cwd=tmp_path,
        )  # fmt: skip

    said = mmerc("train", "late-fusion", "--corpus", corpus.path, "--out", "run", *SETTINGS)
    assert "next: mmerc evaluate run" in said.stderr
    said = mmerc("predict", "run", chat, "--format", "json")
    assert json.loads(said.stdout)[0]["utterances"][0]["label"] in LABELS


def test_train_then_evaluate(mmerc: Command, training: Command, corpus: Corpus, tmp_path: Path) -> None:
    code, out, err = training("--seed", 3)
    assert code == 0, err
    assert "late-fusion (plain) on tiny: audio, text; 1 run(s)" in err
    run = config("late-fusion", epochs=2)
    train(task(corpus, run, seed=3), tmp_path / "function")
    assert written(tmp_path / "run") == written(tmp_path / "function")
    info = json.loads((tmp_path / "run" / "checkpoint.json").read_text(encoding="utf-8"))
    assert f"{100 * info['validation']['weighted_f1']:.2f}" in out
    code, out, err = mmerc(
        "evaluate", tmp_path / "run", "--corpus", corpus.path,
        "--json", tmp_path / "s.json", "--markdown", tmp_path / "s.md",
    )  # fmt: skip
    assert code == 0, err
    (found,) = evaluate(tmp_path / "run", corpus)
    assert f"{100 * found.scores.weighted_f1:.2f}" in out
    assert all(label in out for label in LABELS)
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))["scores"] == found.scores.to_dict()
    assert found.scores.to_markdown() in (tmp_path / "s.md").read_text(encoding="utf-8")


def test_several_seeds(mmerc: Command, training: Command, corpus: Corpus, tmp_path: Path) -> None:
    code, out, err = training("--seeds", 2, "--seed", 4)
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["seed-4", "seed-5"]
    assert "seed-4" in out
    assert "seed-5" in out
    code, out, err = mmerc(
        "evaluate", tmp_path / "run", "--corpus", corpus.path, "--json", tmp_path / "s.json"
    )
    assert code == 0, err
    summary = summarise([e.scores for e in evaluate(tmp_path / "run", corpus)])
    assert str(summary.weighted_f1) in out
    assert "±" in out
    found = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert found["scores"] == json.loads(json.dumps(summary.to_dict()))
    assert set(found["seeds"]) == {"4", "5"}


def test_cross_validation(training: Command, corpus: Corpus, tmp_path: Path) -> None:
    code, out, err = training("--cross-validate")
    assert code == 0, err
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["fold-0", "fold-1", "fold-2"]
    (found,) = evaluate(tmp_path / "run", corpus)
    assert found.scores.utterances == len(corpus)
    assert "pooled test folds" in out
    assert f"{100 * found.scores.weighted_f1:.2f}" in out


@pytest.mark.slow
def test_jobs_change_nothing(training: Command, corpus: Corpus, tmp_path: Path) -> None:
    assert training("--cross-validate", "--seeds", 2)[0] == 0
    (tmp_path / "run").rename(tmp_path / "in turn")
    code, _, err = training("--cross-validate", "--seeds", 2, "--jobs", 2)
    assert code == 0, err
    for seed in (0, 1):
        for fold in corpus.folds:
            parts = Path(f"seed-{seed}") / f"fold-{fold}"
            assert written(tmp_path / "run" / parts) == written(tmp_path / "in turn" / parts)
    assert_one_line_of_many(training("--cross-validate", "--seeds", 2, "--jobs", 2))


def assert_one_line_of_many(result: tuple[int, str, str]) -> None:
    code, _, err = result
    assert code == 2
    assert "\nerror: these runs failed:\n" in err
    assert err.count("already holds a run") == 6
    assert "Traceback" not in err


def test_resume(training: Command, corpus: Corpus, tmp_path: Path) -> None:
    class Stopping(Listener):
        def epoch(self, record: dict[str, Any]) -> None:
            raise InterruptedError

    run = config("late-fusion", epochs=2)
    with pytest.raises(InterruptedError):
        train(task(corpus, run), tmp_path / "run", listener=Stopping())
    assert_one_line(training(), "already holds a run: use --resume")
    code, _, err = training("--resume")
    assert code == 0, err
    train(task(corpus, run), tmp_path / "whole")
    assert written(tmp_path / "run") == written(tmp_path / "whole")
    assert training("--resume")[0] == 0
    assert_one_line(training("--resume", "--seed", 1), "belongs to another run")


def test_configs_are_layered(training: Command, tmp_path: Path) -> None:
    for name, text in (
        ("a", "training: {epochs: 9, patience: 1}"),
        ("b", "training: {patience: 7}\nmodel: late-fusion"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    code, _, err = training("--config", tmp_path / "a.yaml", "--config", tmp_path / "b.yaml")
    assert code == 0, err
    saved = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert "epochs: 2\n" in saved  # from --set
    assert "patience: 7\n" in saved


def test_warnings_are_shown(training: Command) -> None:
    code, _, err = training("--set", "training.learning_rate=1e-12", "--set", "training.epochs=1")
    assert code == 0
    assert "warning:" in err
    assert "never predicted on validation" in err


@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed(
    training: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tracker: str
) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    missing = f'the package {tracker}, which is not installed: pip install "mmerc[{tracker}]"'
    assert_one_line(training("--track", tracker), f"--track {tracker} needs {missing}")
    assert not (tmp_path / "run").exists()


# Mistakes


def test_a_model_that_does_not_exist(training: Command) -> None:
    assert_one_line(training(model="df-ecr"), "no model 'df-ecr'", "did you mean 'df-erc'?", *MODELS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "training.epoch=3"], ["unknown key 'epoch'", "did you mean 'epochs'?"]),
        (["--set", "network.hiden=3"], ["network", "did you mean 'hidden'?"]),
        (["--set", "trainig.epochs=3"], ["did you mean 'training'?"]),
        (["--set", "training.epochs=many"], ["training.epochs", "'many'"]),
        (["--set", "training.epochs"], ["expected key=value"]),
        (["--set", "training.epochs=0"], ["training.epochs must be above 0"]),
        (["--set", "training.class_weights={joy: 1}"], ["class_weights must name each label once"]),
        (["--preset", "refind"], ["has no preset 'refind'"]),
        (["--set", "network.hidden=0"], ["network.hidden must be above 0, not 0"]),
        (["--set", "network.dropout=2"], ["network.dropout must lie in [0, 1), not 2.0"]),
        (["--set", "training.betas=[2, 3]"], ["training.betas must lie in [0, 1)"]),
        (["--set", "training.clip_norm=-1"], ["training.clip_norm must be at least 0"]),
        (["--set", "modalities=[]"], ["modalities is empty"]),
        (["--set", "modalities=[visual]"], ["no modality 'visual'; it has: audio, text"]),
        (["--set", "text_encoder=no/such/folder"], ["no/such/folder"]),
        (["--device", "gpu"], ["device 'gpu' cannot be used"]),
        (["--config", "missing.yaml"], ["missing.yaml does not exist"]),
        (["--set", "training.precision=fp16"], ["fp16 needs a CUDA device"]),
        (["--set", f"network.hidden={2**70}"], ["network.hidden must be a finite number, of 2147483647 at"]),
        (["--set", "training.epochs=1e400"], ["training.epochs", "finite number"]),
        (["--set", f"training.batch_size={10**30}"], ["training.batch_size must be a finite number"]),
        (["--set", f"training.batch_utterances={10**30}"], ["training.batch_utterances must be a finite"]),
        (["--set", "training.feature_clip=1e300"], ["training.feature_clip must be a finite number"]),
    ],
    ids=lambda x: x[-1] if isinstance(x, list) else None,
)
def test_mistakes_in_arguments(
    training: Command, tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    assert_one_line(training(*arguments), *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {epoch: 3}", "did you mean 'epochs'?"),
        ("trainin: {}", "did you mean 'training'?"),
        ("- a\n- b", "must hold `key: value` pairs, not a list"),
        ("model: df-erc", "the config is for 'df-erc', not for 'late-fusion'"),
        ("modalities: 3", "modalities"),
    ],
)
def test_mistakes_in_a_config(training: Command, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert_one_line(training("--config", tmp_path / "c.yaml"), said)


@pytest.mark.parametrize("content", [b"training: {epochs: 3", b"a: b: c", b"\xff\xfe\x00"])
def test_a_config_that_is_no_yaml(training: Command, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    assert_one_line(
        training("--config", tmp_path / "c.yaml"), f"{tmp_path / 'c.yaml'} is not a readable YAML"
    )


def test_no_corpus(mmerc: Command, trained: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    for command in (("train", "df-erc", "--out", tmp_path / "run"), ("evaluate", trained)):
        assert_one_line(mmerc(*command, "--corpus", gone), f"{gone} is not a corpus folder")


def test_no_folds(mmerc: Command, tmp_path: Path) -> None:
    frame, features = tables()
    corpus = write(tmp_path / "c", frame.assign(fold=None), features)
    result = mmerc("train", "df-erc", "--corpus", corpus.path, "--out", tmp_path / "run", "--cross-validate")
    assert_one_line(result, "has no folds; it has splits, train without the flag")


def test_an_out_that_cannot_be_written(mmerc: Command, corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    where = ("--corpus", corpus.path, "--out", tmp_path / "file" / "run")
    assert_one_line(mmerc("train", "late-fusion", *where, *SETTINGS), "cannot be written")


def test_mistakes_in_evaluating(mmerc: Command, corpus: Corpus, trained: Path, tmp_path: Path) -> None:
    assert_one_line(mmerc("evaluate", tmp_path, "--corpus", corpus.path), "holds no finished checkpoint")
    assert_one_line(
        mmerc("evaluate", trained, "--corpus", corpus.path, "--split", "dev"), "has no split 'dev'"
    )
    frame, features = tables()
    other = write(tmp_path / "c", frame, {"text": features["text"]})
    assert_one_line(mmerc("evaluate", trained, "--corpus", other.path), "needs the modality 'audio'")


def test_an_interrupted_run_says_how_to_go_on(
    training: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Listener, "epoch", interrupted)
    monkeypatch.setattr("mmerc.cli.train.make_listener", lambda *_: Listener())
    code, _, err = training()
    assert code == 130
    assert "--resume goes on" in err
    assert "Traceback" not in err
    monkeypatch.undo()
    assert (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**23])
def test_seeds_that_are_out_of_range(training: Command, seed: int) -> None:
    code, _, err = training("--seed", seed)
    assert code == 2
    assert "--seed" in err
    assert "Traceback" not in err


def test_an_out_that_holds_something_else(mmerc: Command, corpus: Corpus) -> None:
    before = sorted(corpus.path.iterdir())
    result = mmerc("train", "late-fusion", "--corpus", corpus.path, "--out", corpus.path, *SETTINGS)
    assert_one_line(result, "holds something else (corpus.json): choose a new or an empty folder")
    assert sorted(corpus.path.iterdir()) == before


def test_missing_arguments_are_explained(mmerc: Command) -> None:
    code, _, err = mmerc("train", "df-erc")
    assert code == 2
    assert "--corpus" in err
    assert "Traceback" not in err


def test_help_lists_the_commands(mmerc: Command) -> None:
    code, out, _ = mmerc("--help")
    assert code == 0
    assert all(command in out for command in ("corpus", "train", "evaluate", "predict", "demo"))
