"""TFN recomputed cell by cell of its tensor; what holds for every network is in test_invariances.py."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from helpers import (
    SUBSETS,
    WIDTHS,
    assert_losses,
    judge,
    make_batch,
    make_network,
    total,
)
from loops import State, doubled
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import tfn

LENGTHS = [3, 1, 2]


def units(state: State, prefix: str, layers: int, x: list[float]) -> list[float]:
    """Layers of ReLU units, unit by unit."""
    for layer in range(layers):
        weight, bias = (state[f"{prefix}.{layer}.0.{k}"].tolist() for k in ("weight", "bias"))
        x = [
            max(0.0, sum(w * v for w, v in zip(row, x, strict=True)) + b)
            for row, b in zip(weight, bias, strict=True)
        ]
    return x


def logits_of(state: State, batch: Batch, row: int, layers: int) -> Tensor:
    axes = []
    for column, (name, values) in enumerate(batch.features.items()):
        width = state[f"embeddings.{name}.0.0.weight"].shape[0]
        z = [0.0] * width
        if batch.present[row, column]:
            z = units(state, f"embeddings.{name}", layers, values[row].tolist())
        axes.append([*z, 1.0])
    tensor = [math.prod(cell) for cell in itertools.product(*axes)]
    seen = torch.tensor(units(state, "inference", 2, tensor), dtype=torch.float64)
    return state["classifier.weight"] @ seen + state["classifier.bias"]


@torch.no_grad()
@pytest.mark.parametrize("preset", ["refined", "paper"])
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
def test_tfn_equals_plain_loops(subset: tuple[str, ...], preset: str) -> None:
    network = make_network("tfn", preset, subset, hidden=3, text_hidden=4).eval()
    batch = make_batch(LENGTHS, subset, missing=0.3, unlabelled=0.3, seed=2)
    state = doubled(network)
    expected = torch.stack([logits_of(state, batch, i, layers=2) for i in range(sum(LENGTHS))])
    output = judge(network, batch)
    torch.testing.assert_close(output.logits, expected.float(), rtol=0, atol=1e-5)
    assert batch.labels is not None
    known = [i for i, label in enumerate(batch.labels.tolist()) if label >= 0]
    surprise = [-float(expected[i].log_softmax(dim=0)[batch.labels[i]]) for i in known]
    assert_losses(output.losses, {"emotion": sum(surprise) / len(surprise)})


def test_the_fused_tensor_holds_all_interactions() -> None:
    a, b, c = torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0]]), torch.tensor([[7.0]])
    assert tfn.fuse([a, b, c]).tolist() == [[70, 10, 14, 2, 105, 15, 21, 3, 35, 5, 7, 1]]


def test_an_absent_modality_leaves_the_interactions_of_the_others() -> None:
    z = [torch.randn(2, 3), torch.randn(2, 2)]
    alone = tfn.fuse([torch.zeros(2, 3), z[1]]).view(2, 4, 3)
    assert not alone[:, :3].any()
    torch.testing.assert_close(alone[:, 3], tfn.fuse(z[1:]))


def test_an_utterance_knows_no_other() -> None:
    network = make_network("tfn")
    batch = make_batch([4])
    features = {m: x.requires_grad_() for m, x in batch.features.items()}
    network(batch).logits[2].sum().backward()
    for x in features.values():
        assert x.grad is not None
        assert x.grad.any(dim=1).tolist() == [False, False, True, False]


def test_gradients_reach_the_subnetworks_of_what_is_present() -> None:
    network, batch = make_network("tfn"), make_batch(LENGTHS)
    present = batch.present.clone()
    present[:, sorted(WIDTHS).index("text")] = False
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(judge(network, batch._replace(present=present)))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any() != name.startswith("embeddings.text"), name


def test_the_papers_widths_fit_three_modalities_and_no_more() -> None:
    config = tfn.Config()
    assert tfn.TFN(config, dict(WIDTHS), 3).inference[0][0].in_features == 129 * 33 * 33
    with pytest.raises(
        ConfigError, match=r"audio, gaze, text, visual would have 4635873 cells.*network.hidden"
    ):
        tfn.TFN(config, {**WIDTHS, "gaze": 2}, 3)
