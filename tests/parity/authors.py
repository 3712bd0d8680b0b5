"""What the authors' published code computed from given weights, and our networks with these weights in them.

The files lie in ../shared/parity, whose README says how they were made. No code of the authors is needed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mmerc.batch import Batch
from mmerc.models import resolve
from mmerc.models.base import Network
from mmerc.pipeline import build_pipeline

FOLDER = Path(__file__).resolve().parents[2] / "../shared/parity"
MODALITIES = ("audio", "text", "visual")
Weights = Mapping[str, Tensor]
Table = Callable[[Weights], dict[str, Tensor]]  # from the authors' weights to ours, by name


class Authors:
    """The tensors of one file, in the precision of the test, and its notes."""

    def __init__(self, file: str) -> None:
        if not FOLDER.is_dir():
            pytest.skip(f"the authors' numbers are missing: there is no {FOLDER}")
        self.notes: dict[str, Any] = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))
        wanted = torch.get_default_dtype()
        self.tensors = {
            name: value.to(wanted) if value.is_floating_point() else value
            for name, value in load_file(FOLDER / f"{file}.safetensors").items()
        }

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `prefix` and a dot, by the rest of the name."""
        start = f"{prefix}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def output(self, name: str) -> Tensor:
        """Return what the authors' network computed."""
        return self.tensors[f"output.{name}"]

    def deviation(self, words: str) -> float:
        """Return how far a deviation of ours moved the numbers: the key in brackets that has these words."""
        found = next(iter(self.notes["agreement"].values()))
        (size,) = [size for key, size in found.items() if key.startswith("(") and words in key]
        return float(size)

    def batch(self, **changes: Any) -> Batch:
        """Return the dialogues of the file, every modality present."""
        inputs = self.part("input")
        features = {m: inputs[m] for m in MODALITIES}
        present = torch.ones(len(inputs["labels"]), len(features), dtype=torch.bool)
        batch = Batch(features, present, inputs["lengths"], inputs["speakers"], inputs["labels"])
        return batch._replace(**changes)

    def network(self, preset: str, class_weights: Tensor | None = None, **overrides: Any) -> Network:
        """Return our network of the sizes of theirs, untrained, in evaluation mode."""
        sizes = self.notes["project"]["network"] | overrides
        run = resolve(self.notes["model"], {"preset": preset, "network": sizes})
        widths = {m: x.shape[1] for m, x in self.batch().features.items()}
        classes = self.output("logits").shape[1]
        return build_pipeline(run, widths, classes, class_weights=class_weights).network.eval()


@contextmanager
def double() -> Iterator[None]:
    """Compute in double precision, casts to single precision lifted."""
    single, Tensor.float = Tensor.float, Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        Tensor.float = single


class Copied:
    """The authors' weights in a network of ours, by way of a table of which weight goes where."""

    def __init__(self, network: Network, weights: Weights, table: Table) -> None:
        self.network = network
        self.theirs = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
        self.ours = table(self.theirs)
        parameters = dict(network.named_parameters())
        assert {n: w.shape for n, w in self.ours.items()} == {n: p.shape for n, p in parameters.items()}
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.ours[name])

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Return the gradient of a loss by the authors' weights: by ours, and back through the table."""
        mapped = {name: weight for name, weight in self.ours.items() if weight.requires_grad}
        parameters = [self.network.get_parameter(name) for name in mapped]
        ours = torch.autograd.grad(loss, parameters, materialize_grads=True, retain_graph=True)
        theirs = torch.autograd.grad(
            [*mapped.values()], [*self.theirs.values()], ours, materialize_grads=True, retain_graph=True
        )
        return dict(zip(self.theirs, theirs, strict=True))


def distance(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference between two tensors of one shape."""
    assert actual.shape == expected.shape
    return float((actual - expected).detach().abs().max())


def agree(actual: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    """Compare values, whose size is about 1."""
    apart = distance(actual, expected)
    assert apart <= tolerance, f"{name}: {apart:.1e} apart"


def gradients_agree(actual: Weights, expected: Weights, tolerance: float) -> None:
    """Compare gradients, which are as large as the largest entry of all."""
    assert expected
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        agree(actual[name] / largest, gradient / largest, tolerance, name)
