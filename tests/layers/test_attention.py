import math

import pytest
import torch
from torch import Tensor

from mmerc.layers.attention import AdditiveAttention, DialogueAttention, has_source
from mmerc.layers.padding import Padding

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


def reference(layer: DialogueAttention) -> torch.nn.MultiheadAttention:
    """PyTorch's own layer with the same weights."""
    width = layer.query.in_features
    other = torch.nn.MultiheadAttention(width, layer.heads, batch_first=True)
    parts = (layer.query, layer.key, layer.value)
    other.in_proj_weight.data = torch.cat([p.weight for p in parts])
    other.in_proj_bias.data = torch.cat([p.bias for p in parts])
    other.out_proj.load_state_dict(layer.out.state_dict())
    return other


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 5], [2, 2]])
def test_dialogue_attention_is_multi_head_attention_dialogue_by_dialogue(
    lengths: list[int], causal: bool
) -> None:
    torch.manual_seed(0)
    layer = DialogueAttention(4, 2, causal)
    other = reference(layer)
    query, source = torch.randn(sum(lengths), 4), torch.randn(sum(lengths), 4)
    expected = []
    for q, s in zip(query.split(lengths), source.split(lengths), strict=True):
        later = torch.ones(len(q), len(q)).triu(1).bool() if causal else None
        expected.append(other(q[None], s[None], s[None], attn_mask=later)[0][0])
    mixed = layer(query, source, Padding.of(torch.tensor(lengths), torch.device("cpu")))
    torch.testing.assert_close(mixed, torch.cat(expected), rtol=0, atol=1e-6)


def test_absent_sources_are_not_attended_to() -> None:
    torch.manual_seed(0)
    layer = DialogueAttention(4, 2)
    other = reference(layer)
    query, source = torch.randn(5, 4), torch.randn(5, 4, requires_grad=True)
    present = torch.tensor([True, False, True, False, False])
    padding = Padding.of(torch.tensor([3, 2]), torch.device("cpu"))
    mixed = layer(query, source, padding, present)
    expected = other(query[None, :3], source[None, [0, 2]], source[None, [0, 2]])[0][0]
    torch.testing.assert_close(mixed[:3], expected, rtol=0, atol=1e-6)
    # The second dialogue has no source at all: what is left is the bias of the output map.
    torch.testing.assert_close(mixed[3:], layer.out.bias.expand(2, -1), rtol=0, atol=1e-6)
    mixed.sum().backward()
    assert torch.isfinite(source.grad).all()
    assert not source.grad[~present].any()


def test_values_can_come_from_elsewhere_than_the_keys() -> None:
    torch.manual_seed(0)
    layer = DialogueAttention(4, 2)
    other = reference(layer)
    query, keys, values = torch.randn(3, 5, 4)
    padding = Padding.of(torch.tensor([3, 2]), torch.device("cpu"))
    expected = []
    for q, k, v in zip(*(x.split([3, 2]) for x in (query, keys, values)), strict=True):
        expected.append(other(q[None], k[None], v[None])[0][0])
    mixed = layer(query, keys, padding, values=values)
    torch.testing.assert_close(mixed, torch.cat(expected), rtol=0, atol=1e-6)


def test_who_has_a_source_in_sight() -> None:
    padding = Padding.of(torch.tensor([3, 2, 1]), torch.device("cpu"))
    present = torch.tensor([False, True, False, False, False, True])
    assert has_source(padding, present).tolist() == [True, True, True, False, False, True]
    assert has_source(padding, present, causal=True).tolist() == [False, True, True, False, False, True]


def test_a_float_mask_of_torch_is_added_and_only_a_boolean_one_ignores() -> None:
    # Why decision E1 of CFN-ESA leaves the official code's mask (1 = valid) alone.
    torch.manual_seed(0)
    layer, x = torch.nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(1, 3, 4)
    valid = torch.tensor([[1.0, 1.0, 0.0]])
    ignored = layer(x, x, x, key_padding_mask=valid == 0)[1]
    added = layer(x, x, x, key_padding_mask=valid)[1]
    assert (ignored[..., 2] == 0).all()
    assert (added[..., 2] > 0.05).all()
    plain = layer(x, x, x)[1][0]
    assert not torch.allclose(plain, added[0])
