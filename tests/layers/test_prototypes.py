import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmerc.layers.prototypes import (
    RunningPrototypes,
    agreement,
    class_sums,
    emotion_agreement,
    hinge_distance,
    masked_share,
)

CLASSES, WIDTH = 4, 3


def draw(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, labels with some −1, and a mask that leaves those out and others too."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, WIDTH, generator=generator)
    labels = torch.randint(-1, CLASSES, (count,), generator=generator)
    return vectors, labels, (labels >= 0) & (torch.rand(count, generator=generator) < 0.7)


def plain_means(vectors: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    means, counts = torch.zeros(CLASSES, WIDTH), torch.zeros(CLASSES)
    for k in range(CLASSES):
        mine = [x for x, y, known in zip(vectors, labels, mask, strict=True) if known and y == k]
        counts[k] = len(mine)
        if mine:
            means[k] = torch.stack(mine).mean(dim=0)
    return means, counts


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
)
def test_the_running_mean_is_the_plain_mean_whatever_the_batching(
    seed: int, count: int, cuts: list[int]
) -> None:
    vectors, labels, mask = draw(count, seed)
    prototypes = RunningPrototypes(CLASSES, WIDTH)
    edges = [0, *sorted(min(c, count) for c in cuts), count]
    for a, b in itertools.pairwise(edges):
        prototypes.update(vectors[a:b], labels[a:b], mask[a:b])
    means, counts = plain_means(vectors, labels, mask)
    torch.testing.assert_close(prototypes.means, means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(prototypes.counts, counts)


def test_absent_classes_keep_their_prototype_and_reset_forgets() -> None:
    prototypes = RunningPrototypes(CLASSES, WIDTH)
    vectors, everyone = torch.ones(2, WIDTH), torch.ones(2, dtype=torch.bool)
    prototypes.update(vectors, torch.tensor([1, 1]), everyone)
    prototypes.update(5 * vectors, torch.tensor([2, 2]), everyone)
    assert prototypes.means[:, 0].tolist() == [0, 1, 5, 0]
    assert prototypes.counts.tolist() == [0, 2, 2, 0]
    prototypes.reset()
    assert (prototypes.means == 0).all()
    assert (prototypes.counts == 0).all()


def test_prototypes_are_state_without_gradient() -> None:
    prototypes = RunningPrototypes(CLASSES, WIDTH)
    vectors = torch.randn(4, WIDTH, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 3])
    prototypes.update(vectors, labels, torch.ones(4, dtype=torch.bool))
    assert not prototypes.means.requires_grad
    assert list(prototypes.state_dict()) == ["means", "counts"]
    assert list(prototypes.parameters()) == []
    hinge_distance(vectors, prototypes.means[labels], beta=0.0).sum().backward()
    expected = 2 * (vectors.detach() - prototypes.means[labels]) / WIDTH
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, expected)


def test_autocast_does_not_coarsen_the_means() -> None:
    vectors, labels, mask = draw(100)
    prototypes = RunningPrototypes(CLASSES, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        prototypes.update(vectors, labels, mask)
    torch.testing.assert_close(prototypes.means, plain_means(vectors, labels, mask)[0], rtol=1e-5, atol=1e-6)


def test_class_sums_equal_plain_loops_and_carry_gradient() -> None:
    vectors, labels, mask = draw(20)
    vectors.requires_grad_()
    sums, counts = class_sums(vectors, labels, mask, CLASSES)
    means, expected = plain_means(vectors.detach(), labels, mask)
    torch.testing.assert_close(counts, expected)
    torch.testing.assert_close(sums.detach(), means * expected[:, None])
    (gradient,) = torch.autograd.grad(sums.sum(), vectors)
    torch.testing.assert_close(gradient, mask[:, None].float().expand(-1, WIDTH))


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0])
def test_hinge_equals_plain_loops(beta: float) -> None:
    torch.manual_seed(0)
    x, prototypes = torch.randn(6, 5), torch.randn(6, 5)
    expected = [
        max(sum((float(a) - float(r)) ** 2 for a, r in zip(v, p, strict=True)) / 5 - beta, 0.0)
        for v, p in zip(x, prototypes, strict=True)
    ]
    assert hinge_distance(x, prototypes, beta).tolist() == pytest.approx(expected, abs=1e-5)


