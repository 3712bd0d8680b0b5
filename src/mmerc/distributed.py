"""One run in several processes, as `torchrun` starts them: what these tell each other.

Each process says something of its share of the dialogues of a batch; what all said is gathered with
`gather_rows`, and every process judges the whole. Backward, a row's gradient is the sum of what all processes
have for it. In a single process all of this is the identity.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from mmerc.errors import MmercError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)  # for the first process: it validates and writes while the others wait


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that `torchrun` started with this one; yield whether this is the first of them.

    They speak NCCL between GPUs, of which each process takes the one of its local rank, and gloo otherwise.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        yield True
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group(timeout=PATIENCE)
    try:
        yield rank() == 0
    finally:
        dist.destroy_process_group()


def processes() -> int:
    """Return how many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if processes() > 1 else 0


class _Sum(torch.autograd.Function):
    """The sum over all processes; every process makes use of it, so that gradients are summed, too."""

    @staticmethod
    def forward(ctx: FunctionCtx, values: Tensor) -> Tensor:
        result = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, which must have it in the same shape."""
    if processes() == 1:
        return values
    result: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return result


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows of all processes one after the other, and how many stand before this one's.

    Args:
        rows: (n, ...), n differs between processes
    """
    if processes() == 1:
        return rows, 0
    sizes = torch.zeros(processes(), dtype=torch.int64, device=rows.device)
    sizes[rank()] = len(rows)
    counts = total(sizes).tolist()
    before, after = sum(counts[: rank()]), sum(counts[rank() + 1 :])
    numbers = rows.byte() if rows.dtype == torch.bool else rows
    padding = [0, 0] * (rows.ndim - 1) + [before, after]
    return total(F.pad(numbers, padding)).to(rows.dtype), before


def distinct(numbers: Tensor) -> Tensor:
    """Return integers that differ between processes wherever `numbers` are those of one process alone."""
    return numbers * processes() + rank()


def from_first(say: Callable[[], T]) -> T:
    """Return, in every process, what `say()` returns in the first; an error of mmerc's is raised in all."""
    if processes() == 1:
        return say()
    answer: list[T | MmercError | None] = [None]
    if rank() == 0:
        try:
            answer = [say()]
        except MmercError as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], MmercError):
        raise answer[0]
    return answer[0]  # type: ignore[return-value]  # None only where `say` returns it
