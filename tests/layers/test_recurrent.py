import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import FullPrecision
from mmerc.layers.recurrent import (
    FlatGRU,
    FlatLSTM,
    FlatRecurrence,
    dialogue_of_row,
    neighbour_sum,
    packed_order,
    speaker_order,
)

DIALOGUES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(max_examples=40)
@given(lengths=DIALOGUES)
def test_packed_order_runs_through_time_with_the_longest_dialogue_first(lengths: list[int]) -> None:
    rows, sizes = packed_order(torch.tensor(lengths))
    starts = [sum(lengths[:b]) for b in range(len(lengths))]
    longest_first = sorted(range(len(lengths)), key=lambda b: -lengths[b])
    expected_rows, expected_sizes = [], []
    for t in range(max(lengths)):
        going = [b for b in longest_first if lengths[b] > t]
        expected_rows += [starts[b] + t for b in going]
        expected_sizes.append(len(going))
    assert rows.tolist() == expected_rows
    assert sizes.tolist() == expected_sizes


@settings(max_examples=25)
@given(lengths=DIALOGUES, layers=st.integers(1, 2), causal=st.booleans(), seed=st.integers(0, 1000))
def test_recurrences_equal_one_dialogue_at_a_time(
    lengths: list[int], layers: int, causal: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    for cell in (FlatLSTM, FlatGRU):
        flat = cell(3, 2, layers, causal=causal)
        x = torch.randn(sum(lengths), 3)
        expected = torch.cat([flat.rnn(part)[0] for part in x.split(lengths)])
        torch.testing.assert_close(flat(x, torch.tensor(lengths)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", [FlatLSTM, FlatGRU])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_and_packed_steps_are_one_recurrence(
    cell: type[FlatRecurrence], causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    flat, lengths = cell(4, 3, layers=2, causal=causal), torch.tensor([5, 1, 4, 7])
    x = torch.randn(17, 4, requires_grad=True)
    found = []
    for room in (2, 0):
        monkeypatch.setattr("mmerc.layers.recurrent.ROOM", room)
        states = flat(x, lengths)
        found.append([states, *torch.autograd.grad(states.square().sum(), [x, *flat.parameters()])])
    for block, packed in zip(*found, strict=True):
        torch.testing.assert_close(block, packed, rtol=1e-5, atol=1e-6)


def test_dialogues_of_very_unequal_length_are_not_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = []
    monkeypatch.setattr(FlatLSTM, "_in_blocks", lambda self, x, lengths: blocks.append(lengths.tolist()))
    lstm = FlatLSTM(3, 2)
    for lengths in ([4, 2], [9, 1, 1], [3]):
        lstm(torch.randn(sum(lengths), 3), torch.tensor(lengths))
    assert blocks == [[4, 2], [3]]  # [9, 1, 1] would be 27 rows for 11


def test_flat_lstm_runs_both_ways_within_a_dialogue_only() -> None:
    torch.manual_seed(0)
    flat, x = FlatLSTM(3, 2), torch.randn(5, 3, requires_grad=True)
    states = flat(x, torch.tensor([3, 2]))
    (gradient,) = torch.autograd.grad(states[1].sum(), x)
    reached = (gradient != 0).any(dim=1).tolist()
    assert reached == [True, True, True, False, False]


def test_flat_lstm_drops_between_layers_only() -> None:
    assert FlatLSTM(3, 2, layers=1, dropout=0.5).rnn.dropout == 0
    assert FlatLSTM(3, 2, layers=2, dropout=0.5).rnn.dropout == 0.5
    for layers in (1, 2):
        torch.manual_seed(0)
        flat, x, lengths = FlatLSTM(3, 2, layers, dropout=0.5), torch.randn(6, 3), torch.tensor([4, 2])
        trained = flat(x, lengths)
        assert torch.equal(trained, flat.eval()(x, lengths)) == (layers == 1)


@pytest.mark.parametrize("cell", [FlatLSTM, FlatGRU])
@pytest.mark.parametrize("lengths", [[5, 5, 5], [1, 3, 2], [2, 9, 20, 3, 1]])  # two blocks, and packed steps
def test_a_recurrence_on_a_cpu_is_in_full_precision_under_autocast(
    cell: type[FlatRecurrence], lengths: list[int]
) -> None:
    torch.manual_seed(0)
    flat, x = cell(3, 2), torch.randn(sum(lengths), 3)
    exact = flat(x, torch.tensor(lengths))
    with FullPrecision() as watched, torch.autocast("cpu", torch.bfloat16):
        found = flat(x.bfloat16(), torch.tensor(lengths)), flat(x, torch.tensor(lengths))
    assert watched.recurrences
    torch.testing.assert_close(found[0], exact, rtol=0, atol=0.02)
    torch.testing.assert_close(found[1], exact, rtol=0, atol=0)


def test_a_block_in_bfloat16_would_be_seen_on_any_processor() -> None:
    lstm, x = torch.nn.LSTM(3, 2), torch.randn(4, 1, 3)
    with pytest.raises(AssertionError, match="autocast"), FullPrecision(), torch.autocast("cpu"):
        lstm(x)
    with pytest.raises(AssertionError, match="bfloat16"), FullPrecision():
        lstm.bfloat16()(x.bfloat16())


@given(lengths=DIALOGUES)
def test_dialogue_of_row(lengths: list[int]) -> None:
    expected = [b for b, count in enumerate(lengths) for _ in range(count)]
    assert dialogue_of_row(torch.tensor(lengths)).tolist() == expected


@settings(max_examples=40)
@given(lengths=DIALOGUES)
def test_neighbour_sum_equals_plain_loops(lengths: list[int]) -> None:
    x = torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(len(lengths)))
    expected = []
    for part in x.split(lengths):
        for i in range(len(part)):
            before = part[i - 1] if i > 0 else torch.zeros(2)
            after = part[i + 1] if i + 1 < len(part) else torch.zeros(2)
            expected.append(before + after)
    torch.testing.assert_close(neighbour_sum(x, torch.tensor(lengths)), torch.stack(expected))


def test_neighbour_sum_passes_gradient_and_leaves_its_input_alone() -> None:
    x = torch.arange(8.0).reshape(4, 2).requires_grad_()
    before = x.detach().clone()
    neighbour_sum(x, torch.tensor([3, 1])).sum().backward()
    torch.testing.assert_close(x.detach(), before)
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [1, 2, 1, 0]


def test_speaker_order_groups_each_speakers_turns() -> None:
    lengths = torch.tensor([5, 1, 3])
    speakers = torch.tensor([0, 1, 0, 2, 1, 0, 0, 1, 1])
    order, counts = speaker_order(lengths, speakers)
    assert order.tolist() == [0, 2, 1, 4, 3, 5, 6, 7, 8]
    assert counts.tolist() == [2, 2, 1, 1, 1, 2]
