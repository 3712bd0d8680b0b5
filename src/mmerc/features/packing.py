"""How the token ids of dialogues become blocks that an encoder reads, with little padding.

Utterances are joined into windows (spec A15), short windows share lines, and lines of like length make a
block. Only the first of these changes what an utterance's context is.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from mmerc.batch import Tokens

# Windows share a line up to so many tokens: longer lines cost more in attention than they save in padding.
LINE = 64
# About what reading one more block costs on a CPU, in tokens (docs/performance.md).
BLOCK_COST = 24


class Window(NamedTuple):
    """Consecutive utterances of one dialogue that are read at once."""

    rows: Sequence[int]  # of the utterances in it
    ids: list[list[int]]  # their tokens, none of them empty

    def shifted(self, offset: int) -> "Window":
        """Return the window with `offset` added to its rows."""
        return self._replace(rows=[row + offset for row in self.rows])


def pack_windows(counts: Sequence[int], capacity: int) -> list[range]:
    """Cut the utterances of a dialogue into windows, each taking utterances as long as they fit.

    Args:
        counts: tokens of each utterance, none above `capacity`.
        capacity: tokens that fit into a window.

    Returns:
        Consecutive ranges over the utterances.
    """
    windows: list[range] = []
    start = used = 0
    for i, count in enumerate(counts):
        if count > capacity:
            raise ValueError(f"utterance {i} has {count} tokens, a window takes {capacity}")
        if used + count > capacity:
            windows.append(range(start, i))
            start, used = i, 0
        used += count
    return [*windows, range(start, len(counts))] if counts else []


def share_lines(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put windows into lines, the longest first and each into the first line that has room for it.

    Args:
        lengths: tokens of each window; one that is longer than `capacity` gets a line of its own.
        capacity: tokens that windows may share; 0: none share a line.

    Returns:
        The windows of every line.
    """
    lines: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        line = next((k for k, free in enumerate(room) if lengths[i] <= free), len(lines))
        if line == len(lines):
            lines.append([])
            room.append(capacity)
        lines[line].append(i)
        room[line] -= lengths[i]
    return lines


def split_blocks(lengths: Sequence[int], cost: int = BLOCK_COST) -> list[list[int]]:
    """Divide lines among blocks so that padded tokens plus the cost of the blocks are as few as can be.

    Args:
        lengths: tokens of each line.
        cost: of a block, in tokens.

    Returns:
        The lines of every block, longest first.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    width = np.array([lengths[i] for i in order], dtype=np.int64)
    least = np.zeros(len(order) + 1, dtype=np.int64)  # for the first n lines
    begin = np.zeros(len(order) + 1, dtype=np.int64)  # of the last block among them
    starts = np.arange(len(order))
    for n in range(1, len(order) + 1):
        total = least[:n] + (n - starts[:n]) * width[:n] + cost
        begin[n] = total.argmin()
        least[n] = total[begin[n]]
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(int(begin[cuts[-1]]))
    return [order[a:b] for a, b in pairwise(reversed(cuts))]


def lay_out(
    lines: Sequence[Sequence[Window]], prefix: Sequence[int], suffix: Sequence[int], padding: int
) -> Tokens:
    """Add the special tokens to every window and pad the lines to the longest."""
    around = len(prefix) + len(suffix)
    widths = [sum(around + sum(map(len, window.ids)) for window in line) for line in lines]
    input_ids = np.full((len(lines), max(widths, default=0)), padding, dtype=np.int64)
    attention_mask, positions = np.zeros_like(input_ids), np.zeros_like(input_ids)
    rows = np.full_like(input_ids, -1)
    for k, line in enumerate(lines):
        start = 0
        for number, window in enumerate(line, start=1):
            body = [token for ids in window.ids for token in ids]
            stop = start + around + len(body)
            input_ids[k, start:stop] = [*prefix, *body, *suffix]
            attention_mask[k, start:stop] = number
            positions[k, start:stop] = np.arange(stop - start)
            first = start + len(prefix)
            rows[k, first : first + len(body)] = np.repeat(window.rows, [len(ids) for ids in window.ids])
            start = stop
    shared = any(len(line) > 1 for line in lines)
    return Tokens(
        torch.from_numpy(input_ids),
        torch.from_numpy(attention_mask),
        torch.from_numpy(rows),
        torch.from_numpy(positions) if shared else None,
    )
