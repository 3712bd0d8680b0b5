"""What people expect of any command: help, version, streams, numbers of turns, checks of outputs, Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmerc as package
from mmerc.cli import progress
from mmerc.cli.main import program
from mmerc.corpus import Corpus
from mmerc.recognizer import load
from mmerc.training import train
from tiny import config, task

Command = Callable[..., tuple[int, str, str]]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals are others on Windows")
MMERC = (sys.executable, "-m", "mmerc")
CHAT = "Ann: oh no, the train is late\nBen: great\n"
LONG = "never ends " * 200


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


ALL = list(commands(program()))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("late-fusion", epochs=1)), out)
    return out


@pytest.fixture
def talk(corpus: Corpus, tmp_path: Path) -> Path:
    """A conversation with vectors, so that no encoder is loaded."""
    rows = [
        {
            "text": text,
            "speaker": "Ann",
            "features": {m: [0.5] * x.width for m, x in corpus.modalities.items()},
        }
        for text in ("oh no", LONG)
    ]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def stdin(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    raw = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


# Help


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_is_plain_and_fits(
    mmerc: Command, monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, short, _ = mmerc(*path, "-h")
    assert code == 0
    assert mmerc(*path, "--help")[1] == short
    assert all(len(line) <= 80 for line in short.splitlines())
    assert not re.search(r"<\w|list\[|Path\b|None\b|\{", short.replace("{old: new}", ""))
    listed = short.partition("\nCommands:\n")[2]
    assert "..." not in listed  # the first line says what the command does, and is not cut
    assert "--verbose" in short
    assert "--quiet" in short


def test_the_version(mmerc: Command) -> None:
    assert mmerc("--version") == (0, f"mmerc {package.__version__}\n", "")


def test_as_a_module_and_without_anything_heavy() -> None:
    heavy = ["torch", "transformers", "pandas", "sklearn", "pyarrow"]
    script = (
        "import runpy, sys; sys.argv = ['mmerc', '--version']\n"
        "try: runpy.run_module('mmerc', run_name='__main__')\n"
        f"except SystemExit as end: print(end.code, [m for m in {heavy} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == f"mmerc {package.__version__}\n0 []\n"


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, count: int) -> list[str]:
        asked = {"_MMERC_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        found = subprocess.run(
            MMERC, capture_output=True, text=True, env={**os.environ, **asked}, check=False
        )
        return found.stdout.split()

    assert completed("mmerc pre", 1) == ["predict"]
    assert completed("mmerc predict --format j", 3) == ["json"]
    assert {"--out", "--verbose"} <= set(completed("mmerc train --", 2))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "no such command 'trian'. Did you mean 'train'"),
        (["train"], "missing argument 'MODEL' (see mmerc train -h)"),
        (["predict", "x", "--formt", "json"], "no such option: --formt"),
        (["predict", "x", "--format", "yaml"], "'--format'"),
        (["train", "df-erc", "--corpus", "x", "--out", "y", "--seeds", "0"], "'--seeds'"),
        (["predict", "no-such-chat.txt"], "no-such-chat.txt does not exist"),
        (["predict", "meld-text"], "name a conversation, too"),
        (["predict", "-", "--out-dir", "x"], "which --out-dir does not read"),
        (["predict", "-", "--transcript", "x.srt"], "a recording is not read from standard input"),
        (["predict", "x", "--format", "json", "--out", "-"], "would be a file of that name"),
        (["corpus", "show", "no-such-corpus"], "no-such-corpus is not a corpus folder"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(mmerc: Command, arguments: list[str], said: str) -> None:
    code, out, err = mmerc(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err


# Outputs


OUTPUTS = {
    "file": [
        "predict x --format json --out", "predict x --html", "report x --out", "export onnx x --out",
        "export onnx x --out y --text-encoder", "evaluate x --corpus y --json",
        "evaluate x --corpus y --markdown", "sweep --models x --corpora y --out z --best",
    ],
    "folder": [
        "predict x --out-dir", "train x --corpus y --out", "analyze x --corpus y --out", "demo --out",
        "benchmark --models x --corpora y --out", "ablate --corpora y --out", "transfer --corpora y --out",
        "sweep --models x --corpora y --out", "extract x --out", "corpus import meld x --out",
        "corpus import table x --out", "corpus import pickle x --out", "corpus import scripted --out",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "command"), [(k, c) for k, commands in OUTPUTS.items() for c in commands])
def test_outputs_are_looked_at_before_the_work(
    mmerc: Command, tmp_path: Path, kind: str, command: str
) -> None:
    (tmp_path / "file").touch()
    wrong = {"file": (tmp_path, "is a folder: name a file"), "folder": (tmp_path / "file", "is a file: name")}
    for path, said in (wrong[kind], (tmp_path / "file" / "below" / "x", "file is a file, not a folder")):
        code, _, err = mmerc(*command.split(), path)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1
        assert "no such" not in err  # that x does not exist comes after


def test_no_input_is_overwritten(mmerc: Command, trained: Path, talk: Path) -> None:
    before = talk.read_bytes()
    for words in (
        ("predict", trained, talk, "--format", "json", "--out", talk),
        ("predict", trained, talk, "--html", talk),
        ("report", trained, talk, "--out", talk.parent / "." / talk.name),
        ("evaluate", trained, "--corpus", "x", "--json", "same", "--markdown", "same"),
    ):
        assert "is read or written already" in mmerc(*words)[2]
    assert talk.read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(mmerc: Command, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "may not be written to" in mmerc("predict", "x", "--out-dir", tmp_path / "closed" / "new")[2]


# Streams


def test_what_is_redirected_is_whole(mmerc: Command, trained: Path, talk: Path) -> None:
    _, out, _ = mmerc("predict", trained, talk)
    assert LONG.strip() in out
    assert [line.split()[0] for line in out.splitlines() if " Ann " in line] == ["1", "2"]


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ((), ["used:"]),
        (("-q",), []),
        (("--verbose",), ["computing on", "checkpoint", "loaded in", "read as", "used:"]),
    ],
)
@pytest.mark.parametrize("behind", [True, False])
def test_how_much_is_said(
    mmerc: Command, trained: Path, talk: Path, options: tuple[str, ...], notes: list[str], behind: bool
) -> None:
    words = ("predict", trained, talk, "--format", "json", "--device", "cpu")
    code, out, err = mmerc(*words, *options) if behind else mmerc(*options, *words)
    assert code == 0
    assert len(json.loads(out)) == 1
    assert all(note in err for note in notes)
    assert bool(err) == bool(notes)


def test_turns_have_the_same_numbers_everywhere(
    mmerc: Command, trained: Path, talk: Path, tmp_path: Path
) -> None:
    _, out, _ = mmerc("predict", trained, talk, "--format", "json", "--html", tmp_path / "p.html")
    assert [row["turn"] for row in json.loads(out)[0]["utterances"]] == [1, 2]
    _, table, _ = mmerc("predict", trained, talk, "--format", "csv")
    header, first, second = table.splitlines()
    assert header.split(",")[1] == '"turn"'
    assert [first.split(",")[1], second.split(",")[1]] == ["1", "2"]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert re.findall(r'class="number">#(\d+)<', page) == ["1", "2"]
    explained = load(trained).explain(package.read_transcript(talk)[0]).to_dict()["utterances"]
    assert [{i["turn"] for i in row["influences"]} <= {1, 2} - {row["turn"]} for row in explained] == [
        True,
        True,
    ]


# Standard input


@pytest.mark.parametrize(
    "pasted",
    [
        CHAT,
        "speaker,text\nAnn,oh no\nBen,great\n",
        "speaker\ttext\nAnn\toh no\nBen\tgreat\n",
        '[{"speaker": "Ann", "text": "oh no"}, {"speaker": "Ben", "text": "great"}]',
        '{"speaker": "Ann", "text": "oh no"}\n{"speaker": "Ben", "text": "great"}\n',
        "1\n00:00:01,000 --> 00:00:02,000\nAnn: oh no\n\n2\n00:00:02,000 --> 00:00:03,000\nBen: great\n",
        "WEBVTT\n\n00:01.000 --> 00:02.000\n<v Ann>oh no\n\n00:02.000 --> 00:03.000\n<v Ben>great\n",
    ],
    ids=["plain", "csv", "tsv", "json", "jsonl", "srt", "vtt"],
)
def test_a_pasted_chat_of_any_form(
    mmerc: Command, trained: Path, monkeypatch: pytest.MonkeyPatch, pasted: str
) -> None:
    monkeypatch.setattr("mmerc.recognizer.Recognizer.predict_many", lambda self, found: self._predict(found))
    stdin(monkeypatch, pasted)
    code, out, err = mmerc("predict", trained, "-", "--format", "json")
    assert code == 0, err
    (found,) = json.loads(out)
    assert found["conversation"] == "standard input"
    assert [row["speaker"] for row in found["utterances"]] == ["Ann", "Ben"]


def test_nothing_and_noise_on_standard_input(
    mmerc: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, said in (("", "standard input holds no utterances"), (b"\0\1", "is not a text file")):
        stdin(monkeypatch, content)
        code, _, err = mmerc("predict", trained, "-")
        assert code == 2
        assert said in err


@pytest.mark.slow
@POSIX
def test_a_keyboard_is_told_how_to_end(trained: Path) -> None:
    import pty

    keyboard, other = pty.openpty()
    asked = subprocess.Popen([*MMERC, "report", trained, "-"], stdin=other, stderr=subprocess.PIPE, text=True)
    assert asked.stderr is not None
    assert asked.stderr.readline() == "reading from the keyboard: end with Ctrl-D\n"
    os.write(keyboard, b"\x04")
    assert "standard input holds no utterances" in asked.communicate(timeout=60)[1]
    os.close(keyboard)
    os.close(other)


# Progress


SETTINGS = ("--preset", "plain", "--set", "network.hidden=4", "--device", "cpu")


def test_training_into_a_file_says_how_far_it_is(mmerc: Command, corpus: Corpus, tmp_path: Path) -> None:
    where = ("--corpus", corpus.path, "--out", tmp_path / "run")
    _, out, err = mmerc("train", "late-fusion", *where, *SETTINGS, "--set", "training.epochs=3")
    epochs = [line for line in err.splitlines() if line.startswith("seed 0 epoch")]
    assert len(epochs) == 3
    for number, line in enumerate(epochs, start=1):
        assert re.match(rf"seed 0 epoch {number}/3: emotion \d\.\d+, validation wF1 \d+\.\d\d", line)
    assert re.search(r", at most \d+:\d\d left$", epochs[0])
    assert "left" not in epochs[2]
    assert "epoch" not in out.replace("Validation, at the chosen epoch", "").replace(" epoch ", "")


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, 10_000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    caplog.set_level("INFO", "mmerc")
    with progress.progress() as begin:
        work = begin("files", 100)
        for done in range(1, 101):
            work.update(done)
    assert 5 < len(caplog.messages) < 60
    assert re.fullmatch(r"files: \d+ of 100, about \d+:\d\d left", caplog.messages[1])


# Ctrl-C


def interrupted(arguments: tuple[Any, ...], ready: Callable[[bytes], bool]) -> tuple[int, str]:
    """Run a command on a terminal, press Ctrl-C when it is ready; return the exit code and all it wrote.

    Args:
        arguments: of `mmerc`
        ready: is shown what was written so far, and says when
    """
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*MMERC, *map(str, arguments)])
    written: list[bytes] = []

    def listen() -> None:
        try:
            while data := os.read(terminal, 65536):
                written.append(data)
        except OSError:  # Linux, at the end
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    until = time.monotonic() + 60
    while not ready(b"".join(written)) and time.monotonic() < until:
        time.sleep(0.05)
    os.write(terminal, b"\x03")
    _, ended = os.waitpid(pid, 0)
    listener.join()
    os.close(terminal)
    return os.waitstatus_to_exitcode(ended), b"".join(written).decode()


def assert_clean(said: str, how: str) -> None:
    assert "Traceback" not in said
    assert said.count("\x1b[?25l") == said.count("\x1b[?25h") > 0  # the cursor is there again
    assert said.splitlines()[-1].endswith(f"interrupted: {how}")


@POSIX
@pytest.mark.slow
def test_ctrl_c_while_training(corpus: Corpus, tmp_path: Path) -> None:
    run = tmp_path / "run"
    long = ("--set", "training.epochs=100000", "--set", "training.patience=100000")
    command = ("train", "late-fusion", "--corpus", corpus.path, "--out", run, *SETTINGS, *long)
    code, said = interrupted(command, lambda _: (run / "state.pt").exists())
    assert code == 130
    assert_clean(said, "the same command with --resume goes on after the last whole epoch")


@POSIX
@pytest.mark.slow
def test_ctrl_c_stops_the_processes_of_a_benchmark(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (
        "benchmark", "--models", "late-fusion:plain", "--corpora", corpus.path, "--out", out, "--jobs", 2,
        "--seeds", 2, "--device", "cpu",
        "--set", "training.epochs=100000", "--set", "training.patience=100000",
    )  # fmt: skip
    code, said = interrupted(command, lambda _: any(out.glob("*/*/*/state.pt")))
    assert code == 130
    assert_clean(said, "the same command goes on where it stopped")


@POSIX
@pytest.mark.slow
def test_ctrl_c_while_it_loads() -> None:
    code, said = interrupted(("models",), lambda written: written.count(b"loading PyTorch") > 3)
    assert code in (130, -signal.SIGINT)  # to a shell they are the same
    assert "Traceback" not in said
    assert said.splitlines()[-1].endswith("interrupted")
