"""Work on many machines: the twin of `mmerc.processes` on a Ray cluster."""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mmerc.errors import ConfigError, MmercError
from mmerc.extras import needed
from mmerc.processes import THREADS

Job = TypeVar("Job")
Result = TypeVar("Result")

RETRIES = 3  # of a job whose worker died
SUBMITTED = 1000  # tasks that Ray knows of at a time: to wait for one of many takes long


def on_cluster(
    work: Callable[[Job], Result], jobs: Sequence[Job], gpus: float = 0
) -> Iterator[tuple[Job, Result | Exception]]:
    """Do `work(job)` as tasks of one core each; yield each job as it ends, with its result or error.

    The cluster is that of `RAY_ADDRESS`, or one on this machine. Its machines need mmerc, and the files under
    the same paths. A job whose worker or machine dies is done again elsewhere. When the iterator is closed,
    or interrupted, what runs is stopped and no further job is started.

    Args:
        work: what to do; it is sent to the workers, as the jobs are
        jobs: each is done once
        gpus: share of a GPU that each job is given

    Raises:
        ConfigError: Ray is not installed, or the cluster cannot be reached or has no GPU.
    """
    if not jobs:
        return
    ray = _connected(gpus)
    task = ray.remote(_do).options(
        num_cpus=1,
        num_gpus=gpus,
        max_retries=RETRIES,
        runtime_env={"env_vars": dict.fromkeys(THREADS, "1")},
    )
    shared = ray.put((work, Path.cwd()))
    waiting = iter(jobs)
    running: dict[Any, Job] = {}
    try:
        while True:
            running |= {task.remote(shared, job): job for job in islice(waiting, SUBMITTED - len(running))}
            if not running:
                return
            for reference in ray.wait(list(running), num_returns=1)[0]:
                yield running.pop(reference), _result(ray, reference)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _do(shared: tuple[Callable[[Any], Any], Path], job: Any) -> Any:
    """Do a job as if in the folder of the one who asked for it, so that relative paths mean the same."""
    work, folder = shared
    if not folder.is_dir():
        raise MmercError(
            f"{socket.gethostname()} has no folder {folder}: the machines of a cluster need the same paths"
        )
    with contextlib.chdir(folder):
        return work(job)


def _connected(gpus: float) -> Any:
    """Return Ray, connected."""
    with needed("the engine `ray`", "mmerc[ray]"):
        import ray
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"the Ray cluster of RAY_ADDRESS cannot be reached: {error}") from None
    if ray.cluster_resources().get("GPU", 0) < gpus:
        raise ConfigError("the Ray cluster has no GPU to share: leave --gpus out")
    return ray


def _result(ray: Any, reference: Any) -> Any:
    """Return a job's result or error; a task's own error comes as it was raised."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        return MmercError(f"its worker died, {RETRIES + 1} times ({reason}): is there enough memory?")
