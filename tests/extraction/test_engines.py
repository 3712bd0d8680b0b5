import os
import signal

import pytest

from mmerc.errors import MediaError, MmercError
from mmerc.extraction.engines import in_processes, in_turn


def work(job: str) -> str:
    """Shout; fail, or die."""
    if job == "bad":
        raise MediaError("bad is broken")
    if job == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return job.upper() + os.environ.get("OMP_NUM_THREADS", "")


def test_in_turn() -> None:
    ended = list(in_turn(work, ["a", "bad", "b"]))
    assert [job for job, _ in ended] == ["a", "bad", "b"]
    assert isinstance(ended[1][1], MediaError)
    assert in_processes(1) is in_turn


def test_in_turn_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(AttributeError):
        list(in_turn(work, [None]))  # type: ignore[list-item]


@pytest.mark.slow
def test_in_processes() -> None:
    ended = dict(in_processes(2)(work, ["a", "bad", "killer", "b"]))
    assert ended.keys() == {"a", "bad", "killer", "b"}
    assert (ended["a"], ended["b"]) == ("A1", "B1")
    assert str(ended["bad"]) == "bad is broken"
    assert isinstance(ended["killer"], MmercError)
