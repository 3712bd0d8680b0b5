"""Who does the work: this process, several processes, or a Ray cluster."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from mmerc.errors import FeatureError, MmercError
from mmerc.extras import needed
from mmerc.processes import THREADS, side_by_side

Job = TypeVar("Job")
Result = TypeVar("Result")
Ended = Iterator[tuple[Job, Result | Exception]]

BLOCKS_PER_CORE = 8  # so that the cores end at about the same time


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


def on_ray(work: Callable[[Job], Result], jobs: Sequence[Job]) -> Ended[Job, Result]:
    """Do the jobs on a Ray cluster, with Ray Data: that of `RAY_ADDRESS`, or one on this machine.

    The machines need mmerc and the media files under the same paths. A worker that dies is replaced, and its
    jobs are done again, one by one; a job that kills its worker again is given up.

    Raises:
        FeatureError: Ray is not installed.
    """
    with needed("the engine `ray`", "mmerc[ray]", FeatureError):
        import ray
        from ray.data import DataContext
    if not jobs:
        return
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # what a dead worker takes along does not stop the rest
    cores = int(ray.cluster_resources().get("CPU", 1))
    left = dict(enumerate(jobs))
    for blocks in (BLOCKS_PER_CORE * cores, len(jobs)):
        for number, result in _ray_results(work, left, min(blocks, len(left))):
            yield left.pop(number), result
        if not left:
            return
    for job in left.values():
        yield job, MmercError("its worker died, three times: is there enough memory?")


def _ray_results(
    work: Callable[[Job], Result], jobs: dict[int, Job], blocks: int
) -> Iterator[tuple[int, Result | Exception]]:
    from ray import data

    items = [{"number": number, "job": job} for number, job in jobs.items()]
    environment = {"env_vars": dict.fromkeys(THREADS, "1")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of max_retries, which Ray 2.64 is to take away without a successor
        done = data.from_items(items, override_num_blocks=blocks).map(
            partial(_one, work), num_cpus=1, max_retries=1, runtime_env=environment
        )
    for row in done.iter_rows():
        yield int(row["number"]), row["result"]


def _one(work: Callable[[Any], Any], row: dict[str, Any]) -> dict[str, Any]:
    ended = next(iter(in_turn(work, [row["job"]])))
    return {"number": row["number"], "result": ended[1]}
