import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.layers.losses import cross_entropy, masked_mean

CLASSES = 4


def test_masked_mean_is_the_mean_of_what_counts() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 100.0]])
    assert masked_mean(values, torch.tensor([[True, True], [True, False]])).item() == 2
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 12),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    hidden=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_cross_entropy_equals_plain_loops(
    seed: int, count: int, weighted: bool, smoothing: float, hidden: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, CLASSES, generator=generator)
    labels = torch.randint(-1, CLASSES, (count,), generator=generator)
    mask = (labels >= 0) & (torch.rand(count, generator=generator) >= hidden)
    weights = torch.rand(CLASSES, generator=generator) + 0.5 if weighted else None
    upper = lower = 0.0
    for z, y, known in zip(logits.tolist(), labels.tolist(), mask.tolist(), strict=True):
        if not known:
            continue
        log_sum = math.log(sum(map(math.exp, z)))
        target = [(1 - smoothing) * (k == y) + smoothing / CLASSES for k in range(CLASSES)]
        weight = 1.0 if weights is None else float(weights[y])
        upper += weight * sum(-t * (v - log_sum) for t, v in zip(target, z, strict=True))
        lower += weight
    expected = upper / lower if lower else 0.0
    loss = cross_entropy(logits, labels, mask, weights, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_without_smoothing_is_the_one_of_torch() -> None:
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(6, CLASSES), torch.tensor([0, 1, 2, 3, 3, 3]), torch.rand(CLASSES)
    everyone = torch.ones(6, dtype=torch.bool)
    expected = torch.nn.CrossEntropyLoss(weight=weights)(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, labels, everyone, weights), expected)


def test_unlabelled_rows_get_no_gradient() -> None:
    logits = torch.randn(3, CLASSES, requires_grad=True)
    labels = torch.tensor([1, -1, 2])
    cross_entropy(logits, labels, labels >= 0).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).any(dim=1).tolist() == [True, False, True]
