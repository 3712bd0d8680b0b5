import math
from collections.abc import Callable

import pytest
import torch

from mmerc.layers.focal import focal_loss, growing_focal_loss
from mmerc.layers.losses import cross_entropy

CLASSES = 4


def draw(seed: int, weighted: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(6, CLASSES, generator=generator)
    labels = torch.randint(-1, CLASSES, (6,), generator=generator)
    weights = torch.rand(CLASSES, generator=generator) + 0.5 if weighted else None
    return logits, labels, labels >= 0, weights


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_both_equal_plain_loops(seed: int, weighted: bool) -> None:
    logits, labels, mask, weights = draw(seed, weighted)
    gamma, focal, growing, lower = 2.5, 0.0, 0.0, 0.0
    for z, y, known in zip(logits.tolist(), labels.tolist(), mask.tolist(), strict=True):
        if not known:
            continue
        p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        weight = 1.0 if weights is None else float(weights[y])
        focal += weight * -((1 - p[y]) ** gamma) * math.log(p[y])
        terms = [-((1 - (c == y) * math.log(p[c])) ** gamma) * math.log(p[c]) for c in range(CLASSES)]
        growing += weight * sum(terms) / CLASSES
        lower += weight
    assert focal_loss(logits, labels, mask, gamma, weights).item() == pytest.approx(focal / lower, rel=1e-5)
    assert growing_focal_loss(logits, labels, mask, gamma, weights).item() == pytest.approx(
        growing / lower, rel=1e-5
    )


def test_without_focus_it_is_cross_entropy() -> None:
    logits, labels, mask, weights = draw(0, True)
    expected = cross_entropy(logits, labels, mask, weights)
    torch.testing.assert_close(focal_loss(logits, labels, mask, 0.0, weights), expected)


@pytest.mark.parametrize("loss", [focal_loss, growing_focal_loss])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.5])
def test_certainty_and_nothing_to_learn_have_finite_gradients(
    loss: Callable[..., torch.Tensor], gamma: float
) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    for mask in (torch.tensor([True, True]), torch.tensor([False, False])):
        value = loss(logits, labels, mask, gamma)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
    assert value == 0


def test_one_falls_with_certainty_where_the_other_grows_with_the_error() -> None:
    label, mask = torch.tensor([0]), torch.tensor([True])
    wrong, right = torch.tensor([[-3.0, 3.0]]), torch.tensor([[3.0, -3.0]])
    plain = [float(cross_entropy(z, label, mask)) for z in (wrong, right)]
    focal = [float(focal_loss(z, label, mask, 2.5)) for z in (wrong, right)]
    growing = [float(growing_focal_loss(z, label, mask, 2.5)) for z in (wrong, right)]
    assert focal[0] <= plain[0]
    assert focal[1] < 0.01 * plain[1]
    assert growing[0] > 10 * plain[0]
