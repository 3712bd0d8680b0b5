"""The work itself: functions of plain values, which another process or another machine can do.

A worker needs neither torch nor a corpus; it loads what its recipe asks for.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from mmerc.features import extractors
from mmerc.features.recipe import (
    AudioExtractor,
    Extractor,
    Look,
    Loudness,
    Measured,
    Samples,
    VisualExtractor,
)
from mmerc.features.spans import Span, sample_times

if TYPE_CHECKING:
    from mmerc.media import Crop

BEYOND = Measured(None, "after the end of the file")


class Spec(NamedTuple):
    """How a worker builds an extractor: by its recipe, in JSON, with these files."""

    recipe: str
    files: extractors.Files = extractors.NO_FILES


class Listen(NamedTuple):
    """Measure the sound of utterances of one file."""

    file: Path
    spans: tuple[Span, ...]
    specs: tuple[Spec, ...]
    keys: tuple[tuple[bytes, ...], ...]  # spans × specs: what the results are called


class Watch(NamedTuple):
    """Measure the pictures of utterances of one file."""

    file: Path
    crop: "Crop"
    spans: tuple[Span, ...]
    spec: Spec
    keys: tuple[bytes, ...]
    decibels: tuple[Samples | None, ...]  # how loud the utterances are over time; None without sound


@lru_cache(maxsize=4)
def _extractor(spec: Spec) -> Extractor:
    return extractors.again(json.loads(spec.recipe), spec.files).extractor


def listen(job: Listen) -> dict[bytes, Measured]:
    """Do the job; return the results by their keys.

    Raises:
        MediaError: the file cannot be read, or has no sound.
        FeatureError: an extractor cannot be built.
    """
    from mmerc.features.decoding import read_sound  # loads PyAV, which a chat does not need

    measures = [cast(AudioExtractor, _extractor(spec)) for spec in job.specs]
    found: dict[bytes, Measured] = {}
    for index, samples in read_sound(job.file, job.spans):
        for key, measure in zip(job.keys[index], measures, strict=True):
            found[key] = measure(samples) if len(samples) else BEYOND
    return found


def watch(job: Watch) -> dict[bytes, Measured]:
    """Do the job; return the results by their keys.

    Raises:
        MediaError: the file cannot be read, or has no pictures.
        FeatureError: the extractor cannot be built.
    """
    from mmerc.features.decoding import read_pictures

    extractor = cast(VisualExtractor, _extractor(job.spec))
    times = [sample_times(span, extractor.frames_per_second) for span in job.spans]
    wanted = np.unique(np.concatenate(times)).tolist()
    pictures = read_pictures(job.file, wanted, colour=extractor.colour, crop=job.crop)
    seen = {time: extractor.look(image) for time, image in pictures}
    found: dict[bytes, Measured] = {}
    for key, span, at, decibels in zip(job.keys, job.spans, times, job.decibels, strict=True):
        looks = [Look(time, seen[time]) for time in at if time in seen]
        loudness = None if decibels is None else Loudness(span.start_ms, decibels)
        found[key] = extractor.describe(looks, loudness) if looks else BEYOND
    return found
