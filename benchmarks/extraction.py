"""How long features of a video take, where the time goes, and how much memory a long recording needs.

    python benchmarks/extraction.py [--minutes 5] [--jobs 4] [--hours 2]

The recording is generated (`tests/studio.py`, 1280 × 720, 25 pictures a second); a long one is the same
again and again, without encoding it anew. Every second of it belongs to an utterance of four seconds. Times
read as multiples of real time: seconds of video per second of work.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import cast

import av
import numpy as np

from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_processes
from mmerc.extraction.measuring import Meter
from mmerc.features.decoding import read_pictures, read_sound
from mmerc.features.extractors import choose
from mmerc.features.loudness import loudness
from mmerc.features.recipe import AudioExtractor, Look, VisualExtractor
from mmerc.features.spans import Span, sample_times
from mmerc.media import Source

STUDIO = Path(__file__).parents[1] / "tests" / "studio.py"
UTTERANCE_MS = 4000
SIZE = (1280, 720)


def repeat(source: Path, out: Path, times: int) -> None:
    """Write a recording `times` over, copying its packets."""
    with av.open(str(out), "w") as target:
        streams = {}
        offset = 0.0
        for _ in range(times):
            with av.open(str(source)) as once:
                length = (once.duration or 0) / av.time_base
                for stream in once.streams:
                    if stream.index not in streams:
                        streams[stream.index] = target.add_stream_from_template(stream)
                for packet in once.demux():
                    if packet.dts is None or packet.pts is None:
                        continue
                    shift = round(offset / float(packet.time_base))
                    packet.pts += shift
                    packet.dts += shift
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
            offset += math.ceil(length) + 1  # time stamps must rise, and begin below 0


@contextmanager
def timed(label: str, seconds: float) -> Iterator[None]:
    """Note how many times faster than real time the block is."""
    start = time.perf_counter()
    yield
    took = time.perf_counter() - start
    print(f"  {label:<34} {took:7.2f} s  {seconds / took:7.0f} × real time")


def parts(video: Path, length_ms: int) -> None:
    """Print what each step costs on one core, on the first two minutes."""
    length_ms = min(length_ms, 120_000)
    spans = [Span(s, min(s + UTTERANCE_MS, length_ms)) for s in range(0, length_ms, UTTERANCE_MS)]
    seconds = length_ms / 1000
    audio = cast(AudioExtractor, choose("prosody", "audio").extractor)
    visual = cast(VisualExtractor, choose("face-hog", "visual").extractor)
    print(f"parts, one core, {seconds:.0f} s of video:")
    with timed("decode and resample the sound", seconds):
        sounds = dict(read_sound(video, spans))
    with timed("prosody", seconds):
        for samples in sounds.values():
            audio(samples)
    times = [sample_times(span, visual.frames_per_second) for span in spans]
    wanted = np.unique(np.concatenate(times)).tolist()
    with timed("decode the pictures", seconds):
        for _ in read_pictures(video, wanted):
            pass
    pictures = list(read_pictures(video, wanted[:300]))
    start = time.perf_counter()
    looks = {at: visual.look(image) for at, image in pictures}
    per_picture = (time.perf_counter() - start) / len(pictures)
    took = per_picture * len(wanted)
    print(
        f"  {'find faces':<34} {took:7.2f} s  {seconds / took:7.0f} × real time ({1000 * per_picture:.1f} ms)"
    )
    with timed("describe the speaking face", len(looks) / visual.frames_per_second):
        for index, span in enumerate(spans):
            seen = [Look(at, looks[at]) for at in times[index] if at in looks]
            if seen:
                visual.describe(seen, loudness(sounds[index], span.start_ms))


def whole(video: Path, length_ms: int, jobs: int) -> None:
    """Print the whole, with processes, and the memory that it takes."""
    sources = [
        Source(video, start, min(start + UTTERANCE_MS, length_ms))
        for start in range(0, length_ms, UTTERANCE_MS)
    ]
    audio, visual = choose("prosody", "audio"), choose("face-hog", "visual")
    start = time.perf_counter()
    with Cache(None) as cache, Memory() as memory:
        meter = Meter(in_processes(jobs), cache)
        heard = meter.sound(sources, audio)
        middle = time.perf_counter()
        seen = meter.pictures(sources, sources, visual)
    end = time.perf_counter()
    seconds, count = length_ms / 1000, len(sources)
    took = end - start
    print(f"the whole, {jobs} processes, {seconds / 60:.0f} minutes of {SIZE[0]} × {SIZE[1]}:")
    print(f"  {took:.1f} s, {seconds / took:.1f} × real time; sound {middle - start:.1f} s of it")
    heard_of, seen_of = (sum(m.values is not None for m in rows) for rows in (heard, seen))
    print(f"  sound of {heard_of} and faces of {seen_of} of {count} utterances")
    print(f"  memory of all processes together, at most: {memory.most / 2**20:.0f} MiB")


class Memory(Thread):
    """Watches the resident memory of this process and those below it, while it is entered (Linux)."""

    most = 0

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = Event()

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look ten times a second."""
        while not self._over.wait(0.1):
            self.most = max(self.most, sum(map(_resident, _family(os.getpid()))))


def _family(pid: int) -> Iterator[int]:
    yield pid
    with suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from _family(int(child))


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="of video that is encoded")
    parser.add_argument("--hours", type=float, help="repeat it to so many hours")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--video", type=Path, help="take this one, such as the one of an earlier run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or Path(folder) / "video.mp4"
        if options.video is None:
            size = [
                text
                for side, pixels in zip(("width", "height"), SIZE, strict=True)
                for text in (f"--{side}", str(pixels))
            ]
            subprocess.run(
                [sys.executable, str(STUDIO), str(video), "--minutes", str(options.minutes), *size],
                check=True,
            )
        if options.hours:
            with av.open(str(video)) as container:
                times = round(options.hours * 3600 / ((container.duration or 0) / av.time_base))
            long = Path(folder) / "long.mp4"
            repeat(video, long, times)
            video = long
        with av.open(str(video)) as container:
            length_ms = round(1000 * (container.duration or 0) / av.time_base)
        parts(video, length_ms)
        whole(video, length_ms, options.jobs)


if __name__ == "__main__":
    main()
