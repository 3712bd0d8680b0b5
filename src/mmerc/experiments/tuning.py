"""Trials that Optuna proposes from the scores of the earlier ones, and the poor ones cut short.

Trials are asked for in rounds: a round is proposed, trained side by side, and told in the order in which it
was asked for. So neither proposals nor pruning depend on which process happens to be faster: the same command
with the same number of jobs makes the same trials. The study lies in `optuna.log` of the model's folder. A
round that was cut off is gone on with; a trial that failed is tried again by the next command.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, TrainingError
from mmerc.experiments.cells import Cell, Outcome, Runner, fingerprint, pending
from mmerc.experiments.listeners import Pruned
from mmerc.experiments.sweep import Range, Values, validation_scores
from mmerc.extras import needed
from mmerc.run_state import Progress
from mmerc.training import Listener

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Curve = tuple[float, ...]  # validation weighted F1 after each epoch

# Nothing is cut short before five trials have ended, nor in the first three epochs, where rates still rise.
FREE_TRIALS, FREE_EPOCHS = 5, 3


@dataclass(frozen=True)
class Space:
    """What a trial may be: one of the choices for some keys, a value of the range for others."""

    choices: Mapping[str, Sequence[Any]]
    ranges: Mapping[str, Range]

    def __post_init__(self) -> None:
        for key, values in self.choices.items():
            if not all(value is None or isinstance(value, str | int | float) for value in values):
                raise ConfigError(
                    f"--grid {key}: `tpe` chooses among words, numbers, true, false and null only"
                )

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return the space as Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution

        return {
            **{key: CategoricalDistribution(list(values)) for key, values in self.choices.items()},
            **{key: FloatDistribution(x.low, x.high, log=x.log) for key, x in self.ranges.items()},
        }

    def example(self) -> Values:
        """Return a possible trial: the middle of each range, whose ends may themselves not be allowed."""
        first = {key: values[0] for key, values in self.choices.items()}
        return first | {key: (found.low + found.high) / 2 for key, found in self.ranges.items()}

    def rounded(self, values: Values) -> Values:
        """Return a proposal as it is trained and named."""
        return {key: self.ranges[key].rounded(x) if key in self.ranges else x for key, x in values.items()}


class Trial(NamedTuple):
    """A proposal, by the number in which it was asked for, and its runs."""

    number: int
    values: Values
    cell: Cell


class Study:
    """What was tried of one model on one corpus.

    Args:
        plan: makes the cell of a trial. The study lies in the folder above those of the trials, and whoever
            uses it must hold that (`mmerc.storage.exclusive`)
        space: what may be tried
        seed: of the proposals

    Raises:
        ConfigError: Optuna is not installed, or the space has an unknown key or a value that is not allowed.
        TrainingError: the folder holds the study of another space, config, or corpus.
    """

    def __init__(self, plan: Callable[[Values], Cell], space: Space, seed: int) -> None:
        optuna = require_optuna()
        self.plan, self.space, self.seed = plan, space, seed
        folder = study_folder(plan, space)  # a key or a value that does not exist leaves no study behind
        file = folder / "optuna.log"
        _mend(file)
        backend = optuna.storages.journal.JournalFileBackend(
            str(file), lock_obj=optuna.storages.journal.JournalFileOpenLock(str(file))
        )
        storage = optuna.storages.JournalStorage(backend)
        self.study: OptunaStudy = optuna.create_study(
            storage=storage, study_name="mmerc", direction="maximize", load_if_exists=True
        )
        identity = self._identity()
        if self.study.user_attrs.get("identity", identity) != identity:
            raise TrainingError(
                f"{folder} holds a study of other ranges, settings, seeds, folds or data: use another --out"
            )
        if "identity" not in self.study.user_attrs:
            self.study.set_user_attr("identity", identity)

    def _identity(self) -> str:
        """Hash what must be the same for earlier scores to say something about further trials."""
        cell = self.plan({})
        runs = [(run.seed, run.fold) for run in cell.runs]
        data = fingerprint(Corpus.open(cell.corpus))
        parts = [asdict(cell.config), runs, data, asdict(self.space), self.seed]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()

    def ended(self) -> "dict[int, FrozenTrial]":
        """Return the trials that have a score or were pruned, by the number in which they were asked for."""
        return {trial.user_attrs["number"]: trial for trial in self.study.get_trials(deepcopy=False)}

    def open(self) -> list[Trial]:
        """Return the trials that were asked for and have not ended."""
        found = {int(k): values for k, values in self.study.user_attrs.get("open", {}).items()}
        ended = self.ended()
        return [Trial(k, v, self.plan(v)) for k, v in sorted(found.items()) if k not in ended]

    def trials(self) -> list[Trial]:
        """Return all that was asked for, in this order."""
        ended = [Trial(k, x.params, self.plan(x.params)) for k, x in self.ended().items()]
        return sorted([*ended, *self.open()])

    def ask(self, count: int) -> list[Trial]:
        """Ask for `count` further trials, as one step: after a kill they are all there, or none is."""
        import optuna

        asked = self.open()
        known = len(self.ended())
        new: list[Trial] = []
        for number in range(known + len(asked), known + len(asked) + count):
            # A sampler of its own for every number, so that a resumed study draws no number twice.
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            copy = optuna.create_study(sampler=_sampler(seed), direction="maximize")
            copy.add_trials(self.study.get_trials(deepcopy=False))
            copy.add_trials([self._running(trial.values) for trial in [*asked, *new]])
            values = self.space.rounded(copy.ask(self.space.distributions()).params)
            new.append(Trial(number, values, self.plan(values)))
        self.study.set_user_attr("open", {str(t.number): dict(t.values) for t in [*asked, *new]})
        return new

    def _running(self, values: Values) -> "FrozenTrial":
        from optuna.trial import TrialState, create_trial

        distributions = self.space.distributions()
        return create_trial(state=TrialState.RUNNING, params=dict(values), distributions=distributions)

    def tell(self, trial: Trial, score: float | None) -> None:
        """Note the score of a trial; None: it was pruned."""
        from optuna.trial import TrialState, create_trial

        self.study.add_trial(
            create_trial(
                state=TrialState.PRUNED if score is None else TrialState.COMPLETE,
                value=score,
                params=dict(trial.values),
                distributions=self.space.distributions(),
                intermediate_values=dict(enumerate(curve_of(trial.cell), start=1)),
                user_attrs={"number": trial.number},
            )
        )

    def pruned(self) -> dict[Path, int]:
        """Return the last epoch of each trial that was pruned, by the folder of its cell."""
        from optuna.trial import TrialState

        found: dict[Path, int] = {}
        for trial in self.ended().values():
            folder = self.plan(trial.params).folder
            if trial.state == TrialState.PRUNED:
                found[folder] = len(trial.intermediate_values)
            else:  # the same values, asked for again and not pruned that time
                found.pop(folder, None)
        return found

    def curves(self) -> tuple[Curve, ...]:
        """Return the validation scores of the trials that went to their end, epoch by epoch."""
        from optuna.trial import TrialState

        whole = [x for x in self.study.get_trials(deepcopy=False) if x.state == TrialState.COMPLETE]
        return tuple(tuple(x.intermediate_values.values()) for x in whole)


class Pruner(Listener):
    """Ends a run whose best score so far is below the median that others had at the same epoch.

    Not after the last of the `epochs`, where nothing is left to save.

    Raises:
        Pruned: it is.
    """

    def __init__(self, curves: Sequence[Curve], epochs: int) -> None:
        from optuna.trial import create_trial

        optuna = require_optuna()
        pruner = optuna.pruners.MedianPruner(FREE_TRIALS, FREE_EPOCHS + 1)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for curve in curves:
            steps = dict(enumerate(curve, start=1))
            study.add_trial(create_trial(value=max(curve), intermediate_values=steps))
        self.trial, self.epochs = study.ask(), epochs

    def begin(self, progress: Progress) -> None:
        """Judge the epochs of a run that goes on, as they were judged before."""
        for record in progress.history:
            self.epoch(record)

    def epoch(self, record: dict[str, Any]) -> None:
        """Compare the epoch with the same epoch of the others."""
        self.trial.report(record["validation"]["weighted_f1"], record["epoch"])
        if record["epoch"] < self.epochs and self.trial.should_prune():
            raise Pruned(record["epoch"])


def curve_of(cell: Cell) -> Curve:
    """Return the validation score of every epoch of a cell's first run."""
    lines = (cell.runs[0].folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line)["validation"]["weighted_f1"] for line in lines)


