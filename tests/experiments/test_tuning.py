from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, TrainingError
from mmerc.experiments import cells, tuning
from mmerc.experiments.cells import Cell, Job, Outcome, run_jobs
from mmerc.experiments.sweep import Range, Values, best_trial, plan_sweep
from mmerc.experiments.tuning import Space, Study, tune
from tiny import SMALL, in_this_process

optuna = pytest.importorskip("optuna")

SPACE = Space({"network.dropout": [0, 0.3]}, {"training.learning_rate": Range(1e-3, 0.1, log=True)})
BASE = {"network": SMALL["text-only"], "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 2}}
SETTINGS = {"*": {"*": {"preset": "plain"}}}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "side_by_side", in_this_process)


run = partial(run_jobs, processes=1, device="cpu")


def study(corpus: Corpus, out: Path, space: Space = SPACE, seed: int = 0, **options: Any) -> Study:
    settings = {"seeds": [0], "folds": None, "settings": SETTINGS, "base": BASE, "test": "never", **options}

    def plan(values: Values) -> Cell:
        (cell,) = plan_sweep(["text-only"], [corpus], [values], out, **settings)
        return cell

    return Study(plan, space, seed)


def values_of(found: Study) -> list[Values]:
    return [trial.values for trial in found.trials()]


def scores_of(found: Study) -> list[float | None]:
    return [trial.value for _, trial in sorted(found.ended().items())]


def finish(found: Study, trials: int = 4, jobs: int = 1, prune: bool = False) -> list[Outcome]:
    return list(tune([found], trials, jobs, prune, run))


def test_the_same_command_tries_the_same(corpus: Corpus, tmp_path: Path) -> None:
    one, other, third = (study(corpus, tmp_path / x, seed=s) for x, s in (("a", 0), ("b", 0), ("c", 1)))
    outcomes = [finish(one, 6), finish(other, 6), finish(third, 2)]
    assert values_of(one) == values_of(other)
    assert scores_of(one) == scores_of(other)
    assert values_of(one)[:2] != values_of(third)
    assert [o.validation for o in outcomes[0]] == scores_of(one)
    assert all(trial["network.dropout"] in (0, 0.3) for trial in values_of(one))
    assert all(1e-3 <= trial["training.learning_rate"] <= 0.1 for trial in values_of(one))
    assert not list((tmp_path / "a").glob("**/test.parquet"))
    assert finish(study(corpus, tmp_path / "a"), 6) == []


