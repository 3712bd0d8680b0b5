import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from mmerc.errors import MmercError
from mmerc.processes import side_by_side


def work(folder: Path, job: str) -> tuple[str, int]:
    """Die, sleep, be too slow, or note that this job was begun."""
    (folder / job).touch()
    if job == "killed":
        psutil.Process().kill()
    if job == "wrong":
        raise MmercError("wrong")
    if job == "slow":
        time.sleep(100)
    return job, torch.get_num_threads()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="an alarm interrupts")
def test_processes_that_are_killed_and_an_interruption(tmp_path: Path) -> None:
    jobs = ["one", "killed", "wrong", "two", "slow", "three"]
    iterator = side_by_side(partial(work, tmp_path), jobs, 1)
    ended = dict(next(iterator) for _ in range(4))
    assert {job: ended[job] for job in ("one", "two")} == {"one": ("one", 1), "two": ("two", 1)}
    assert isinstance(ended["killed"], MmercError)
    assert "its process was killed, twice" in str(ended["killed"])
    assert str(ended["wrong"]) == "wrong"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 10  # what ran was stopped,
    assert {p.name for p in tmp_path.iterdir()} == {*jobs} - {"three"}  # and nothing more was started


@pytest.mark.slow
def test_a_worker_that_does_not_leave_is_ended() -> None:
    code = """
import time
from mmerc.processes import _leave
try:
    _leave()
except SystemExit:
    time.sleep(60)
"""
    begin = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 1
    assert time.monotonic() - begin < 30
