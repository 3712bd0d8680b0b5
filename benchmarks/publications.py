"""The models in the sizes of their publications."""

from collections.abc import Mapping
from typing import Any

from mmerc.config import RunConfig
from mmerc.models import MODELS, resolve

# Model → shape of the corpus → the preset with the publication's sizes and batches for it.
PUBLICATIONS = {
    "df-erc": {"meld": "paper-meld", "iemocap": "paper-iemocap"},
    "mm-dfn": {"meld": "official-meld", "iemocap": "official-iemocap"},
    "cfn-esa": {"meld": "official-meld", "iemocap": "official-iemocap"},
    "mmgcn": {"meld": "paper", "iemocap": "paper"},
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
            presets.append(publication[shape])
        runs += [resolve(model, {"preset": name} if name else {}, overrides) for name in presets]
    return runs


def parse_models(text: str) -> list[str]:
    """Return the names in a list with commas between; all models for an empty one."""
    return [name.strip() for name in text.split(",")] if text else list(MODELS)
