"""Kill -9 at any moment: the folder opens, the same command goes on, and the end is what it would have been.

Every command runs in a fork of this process, which has all libraries loaded, so that a moment costs tenths of
a second. Half of the moments are drawn over time, half over the file operations, where the danger is.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
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
from tiny import in_this_process, make_bert, write, written

MOMENTS = 20
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


def run(of: "Case", after_s: float | None = None, at_change: int | None = None) -> int:
    """Run the command and return its status; kill it after a time, or before a change of a file."""
    counting = at_change is not None
    root = str(of.folder.parent)
    hook = (lambda: sys.addaudithook(_count_down(root, at_change))) if counting else (lambda: None)
    return in_child(of.command, hook, after_s).status


def _count_down(root: str, left: int) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3):
            if not (arguments and str(arguments[0]).startswith(root)):
                return
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


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
    return [written(run) for run in runs], tables, [p.name for p in folder.rglob(".*")]


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


@pytest.mark.parametrize("name", ["import", "encode-text", "extract", "train", "benchmark"])
def test_killed_at_any_moment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    of = case(name, tmp_path)
    start(of)
    begin = time.perf_counter()
    assert run(of) == 0
    takes = time.perf_counter() - begin
    expected = of.content(of.folder)
    generator = np.random.default_rng(sum(map(ord, name)))
    changes = generator.permutation(40)  # of which the later ones may be after the end
    killed = 0
    for moment in range(4 * MOMENTS):
        start(of)
        after, at = (
            (float(generator.random()) * takes, None) if moment % 2 else (None, int(changes[moment // 2]))
        )
        status = run(of, after, at)
        if status == 0:
            continue
        assert status == -signal.SIGKILL
        of.opens(of.folder)
        assert run(of) == 0, (after, at)
        assert of.content(of.folder) == expected, (after, at)
        hidden = [p.name for p in of.folder.parent.rglob(".*")]
        assert not hidden, (after, at)
        killed += 1
        if killed == MOMENTS:
            break
    assert killed == MOMENTS