def agreement_by_loops(vectors: Tensor, present: Tensor) -> list[float]:
    result = []
    for i in range(vectors.shape[1]):
        there = [vectors[m, i] for m in range(len(vectors)) if present[m, i]]
        cosines = [
            float(a @ b / (a.norm() * b.norm()).clamp(min=1e-8)) for a, b in itertools.combinations(there, 2)
        ]
        result.append(sum(cosines) / len(cosines) if cosines else 0.0)
    return result


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), modalities=st.integers(1, 4), hidden=st.sampled_from([0.0, 0.3, 0.8]))
def test_agreement_is_the_mean_cosine_over_present_pairs(seed: int, modalities: int, hidden: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(modalities, 8, 5, generator=generator)
    present = torch.rand(modalities, 8, generator=generator) >= hidden
    psi = agreement(vectors, present)
    assert psi.tolist() == pytest.approx(agreement_by_loops(vectors, present), abs=1e-5)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_agreement_of_three_lies_between_minus_half_and_one(seed: int, width: int, scale: float) -> None:
    vectors = scale * torch.randn(3, 20, width, generator=torch.Generator().manual_seed(seed))
    psi = agreement(vectors, torch.ones(3, 20, dtype=torch.bool))
    assert psi.min() >= -0.5 - 1e-5
    assert psi.max() <= 1 + 1e-5


def test_agreement_reaches_its_bounds() -> None:
    same = torch.tensor([1.0, 2.0]).expand(3, 1, 2)
    angles = torch.tensor([0.0, 2.0, 4.0]) * torch.pi / 3
    spread = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None]
    everyone = torch.ones(3, 1, dtype=torch.bool)
    assert agreement(same, everyone).item() == pytest.approx(1, abs=1e-6)
    assert agreement(spread, everyone).item() == pytest.approx(-0.5, abs=1e-6)


def test_agreement_with_fewer_than_two_modalities_is_zero() -> None:
    vectors = torch.randn(3, 4, 5)
    present = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    assert agreement(vectors, present).abs().max() <= 1e-6


def test_zero_vectors_agree_with_nothing_and_stay_finite() -> None:
    vectors = torch.zeros(3, 2, 4, requires_grad=True)
    psi = agreement(vectors, torch.ones(3, 2, dtype=torch.bool))
    psi.sum().backward()
    assert psi.tolist() == [0, 0]
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


def test_masked_share() -> None:
    mask = torch.tensor([True, True, True, False])
    assert masked_share(torch.tensor([1.0, 0.0, 2.0, 3.0]), mask).item() == pytest.approx(2 / 3)
    assert masked_share(torch.ones(4), torch.zeros(4, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_emotion_agreement_is_the_worst_pair(modalities: int) -> None:
    generator = torch.Generator().manual_seed(modalities)
    p = torch.rand(modalities, 20, 5, generator=generator).softmax(dim=-1)
    present = torch.rand(modalities, 20, generator=generator) > 0.3
    found = emotion_agreement(p, present)
    for n in range(20):
        cosines = [
            torch.dot(p[a, n], p[b, n]) / (p[a, n].norm() * p[b, n].norm())
            for a in range(modalities)
            for b in range(a)
            if present[a, n] and present[b, n]
        ]
        expected = min(cosines) if cosines else torch.tensor(0.0)
        torch.testing.assert_close(found[n], expected)


def test_one_odd_modality_among_three_lowers_the_agreement() -> None:
    sure, odd = torch.tensor([0.98, 0.01, 0.01]), torch.tensor([0.01, 0.98, 0.01])
    present = torch.ones(3, 2, dtype=torch.bool)
    p = torch.stack([torch.stack([sure, sure]), torch.stack([sure, sure]), torch.stack([sure, odd])])
    agreeing, contradictory = emotion_agreement(p, present)
    assert agreeing > 0.99
    assert contradictory < 0.05