def test_later_trials_follow_the_scores(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The higher the learning rate, the better: TPE looks there, which draws would not."""
    found = study(corpus, tmp_path, Space({}, {"training.learning_rate": Range(0.0, 1.0)}))
    monkeypatch.setattr(tuning, "curve_of", lambda _: (0.5,))
    for _ in range(40):
        (trial,) = found.ask(1)
        found.tell(trial, trial.values["training.learning_rate"])
    drawn = [values["training.learning_rate"] for values in values_of(found)]
    assert sum(drawn[20:]) / 20 > 0.75 > sum(drawn[:10]) / 10


class Killed(BaseException):
    pass


def killed_after(runs: int) -> Callable[[Sequence[Job]], Iterator[Outcome]]:
    """Train so many runs, then die."""
    left = [runs]

    def work(jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            if not left[0]:
                raise Killed
            left[0] -= 1
            yield from run([job])

    return work


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "runs"), [(1, 2), (3, 0), (3, 4)])
def test_a_killed_sweep_goes_on_with_the_same_trials(
    corpus: Corpus, tmp_path: Path, jobs: int, runs: int
) -> None:
    whole = study(corpus, tmp_path / "whole")
    finish(whole, 5, jobs)
    with pytest.raises(Killed):
        list(tune([study(corpus, tmp_path / "cut")], 5, jobs, False, killed_after(runs)))
    resumed = study(corpus, tmp_path / "cut")
    outcomes = finish(resumed, 5, jobs)
    assert values_of(resumed) == values_of(whole)
    assert scores_of(resumed) == scores_of(whole)
    assert len(outcomes) == 5 - runs  # what was trained is not trained again


@pytest.mark.slow
def test_killed_while_a_round_is_told(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = study(corpus, tmp_path / "whole")
    finish(whole, 6, jobs=3)
    tell = Study.tell

    def dying(self: Study, trial: tuning.Trial, score: float | None) -> None:
        if trial.number == 1:
            raise Killed
        tell(self, trial, score)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "tell", dying)
        with pytest.raises(Killed):
            finish(study(corpus, tmp_path / "cut"), 6, jobs=3)
    resumed = study(corpus, tmp_path / "cut")
    assert [trial.number for trial in resumed.open()] == [1, 2]
    assert len(finish(resumed, 6, jobs=3)) == 3
    assert values_of(resumed) == values_of(whole)


def test_more_trials_later(corpus: Corpus, tmp_path: Path) -> None:
    finish(study(corpus, tmp_path / "a"), 3)
    more = study(corpus, tmp_path / "a")
    assert len(finish(more, 5)) == 2
    whole = study(corpus, tmp_path / "b")
    finish(whole, 5)
    assert values_of(more) == values_of(whole)


def test_a_journal_that_was_torn(corpus: Corpus, tmp_path: Path) -> None:
    finish(study(corpus, tmp_path), 2)
    (journal,) = tmp_path.glob("tiny/text-only/optuna.log")
    journal.with_name("optuna.log.lock").touch()
    with journal.open("a") as handle:
        handle.write('{"op_code":4,"wor')
    torn = study(corpus, tmp_path)
    finish(torn, 4)
    assert len(scores_of(torn)) == 4
    assert len(scores_of(study(corpus, tmp_path))) == 4


def test_a_combination_that_comes_twice_is_trained_once(corpus: Corpus, tmp_path: Path) -> None:
    found = study(corpus, tmp_path, Space({"network.dropout": [0, 0.3]}, {}))
    assert len(finish(found, 6, jobs=3)) == 2
    assert len(found.trials()) == 6
    by_value = {
        trial.values["network.dropout"]: score
        for trial, score in zip(found.trials(), scores_of(found), strict=True)
    }
    assert [by_value[values["network.dropout"]] for values in values_of(found)] == scores_of(found)


def test_a_trial_has_the_mean_of_its_runs(corpus: Corpus, tmp_path: Path) -> None:
    found = study(corpus, tmp_path, seeds=[0, 1, 2])
    outcomes = finish(found, 2)
    assert len(outcomes) == 6
    for number, trial in enumerate(found.trials()):
        own = [o.validation or 0 for o in outcomes if o.job.cell.folder == trial.cell.folder]
        assert scores_of(found)[number] == pytest.approx(sum(own) / 3)


def test_a_trial_that_fails_is_tried_by_the_next_command(corpus: Corpus, tmp_path: Path) -> None:
    found = study(corpus, tmp_path)

    def failing(jobs: Sequence[Job]) -> Iterator[Outcome]:
        for job in jobs:
            number = [trial.cell.folder for trial in found.trials()].index(job.cell.folder)
            yield from [Outcome(job, None, "the disk is full")] if number == 1 else run([job])

    assert [o.error for o in tune([found], 4, 1, False, failing)] == [None, "the disk is full", None, None]
    assert [trial.number for trial in found.open()] == [1]
    again = study(corpus, tmp_path)
    (outcome,) = finish(again)
    assert outcome.error is None
    assert again.open() == []
    assert values_of(again) == values_of(found)


# Cutting short


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge from the first trial and the first epoch on."""
    monkeypatch.setattr(tuning, "FREE_TRIALS", 1)
    monkeypatch.setattr(tuning, "FREE_EPOCHS", 0)


LEARNING = Space({}, {"training.learning_rate": Range(1e-8, 0.1, log=True)})
LONGER = {"base": {**BASE, "training": {**BASE["training"], "epochs": 6}}}


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
def test_poor_trials_are_cut_short_and_never_chosen(corpus: Corpus, tmp_path: Path) -> None:
    found = study(corpus, tmp_path, LEARNING, seeds=[0, 1], **LONGER)
    outcomes = finish(found, 8, jobs=2, prune=True)
    pruned = found.pruned()
    assert pruned
    for trial in found.trials():
        epochs = pruned.get(trial.cell.folder)
        first, second = (r.folder for r in trial.cell.runs)
        assert (first / "checkpoint.json").exists() == (epochs is None)
        assert second.exists() == (epochs is None)  # its other runs are not begun
        assert (scores_of(found)[trial.number] is None) == (epochs is not None)
        if epochs is not None:
            assert len(tuning.curve_of(trial.cell)) == epochs < 6
    assert {o.job.cell.folder: o.pruned for o in outcomes if o.pruned} == pruned
    assert all(o.error is None for o in outcomes)
    planned = [trial.cell for trial in found.trials()]
    best = best_trial(planned)
    assert best is not None
    assert planned[best].folder not in pruned
    assert scores_of(found)[best] == max(score for score in scores_of(found) if score is not None)


@pytest.mark.slow
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("runs", [3, 6])
def test_a_killed_sweep_cuts_the_same_trials_short(corpus: Corpus, tmp_path: Path, runs: int) -> None:
    whole = study(corpus, tmp_path / "whole", LEARNING, **LONGER)
    finish(whole, 8, jobs=2, prune=True)
    with pytest.raises(Killed):
        list(tune([study(corpus, tmp_path / "cut", LEARNING, **LONGER)], 8, 2, True, killed_after(runs)))
    resumed = study(corpus, tmp_path / "cut", LEARNING, **LONGER)
    finish(resumed, 8, jobs=2, prune=True)
    assert values_of(resumed) == values_of(whole)
    assert scores_of(resumed) == scores_of(whole)
    assert [*resumed.pruned().values()] == [*whole.pruned().values()]


def test_nothing_is_cut_short_early(corpus: Corpus, tmp_path: Path) -> None:
    poor = {"epoch": 0, "validation": {"weighted_f1": 0.0}}
    for others, epochs in ((tuning.FREE_TRIALS - 1, 9), (tuning.FREE_TRIALS, tuning.FREE_EPOCHS)):
        pruner = tuning.Pruner([(0.5,) * 9] * others, 9)
        for epoch in range(1, epochs + 1):
            pruner.epoch({**poor, "epoch": epoch})
    with pytest.raises(tuning.Pruned):
        pruner.epoch({**poor, "epoch": tuning.FREE_EPOCHS + 1})
    tuning.Pruner([(0.5,) * 9] * 9, 9).epoch({**poor, "epoch": 9})  # nothing is left to save


# Mistakes


@pytest.mark.parametrize(
    "changed",
    [
        {"space": Space({"network.dropout": [0, 0.2]}, SPACE.ranges)},
        {"seed": 1},
        {"seeds": [0, 1]},
        {"base": {**BASE, "modalities": ["text"]}},
    ],
    ids=str,
)
def test_a_study_of_something_else(corpus: Corpus, tmp_path: Path, changed: dict[str, Any]) -> None:
    study(corpus, tmp_path)
    with pytest.raises(TrainingError, match=r"holds a study of other ranges, .*: use another --out"):
        study(corpus, tmp_path, **changed)


def test_a_key_that_does_not_exist_leaves_no_study(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'dropout'"):
        study(corpus, tmp_path, Space({}, {"network.droput": Range(0.0, 0.5)}))
    study(corpus, tmp_path)


def test_choices_that_optuna_does_not_know() -> None:
    with pytest.raises(ConfigError, match="--grid modalities: `tpe` chooses among words, numbers"):
        Space({"modalities": [["text"], ["audio"]]}, {})
    Space({"a": ["full", 1, 0.5, True, None]}, {})
