from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmerc.batch import Tokens
from mmerc.features.packing import Window, lay_out, pack_windows, share_lines, split_blocks


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(9, 30))
def test_windows_are_complete_and_greedy(counts: list[int], capacity: int) -> None:
    windows = pack_windows(counts, capacity)
    assert [i for window in windows for i in window] == list(range(len(counts)))
    sums = [sum(counts[i] for i in window) for window in windows]
    assert all(len(window) for window in windows)
    assert all(total <= capacity for total in sums)
    for total, following in zip(sums, windows[1:], strict=False):
        assert total + counts[following[0]] > capacity


def test_an_utterance_longer_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="utterance 1 has 11 tokens"):
        pack_windows([3, 11], 10)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 40), max_size=15), st.integers(0, 64))
def test_windows_share_lines_as_long_as_there_is_room(lengths: list[int], capacity: int) -> None:
    lines = share_lines(lengths, capacity)
    assert sorted(i for line in lines for i in line) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in line) for line in lines]
    assert all(total <= capacity or len(line) == 1 for line, total in zip(lines, sums, strict=True))
    # No window of a later line would have fitted into an earlier one.
    for k, total in enumerate(sums):
        assert all(total + lengths[i] > capacity for line in lines[k + 1 :] for i in line)


def divisions(lengths: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Yield all ways to cut a sequence into runs."""
    for choice in range(2 ** max(0, len(lengths) - 1)):
        cuts = [0, *(i + 1 for i in range(len(lengths) - 1) if choice >> i & 1), len(lengths)]
        yield [lengths[a:b] for a, b in pairwise(cuts)]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 40))
def test_blocks_cost_as_little_as_can_be(lengths: list[int], cost: int) -> None:
    blocks = split_blocks(lengths, cost)
    assert sorted(i for block in blocks for i in block) == list(range(len(lengths)))
    found = sum(cost + len(block) * max(lengths[i] for i in block) for block in blocks)
    ways = divisions(sorted(lengths))
    assert found == min(sum(cost + len(part) * max(part) for part in way) for way in ways)


def test_nothing_makes_no_lines_and_no_blocks() -> None:
    assert (share_lines([], 64), split_blocks([])) == ([], [])


@pytest.mark.parametrize("count", [1, 50])
def test_equal_lines_make_one_block(count: int) -> None:
    assert split_blocks([9] * count) == [list(range(count))]


def test_a_line_of_two_windows() -> None:
    lines = [[Window([4], [[7, 8]]), Window([0, 1], [[5], [6]])], [Window([2], [[9]])]]
    block = lay_out(lines, prefix=[1], suffix=[2], padding=0)
    assert block.input_ids.tolist() == [[1, 7, 8, 2, 1, 5, 6, 2], [1, 9, 2, 0, 0, 0, 0, 0]]
    assert block.attention_mask.tolist() == [[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 0, 0, 0, 0, 0]]
    assert block.rows.tolist() == [[-1, 4, 4, -1, -1, 0, 1, -1], [-1, 2, *[-1] * 6]]
    assert block.positions is not None
    assert block.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 0, 0, 0, 0, 0]]
    assert lay_out(lines[1:], [1], [2], 0).positions is None
    moved = block.to(torch.device("meta"))
    assert isinstance(moved, Tokens)
    assert {x.device.type for x in moved if x is not None} == {"meta"}
