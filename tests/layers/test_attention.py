import math

import pytest
import torch
from torch import Tensor

from mmerc.layers.attention import AdditiveAttention

S, N, D = 3, 4, 5
SOME = torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)


@torch.no_grad()
def by_loops(layer: AdditiveAttention, x: Tensor, present: Tensor) -> list[list[float]]:
    inner, outer = layer.score[0], layer.score[2]
    weights = [[0.0] * N for _ in range(S)]
    for i in range(N):
        scores = {
            s: math.exp(float(outer.weight[0] @ torch.tanh(inner.weight @ x[s, i] + inner.bias)))
            for s in range(S)
            if present[s, i]
        }
        for s, score in scores.items():
            weights[s][i] = score / sum(scores.values())
    return weights


@pytest.mark.parametrize("present", [None, SOME])
def test_equals_plain_loops(present: Tensor | None) -> None:
    torch.manual_seed(0)
    layer, x = AdditiveAttention(D, 6), torch.randn(S, N, D)
    mask = torch.ones(S, N, dtype=torch.bool) if present is None else present
    weights = layer(x, present)
    torch.testing.assert_close(weights, torch.tensor(by_loops(layer, x, mask)), rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=0), mask.any(dim=0).float())


def test_an_utterance_without_sources_has_weight_zero_and_a_finite_gradient() -> None:
    torch.manual_seed(0)
    layer, x = AdditiveAttention(D, 6), torch.randn(S, N, D, requires_grad=True)
    weights = layer(x, SOME)
    (gradient,) = torch.autograd.grad((weights * torch.arange(3)[:, None]).sum(), x)
    assert (weights[:, 3] == 0).all()
    assert torch.isfinite(gradient).all()
    assert (gradient[~SOME] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_masks_in_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = AdditiveAttention(D, 6), torch.randn(S, N, D)
    with torch.autocast("cpu", dtype):
        weights = layer(x, SOME)
    torch.testing.assert_close(weights.float(), layer(x, SOME), rtol=0, atol=0.02)
    assert (weights[~SOME] == 0).all()
