"""Measuring the utterances of media files: what the cache has is taken, the rest is spread over workers.

The vector of an utterance depends on its own span of its own file and on the recipe, and on nothing else:
not on the other utterances, not on how the work was spread.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from mmerc.errors import MmercError
from mmerc.extraction.cache import Cache, key
from mmerc.extraction.work import Listen, Spec, Watch, listen, watch
from mmerc.features.extractors import Chosen
from mmerc.features.recipe import LONGEST_S, Measured, Samples
from mmerc.features.spans import Span
from mmerc.media import Crop, Source

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = TypeVar("Work", Listen, Watch)
Report = Callable[[str, int, int], None]  # station, utterances done, of how many
_Part = tuple[bytes, Span, Samples | None]  # what its result is called, where it is, how loud it is

NO_FILE: Final = Measured(None, "no file")
LOUDNESS: Final = Spec(json.dumps({"kind": "loudness", "version": 1}))
TOGETHER_MS = 60_000  # of pictures that one worker takes at a time


class Engine(Protocol):
    """Does jobs somewhere and yields them as they end, each with its result or its error."""

    def __call__(
        self, work: Callable[[Job], Result], jobs: Sequence[Job], /
    ) -> Iterator[tuple[Job, Result | Exception]]:
        """Do `work(job)` for all jobs; a job that fails does not stop the others."""


class Meter:
    """Measures utterances with an engine and a cache; `report` is told how far it is."""

    def __init__(self, engine: Engine, cache: Cache, report: Report = lambda station, done, total: None):
        self._engine = engine
        self._cache = cache
        self._report = report
        self._digests: dict[Path, str] = {}

    def sound(self, sources: Sequence[Source | None], chosen: Chosen) -> list[Measured]:
        """Measure the sound of N utterances; one without values says why.

        Raises:
            FeatureError: the cache is broken.
        """
        return [row[0] for row in self._listen(sources, spec_of(chosen))]

    def pictures(
        self, sources: Sequence[Source | None], sound: Sequence[Source | None], chosen: Chosen
    ) -> list[Measured]:
        """Measure the pictures of N utterances; `sound`, where it is, tells which of several faces speaks.

        Raises:
            FeatureError: the cache is broken.
        """
        spec = spec_of(chosen)
        loudness = [row[-1].values for row in self._listen(sound)]
        self._digest(sources)
        keys = [
            None if v is None else key(self._place(v), self._place(a), spec.recipe)
            for v, a in zip(sources, sound, strict=True)
        ]
        known = self._cache.find([k for k in keys if k is not None])
        left: dict[tuple[Path, Crop], dict[bytes, _Part]] = defaultdict(dict)
        for source, name, decibels in zip(sources, keys, loudness, strict=True):
            if source is not None and name is not None and name not in known:
                left[source.file, source.crop][name] = (name, _span(source), decibels)
        jobs = []
        for (file, crop), parts in left.items():
            for stretch in _stretches(parts.values()):
                names, spans, decibels_of = zip(*stretch, strict=True)
                jobs.append(Watch(file, crop, spans, spec, names, decibels_of))
        known |= self._work(watch, jobs, "pictures", sum(k is not None for k in keys))
        return [NO_FILE if k is None else known[k] for k in keys]

    def _listen(self, sources: Sequence[Source | None], *asked: Spec) -> list[list[Measured]]:
        """Return what was asked for and the loudness, which pictures will need, for each utterance."""
        specs = (*asked, LOUDNESS)
        self._digest(sources)
        keys = [
            None if source is None else tuple(key(self._place(source), spec.recipe) for spec in specs)
            for source in sources
        ]
        known = self._cache.find([k for row in keys if row is not None for k in row])
        left: dict[Path, dict[tuple[bytes, ...], Span]] = defaultdict(dict)
        for source, row in zip(sources, keys, strict=True):
            if source is not None and row is not None and not all(k in known for k in row):
                left[source.file][row] = _span(source)
        jobs = [Listen(file, tuple(rows.values()), specs, tuple(rows)) for file, rows in left.items()]
        known |= self._work(listen, jobs, "sound", sum(row is not None for row in keys))
        return [[NO_FILE] * len(specs) if row is None else [known[k] for k in row] for row in keys]

    def _work(
        self,
        work: Callable[[Work], dict[bytes, Measured]],
        jobs: Sequence[Work],
        station: str,
        total: int,
    ) -> dict[bytes, Measured]:
        """Do the jobs; what fails is absent, with the reason, and is tried again next time."""
        found: dict[bytes, Measured] = {}
        done = total - sum(len(job.spans) for job in jobs)
        self._report(station, done, total)
        for job, result in self._engine(work, jobs):
            if isinstance(result, Exception):
                told = str(result) if isinstance(result, MmercError) else f"{type(result).__name__}: {result}"
                result = dict.fromkeys(_names(job), Measured(None, told))
            else:
                self._cache.keep(result.items())
            found |= result
            done += len(job.spans)
            self._report(station, done, total)
        return found

    def _place(self, source: Source | None) -> list[Any]:
        if source is None:
            return []
        return [self._digests[source.file], source.start_ms, source.end_ms, source.crop]

    def _digest(self, sources: Iterable[Source | None]) -> None:
        files = sorted({s.file for s in sources if s is not None} - self._digests.keys())
        with ThreadPoolExecutor(4) as pool:  # hashing leaves the interpreter's lock alone
            self._digests.update(zip(files, pool.map(_sha256, files), strict=True))


def spec_of(chosen: Chosen) -> Spec:
    """Return how a worker builds the extractor."""
    return Spec(json.dumps(chosen.extractor.recipe, sort_keys=True), chosen.files)


def _stretches(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Yield the utterances of a file in stretches of about `TOGETHER_MS`, in order of time."""
    stretch: list[_Part] = []
    length = 0.0
    for name, span, decibels in sorted(parts, key=lambda part: (part[1].start_ms, part[0])):
        longest = 1000 * LONGEST_S
        takes = longest if span.end_ms is None else min(span.end_ms - span.start_ms, longest)
        if stretch and length + takes > TOGETHER_MS:
            yield stretch
            stretch, length = [], 0.0
        stretch.append((name, span, decibels))
        length += takes
    if stretch:
        yield stretch


def _names(job: Listen | Watch) -> Iterator[bytes]:
    for keys in job.keys:
        yield from keys if isinstance(keys, tuple) else (keys,)


def _span(source: Source) -> Span:
    return Span(source.start_ms, source.end_ms)


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:  # reading it will tell why; what fails is not kept
        return str(file)
