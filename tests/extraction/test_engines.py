import os
from pathlib import Path

import psutil
import pytest

from mmerc.errors import MediaError, MmercError
from mmerc.extraction.engines import in_processes, in_turn, on_ray


def work(job: str) -> str:
    """Shout; fail, or die."""
    if job == "bad":
        raise MediaError("bad is broken")
    if job == "killer":
        psutil.Process().kill()
    return job.upper() + os.environ.get("OMP_NUM_THREADS", "")


def test_in_turn() -> None:
    ended = list(in_turn(work, ["a", "bad", "b"]))
    assert [job for job, _ in ended] == ["a", "bad", "b"]
    assert isinstance(ended[1][1], MediaError)
    assert in_processes(1) is in_turn


def test_in_turn_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(AttributeError):
        list(in_turn(work, [None]))


@pytest.mark.slow
def test_in_processes() -> None:
    ended = dict(in_processes(2)(work, ["a", "bad", "killer", "b"]))
    assert ended.keys() == {"a", "bad", "killer", "b"}
    assert (ended["a"], ended["b"]) == ("A1", "B1")
    assert str(ended["bad"]) == "bad is broken"
    assert isinstance(ended["killer"], MmercError)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_on_ray() -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    here = str(Path(__file__).parent)
    ray.init(
        num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )  # fmt: skip
    try:
        jobs = ["a", "bad", "killer", "b", *map(str, range(20))]
        ended = list(on_ray(work, jobs))
    finally:
        ray.shutdown()
    assert sorted(job for job, _ in ended) == sorted(jobs)  # each once
    found = dict(ended)
    assert all(found[job] == job.upper() + "1" for job in jobs if job not in ("bad", "killer"))
    assert str(found["bad"]) == "bad is broken"
    assert "its worker died" in str(found["killer"])


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MmercError, match=r'pip install "mmerc\[ray\]"'):
        list(on_ray(work, ["a"]))
