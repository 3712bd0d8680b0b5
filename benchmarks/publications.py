"""The models in the sizes of their publications, what the published code takes, and what ours may take."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmerc.config import RunConfig
from mmerc.models import MODELS, resolve


class Publication(NamedTuple):
    """A preset with a publication's sizes and batches, and costs by shape of the corpus.

    Costs are in 10¹² GEMM-equivalents per training epoch, one thread. Those of the published code were
    measured with it, once, on another machine.
    """

    preset: str
    limits: dict[str, float]  # shape → what an epoch may take
    settings: Mapping[str, dict[str, Any]] = {}  # shape → what differs from the preset there
    published: Mapping[str, float] = {}  # shape → what the published code takes
    memory_limits: Mapping[str, float] = {}  # shape → GiB of the whole process, at its peak
    published_memory: Mapping[str, float] = {}  # shape → GiB that the published code takes


PUBLICATIONS = {
    "df-erc": Publication(
        "paper",
        limits={"meld": 0.8, "iemocap": 1.2},
        settings={"iemocap": {"training": {"batch_size": 4}}},
    ),
    "mm-dfn": Publication(
        "official",
        limits={"meld": 2.0, "iemocap": 2.5},
        settings={"meld": {"network": {"speaker_weights": {"audio": 0.5, "visual": 0.5, "text": 1.5}}}},
        published={"meld": 20.9, "iemocap": 22.8},
    ),
    "cfn-esa": Publication(
        "official",
        limits={"meld": 5.0, "iemocap": 8.0},
        settings={
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
        published={"meld": 15.5, "iemocap": 24.0},
        memory_limits={"iemocap": 3.0},
        published_memory={"meld": 5.7, "iemocap": 14.2},
    ),
    "mmgcn": Publication("paper", limits={"meld": 1.0}, published={"meld": 3.8, "iemocap": 5.1}),
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
