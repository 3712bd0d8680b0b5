"""The documentation site holds together: its navigation, its API pages, and a strict build."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import mmerc

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
API = sorted(DOCS.glob("api/*.md"))
OTHER_HOST = re.compile(
    r"""(?:<(?:script|img|iframe|source)[^>]*\ssrc|<link[^>]*\shref)=["']?(?:https?:)?//"""
)


def pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(item)


def described(page: Path) -> list[str]:
    return re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)


def the_object(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), attribute)


def test_every_page_is_in_the_navigation_once() -> None:
    named = list(pages(SITE["nav"]))
    assert len(named) == len(set(named))
    files = [
        name.removeprefix("repository/") if name.startswith("repository/") else f"docs/{name}"
        for name in named
    ]
    assert [name for name in files if not (ROOT / name).is_file()] == []
    written = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert written == {name for name in named if not name.startswith("repository/")}


@pytest.mark.parametrize("page", API, ids=lambda page: page.stem)
def test_what_the_api_pages_describe_is_there(page: Path) -> None:
    names = described(page)
    assert names
    for name in names:
        assert getattr(the_object(name), "__doc__", None), name


def test_every_public_name_is_described() -> None:
    assert {name.removeprefix("mmerc.") for name in described(DOCS / "api/index.md")} == set(mmerc.__all__)


def test_every_room_is_described() -> None:
    rooms = {
        path.stem for path in (ROOT / "src/mmerc").iterdir() if re.fullmatch(r"[a-z]\w*(\.py)?", path.name)
    }
    page = (DOCS / "design.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(table))) == rooms


def test_the_site_asks_nothing_of_other_hosts() -> None:
    assert SITE["theme"]["font"] is False
    assert not {"extra_javascript", "repo_url"} & set(SITE)  # the latter asks its host for stars


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra `docs`)")
    pytest.importorskip("material", reason="mkdocs-material is not installed (the extra `docs`)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (the extra `docs`)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = {
        page.relative_to(tmp_path).as_posix(): page.read_text("utf-8") for page in tmp_path.rglob("*.html")
    }
    assert [name for name, text in built.items() if OTHER_HOST.search(text)] == []
    assert 'href="repository/src/mmerc/models/df_erc.py.html"' in built["df-erc.html"]
    assert 'id="mmerc.load"' in built["api/index.html"]
    assert 'id="what-refined-changes-and-why"' in built["df-erc.html"]  # as on GitHub
