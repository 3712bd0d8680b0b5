"""Kill -9 at any moment: the folder opens, the same command goes on, and the end is what it would have been.

Every command runs in a fork of this process, which has all libraries loaded, so that a moment costs tenths of
a second. There are 100 moments for each command, in shards: half (where a command changes fewer files, less)
before the n-th change of a file, where the danger is, the others drawn over time. What is drawn follows from
`SEED` and the shard, and a failure names its moment. To draw shard 3 of train again:
`pytest -m slow "tests/reliability/test_kills.py::TestTrain::test_killed_at_any_moment[3]"`.
"""

import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from forks import in_child
from scipy.io import wavfile

from mmerc.checkpoint import load_checkpoint
from mmerc.corpora.checking import check
from mmerc.corpus import Corpus
from mmerc.manifest import read_manifest
from mmerc.storage import LOCK
from tiny import in_this_process, make_bert, write, written

SEED = 2026
SHARDS, MOMENTS = 5, 20  # of a command; of a shard
# What changes files; libraries in C write without these events, and the moments in time are for them.
CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
    "sqlite3.connect",
)
TINY = ("--device", "cpu", "--set", "training.epochs=4", "--set", "training.batch_size=4")
NETWORK = ("--set", "network.hidden=6")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


class Case(NamedTuple):
    """A command, the folder it works on, how the folder starts, and how it is looked at."""

    command: tuple[str, ...]
    folder: Path
    before: Path | None
    opens: Callable[[Path], None]
    content: Callable[[Path], Any]


class Moment(NamedTuple):
    """When a command is killed: before its n-th change of a file, or after so many seconds."""

    change: int | None = None
    after_s: float | None = None


def run(of: "Case", moment: Moment | None = None) -> int:
    """Run the command and return its status; kill it at a moment."""
    change, after_s = moment or Moment()
    if change is None:
        return in_child(of.command, after_s=after_s).status

    def die(number: int) -> None:
        if number == change:
            os.kill(os.getpid(), signal.SIGKILL)

    return in_child(of.command, lambda: at_changes(of, die)).status


def changes_of(of: "Case") -> int:
    """Run the command and return how many changes it makes."""
    with tempfile.TemporaryFile() as note:
        count = lambda number: os.pwrite(note.fileno(), b"%d" % (number + 1), 0)  # noqa: E731
        assert in_child(of.command, lambda: at_changes(of, count)).status == 0
        note.seek(0)
        return int(note.read())


def at_changes(of: "Case", call: Callable[[int], object]) -> None:
    """Have `call(0)`, `call(1)`, … called before each change of a file in this process."""
    root, numbers = str(of.folder.parent), itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in CHANGES or (
            event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & 3)
        )
        if changes and arguments and str(arguments[0]).startswith(root):
            call(next(numbers))

    sys.addaudithook(hook)


