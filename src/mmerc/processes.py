"""Work in one thread, and in several processes of one thread each, which survive that one is killed."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from threading import Thread, Timer
from typing import TypeVar

from threadpoolctl import threadpool_limits

from mmerc.errors import MmercError
from mmerc.system import interrupts_held_back

Job = TypeVar("Job")
Result = TypeVar("Result")

# Where numpy, torch and OpenCV read how many threads they may use.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def side_by_side(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Iterator[tuple[Job, Result | Exception]]:
    """Do `work(job)` in processes of one thread each; yield each job as it ends, with its result or error.

    A process that is killed (by the system, when memory runs out) takes its pool along. The jobs that were
    running are then tried again one by one, the others go on side by side as before. When the iterator is
    closed, or interrupted, what runs is stopped and no further job is started.
    """
    left = list(jobs)
    while left:
        suspects, left = yield from _pool(work, left, processes)
        for job in suspects:
            killed, _ = yield from _pool(work, [job], 1)
            if killed:
                reason = "its process was killed, twice: is there enough memory? try fewer --jobs"
                yield job, MmercError(reason)


def _pool(
    work: Callable[[Job], Result], jobs: Sequence[Job], processes: int
) -> Generator[tuple[Job, Result | Exception], None, tuple[list[Job], list[Job]]]:
    """Yield finished jobs; return those that went down with a killed process, and those never started."""
    waiting = deque(jobs)
    running: dict[Future[Result], Job] = {}
    down: list[Job] = []
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, _prepare_process)
    try:
        while running or (waiting and not down):
            # No more than run at once: what is submitted cannot be called back any more.
            while waiting and not down and len(running) < processes:
                job = waiting.popleft()
                try:
                    with interrupts_held_back():  # a process would hear Ctrl-C while it imports
                        running[pool.submit(work, job)] = job
                except BrokenProcessPool:
                    down.append(job)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, error = running.pop(future), future.exception()
                if isinstance(error, BrokenProcessPool | SystemExit):
                    down.append(job)
                else:
                    yield job, error if isinstance(error, Exception) else future.result()
    finally:
        for process in set(multiprocessing.active_children()) - others if running else ():
            process.terminate()
        pool.shutdown()
    return down, list(waiting)


def _prepare_process() -> None:
    os.environ.update(dict.fromkeys(THREADS, "1"))  # for the libraries that are still to be loaded
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, too, and stops its processes
    signal.signal(signal.SIGTERM, _leave)
    if parent := multiprocessing.parent_process():
        Thread(target=_end_with, args=[parent], daemon=True).start()


def _leave(*_: object) -> None:
    end = Timer(2, os._exit, [1])  # whatever else it is given to do
    end.daemon = True
    end.start()
    sys.exit(1)  # an exception: what is half written is removed


def _end_with(parent: BaseProcess) -> None:
    """End this process when its parent is gone: killed, it cannot say so any more."""
    parent.join()
    os._exit(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: on a busy machine, threads of small networks mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
