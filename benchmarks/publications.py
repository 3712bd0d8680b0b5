"""The models in the sizes of their publications."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmerc.config import RunConfig
from mmerc.models import MODELS, resolve


class Publication(NamedTuple):
    """A preset with a publication's sizes and batches."""

    preset: str
    settings: Mapping[str, dict[str, Any]] = {}  # shape of the corpus → what differs from the preset there


PUBLICATIONS = {
    "df-erc": Publication("paper", {"iemocap": {"training": {"batch_size": 4}}}),
    "mm-dfn": Publication(
        "official", {"meld": {"network": {"speaker_weights": {"audio": 0.5, "visual": 0.5, "text": 1.5}}}}
    ),
    "cfn-esa": Publication(
        "official",
        {
            "meld": {"network": {"recompute": False}},  # on IEMOCAP that would take too much memory
            "iemocap": {
                "network": {
                    "hidden": 512,
                    "cross_layers": 5,
                    "dropout": 0.4,
                    "recurrent_dropout": 0.2,
                    "shift_weight": 1.0,
                    "shift_share": 0.4364,
                },
                "training": {"batch_size": 32},
            },
        },
    ),
    "mmgcn": Publication("paper"),
}


def configured(
    models: list[str], preset: str | None, shape: str, overrides: Mapping[str, Any]
) -> list[RunConfig]:
    """Return the configs to measure: of each model the preset, or its first and its publication's.

    Raises:
        ConfigError: an unknown model, preset or key.
    """
    runs = []
    for model in models:
        publication = PUBLICATIONS.get(model)
        presets: list[str | None] = [preset]
        if preset is None and publication is not None:
            presets.append(publication.preset)
        for name in presets:
            of_shape = publication.settings.get(shape, {}) if publication else {}
            layers = [of_shape] if publication and name == publication.preset else []
            runs.append(resolve(model, {"preset": name} if name else {}, *layers, overrides))
    return runs


def parse_models(text: str) -> list[str]:
    """Return the names in a list with commas between; all models for an empty one."""
    return [name.strip() for name in text.split(",")] if text else list(MODELS)
