"""Makes `tests/helpers.py` importable; settings of hypothesis and recordings that hold for all tests."""

import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mmerc.corpus import Corpus

# CI tries more examples, and always the same: a change is judged by what it changes. A desk tries new ones.
CI = "CI" in os.environ
settings.register_profile("mmerc", deadline=None, derandomize=CI, max_examples=100 if CI else 40)
settings.load_profile("mmerc")

# Each process of the run has one core; torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is imported while tests are collected stays until the end: it is not looked through for garbage.
gc.disable()

# Waiting for the disk is for the sake of a power failure, which no test has.
os.fsync = lambda fd: None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> "Corpus":
    """Return the corpus of `tiny.tables()`, for the tests of one file to read."""
    from tiny import write

    return write(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the film of `screenplay.RECORDING`."""
    from studio import RECORDING, film, shared

    return shared(tmp_path_factory, "recording.mp4", lambda path: film(path, RECORDING))


@pytest.fixture(scope="session")
def meld_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small MELD.Raw."""
    from miniatures import meld_tree
    from studio import shared

    return shared(tmp_path_factory, "MELD.Raw", meld_tree)


@pytest.fixture(scope="session")
def iemocap_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small IEMOCAP_full_release."""
    from miniatures import iemocap_tree
    from studio import shared

    return shared(tmp_path_factory, "IEMOCAP_full_release", iemocap_tree)


@pytest.fixture(scope="module")  # while it is there, no other test of the process can have an event loop
def browser() -> Iterator[object]:
    """Return headless Chromium: that of `MMERC_CHROMIUM`, or one on the path."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("MMERC_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on the path, and MMERC_CHROMIUM names none")
    root = os.name == "posix" and os.geteuid() == 0
    with api.sync_playwright() as playwright:
        # Its sandbox does not start for root.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield chromium
        chromium.close()


# The files that take longest begin first: begun last, one of them would keep the others waiting.
LONGEST = (
    "test_training.py",
    "test_resume.py",
    "test_invariances.py",
    "test_tuning.py",
    "test_sweep_command.py",
    "test_tracking.py",
    "test_conventions.py",
    "test_analyze.py",
    "test_train.py",
    "test_export.py",
    "test_cells.py",
    "test_extract.py",
    "test_measuring.py",
    "test_benchmark_command.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; needs `--no-loadscope-reorder`."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_collection_finish() -> None:
    """Let the garbage collector begin; see above."""
    gc.freeze()
    gc.enable()
