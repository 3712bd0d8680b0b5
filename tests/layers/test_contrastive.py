import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmerc.layers.contrastive import contrastive_loss


def by_loops(vectors: Tensor, tags: Tensor, tau: float, mask: Tensor) -> float:
    """Section 4 of the paper's losses, one anchor at a time."""
    rows = [v / v.norm() for v in vectors.double()]
    terms = []
    for i in range(len(rows)):

        def meets(j: int, i: int = i) -> bool:
            return j != i and bool(mask[i]) and bool(mask[j])

        others = [j for j in range(len(rows)) if meets(j)]
        positives = [k for k in others if tags[k] == tags[i]]
        if not positives:
            continue
        score = {j: float(rows[i] @ rows[j]) / tau for j in others}
        log_sum = math.log(sum(math.exp(s) for s in score.values()))
        terms.append(-sum(score[k] - log_sum for k in positives) / len(positives))
    return sum(terms) / len(terms) if terms else 0.0


def everyone(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 12),
    kinds=st.integers(1, 4),
    tau=st.floats(0.1, 2),
    hidden=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_equals_plain_loops(seed: int, count: int, kinds: int, tau: float, hidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 5, generator=generator)
    tags = torch.randint(kinds, (count,), generator=generator)
    mask = torch.rand(count, generator=generator) >= hidden
    loss = contrastive_loss(vectors, tags, tau, mask)
    assert loss.item() == pytest.approx(by_loops(vectors, tags, tau, mask), abs=1e-5)


@pytest.mark.parametrize("rows", [2, 5, 40])
@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_identical_vectors_cost_the_log_of_their_number(rows: int, tau: float) -> None:
    vectors = torch.tensor([[1.0, -2.0, 0.5]]).repeat(3 * rows, 1)
    for tags in (torch.arange(3).repeat_interleave(rows), torch.arange(rows).repeat(3)):
        loss = contrastive_loss(vectors, tags, tau, everyone(3 * rows))
        assert loss.item() == pytest.approx(math.log(3 * rows - 1), abs=1e-5)


@pytest.mark.parametrize("tau", [0.3, 0.5, 1.0])
def test_orthogonal_modalities_reach_the_known_minimum(tau: float) -> None:
    rows = 7
    loss = contrastive_loss(
        torch.eye(3).repeat_interleave(rows, dim=0),
        torch.arange(3).repeat_interleave(rows),
        tau,
        everyone(21),
    )
    assert loss.item() == pytest.approx(math.log(rows - 1 + 2 * rows * math.exp(-1 / tau)), abs=1e-5)


def test_order_and_scale_of_the_vectors_do_not_matter() -> None:
    torch.manual_seed(0)
    vectors, tags = torch.randn(9, 4), torch.arange(3).repeat(3)
    order = torch.randperm(9)
    scale = torch.rand(9, 1) + 0.1
    loss = contrastive_loss(vectors, tags, 0.5, everyone(9))
    torch.testing.assert_close(
        contrastive_loss((vectors * scale)[order], tags[order], 0.5, everyone(9)), loss
    )


def test_masked_vectors_are_in_no_list_and_get_no_gradient() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(8, 4, requires_grad=True)
    tags, mask = torch.arange(2).repeat(4), torch.arange(8) < 6
    loss = contrastive_loss(vectors, tags, 0.5, mask)
    torch.testing.assert_close(loss, contrastive_loss(vectors[:6], tags[:6], 0.5, everyone(6)))
    (gradient,) = torch.autograd.grad(loss, vectors)
    assert (gradient[6:] == 0).all()
    assert (gradient[:6] != 0).any(dim=1).all()


def test_no_positives_cost_nothing() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    loss = contrastive_loss(vectors, torch.arange(3), 0.5, everyone(3))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad is not None
    assert (vectors.grad == 0).all()


def test_zero_vectors_are_finite() -> None:
    vectors = torch.zeros(4, 3, requires_grad=True)
    loss = contrastive_loss(vectors, torch.zeros(4), 0.3, everyone(4))
    loss.backward()
    assert vectors.grad is not None
    assert loss.item() == pytest.approx(math.log(3), abs=1e-6)
    assert torch.isfinite(vectors.grad).all()


def test_autocast_does_not_coarsen_the_similarities() -> None:
    torch.manual_seed(0)
    vectors, tags = torch.randn(60, 8), torch.arange(60) % 3
    expected = contrastive_loss(vectors, tags, 0.3, everyone(60))
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(vectors, tags, 0.3, everyone(60))
    torch.testing.assert_close(loss, expected)