def tune(
    studies: Sequence[Study],
    trials: int,
    jobs: int,
    prune: bool,
    run: Runner,
) -> Iterator[Outcome]:
    """Bring every study to so many trials; yield each run as it ends.

    Args:
        studies: one per corpus and model
        trials: of each study
        jobs: how many trials a round has, over all studies
        prune: cut a trial short when its first run is poor; its other runs are then not begun
        run: trains jobs, as `mmerc.experiments.cells.run_jobs` does
    """
    size = max(1, jobs // len(studies))
    failed: set[Path] = set()
    while asked := [(s, trial) for s in studies for trial in _round(s, size, trials, failed)]:
        cut = yield from _train(asked, prune, run)
        for study, trial in asked:
            scores = validation_scores(trial.cell)
            if scores is not None or trial.cell.folder in cut:
                study.tell(trial, None if scores is None else scores.mean)
            else:
                failed.add(trial.cell.folder)


def _round(study: Study, size: int, trials: int, failed: set[Path]) -> list[Trial]:
    """Return what a round that was cut off has left; else the next round."""
    left = [trial for trial in study.open() if trial.cell.folder not in failed]
    return left or study.ask(min(size, trials - len(study.trials())))


def _train(
    asked: Sequence[tuple[Study, Trial]], prune: bool, run: Runner
) -> Generator[Outcome, None, set[Path]]:
    """Train a round; return the folders of the trials that were pruned."""
    cells = {trial.cell.folder: trial.cell for _, trial in asked}  # TPE may ask for a trial twice
    missing = pending(list(cells.values()))
    if not prune:
        yield from run(missing)
        return set()
    pruners = {
        trial.cell.folder: partial(Pruner, study.curves(), trial.cell.config.training.epochs)
        for study, trial in asked
    }
    first = [job for job in missing if job.run == job.cell.runs[0]]
    cut = set()
    for outcome in run([job._replace(watch=pruners[job.cell.folder]) for job in first]):
        if outcome.pruned is not None:
            cut.add(outcome.job.cell.folder)
        yield outcome
    yield from run([job for job in missing if job.run != job.cell.runs[0] and job.cell.folder not in cut])
    return cut


def study_folder(plan: Callable[[Values], Cell], space: Space) -> Path:
    """Return where the study of some trials lies: above their folders."""
    return plan(space.example()).folder.parent


def require_optuna() -> Any:
    """Return Optuna, which is told to report only what is wrong.

    Raises:
        ConfigError: it is not installed.
    """
    with needed("--sampler tpe", "mmerc[optuna]"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(seed: int) -> Any:
    return require_optuna().samplers.TPESampler(seed=seed)


def _mend(journal: Path) -> None:
    """Remove what a killed process left: its lock, and a line that it has not written to the end."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        content = journal.read_bytes()
        if not content.endswith(b"\n"):
            journal.write_bytes(content[: content.rfind(b"\n") + 1])
