import math

import pytest
import torch
from torch import Tensor

from mmerc.layers.graph import DialogueGraph, InitialResidualConvolution, angular_weight
from plain_graph import dense, dialogue_numbers, plain_adjacency, plain_normalised

LENGTHS = [3, 1, 4]
ROWS = sum(LENGTHS)


def drawn(modalities: int = 3, missing: float = 0.3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(modalities)
    return torch.randn(modalities, ROWS, 5), torch.rand(modalities, ROWS) >= missing


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_graph_is_the_dense_one(modalities: int, causal: bool) -> None:
    nodes, present = drawn(modalities)
    graph = DialogueGraph.angular(nodes, present, torch.tensor(LENGTHS), 0.7, causal)
    expected = plain_adjacency(nodes, present, LENGTHS, 0.7, causal)
    # A rounding error of a cosine near 1 counts 224 times in arccos.
    torch.testing.assert_close(dense(graph, ROWS), expected, rtol=0, atol=5e-5)
    torch.testing.assert_close(dense(graph.normalised(), ROWS), plain_normalised(expected), rtol=0, atol=1e-5)
    x = torch.randn(modalities, ROWS, 2)
    spread = (plain_normalised(expected) @ x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(graph.normalised().propagate(x), spread, rtol=0, atol=1e-5)


def test_weights_are_symmetric_shares_within_dialogues() -> None:
    nodes, present = drawn()
    graph = DialogueGraph.angular(nodes, present, torch.tensor(LENGTHS))
    for matrix in (dense(graph, ROWS), dense(graph.normalised(), ROWS)):
        torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-7)
        assert (matrix >= 0).all()
        assert (matrix <= 1 + 1e-6).all()  # alone in its dialogue, a node is exactly 1
        dialogue = torch.tensor(dialogue_numbers(LENGTHS)).repeat(3)
        assert (matrix[dialogue[:, None] != dialogue[None, :]] == 0).all()
        there = present.flatten()
        assert not matrix[~there].any()
        assert not matrix[:, ~there].any()
        assert (matrix.diagonal()[there] > 0).all()
    loops = dense(graph, ROWS).diagonal()[present.flatten()]
    torch.testing.assert_close(loops, torch.full_like(loops, 0.9986), rtol=0, atol=1e-4)


def test_causal_edges_and_degrees_come_from_the_past() -> None:
    nodes, present = drawn()
    whole = DialogueGraph.angular(nodes, present, torch.tensor([ROWS]), causal=True).normalised()
    part = DialogueGraph.angular(nodes[:, :3], present[:, :3], torch.tensor([3]), causal=True).normalised()
    torch.testing.assert_close(whole.within.view(3, ROWS, ROWS)[:, :3, :3], part.within.view(3, 3, 3))
    torch.testing.assert_close(whole.across[:3], part.across)
    assert not whole.within.triu(1).any()


@pytest.mark.parametrize("kind", ["equal", "opposite", "zero", "tiny"])
def test_gradients_are_finite(kind: str) -> None:
    nodes = torch.ones(2, 4, 3)
    if kind == "opposite":
        nodes[:, ::2] *= -1
    if kind in ("zero", "tiny"):
        nodes[:, :2] *= 0.0 if kind == "zero" else 1e-20
    nodes.requires_grad_()
    present = torch.tensor([[True, True, True, False], [True, False, True, False]])
    graph = DialogueGraph.angular(nodes, present, torch.tensor([4])).normalised()
    spread = graph.propagate(torch.randn(2, 4, 2))
    assert torch.isfinite(spread).all()
    spread.sum().backward()
    assert nodes.grad is not None
    assert torch.isfinite(nodes.grad).all()
    assert not nodes.grad[~present].any()


def test_angular_weights_rise_with_the_cosine() -> None:
    cosine = torch.linspace(-1, 1, 21, requires_grad=True)
    weight = angular_weight(cosine)
    values = weight.tolist()
    assert values == sorted(values)
    assert 0 < values[0] < 0.01
    assert 0.99 < values[-1] < 1
    assert values[10] == pytest.approx(0.5, abs=1e-6)
    weight.sum().backward()
    assert torch.isfinite(cosine.grad).all()


def test_weights_are_computed_in_full_precision() -> None:
    nodes, present = drawn()
    exact = DialogueGraph.angular(nodes, present, torch.tensor(LENGTHS))
    with torch.autocast("cpu", torch.bfloat16):
        graph = DialogueGraph.angular(nodes.bfloat16().float(), present, torch.tensor(LENGTHS))
        spread = graph.normalised().propagate(torch.randn(3, ROWS, 2))
    torch.testing.assert_close(graph.within, exact.within, rtol=0, atol=5e-3)
    assert graph.within.dtype == torch.float32
    assert torch.isfinite(spread).all()


@pytest.mark.parametrize("variant", [False, True])
@pytest.mark.parametrize("depth", [1, 5])
def test_convolution_is_its_formula(depth: int, variant: bool) -> None:
    torch.manual_seed(0)
    layer = InitialResidualConvolution(4, depth, 0.2, 0.5, variant)
    s, h = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    theta = math.log(0.5 / depth + 1)
    for m in range(2):
        for i in range(3):
            residual = 0.8 * s[m, i] + 0.2 * h[m, i]
            read = torch.cat([s[m, i], h[m, i]]) if variant else residual
            expected = theta * (layer.weight.T @ read) + (1 - theta) * residual
            torch.testing.assert_close(layer(s, h)[m, i], expected, rtol=0, atol=1e-6)


def test_convolution_weights_start_within_their_bound() -> None:
    layer = InitialResidualConvolution(100, 1, 0.2, 0.5, variant=True)
    assert layer.weight.shape == (200, 100)
    assert 0.09 < float(layer.weight.detach().abs().max()) <= 0.1
