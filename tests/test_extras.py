"""Optional packages: one that is missing or broken says so, and a chat is read without any of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmerc.errors import ConfigError, MediaError
from mmerc.extras import needed
from mmerc.shipped import CHAT

EXTRAS = (
    "av", "cv2", "fastapi", "mlflow", "onnx", "onnxruntime", "opensmile", "optuna", "prometheus_client",
    "python_multipart", "ray", "soundfile", "tensorboard", "trackio", "uvicorn", "websockets",
)  # fmt: skip
# Runs the commands of the arguments where no extra is installed, and says with which code each ends.
WITHOUT = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
from mmerc.cli.main import run
for line in sys.argv[1:]:
    sys.argv = line.split()
    try:
        run()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    print(f"exit {{code}}: {{line}}", file=sys.stderr, flush=True)
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that is there and cannot be imported: it wants one that is not."""
    name = "a_broken_package"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("def present(): pass\n", encoding="utf-8")
    (tmp_path / name / "native.py").write_text(
        "raise ImportError('libGL.so.1: no such file')", encoding="utf-8"
    )
    (tmp_path / name / "nested.py").write_text("import another_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def failure(code: str) -> str:
    with pytest.raises(MediaError) as caught, needed("reading sound", "mmerc[media]", MediaError):
        exec(code)
    return str(caught.value)


def test_a_package_that_is_missing() -> None:
    assert failure("import another_package.within") == (
        'reading sound needs the package another_package, which is not installed: pip install "mmerc[media]"'
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("from {} import absent", "cannot import name 'absent'"),
        ("import {}.absent", "No module named 'a_broken_package.absent'"),
    ],
)
def test_a_package_that_lacks_something(broken: str, code: str, reason: str) -> None:
    said = failure(code.format(broken))
    assert f"needs the package {broken}, which is installed but cannot be loaded ({reason}" in said
    assert said.endswith('pip install --upgrade "mmerc[media]"')


def test_a_package_whose_own_parts_fail(broken: str) -> None:
    assert "cannot be loaded (libGL.so.1: no such file)" in failure(f"import {broken}.native")
    assert "needs the package another_package, which is not" in failure(f"import {broken}.nested")


def test_what_can_be_imported_is(broken: str) -> None:
    with needed("reading sound", "mmerc[media]"):
        from json import dumps
    assert dumps([]) == "[]"
    with pytest.raises(ConfigError), needed("an export", "mmerc[onnx]"):
        exec("import another_package")


@pytest.mark.slow
def test_a_chat_needs_no_extra_and_the_rest_says_which(tmp_path: Path) -> None:
    (tmp_path / "chat.txt").write_bytes(CHAT.read_bytes())
    (tmp_path / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nAnn: hello\n", encoding="utf-8")
    (tmp_path / "talk.wav").write_bytes(b"RIFF")
    install = 'is not installed: pip install "mmerc[{}]"'.format
    lacking = {
        "mmerc predict talk.wav --transcript talk.srt": f"the package av, which {install('media')}",
        "mmerc serve": f"the package uvicorn, which {install('serve')}",
        "mmerc export onnx meld-text --out m.onnx": f"the package onnx, which {install('onnx')}",
    }
    lines = ["mmerc predict chat.txt", "mmerc predict chat.txt --out-dir many --jobs 1", *lacking]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *lines],
        cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    for line in lines:
        assert f"exit {2 if line in lacking else 0}: {line}\n" in done.stderr, done.stderr
    for said in lacking.values():
        assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "joy" in done.stdout
    assert (tmp_path / "many" / "chat.json").is_file()
