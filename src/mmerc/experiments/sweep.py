"""Trials of settings, chosen on validation: a grid, or random draws from ranges."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmerc.config import merge, parse_overrides
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.experiments.benchmark import Settings, settings_for, uses_folds
from mmerc.experiments.cells import Cell, finished_seeds, validation_of
from mmerc.metrics import Spread, spread
from mmerc.models import choose_modalities, resolve
from mmerc.models.labels import require_fitting_labels
from mmerc.system import file_name

Values = Mapping[str, Any]  # dotted key → value


@dataclass(frozen=True)
class Range:
    """An interval to draw from, evenly in the value or in its logarithm."""

    low: float
    high: float
    log: bool = False

    def draw(self, generator: np.random.Generator) -> float:
        """Return a value, rounded as `rounded` does."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        value = generator.uniform(low, high)
        return self.rounded(math.exp(value) if self.log else value)

    def rounded(self, value: float) -> float:
        """Return a value with three significant digits, within the range."""
        return min(max(float(f"{value:.3g}"), self.low), self.high)


def read_choices(text: str) -> tuple[str, list[Any]]:
    """Read `key=v1,v2,…`; values are YAML.

    Raises:
        ConfigError: another form.
    """
    key, separator, values = text.partition("=")
    if not (key.strip() and separator and values.strip()):
        raise ConfigError(f"--grid {text}: expected key=v1,v2,…, such as training.learning_rate=1e-4,1e-3")
    parsed = [_at(parse_overrides([f"{key}={value}"]), key.strip()) for value in values.split(",")]
    return key.strip(), parsed


def read_range(text: str) -> tuple[str, Range]:
    """Read `key=low:high`, or `key=low:high:log`.

    Raises:
        ConfigError: another form, or an empty range.
    """
    key, _, rest = text.partition("=")
    bounds, *scale = rest.rsplit(":log", 1) if rest.endswith(":log") else [rest]
    try:
        low, high = map(float, bounds.split(":"))
    except ValueError:
        low, high = math.nan, math.nan
    if not (key.strip() and low < high and (low > 0 or not scale)):
        raise ConfigError(f"--range {text}: expected key=low:high, or key=low:high:log with low above 0")
    return key.strip(), Range(low, high, bool(scale))


def grid_trials(choices: Mapping[str, Sequence[Any]]) -> list[Values]:
    """Return every combination of the choices."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def random_trials(
    choices: Mapping[str, Sequence[Any]], ranges: Mapping[str, Range], count: int, seed: int = 0
) -> list[Values]:
    """Draw `count` trials from each range, and evenly from each list of choices.

    One that is drawn twice is one trial.
    """
    generator = np.random.default_rng(seed)
    drawn = [
        {key: values[int(generator.integers(len(values)))] for key, values in choices.items()}
        | {key: found.draw(generator) for key, found in ranges.items()}
        for _ in range(count)
    ]
    return list({trial_name(trial): trial for trial in drawn}.values())


def overrides(trial: Values) -> dict[str, Any]:
    """Return a trial as nested overrides of a config."""
    result: dict[str, Any] = {}
    for key, value in trial.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        result = merge(result, nested)
    return result


def trial_name(trial: Values) -> str:
    """Return what tells a trial from its siblings, for its row and its folder."""
    names = [key.rpartition(".")[2] for key in trial]
    short = len(set(names)) == len(names)
    pairs = zip(names if short else trial, trial.values(), strict=True)
    return ",".join(f"{name}={value}" for name, value in pairs)


def plan_sweep(
    models: Sequence[str],
    corpora: Sequence[Corpus],
    trials: Sequence[Values],
    out: Path,
    seeds: Sequence[int],
    folds: Sequence[int] | None,
    settings: Settings,
    base: Mapping[str, Any],
    test: Literal["frozen", "never"],
) -> list[Cell]:
    """Return a cell per corpus, model and trial, in `<out>/<corpus>/<model>/<trial>`.

    Args:
        models: names of models
        corpora: what to train on, cross-validated where there are folds and no splits
        trials: values by dotted key, on top of everything else
        out: folder of the runs
        seeds: of every trial
        folds: the test folds to leave out in turn; None: all
        settings: overrides by corpus and model
        base: overrides of every config
        test: whether the trials are scored on test, too

    Raises:
        ConfigError: an unknown model, key or fold, a value out of range, or a preset for other labels.
    """
    cells = []
    for corpus, model in itertools.product(corpora, models):
        for trial in trials:
            layers = (settings_for(settings, corpus.name, model), base, overrides(trial))
            config = resolve(model, *layers)
            choose_modalities(config, list(corpus.modalities))
            require_fitting_labels(config, corpus)
            name = trial_name(trial)
            of_model = out / corpus.name / model
            folder = of_model / file_name(name) if name else of_model
            cell = Cell.of(name, corpus, config, folder, seeds, uses_folds(corpus, wanted=False))
            runs = tuple(run for run in cell.runs if run.fold is None or folds is None or run.fold in folds)
            if not runs:
                raise ConfigError(f"{corpus.name} has the folds {', '.join(map(str, corpus.folds))} only")
            cells.append(Cell(name, corpus.path, config, folder, runs, test))
    return cells


def validation_scores(cell: Cell) -> Spread | None:
    """Return the weighted F1 on validation, a mean over folds, over seeds; None before a seed is complete."""
    done = finished_seeds(cell, Corpus.open(cell.corpus))
    return spread([validation_of(runs) for runs in done.values()]) if done else None


def best_trial(cells: Sequence[Cell]) -> int | None:
    """Return the position of the trial that is best on validation, the first of them in a tie."""
    found = [validation_scores(cell) for cell in cells]
    means = [-1.0 if s is None else s.mean for s in found]
    return int(np.argmax(means)) if any(s is not None for s in found) else None


def _at(nested: Any, key: str) -> Any:
    for part in key.split("."):
        nested = nested[part]
    return nested
