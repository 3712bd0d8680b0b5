"""What a terminal cannot show ends no command, and what is redirected is UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MMERC = "import sys; from mmerc.cli.main import run; run()"
SAY = (
    "import sys; from mmerc.system import speak; speak(); "
    r"sys.stdout.write('Zo\xeb \U0001f600 \u03c8'); sys.stderr.write('\u03c8')"
)
BARE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a system that is not UTF-8 by itself


def said(code: str, *words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    known = {name: value for name, value in os.environ.items() if not name.startswith("PYTHONIO")}
    return subprocess.run(
        [sys.executable, "-c", code, *words], env=known | environment, capture_output=True, check=True
    )


def test_tables_on_a_terminal_in_cp1252(tmp_path: Path) -> None:
    chat = tmp_path / "chat.txt"
    chat.write_text("Zoë: at last 😀 ψ │\n佐藤: oh no\n", encoding="utf-8")
    done = said(
        MMERC,
        "predict",
        str(chat),
        "--device",
        "cpu",
        PYTHONIOENCODING="cp1252",
        PYTHONUTF8="0",
        COLUMNS="100",
    )
    table = done.stdout.decode("cp1252")
    assert "Zoë" in table
    assert "at last ? ? ?" in table
    assert "??" in table
    assert b"Traceback" not in done.stderr


def test_what_is_redirected_is_utf8() -> None:
    done = said(SAY, **BARE)
    assert done.stdout.decode("utf-8") == "Zoë 😀 ψ"
    assert done.stderr.decode("utf-8") == "ψ"


def test_whoever_chooses_an_encoding_gets_it() -> None:
    assert said(SAY, **BARE, PYTHONIOENCODING="latin-1").stdout == "Zoë ? ?".encode("latin-1")
    assert (
        said(SAY, **BARE, PYTHONIOENCODING="ascii:xmlcharrefreplace").stdout == b"Zo&#235; &#128512; &#968;"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of its own cannot be made there")
def test_a_terminal_keeps_its_encoding() -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SAY], env=os.environ | BARE, stdout=theirs, stderr=theirs
    )
    assert process.wait(60) == 0
    assert os.read(ours, 100).startswith(b"Zo? ? ?")
    os.close(theirs)
    os.close(ours)
