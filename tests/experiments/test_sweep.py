import math

import numpy as np
import pytest

from mmerc.errors import ConfigError
from mmerc.experiments.sweep import (
    Range,
    grid_trials,
    overrides,
    random_trials,
    read_choices,
    read_range,
    trial_name,
)


def test_choices_are_yaml_values() -> None:
    assert read_choices("training.learning_rate=1e-3,0.01") == ("training.learning_rate", [1e-3, 0.01])
    assert read_choices("network.refusion=full, zero") == ("network.refusion", ["full", "zero"])
    assert read_choices("network.causal=true,false") == ("network.causal", [True, False])


@pytest.mark.parametrize("text", ["", "key", "key=", "=1"])
def test_choices_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match="--grid"):
        read_choices(text)


def test_ranges() -> None:
    assert read_range("a.b=0.1:0.5") == ("a.b", Range(0.1, 0.5))
    assert read_range("a.b=1e-4:1e-2:log") == ("a.b", Range(1e-4, 1e-2, log=True))


@pytest.mark.parametrize("text", ["a=1", "a=2:1", "a=0:1:log", "a=x:y", "=1:2", "a=1:2:3"])
def test_ranges_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match="--range"):
        read_range(text)


def test_a_grid_is_every_combination() -> None:
    trials = grid_trials({"a": [1, 2], "b": ["x", "y", "z"]})
    assert len(trials) == 6
    assert {tuple(t.items()) for t in trials} == {(("a", a), ("b", b)) for a in (1, 2) for b in "xyz"}


def test_random_trials_stay_in_range_and_repeat() -> None:
    ranges = {"x": Range(1e-4, 1e-1, log=True), "y": Range(0.2, 0.4)}
    trials = random_trials({"c": ["p", "q"]}, ranges, 400, seed=3)
    assert trials == random_trials({"c": ["p", "q"]}, ranges, 400, seed=3)
    assert trials != random_trials({"c": ["p", "q"]}, ranges, 400, seed=4)
    assert all(1e-4 <= t["x"] <= 1e-1 and 0.2 <= t["y"] <= 0.4 for t in trials)
    # Evenly in the logarithm: as many below the geometric middle as above.
    below = np.mean([t["x"] < math.sqrt(1e-5) for t in trials])
    assert 0.4 < below < 0.6
    assert {t["c"] for t in trials} == {"p", "q"}


def test_overrides_are_nested() -> None:
    trial = {"training.learning_rate": 1e-3, "network.dropout": 0.3, "training.epochs": 3, "preset": "paper"}
    assert overrides(trial) == {
        "training": {"learning_rate": 1e-3, "epochs": 3},
        "network": {"dropout": 0.3},
        "preset": "paper",
    }


def test_names_tell_trials_apart() -> None:
    assert (
        trial_name({"training.learning_rate": 0.001, "network.dropout": 0.3})
        == "learning_rate=0.001,dropout=0.3"
    )
    assert trial_name({"a.x": 1, "b.x": 2}) == "a.x=1,b.x=2"
