import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, CorpusError, TrainingError
from mmerc.experiments.runs import (
    Run,
    plan,
    require_free,
    task_of,
    train_in_turn,
    train_side_by_side,
)
from mmerc.training import Listener
from tiny import config, tables, write, written


def test_a_single_run_has_the_folder_itself(corpus: Corpus, tmp_path: Path) -> None:
    assert plan(corpus, tmp_path, [7], False) == [Run(tmp_path, 7, None)]


def test_a_folder_for_each_seed_and_fold(corpus: Corpus, tmp_path: Path) -> None:
    assert plan(corpus, tmp_path, range(2), False) == [Run(tmp_path / f"seed-{s}", s, None) for s in (0, 1)]
    assert plan(corpus, tmp_path, [3], True) == [Run(tmp_path / f"fold-{f}", 3, f) for f in (0, 1, 2)]
    both = plan(corpus, tmp_path, range(2), True)
    assert both == [Run(tmp_path / f"seed-{s}" / f"fold-{f}", s, f) for s in (0, 1) for f in (0, 1, 2)]
    assert len({run.folder for run in both}) == 6


@pytest.mark.parametrize("folds", [None, 4])
def test_no_folds_to_validate_on(tmp_path: Path, folds: int | None) -> None:
    frame, features = tables()
    corpus = write(tmp_path / "c", frame.assign(fold=folds), features)
    with pytest.raises(ConfigError, match="has no folds; it has splits"):
        plan(corpus, tmp_path, [0], True)
    neither = write(tmp_path / "n", frame.assign(fold=folds, split=None), features)
    with pytest.raises(ConfigError, match="has no folds; import it with a column `fold`"):
        plan(neither, tmp_path, [0], True)


def test_an_output_folder_that_holds_something_else(corpus: Corpus, tmp_path: Path) -> None:
    single, several = (plan(corpus, tmp_path, range(n), False) for n in (1, 2))
    require_free(tmp_path, single)
    for left in (".state.pt.7.tmp", "tensorboard"):  # of a run that was killed in its first epoch
        (tmp_path / left).mkdir()
    require_free(tmp_path, single)
    (tmp_path / "README.md").touch()
    with pytest.raises(TrainingError, match=r"holds something else \(README\.md\)"):
        require_free(tmp_path, single)
    require_free(tmp_path, several)
    for name in ("corpus.json", "checkpoint.json"):
        (tmp_path / name).touch()
        with pytest.raises(TrainingError, match=f"something else .{name}"):
            require_free(tmp_path, several)
        (tmp_path / name).unlink()
    for run in (single[0], several[1]):
        run.folder.mkdir(exist_ok=True)
        (run.folder / "state.pt").touch()
    require_free(tmp_path, single)
    require_free(tmp_path, several)


def test_an_output_folder_that_cannot_be_written(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(TrainingError, match=r"cannot be written: .*file is not a folder"):
            require_free(out, plan(corpus, out, [0], False))
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    out = tmp_path / "new" / "run"
    with pytest.raises(TrainingError, match="may write to"):
        require_free(out, plan(corpus, out, [0], False))
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), r"out of memory: lower training\.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), r"out of memory: lower training\.batch"),
        (
            RuntimeError("could not create a primitive descriptor\nwith a second line"),
            r"failed to compute text-only in bf16 on cpu: could not create a primitive descriptor; "
            r"try training\.precision=fp32 or another --device; --resume",
        ),
        (NotImplementedError(), "bf16 on cpu: NotImplementedError; try"),
    ],
)
def test_what_torch_raises_is_explained(
    corpus: Corpus, tmp_path: Path, error: RuntimeError, message: str
) -> None:
    class Listening(Listener):
        def step(self, *_: object) -> None:
            raise error

    runs = plan(corpus, tmp_path / "run", [0], False)
    run_config = config(precision="bf16")
    with pytest.raises(TrainingError, match=message) as caught:
        list(train_in_turn(corpus, run_config, runs, False, "cpu", lambda _: Listening()))
    assert "\n" not in str(caught.value)


def test_tasks_follow_splits_and_folds(corpus: Corpus, tmp_path: Path) -> None:
    plain = task_of(corpus, config(), Run(tmp_path, 5))
    assert (plain.seed, plain.fold) == (5, None)
    assert plain.train.tolist() == corpus.split("train").tolist()
    assert plain.validation.tolist() == corpus.split("validation").tolist()
    for share in (0.2, 0.5):
        for number in corpus.folds:
            task = task_of(corpus, config(validation_share=share), Run(tmp_path, 5, number))
            parts = corpus.fold(number, share)
            assert task.fold == number
            assert task.train.tolist() == parts["train"].tolist()
            assert task.validation.tolist() == parts["validation"].tolist()
            assert not np.isin(parts["test"], np.r_[task.train, task.validation]).any()
    with pytest.raises(CorpusError, match="no fold 9"):
        task_of(corpus, config(), Run(tmp_path, 5, 9))


def test_every_seed_validates_on_the_same_dialogues(corpus: Corpus, tmp_path: Path) -> None:
    first, second = (task_of(corpus, config(), Run(tmp_path, seed, 1)) for seed in (0, 1))
    assert first.validation.tolist() == second.validation.tolist()


def test_runs_in_turn_are_heard_one_by_one(corpus: Corpus, tmp_path: Path) -> None:
    heard: list[Run] = []

    def listener(run: Run) -> Listener:
        heard.append(run)
        return Listener()

    runs = plan(corpus, tmp_path, range(2), True)
    ended = [run for run, _ in train_in_turn(corpus, config(epochs=1), runs, False, "cpu", listener)]
    assert ended == heard == runs
    assert all((run.folder / "checkpoint.json").exists() for run in runs)


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(corpus: Corpus, tmp_path: Path) -> None:
    runs = [Run(tmp_path / "bad", 0, 9), Run(tmp_path / "good", 0)]
    ended = train_side_by_side(corpus.path, config(epochs=1), runs, 1, False, "cpu")
    run, progress = next(ended)
    assert (run, progress.epoch) == (runs[1], 1)
    with pytest.raises(TrainingError, match=r"these runs failed:\n  .*bad: .* has no fold 9") as caught:
        next(ended)
    assert "good" not in str(caught.value)


@pytest.mark.slow
def test_side_by_side_is_as_in_turn(corpus: Corpus, tmp_path: Path) -> None:
    run = config("df-erc", epochs=2)
    apart, together = (
        plan(corpus, tmp_path / "a", range(2), True),
        plan(corpus, tmp_path / "b", range(2), True),
    )
    list(train_in_turn(corpus, run, apart, False, "cpu", lambda _: Listener()))
    ended = dict(train_side_by_side(corpus.path, run, together, 3, False, "cpu"))
    assert set(ended) == set(together)
    for one, other in zip(apart, together, strict=True):
        assert written(one.folder) == written(other.folder)


@pytest.mark.slow
def test_a_run_whose_process_is_killed_is_tried_again(corpus: Corpus, tmp_path: Path) -> None:
    runs = plan(corpus, tmp_path, range(2), False)
    before = set(multiprocessing.active_children())

    def kill() -> None:
        while not (workers := set(multiprocessing.active_children()) - before):
            time.sleep(0.01)
        for worker in workers:
            worker.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    ended = list(train_side_by_side(corpus.path, config(epochs=2), runs, 2, False, "cpu"))
    killer.join()
    assert [progress.epoch for _, progress in ended] == [2, 2]
