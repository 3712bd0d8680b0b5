from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmerc import models
from mmerc.cli.demo import MODELS
from mmerc.config import RunConfig
from mmerc.corpora import scripted
from tiny import SMALL

Command = Callable[..., tuple[int, str, str]]


def modified(folder: Path) -> dict[Path, int]:
    """When the files were written, but the report, which is drawn anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "report.html")
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_the_demo_compares_and_goes_on_where_it_was(
    mmerc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, resolve = scripted.generate, models.resolve

    def few(path: Path) -> Any:
        return generate(path, dialogues=40)

    def small(model: str) -> RunConfig:
        return resolve(model, {"network": SMALL[model], "training": {"epochs": 2}})

    monkeypatch.setattr(scripted, "generate", few)
    monkeypatch.setattr(models, "resolve", small)
    code, out, err = mmerc("demo", "--out", tmp_path / "demo", "--seeds", 2, "--jobs", 1)
    assert code == 0, err
    assert "mean ± sd" in out
    assert all(model in out for model in MODELS)
    before = modified(tmp_path / "demo")
    code, again, err = mmerc("demo", "--out", tmp_path / "demo", "--seeds", 2, "--jobs", 1)
    assert code == 0, err
    assert again.partition("3.")[2] == out.partition("3.")[2]
    assert modified(tmp_path / "demo") == before
    assert (tmp_path / "demo" / "report.html").stat().st_size > 20_000
