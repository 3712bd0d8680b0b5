import itertools

import pytest
import torch

from mmerc.layers.shift import ShiftBalance, ShiftPairs, dialogue_pairs


@pytest.mark.parametrize("lengths", [[1], [3, 1, 2], [2, 2], [1, 1, 4]])
def test_pairs_are_all_ordered_pairs_of_each_dialogue(lengths: list[int]) -> None:
    expected, start = [], 0
    for length in lengths:
        expected += itertools.product(range(start, start + length), repeat=2)
        start += length
    i, j = dialogue_pairs(torch.tensor(lengths))
    assert [*zip(i.tolist(), j.tolist(), strict=True)] == expected


def test_logits_are_those_of_a_net_on_both_vectors_in_a_row() -> None:
    torch.manual_seed(0)
    task = ShiftPairs(4, 5, 0.0)
    h, other = torch.randn(6, 4), torch.randn(6, 4)
    i, j = dialogue_pairs(torch.tensor([2, 4]))
    joined = torch.cat([task.first.weight, task.second.weight], dim=1)
    logits = task(h, other, i, j)
    for row, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        inner = joined @ torch.cat([h[a], other[b]]) + task.first.bias
        expected = task.out.weight @ inner.clamp(min=0) + task.out.bias
        torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-6)


def test_a_pair_is_not_judged_as_its_mirror_image_is() -> None:
    torch.manual_seed(0)
    task, h = ShiftPairs(4, 5, 0.0), torch.randn(3, 4)
    logits = task(h, h, *dialogue_pairs(torch.tensor([3]))).view(3, 3, 2)
    assert (logits - logits.transpose(0, 1))[0, 1].abs().max() > 1e-3


def test_balance_counts_what_it_has_seen() -> None:
    balance = ShiftBalance()
    assert balance.rho().item() == 0.5
    assert balance().tolist() == [1.0, 1.0]
    mask = torch.tensor([True, True, False, True])
    balance.update(torch.tensor([0, 1, 1, 1]), mask)
    assert balance.counts.tolist() == [1, 2]
    assert balance.rho().item() == pytest.approx(2 / 3)
    assert balance().tolist() == pytest.approx([1.5, 0.75])
    balance.update(torch.tensor([0, 0, 0, 0]), mask)
    assert balance().tolist() == pytest.approx([0.75, 1.5])


def test_one_kind_of_pairs_alone_has_finite_weights() -> None:
    balance = ShiftBalance()
    balance.update(torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.bool))
    assert balance().isfinite().all()
    assert balance()[0] == 0.5


def test_a_fixed_share_gives_fixed_weights() -> None:
    balance = ShiftBalance(0.4)
    balance.update(torch.tensor([1, 1]), torch.tensor([True, True]))
    assert balance().tolist() == pytest.approx([1 / 1.2, 1 / 0.8])


def test_counts_are_integers_that_a_checkpoint_keeps() -> None:
    # Integers, so that averaging the weights over the steps copies them (training.ema_decay).
    assert {k: v.dtype for k, v in ShiftBalance().state_dict().items()} == {"counts": torch.int64}
