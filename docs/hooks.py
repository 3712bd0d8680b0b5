"""Makes links that are right on GitHub right in the site, too, without a change to the pages.

The site knows docs/ alone. What a page links to outside of it comes along under `repository/`: Markdown and
pictures as they are, sources as pages that show them. Headings get the anchors that GitHub gives them.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
OUTSIDE: Final = "repository"
AS_THEY_ARE: Final = (".md", ".png", ".svg")
LINK: Final = re.compile(r"(?:(?<=\]\()|(?<=\]: ))[^)\s#:]+(?=[)#\s])")  # [text](here), [text]: here


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let headings have GitHub's anchors."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what pages link to outside of docs/, and what these link to."""
    waiting = [*files.documentation_pages(), *(brought(ROOT / uri, config) for uri in _named(config.nav))]
    while waiting:
        file = waiting.pop()
        if file.src_uri not in files.src_uris:
            files.append(file)
        for target in _targets(file):
            if DOCS not in target.parents and uri_of(target) not in files.src_uris:
                waiting.append(brought(target, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links across the border of docs/ into those between pages of the site."""
    source = source_of(page.file)

    def moved(link: re.Match[str]) -> str:
        target = _target(source, link[0])
        if target is None or (DOCS in target.parents and DOCS in source.parents):
            return link[0]
        return posixpath.relpath(uri_of(target), posixpath.dirname(page.file.src_uri))

    return LINK.sub(moved, markdown) if source.suffix == ".md" else markdown


def anchor(heading: str, separator: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def brought(path: Path, config: MkDocsConfig) -> File:
    """Return the page, or picture, of the site that a file outside of docs/ becomes."""
    if path.suffix in AS_THEY_ARE:
        return File.generated(config, uri_of(path), abs_src_path=str(path))
    name = path.relative_to(ROOT).as_posix()
    text = path.read_text(encoding="utf-8")
    listing = f"---\ntitle: {path.name}\n---\n\n# `{name}`\n\n````{path.suffix[1:] or 'text'}\n{text}\n````\n"
    return File.generated(config, uri_of(path), content=listing)


def uri_of(path: Path) -> str:
    """Return where a file of the repository lies among the sources of the site."""
    if DOCS in path.parents:
        return path.relative_to(DOCS).as_posix()
    name = f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
    return name if path.suffix in AS_THEY_ARE else f"{name}.md"


def source_of(file: File) -> Path:
    """Return the file of the repository that became a page of the site."""
    if not file.src_uri.startswith(f"{OUTSIDE}/"):
        return DOCS / file.src_uri
    path = ROOT / file.src_uri.removeprefix(f"{OUTSIDE}/")
    return path if path.exists() else path.with_suffix("")  # a listing: `x.py.md` is of `x.py`


def _named(nav: object) -> Iterator[str]:
    """Yield the files outside of docs/ that the navigation names."""
    if isinstance(nav, str) and nav.startswith(f"{OUTSIDE}/"):
        yield nav.removeprefix(f"{OUTSIDE}/")
    elif isinstance(nav, list | dict):
        for item in nav.values() if isinstance(nav, dict) else nav:
            yield from _named(item)


def _targets(file: File) -> Iterator[Path]:
    source = source_of(file)
    if source.suffix == ".md":
        for link in LINK.findall(file.content_string):
            target = _target(source, link)
            if target is not None:
                yield target


def _target(source: Path, link: str) -> Path | None:
    """Return the file of the repository that a link means, if there is one."""
    target = (source.parent / link).resolve()
    return target if target.is_file() and ROOT in target.parents else None
