"""Kill -9 of real commands with worker processes: of the parent, which leaves orphans, or of a worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mmerc.manifest import read_manifest
from mmerc.processes import THREADS
from studio import RECORDING, film_clips
from tiny import write, written

MOMENTS = 3  # of each victim
PATIENCE_S = 60
MMERC = (sys.executable, "-c", "from mmerc.cli.main import run; run()")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are found in /proc"),
]


def children(process: int) -> list[int]:
    """The worker processes that have begun to work (not Python's own resource tracker) below a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return found


def ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until something is there, and return it."""
    until = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < until, condition
        time.sleep(0.01)
    return found


def start(command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    environment = os.environ | dict.fromkeys(THREADS, "1")
    return subprocess.Popen(
        [*MMERC, *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(command: tuple[str, ...]) -> None:
    process = start(command)
    said = process.communicate()[1]
    assert process.returncode == 0, said.decode()


class Killed:
    """A class for each command, so that they run side by side (see `test_kills.py`)."""

    def prepare(self, place: Path) -> Callable[[Path], tuple[str, ...]]:
        """Make what the command needs; return the command for an output folder."""
        raise NotImplementedError

    def content(self, out: Path) -> Any:
        """All that must be the same in the end."""
        raise NotImplementedError

    @pytest.mark.parametrize("victim", ["parent", "worker"])
    def test_killed_in_the_midst_of_its_processes(self, victim: str, tmp_path: Path) -> None:
        command = self.prepare(tmp_path)
        whole = tmp_path / "whole"
        begin = time.monotonic()
        process = start(command(whole))
        wait_for(lambda: len(children(process.pid)) == 2)
        begun_s = time.monotonic() - begin
        said = process.communicate()[1].decode()
        assert process.returncode == 0, said
        work_s = time.monotonic() - begin - begun_s
        expected = self.content(whole)
        killed = 0
        for moment in range(MOMENTS):
            out = tmp_path / f"{victim}-{moment}"
            process = start(command(out))
            workers = wait_for(lambda process=process: (c := children(process.pid)) and len(c) == 2 and c)
            time.sleep(work_s * moment / MOMENTS)
            with suppress(ProcessLookupError):  # this time, it was faster
                os.kill(process.pid if victim == "parent" else workers[0], signal.SIGKILL)
                killed += 1
            said = process.communicate()[1].decode()
            assert "Traceback" not in said
            wait_for(lambda workers=workers: all(ended(worker) for worker in workers))
            if victim == "worker":
                assert process.returncode == 0, said  # another one did its work
                assert self.content(out) == expected
            finish(command(out))
            assert self.content(out) == expected
            assert not [p.name for p in tmp_path.glob(".*")]
        assert killed


class TestBenchmark(Killed):
    def prepare(self, place: Path) -> Callable[[Path], tuple[str, ...]]:
        corpus = write(place / "corpus").path
        runs = ("--models", "text-only,late-fusion", "--seeds", "1", "--jobs", "2", "--device", "cpu")
        tiny = ("--set", "training.epochs=10", "--set", "training.batch_size=1")
        return lambda out: ("benchmark", *runs, "--corpora", str(corpus), *tiny, "--out", str(out))

    def content(self, out: Path) -> Any:
        runs = sorted(p.parent for p in out.rglob("state.pt"))
        tables = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("test.parquet")}
        assert not list(out.rglob(".*"))
        return [written(run) for run in runs], tables


class TestExtract(Killed):
    def prepare(self, place: Path) -> Callable[[Path], tuple[str, ...]]:
        media = place / "media"
        media.mkdir()
        film_clips(media, RECORDING)
        kinds = ("--text", "none", "--jobs", "2", "--name", "talk")
        return lambda out: ("extract", str(media), *kinds, "--cache", f"{out}.sqlite", "--out", str(out))

    def content(self, out: Path) -> Any:
        manifest = read_manifest(out).model_dump(exclude={"sha256"})
        names = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
        return manifest, {name: (out / name).read_bytes() for name in names if name != "corpus.json"}
