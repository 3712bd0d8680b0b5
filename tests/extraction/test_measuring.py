"""Measuring what is in the test recording, alone, together, again, and after harm."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmerc.extraction import work
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_turn
from mmerc.extraction.measuring import Meter
from mmerc.features.extractors import Chosen, choose
from mmerc.features.recipe import Measured
from mmerc.media import Source
from studio import RECORDING


@pytest.fixture(scope="module")
def audio() -> Chosen:
    return choose("prosody", "audio")


@pytest.fixture(scope="module")
def visual() -> Chosen:
    return choose("face-hog", "visual")


@pytest.fixture(scope="module")
def sources(recording: Path) -> list[Source | None]:
    return [Source(recording, round(1000 * x.start_s), round(1000 * x.end_s)) for x in RECORDING.lines]


class Counting:
    """An engine in this process that notes the jobs."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    def __call__(self, work: Any, jobs: Any) -> Iterator[Any]:
        self.jobs += jobs
        return in_turn(work, jobs)


@pytest.fixture
def cache() -> Iterator[Cache]:
    with Cache(None) as kept:
        yield kept


@pytest.fixture(scope="module")
def together(sources: list[Source | None], audio: Chosen, visual: Chosen) -> dict[str, list[Measured]]:
    with Cache(None) as kept:
        meter = Meter(in_turn, kept)
        return {"audio": meter.sound(sources, audio), "visual": meter.pictures(sources, sources, visual)}


def same(one: Measured, other: Measured) -> bool:
    return one.reason == other.reason and np.array_equal(
        np.zeros(0) if one.values is None else one.values,
        np.zeros(0) if other.values is None else other.values,
    )


@pytest.mark.slow
def test_only_what_is_not_there_is_absent(together: dict[str, list[Measured]]) -> None:
    absent = {
        m: {i: x.reason for i, x in enumerate(rows) if x.values is None} for m, rows in together.items()
    }
    unvoiced = next(i for i, line in enumerate(RECORDING.lines) if not line.voiced)
    slide = next(i for i, line in enumerate(RECORDING.lines) if not RECORDING.people(line.start_s + 0.1))
    assert absent == {"audio": {unvoiced: "silence"}, "visual": {slide: "no face"}}


@pytest.mark.slow
def test_an_utterance_alone_or_among_others(
    together: dict[str, list[Measured]],
    sources: list[Source | None],
    audio: Chosen,
    visual: Chosen,
    cache: Cache,
) -> None:
    for row in (6, 1):  # the order, too, is another
        one = [sources[row]]
        meter = Meter(in_turn, cache)
        assert same(meter.sound(one, audio)[0], together["audio"][row])
        assert same(meter.pictures(one, one, visual)[0], together["visual"][row])


def test_what_is_kept_is_not_measured_again(
    sources: list[Source | None], audio: Chosen, cache: Cache, tmp_path: Path, recording: Path
) -> None:
    engine = Counting()
    first = Meter(engine, cache).sound([*sources[:2], None, sources[0]], audio)
    assert [len(job.spans) for job in engine.jobs] == [2]
    assert first[2] == Measured(None, "no file")
    assert same(first[0], first[3])
    copy = tmp_path / "ein anderer Name 🎬.mp4"  # the same content
    copy.write_bytes(recording.read_bytes())
    told = []
    moved = [Source(copy, s.start_ms, s.end_ms) for s in sources[:3] if s is not None]
    again = Meter(engine, cache, lambda *state: told.append(state)).sound(moved, audio)
    assert [[span.start_ms for span in job.spans] for job in engine.jobs[1:]] == [[moved[2].start_ms]]
    assert all(same(a, b) for a, b in zip(first[:2], again[:2], strict=True))
    assert told == [("sound", 2, 3), ("sound", 3, 3)]


def test_a_file_that_is_broken_stops_nothing_and_is_tried_again(
    sources: list[Source | None], audio: Chosen, visual: Chosen, cache: Cache, tmp_path: Path
) -> None:
    broken, gone = tmp_path / "broken.mp4", tmp_path / "gone.mp4"
    broken.write_text("no video", encoding="utf-8")
    rows = [Source(broken), sources[0], Source(gone)]
    engine = Counting()
    meter = Meter(engine, cache)
    for _ in range(2):
        heard, seen = meter.sound(rows, audio), meter.pictures(rows, rows, visual)
        for measured in (heard, seen):
            assert [m.values is None for m in measured] == [True, False, True]
            assert "broken.mp4" in measured[0].reason
            assert "gone.mp4 does not exist" in measured[2].reason
    assert sum(job.file == broken for job in engine.jobs) == 6  # sound, loudness and pictures, twice


def test_an_exception_of_a_worker_is_a_reason(
    sources: list[Source | None], audio: Chosen, cache: Cache
) -> None:
    def failing(work: Any, jobs: Any) -> Iterator[Any]:
        return ((job, MemoryError("too much")) for job in jobs)

    (measured,) = Meter(failing, cache).sound(sources[:1], audio)
    assert measured == Measured(None, "MemoryError: too much")


def test_spans_outside_of_the_file(recording: Path, audio: Chosen, visual: Chosen, cache: Cache) -> None:
    rows = [Source(recording, *span) for span in ((500_000, 501_000), (22_500, 900_000), (20_000, None))]
    meter = Meter(in_turn, cache)
    heard, seen = meter.sound(rows, audio), meter.pictures(rows, rows, visual)
    assert heard[0] == seen[0] == work.BEYOND
    assert heard[1].reason == "silence"
    assert seen[2].values is not None
    assert heard[2].values is not None


def test_long_recordings_are_cut_for_the_workers(recording: Path, visual: Chosen, cache: Cache) -> None:
    jobs = []

    def engine(work: Any, given: Any) -> Iterator[Any]:
        jobs.extend(given)
        return ((job, {}) if job.decibels is None else (job, MemoryError()) for job in given)

    rows = [Source(recording, 1000 * s, 1000 * s + 9000) for s in range(0, 600, 10)]
    Meter(engine, cache).pictures(rows, [None] * len(rows), visual)
    assert {len(job.spans) for job in jobs} == {6}
    assert sorted(span.start_ms for job in jobs for span in job.spans) == [r.start_ms for r in rows]


@pytest.mark.slow
def test_a_worker_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pandas", "sklearn", "pyarrow")
    code = f"""
import sys, mmerc.extraction.work
from mmerc.features.extractors import choose
choose("prosody", "audio"), choose("face-hog", "visual")
print([m for m in {heavy} if m in sys.modules])"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert found.stdout.strip() == "[]"