def moments(shard: int, changes: int, takes_s: float) -> Iterator[Moment]:
    """Draw the moments of a shard, without end; no two shards have the same change."""
    order = np.random.default_rng(SEED).permutation(changes)[shard::SHARDS][: MOMENTS // 2]
    yield from (Moment(change=int(number)) for number in order)
    over_time = np.random.default_rng([SEED, shard])
    while True:
        yield Moment(after_s=float(over_time.random()) * takes_s)


def opens_as_corpus(folder: Path) -> None:
    if (folder / "corpus.json").exists():
        assert not [p for p in check(Corpus.open(folder), deep=True) if "damaged" in p.message]


def opens_as_one_of_two(folder: Path) -> None:
    assert Corpus.open(folder).name == "scripted"
    opens_as_corpus(folder)


def opens_as_run(folder: Path) -> None:
    for path in folder.rglob("checkpoint.json"):
        load_checkpoint(path.parent)


def corpus_content(folder: Path) -> Any:
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    manifest = read_manifest(folder).model_dump(exclude={"sha256"})
    return manifest, {name: (folder / name).read_bytes() for name in names if name != "corpus.json"}


def runs_content(folder: Path) -> Any:
    runs = sorted(p.parent for p in folder.rglob("state.pt"))
    tables = {p.name: p.read_bytes() for p in folder.rglob("test.parquet")}
    return [written(run) for run in runs], tables


def sound(folder: Path) -> tuple[Path, Path]:
    """A recording of three tones, and who says what when."""
    folder.mkdir()
    rate = 16_000
    t = np.arange(4 * rate) / rate
    tones = np.where((t % 1.3) < 1.0, np.sin(2 * np.pi * (150 + 50 * np.floor(t)) * t), 0)
    wavfile.write(folder / "talk.wav", rate, (9000 * tones).astype(np.int16))
    table = pd.DataFrame(
        {
            "start": [0.0, 1.3, 2.6],
            "end": [1.0, 2.3, 3.6],
            "speaker": ["A", "B", "A"],
            "text": ["late", "fine", "no"],
        }
    )
    table.to_csv(folder / "talk.csv", index=False)
    return folder / "talk.wav", folder / "talk.csv"


def case(name: str, root: Path) -> Case:
    here = root / "work" / "folder"
    here.parent.mkdir()
    if name == "import":
        scripted = ("corpus", "import", "scripted", "--dialogues", "12", "--force", "--out")
        assert in_child((*scripted, str(root / "old"), "--seed", "1")).status == 0
        return Case((*scripted, str(here)), here, root / "old", opens_as_one_of_two, corpus_content)
    if name == "extract":
        recording, transcript = sound(root / "media")
        command = ("extract", str(recording), "--transcript", str(transcript), "--out", str(here))
        options = (
            "--text",
            "none",
            "--visual",
            "none",
            "--jobs",
            "1",
            "--cache",
            str(here.parent / "c.sqlite"),
        )
        return Case((*command, *options), here, None, opens_as_corpus, corpus_content)
    corpus = write(root / "corpus").path
    if name == "encode-text":
        bert = str(make_bert(root / "bert"))
        command = ("corpus", "encode-text", str(here), "--encoder", bert, "--device", "cpu", "--force")
        return Case(command, here, corpus, opens_as_corpus, corpus_content)
    if name == "train":
        command = (
            "train",
            "text-only",
            "--corpus",
            str(corpus),
            "--out",
            str(here),
            "--resume",
            *TINY,
            *NETWORK,
        )
        return Case(command, here, None, opens_as_run, runs_content)
    models = ("--models", "text-only,late-fusion", "--seeds", "1", "--jobs", "1")
    command = ("benchmark", *models, "--corpora", str(corpus), "--out", str(here), *TINY)
    return Case(command, here, None, opens_as_run, runs_content)


def start(of: Case) -> None:
    shutil.rmtree(of.folder.parent)
    of.folder.parent.mkdir()
    if of.before:
        shutil.copytree(of.before, of.folder)


class Killed:
    """A class for each command: pytest-xdist spreads classes over its processes, but not the tests of one."""

    name: str

    @pytest.mark.parametrize("shard", range(SHARDS))
    def test_killed_at_any_moment(self, shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
        monkeypatch.setattr("mmerc.training.git_commit", lambda: None)  # three processes for each checkpoint
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
        of = case(self.name, tmp_path)
        start(of)
        changes = changes_of(of)
        expected = of.content(of.folder)
        start(of)
        begin = time.perf_counter()
        assert run(of) == 0
        drawn = moments(shard, changes, time.perf_counter() - begin)
        killed = 0
        for moment in itertools.islice(drawn, 4 * MOMENTS):
            start(of)
            status = run(of, moment)
            if status == 0 and moment.change is None:
                continue  # it was faster this time
            said = f"seed {SEED}, shard {shard}: {moment}"
            assert status == -signal.SIGKILL, said
            of.opens(of.folder)
            assert run(of) == 0, said
            assert of.content(of.folder) == expected, said
            # Killed as the very last thing, a finished run keeps its lock, which locks nothing.
            assert not [p.name for p in of.folder.parent.rglob(".*") if p.name != LOCK], said
            killed += 1
            if killed == MOMENTS:
                break
        assert killed == MOMENTS


class TestImport(Killed):
    name = "import"


class TestEncodeText(Killed):
    name = "encode-text"


class TestExtract(Killed):
    name = "extract"


class TestTrain(Killed):
    name = "train"


class TestBenchmark(Killed):
    name = "benchmark"
