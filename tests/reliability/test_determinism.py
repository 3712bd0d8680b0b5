"""The same seed gives the same bits: twice, and in one process or several."""

from pathlib import Path

import pytest

from mmerc.experiments.runs import plan, task_of, train_side_by_side
from mmerc.training import train
from tiny import config, write, written


@pytest.mark.slow
@pytest.mark.parametrize("model", ["df-erc", "mmgcn"])
def test_a_seed_is_the_same_twice_and_in_any_number_of_processes(tmp_path: Path, model: str) -> None:
    corpus, run = write(tmp_path / "c"), config(model, epochs=3, modality_dropout=0.2)
    alone, again = ({r.seed: r for r in plan(corpus, tmp_path / n, range(3), False)} for n in ("one", "two"))
    for seeded in (alone, again):
        for one in seeded.values():
            train(task_of(corpus, run, one), one.folder, device="cpu")
    expected = {seed: written(one.folder) for seed, one in alone.items()}
    assert {seed: written(one.folder) for seed, one in again.items()} == expected
    assert expected[0]["weights"] != expected[1]["weights"]
    for jobs in (2, 3):
        runs = plan(corpus, tmp_path / f"jobs-{jobs}", range(3), False)
        ended = [one for one, _ in train_side_by_side(corpus.path, run, runs, jobs, False, "cpu")]
        assert {one.seed: written(one.folder) for one in ended} == expected
