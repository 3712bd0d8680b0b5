"""What the tests of layers and networks share: random batches, small networks, deterministic weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmerc.batch import Batch
from mmerc.corpus import MISSING
from mmerc.experiments.ablation import COMPONENTS
from mmerc.models import MODELS, find, resolve
from mmerc.models.base import Network, Output
from mmerc.pipeline import build_pipeline

WIDTHS = {"audio": 5, "text": 6, "visual": 4}
CLASSES = 3
SIZES = {"relation_width": 5, "context_hidden": 3, "heads": 2, "window": 2}


def _small(model: str, preset: str | None = None) -> dict[str, Any]:
    """Few units (`…hidden`), two layers (`…layers`) and no dropout (`…dropout`), whatever the model."""
    rules = {"dropout": 0.0, "hidden": 4, "layers": 2}
    small = {}
    for name in [f.name for f in fields(find(model, preset).config)]:
        found = [value for ending, value in rules.items() if name.endswith(ending)]
        if name in SIZES or found:
            small[name] = SIZES.get(name, *found[:1])
    if model == "df-erc":
        del small["context_layers"], small["speaker_hidden"]  # the presets tell these two apart
    return small


# Few units and no dropout, so that training mode is deterministic.
SMALL = {model: _small(model) for model in MODELS}


def networks_of(model: str) -> list[str]:
    """The presets of a model without twins for another corpus, whose networks differ in sizes alone."""
    presets = MODELS[model].presets
    return [p for p in presets if f"{p.removesuffix('-iemocap')}-meld" not in presets or p.endswith("-meld")]


DFERC_PRESETS = networks_of("df-erc")
# Table 2 of the paper, and a control: the branches without their loss (decision A25).
ABLATIONS = COMPONENTS | {"without-contrast": {"alpha_contrastive": 0.0}}
SUBSETS = [("audio",), ("audio", "text"), ("audio", "text", "visual")]


class FullPrecision(TorchFunctionMode):
    """Refuses a recurrence on a CPU that would run in bfloat16, which oneDNN cannot do on every processor."""

    recurrences = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.lstm, torch.gru) and args[0].device.type == "cpu":
            assert not torch.is_autocast_enabled("cpu"), "a recurrence under autocast"
            assert args[0].dtype is torch.float32, f"a recurrence in {args[0].dtype}"
            self.recurrences += 1
        return func(*args, **(kwargs or {}))


def modalities_of(model: str) -> tuple[str, ...]:
    """The modalities, sorted, that the small network of a model reads."""
    return MODELS[model].network.uses or tuple(WIDTHS)


def make_batch(
    lengths: Sequence[int],
    modalities: Sequence[str] = tuple(WIDTHS),
    *,
    seed: int = 0,
    missing: float = 0.0,
    unlabelled: float = 0.0,
) -> Batch:
    """Draw a batch; `missing` and `unlabelled` are chances per cell."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)

    def tensor(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values))

    labels = rng.integers(0, CLASSES, rows)
    labels[rng.random(rows) < unlabelled] = MISSING
    names = sorted(modalities)
    return Batch(
        features={m: tensor(rng.normal(size=(rows, WIDTHS[m])).astype(np.float32)) for m in names},
        present=tensor(rng.random((rows, len(names))) >= missing),
        lengths=torch.tensor(list(lengths)),
        speakers=tensor(rng.integers(0, 2, rows)),
        labels=tensor(labels),
    )


def take(batch: Batch, dialogues: Sequence[int]) -> Batch:
    """The given dialogues of a batch, in the given order, cut out one by one."""
    stops = batch.lengths.cumsum(0).tolist()
    spans = [range(stops[d] - int(batch.lengths[d]), stops[d]) for d in dialogues]
    rows = torch.tensor([row for span in spans for row in span])
    return Batch(
        features={m: x[rows] for m, x in batch.features.items()},
        present=batch.present[rows],
        lengths=batch.lengths[list(dialogues)],
        speakers=batch.speakers[rows],
        labels=None if batch.labels is None else batch.labels[rows],
    )


def make_network(
    model: str,
    preset: str | None = None,
    modalities: Sequence[str] | None = None,
    *,
    seed: int = 0,
    class_weights: Tensor | None = None,
    **overrides: Any,
) -> Network:
    """A small untrained network without dropout, in training mode."""
    own = {"preset": preset} if preset else {}
    run = resolve(model, own, {"network": _small(model, preset)}, {"network": overrides})
    names = modalities_of(model) if modalities is None else modalities
    torch.manual_seed(seed)
    pipeline = build_pipeline(run, {m: WIDTHS[m] for m in names}, CLASSES, class_weights=class_weights)
    return pipeline.network


def ramp(*shape: int, scale: float = 1.0, start: int = 0) -> Tensor:
    """Numbers in [−scale/2, scale/2] by a fixed rule, which a seeded generator is not across releases."""
    count = int(np.prod(shape))
    steps = (torch.arange(start, start + count) * 37) % 101
    return ((steps / 100.0 - 0.5) * scale).reshape(shape)


@torch.no_grad()
def fill_with_ramp(module: nn.Module) -> None:
    """Overwrite every parameter, in the order of names, with stretches of one long ramp."""
    start = 0
    for _, parameter in sorted(module.named_parameters()):
        parameter.copy_(ramp(*parameter.shape, start=start))
        start += parameter.numel()


class Judged(NamedTuple):
    """What a network says about a batch, and how it is judged where there are labels."""

    logits: Tensor
    contributions: Tensor | None
    context_weight: Tensor | None
    losses: dict[str, Tensor]
    log: dict[str, Tensor]


def judge(network: Network, batch: Batch) -> Judged:
    """What the network says about a batch, and its losses."""
    output = network(batch)
    losses, log = ({}, {}) if batch.labels is None else network.losses(output, batch)
    return Judged(output.logits, output.contributions, output.context_weight, losses, log)


def total(judged: Judged) -> Tensor:
    """The objective: the sum of the losses."""
    return torch.stack([*judged.losses.values()]).sum()


def assert_same(left: Output, right: Output, rows: Tensor | None = None, tolerance: float = 1e-5) -> None:
    """Compare what two outputs say per utterance; `rows` picks those of the left that the right has."""
    for field in ("logits", "contributions", "context_weight"):
        a, b = getattr(left, field), getattr(right, field)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a if rows is None else a[rows], b, rtol=0, atol=tolerance)


def assert_losses(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor | float], tolerance: float = 1e-5
) -> None:
    """Compare losses by name."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        right = torch.as_tensor(value, dtype=torch.float32).detach()
        torch.testing.assert_close(
            actual[name].detach().float(), right, rtol=tolerance, atol=tolerance, msg=f"{name}: {right}"
        )
