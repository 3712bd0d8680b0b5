"""Settings that DF-ERC no longer has, and that the configs of older checkpoints name."""

from collections.abc import Mapping
from typing import Any

from mmerc.errors import ConfigError

# setting → what `refined` and `paper…` still do, what `official…` still does
GONE: dict[str, tuple[Any, Any]] = {
    "contrastive_scope": ("batch", "batch"),
    "contrastive_times_tau": (False, True),
    "branch_merge": ("concat", "sum"),
    "branch_scale": (1.0, 0.4),
    "stacked_utterance_branch": (False, True),
    "teacher_gelu": (False, True),
    "normalise_contributions": (False, True),
    "unweighted_share": (False, True),
    "detach_target": (True, False),
    "prototype_temperature": (0.1, 0.1),
    "active_hinge_mean": (False, True),
    "clamp_agreement": (False, False),
    "context_output": ("own", "neighbours"),
    "context_scale": (1.0, 0.8),
}


def modern(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `refined` or `paper…`, perhaps of an older version, as today's network has them.

    Raises:
        ConfigError: a setting that is gone asks for what is gone, too.
    """
    prototypes = "learned" if network.get("agreement_on") == "emotions" else "running"
    left = {name: ours for name, (ours, _) in GONE.items()}
    return _without(network, left | {"layer_dropout": 0.0, "prototypes": prototypes})


def modern_official(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of `official…`, perhaps of an older version, as today's network has them.

    Raises:
        ConfigError: a setting that is gone asks for what is gone, too.
    """
    return _without(network, {name: theirs for name, (_, theirs) in GONE.items()} | {"prototypes": "batch"})


def _without(network: Mapping[str, Any], left: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in network.items():
        if name in left and value != left[name]:
            raise ConfigError(
                f"network.{name} is no longer a setting: with this preset it is always {left[name]!r}, "
                f"not {value!r}"
            )
    return {name: value for name, value in network.items() if name not in left}
