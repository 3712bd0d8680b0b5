"""What Windows lacks is nowhere used, and what is written there is the same, byte for byte.

Simulated on Linux, see `elsewhere.py`; `make check` has mypy look for names that other systems lack.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from mmerc.cli.main import run
from tiny import written

HERE = Path(__file__).parent
CHAT = HERE.parents[1] / "src/mmerc/shipped/chat.txt"
TINY = ("--device", "cpu", "--set", "training.epochs=3", "--set", "network.hidden=6")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulation needs Linux")


def commands(inputs: Path) -> list[list[str]]:
    """Corpora, a run, predictions and reports; each written once, and most a second time over the first."""
    imported = ["corpus", "import", "scripted", "--out", "corpus", "--dialogues", "9"]
    encode = ["corpus", "encode-text", "corpus", "--device", "cpu"]
    train = ["train", "text-only", "--corpus", "corpus", "--out", "run", *TINY]
    transcript = ["--transcript", str(inputs / "talk.csv")]
    extract = ["extract", str(inputs / "talk.wav"), *transcript, "--out", "talk", "--text", "none"]
    csv = ["predict", str(CHAT), "--device", "cpu", "--format", "csv", "--out", "chat.csv"]
    many = ["predict", "run", str(inputs / "chats"), "--device", "cpu", "--jobs", "1", "--out-dir", "many"]
    return [
        [*imported, "--seed", "1"],
        [*imported, "--force"],
        encode,
        [*encode, "--force"],
        ["corpus", "show", "corpus"],
        ["corpus", "seal", "corpus"],
        ["corpus", "check", "corpus", "--deep"],
        train,
        [*train, "--resume"],
        ["evaluate", "run", "--corpus", "corpus", "--json", "run.json", "--markdown", "run.md"],
        csv,
        csv,
        many,
        many,
        ["report", str(CHAT), "--device", "cpu", "--out", "page.html"],
        [*extract, "--visual", "none", "--jobs", "1", "--cache", "cache.sqlite"],
        ["corpus", "show", "talk"],
    ]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Chats, and a recording with its transcript."""
    place = tmp_path / "inputs"
    (place / "chats").mkdir(parents=True)
    (place / "chats" / "one.txt").write_text("Ann: oh no, the train is late\nZoë: great!\n", encoding="utf-8")
    t = np.arange(16_000) / 8000
    wavfile.write(place / "talk.wav", 8000, (9000 * np.sin(2 * np.pi * 180 * t)).astype(np.int16))
    (place / "talk.csv").write_text("start,end,speaker,text\n0,1,Zoë,late\n1,2,Ben,fine\n", encoding="utf-8")
    return place


def files(out: Path) -> dict[str, bytes]:
    """What was written, but for the time that a report was made at."""
    return {
        path.relative_to(out).as_posix(): re.sub(rb"<time.*?</time>", b"", path.read_bytes())
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix not in (".sqlite", ".pt")
    }


def test_commands_write_the_same_bytes_as_if_on_windows(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = (tmp_path / name for name in ("here", "there"))
    here.mkdir()
    there.mkdir()
    (tmp_path / "commands.json").write_text(json.dumps(commands(inputs)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, HERE / "elsewhere.py", tmp_path / "commands.json"],
        capture_output=True, encoding="utf-8", cwd=there, env=os.environ | {"MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(here)
    for command in commands(inputs):
        monkeypatch.setattr(sys, "argv", ["mmerc", *command])
        with pytest.raises(SystemExit) as end:
            run()
        assert not end.value.code
    assert files(there).keys() == files(here).keys()
    assert [name for name, content in files(here).items() if files(there)[name] != content] == []
    assert written(there / "run") == written(here / "run")
