import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmerc.corpus import Corpus
from mmerc.experiments import cells, tuning
from tiny import SMALL, in_this_process

Command = Callable[..., tuple[int, str, str]]
BASE = {"preset": "plain", "training": {"epochs": 3, "batch_size": 4, "warmup_steps": 2}}
MODELS = ("text-only", "late-fusion")
RATES = ("--range", "training.learning_rate=1e-8:0.1:log")


@pytest.fixture
def sweep(mmerc: Command, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Sweep two models on a corpus in the folder `out`, in this process."""
    monkeypatch.setattr(cells, "side_by_side", in_this_process)
    models = {m: {"network": SMALL[m]} for m in MODELS}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump({"*": {"*": BASE, **models}}), encoding="utf-8")

    def call(*arguments: Any) -> tuple[int, str, str]:
        where = ("--models", ",".join(models), "--corpora", corpus.path, "--out", tmp_path / "out")
        settings = ("--settings", tmp_path / "settings.yaml", "--device", "cpu", "--jobs", 2)
        return mmerc("sweep", *where, *settings, *arguments)

    return call


def rows_of(out: Path, model: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "tiny" / model / "sweep.json").read_text("utf-8"))["rows"]
    return rows


def test_a_grid(sweep: Command, tmp_path: Path) -> None:
    code, _, err = sweep("--grid", "network.dropout=0,0.3", "--grid", "training.epochs=1,2")
    assert code == 0, err
    assert "8 run(s) in 8 row(s)" in err
    rows = rows_of(tmp_path / "out", "text-only")
    assert len(rows) == 4
    assert all(row["pruned_after_epoch"] is None for row in rows)
    scores = [row["validation_weighted_f1"]["mean"] for row in rows]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_random_draws(sweep: Command, tmp_path: Path) -> None:
    arguments = (*RATES, "--sampler", "random", "--trials", 3)
    assert sweep(*arguments)[0] == 0
    first = rows_of(tmp_path / "out", "text-only")
    assert len(first) == 3
    code, _, err = sweep(*arguments)
    assert code == 0, err
    assert "6 done, 0 to go" in err
    assert rows_of(tmp_path / "out", "text-only") == first
    assert {row["trial"]["training.learning_rate"] for row in first} == {
        row["trial"]["training.learning_rate"] for row in rows_of(tmp_path / "out", "late-fusion")
    }


@pytest.mark.slow
def test_tpe_that_prunes(sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(tuning, "FREE_TRIALS", 1)
    monkeypatch.setattr(tuning, "FREE_EPOCHS", 0)
    best = tmp_path / "best.yaml"
    arguments = (*RATES, "--sampler", "tpe", "--trials", 7, "--prune", "--best", best)
    code, said, err = sweep(*arguments)
    assert code == 0, err
    assert "7 trial(s) in 2 row(s): at most 14 run(s)" in err
    assert "pruned after epoch" in said
    chosen = yaml.safe_load(best.read_text(encoding="utf-8"))["tiny"]
    for model in ("text-only", "late-fusion"):
        rows = rows_of(tmp_path / "out", model)
        whole = [row for row in rows if row["pruned_after_epoch"] is None]
        assert len(rows) == 7
        assert rows[: len(whole)] == whole  # best first, and those that were pruned at the end
        assert all(row["validation_weighted_f1"] is None for row in rows[len(whole) :])
        assert chosen[model]["training"] == {"learning_rate": rows[0]["trial"]["training.learning_rate"]}
    assert any(row["pruned_after_epoch"] for m in chosen for row in rows_of(tmp_path / "out", m))
    before = rows_of(tmp_path / "out", "text-only")
    code, said, err = sweep(*arguments)
    assert code == 0, err
    assert rows_of(tmp_path / "out", "text-only") == before


@pytest.mark.slow
def test_every_trial_is_tracked(sweep: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    code, _, err = sweep("--grid", "network.dropout=0,0.3", "--track", "tensorboard")
    assert code == 0, err
    found = (tmp_path / "out").glob("tiny/*/*/seed-0/tensorboard/events.*")
    assert len({file.parent for file in found}) == 4


GRID = ("--grid", "network.dropout=0,0.3")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to try: give --grid key=v1,v2,… or --range key=low:high"),
        ([*RATES], "--range needs --sampler random or --sampler tpe"),
        ([*GRID, "--trials", "3"], "--trials needs --sampler random or --sampler tpe"),
        ([*RATES, "--sampler", "tpe"], "--sampler tpe needs --trials N"),
        ([*RATES, "--sampler", "random"], "--sampler random needs --trials N"),
        ([*GRID, "--prune"], "--prune needs --sampler tpe"),
        ([*GRID, "--track", "wandb"], "no tracker 'wandb': expected tensorboard, mlflow, trackio"),
        ([*GRID, "--track", "mlflow", "--engine", "ray"], "--track works with --engine processes"),
    ],
)
def test_options_that_contradict_each_other(
    sweep: Command, tmp_path: Path, arguments: list[str], said: str
) -> None:
    code, _, err = sweep(*arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert not (tmp_path / "out").exists()


def test_optuna_that_is_not_installed(
    sweep: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = sweep(*RATES, "--sampler", "tpe", "--trials", 3)
    assert (code, err.count("\n")) == (2, 1)
    assert "--sampler tpe needs the package optuna, which is not installed: pip install" in err
    assert "mmerc[optuna]" in err
    assert not (tmp_path / "out").exists()
