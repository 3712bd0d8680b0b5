"""The models in the sizes of their publications, what the published code takes, and what ours may take."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmerc.config import RunConfig
from mmerc.models import MODELS, resolve


class Publication(NamedTuple):
    """The presets with a publication's sizes and batches, and costs; all by shape of the corpus.

    Costs are in 10¹² GEMM-equivalents per training epoch, one thread. Those of the published code were
    measured with it, once, on another machine.
    """

    presets: Mapping[str, str]
    limits: dict[str, float]  # what an epoch may take
    published: Mapping[str, float] = {}  # what the published code takes
    memory_limits: Mapping[str, float] = {}  # GiB of the whole process, at its peak
    published_memory: Mapping[str, float] = {}  # GiB that the published code takes


PUBLICATIONS = {
    "df-erc": Publication(
        {"meld": "paper-meld", "iemocap": "paper-iemocap"}, limits={"meld": 0.8, "iemocap": 1.2}
    ),
    "mm-dfn": Publication(
        {"meld": "official-meld", "iemocap": "official-iemocap"},
        limits={"meld": 2.0, "iemocap": 2.5},
        published={"meld": 20.9, "iemocap": 22.8},
    ),
    "cfn-esa": Publication(
        {"meld": "official-meld", "iemocap": "official-iemocap"},
        limits={"meld": 5.0, "iemocap": 8.0},
        published={"meld": 15.5, "iemocap": 24.0},
        memory_limits={"iemocap": 3.0},
        published_memory={"meld": 5.7, "iemocap": 14.2},
    ),
    "mmgcn": Publication(
        {"meld": "paper", "iemocap": "paper"},
        limits={"meld": 1.0},
        published={"meld": 3.8, "iemocap": 5.1},
    ),
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
            presets.append(publication.presets[shape])
        runs += [resolve(model, {"preset": name} if name else {}, overrides) for name in presets]
    return runs


def parse_models(text: str) -> list[str]:
    """Return the names in a list with commas between; all models for an empty one."""
    return [name.strip() for name in text.split(",")] if text else list(MODELS)
