"""Who measures: this process, several processes, or a cluster (`mmerc.cluster.on_cluster`)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mmerc.errors import MmercError
from mmerc.processes import side_by_side

Job = TypeVar("Job")
Result = TypeVar("Result")
Ended = Iterator[tuple[Job, Result | Exception]]


def in_turn(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Ended[Job, Result]:
    """Do the jobs in this process, one after the other."""
    for job in jobs:
        try:
            yield job, work(job)
        except MmercError as error:
            yield job, error


def in_processes(count: int) -> Callable[[Callable[[Job], Result], Sequence[Job]], Ended[Job, Result]]:
    """Return an engine of `count` processes with one thread each; a single one is this process."""
    return in_turn if count == 1 else partial(side_by_side, processes=count)
