"""Disks that are full or closed, inputs that vanish, a clock that goes backwards: nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from forks import Ended, in_child

from mmerc.corpora.checking import check
from mmerc.corpus import Corpus
from mmerc.errors import CorpusError, TrainingError
from mmerc.training import Listener, train
from tiny import config, in_this_process, make_bert, task, write, written

pytestmark = pytest.mark.slow

TINY = ("--device", "cpu", "--set", "training.epochs=3", "--set", "network.hidden=6")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder whose parents anyone may enter, unlike pytest's."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes of a disk."""
    free = shutil.disk_usage(disk).free
    ballast = disk / "ballast"
    ballast.write_bytes(b"x" * (free - leave))
    return ballast


def assert_one_line(said: str, *words: str) -> None:
    """One error, which may follow notes of what was done so far."""
    assert "Traceback" not in said
    assert len(re.findall("^error: ", said, re.MULTILINE)) == 1
    assert all(word in said for word in words), said


def drop_rights() -> None:
    if os.geteuid() == 0:
        os.setuid(65534)


# Full disks


def test_a_full_disk_while_importing(small_disk: Path) -> None:
    command = ("corpus", "import", "scripted", "--out", str(small_disk / "c"), "--dialogues", "20")
    for leave in (0, 4_096, 40_960):
        ballast = fill(small_disk, leave)
        ended = in_child(command)
        assert ended.status == 2, leave
        assert_one_line(ended.said, "No space left on device")
        assert sorted(p.name for p in small_disk.iterdir()) == ["ballast"]
        ballast.unlink()
    assert in_child(command).status == 0
    Corpus.open(small_disk / "c")


def test_a_full_disk_while_adding_features(small_disk: Path, tmp_path: Path) -> None:
    corpus = write(small_disk / "c")
    before = corpus.manifest
    bert = str(make_bert(tmp_path / "bert"))
    command = ("corpus", "encode-text", str(corpus.path), "--encoder", bert, "--force", "--device", "cpu")
    ballast = fill(small_disk, 0)
    ended = in_child(command)
    assert ended.status == 2
    assert_one_line(ended.said, "No space left on device")
    assert Corpus.open(corpus.path).manifest == before
    assert not [p for p in check(corpus, deep=True) if p.severity == "error"]
    ballast.unlink()
    assert in_child(command).status == 0


def test_a_full_disk_while_training(small_disk: Path, tmp_path: Path) -> None:
    corpus = str(write(tmp_path / "c").path)
    command = ("train", "text-only", "--corpus", corpus, "--resume", *TINY)
    for leave in (0, 8_192, 24_576):
        ballast = fill(small_disk, leave)
        ended = in_child((*command, "--out", str(small_disk / "run")))
        assert ended.status == 2
        assert_one_line(ended.said)
        assert re.search("No space left on device|make room on the disk", ended.said)
        ballast.unlink()
    assert in_child((*command, "--out", str(small_disk / "run"))).status == 0
    assert in_child((*command, "--out", str(tmp_path / "whole"))).status == 0
    assert written(small_disk / "run") == written(tmp_path / "whole")


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    corpus = str(write(tmp_path / "c").path)
    command = ("train", "text-only", "--corpus", corpus, "--resume", "--out", str(tmp_path / "run"), *TINY)

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))

    ended = in_child(command, limit)
    assert ended.status == 2
    assert_one_line(ended.said)
    assert in_child(command).status == 0


# What writes results: on a full disk, on a read-only one, and over results that are there

RESULTS = {
    "report": ("report", "meld-text", "{chat}", "--out", "{out}/page.html"),
    "export": ("export", "onnx", "{run}", "--out", "{out}/model.onnx"),
    "evaluate": (
        *("evaluate", "{run}", "--corpus", "{corpus}", "--device", "cpu"),
        *("--json", "{out}/scores.json", "--markdown", "{out}/scores.md"),
    ),
    "analyze": ("analyze", "{run}", "--corpus", "{corpus}", "--out", "{out}/figures", "--device", "cpu"),
    "sweep": (
        *("sweep", "--models", "text-only", "--corpora", "{corpus}", "--grid", "training.epochs=1,2"),
        *("--jobs", "1", "--out", "{out}/study", *TINY[:2], *TINY[4:]),
    ),
    "ablate": (
        *("ablate", "--tables", "missing", "--models", "late-fusion", "--corpora", "{corpus}"),
        *(
            "--seeds",
            "1",
            "--jobs",
            "1",
            "--out",
            "{out}/study",
            *TINY,
            *("--set", "network.context_hidden=4"),
        ),
    ),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A corpus, a run on it, and a chat."""
    place = tmp_path_factory.mktemp("inputs")
    corpus = write(place / "corpus")
    train(task(corpus, config(epochs=1)), place / "run")
    (place / "chat.txt").write_text("Ann: great, here it is!\nBen: oh no, it is late\n", encoding="utf-8")
    return {"corpus": str(corpus.path), "run": str(place / "run"), "chat": str(place / "chat.txt")}


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RESULTS)
def test_results_on_a_full_disk_and_on_a_closed_one(
    name: str, small_disk: Path, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    out = small_disk / "out"
    out.mkdir()
    command = tuple(part.format(out=out, **inputs) for part in RESULTS[name])
    ballast = fill(small_disk, 0)
    assert_refused(in_child(command), "No space left on device|make room on the disk")
    ballast.unlink()
    assert in_child(command).status == 0
    before = files(out)
    assert before
    ballast = fill(small_disk, 0)
    assert_refused(in_child(command), "No space left on device")
    assert files(out) == before
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert_refused(in_child(command), "Read-only file system|may not be written to by you")
    assert files(out) == before


def assert_refused(ended: Ended, reason: str) -> None:
    """One error, which may follow notes of what was done so far."""
    assert ended.status == 2, ended.said
    assert "Traceback" not in ended.said
    assert len(re.findall("^error: ", ended.said, re.MULTILINE)) == 1
    assert re.search(reason, ended.said), ended.said


# Closed folders


def test_closed_folders(open_folder: Path) -> None:
    corpus = write(open_folder / "c").path
    closed = open_folder / "closed"
    closed.mkdir(mode=0o555)
    for command in (
        ("corpus", "import", "scripted", "--out", str(closed / "c")),
        ("train", "text-only", "--corpus", str(corpus), "--out", str(closed / "run"), *TINY),
        ("corpus", "seal", str(corpus)),
    ):
        ended = in_child(command, drop_rights)
        assert ended.status == 2, command
        assert_one_line(ended.said, "cannot be written")
    assert list(closed.iterdir()) == []
    assert in_child(("corpus", "check", "--deep", str(corpus)), drop_rights).status == 0  # reading is free


# Inputs that vanish


class Removing(Listener):
    """Removes a file after the first epoch."""

    def __init__(self, remove: Callable[[], object]) -> None:
        self.remove = remove

    def epoch(self, record: dict[str, object]) -> None:
        if record["epoch"] == 1:
            self.remove()


def test_features_that_vanish_while_a_run_trains(tmp_path: Path) -> None:
    corpus, run = write(tmp_path / "c"), config(epochs=3)
    train(task(corpus, run), tmp_path / "whole")
    gone = corpus.path / "features" / "text.safetensors"
    train(task(corpus, run), tmp_path / "run", listener=Removing(gone.unlink))  # mapped, it is still there
    assert written(tmp_path / "run") == written(tmp_path / "whole")
    with pytest.raises(CorpusError, match=r"text\.safetensors is missing"):
        train(task(Corpus.open(corpus.path), run), tmp_path / "run", resume=True)


def test_a_run_whose_folder_vanishes_ends_in_one_line_or_makes_it_again(tmp_path: Path) -> None:
    corpus, run = write(tmp_path / "c"), config(epochs=3)
    train(task(corpus, run), tmp_path / "run", listener=Removing(lambda: shutil.rmtree(tmp_path / "run")))
    train(task(corpus, run), tmp_path / "whole")
    assert written(tmp_path / "run") == written(tmp_path / "whole")


@pytest.mark.parametrize("gone", ["corpus.json", "utterances.parquet", "features/text.safetensors"])
def test_inputs_that_are_gone_are_named(tmp_path: Path, gone: str) -> None:
    corpus = write(tmp_path / "c").path
    (corpus / gone).unlink()
    ended = in_child(("train", "text-only", "--corpus", str(corpus), "--out", str(tmp_path / "run"), *TINY))
    assert ended.status == 2
    assert_one_line(ended.said, gone)


# Clocks


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, run = write(tmp_path / "c"), config(epochs=3)
    train(task(corpus, run), tmp_path / "whole")

    class Interrupted(BaseException):
        pass

    class Stopping(Listener):
        def epoch(self, record: dict[str, object]) -> None:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(task(corpus, run), tmp_path / "run", listener=Stopping())
    backwards = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    future = time.monotonic() + 10**9
    for path in [*corpus.path.rglob("*"), *(tmp_path / "run").rglob("*")]:
        os.utime(path, (future, future))
    (tmp_path / "run" / ".lock").write_text(
        json.dumps({"pid": 1, "host": "x", "since": "2999-01-01"}), encoding="utf-8"
    )
    train(task(Corpus.open(corpus.path), run), tmp_path / "run", resume=True)
    assert written(tmp_path / "run") == written(tmp_path / "whole")
    with pytest.raises(TrainingError, match="already holds a run"):
        train(task(corpus, run), tmp_path / "run")
