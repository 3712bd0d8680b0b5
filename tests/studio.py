"""Makes the recordings that the tests watch and listen to.

`python tests/studio.py OUT.mp4 --minutes 5` makes one to try things with, and its transcript beside it.
"""

import argparse
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console

from actors import backdrop, draw_face, face_patch, paste, require_voice, speak
from mmerc.features.recipe import Image, Samples
from screenplay import RECORDING, Line, Person, Script, Shot

__all__ = [
    "RECORDING", "Line", "Person", "Script", "Shot",
    "draw_face", "film", "film_clips", "require_voice", "shared", "speak",
    "write_csv", "write_srt", "write_vtt", "write_whisperx",
]  # fmt: skip

CODECS = {  # of the pictures and of the sound
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx", "libopus"),
    ".avi": ("mpeg4", "pcm_s16le"),
    ".wav": ("", "pcm_s16le"),
    ".flac": ("", "flac"),
    ".mp3": ("", "libmp3lame"),
    ".m4a": ("", "aac"),
    ".ogg": ("", "libopus"),
}
FASTEST = {  # what encoders call it; a set number of threads, and a set speed: the same bits on any machine
    "libx264": {"preset": "ultrafast", "threads": "4"},
    "libvpx": {"deadline": "realtime", "cpu-used": "-12", "threads": "1"},
    "mpeg4": {"threads": "1"},
}
MOUTHS = 6  # openings that are drawn


@cache
def slide(width: int, height: int) -> Image:
    """Return a picture without a face, (H, W, 3): hills under a sky, and a few bars."""
    picture = backdrop(width, height).copy()
    x = np.linspace(0, 1, 65)
    for top, swing, colour in ((0.55, 5, (90, 120, 90)), (0.7, 8, (70, 100, 60))):
        hill = np.stack([x, top + 0.08 * np.sin(swing * x + top)], 1) * (width, height)
        edge = np.concatenate([hill, [(width, height), (0, height)]]).astype(np.int32)
        cv2.fillPoly(picture, [edge], colour)
    for k in range(4):
        left, top = round((0.1 + 0.1 * k) * width), round((0.1 + 0.08 * k) * height)
        cv2.rectangle(picture, (left, top), (left + width // 14, height // 2), (200, 190, 120), -1)
    return picture


def _picture(script: Script, at_s: float, clock_s: float, width: int, height: int) -> Image:
    """Draw what is seen at a time of the script; heads sway with the clock of the film."""
    people = script.people(at_s)
    if not people:
        return slide(width, height)
    picture = backdrop(width, height).copy()
    size = round(height * (0.5 if len(people) == 1 else 0.42))
    for place, person in enumerate(people):
        mouth = round(script.mouth(person, at_s) * (MOUTHS - 1)) / (MOUTHS - 1)
        sway = np.sin(2 * np.pi * clock_s / np.array([4.0, 2.7, 5.0]) + person.seed)
        centre = (width * ((place + 0.5) / len(people) + 0.03 * sway[0]), height * (0.5 + 0.03 * sway[1]))
        paste(picture, face_patch(size, mouth, float(round(3 * sway[2])), 0.0, person.seed), centre)
    return picture


@cache
def _grain(width: int, height: int, strength: float) -> Image:
    """Return the noise of a camera, (16 more than H, 16 more than W, 3), around 128."""
    noise = np.random.default_rng(0).normal(128, strength, (height + 16, width + 16, 1))
    return np.repeat(noise.round().clip(0, 255).astype(np.uint8), 3, axis=2)


def _grained(picture: Image, number: int, strength: float) -> Image:
    """Lay noise over a picture, another part of it in each frame."""
    height, width = picture.shape[:2]
    down, right = number * 7 % 16, number * 5 % 16
    noise = _grain(width, height, strength)[down : down + height, right : right + width]
    grained: Image = cv2.addWeighted(picture, 1, noise, 1, -128)
    return grained


@dataclass(frozen=True)
class _Reel:
    """A file that is being written."""

    container: Any
    pictures: Any
    sound: Any

    def mux(self, stream: Any, frame: Any) -> None:
        self.container.mux(stream.encode(frame))

    def add_sound(self, samples: Samples, first: int) -> None:
        levels = (samples.clip(-1, 1) * (2**15 - 1)).round().astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16", layout="mono")
        frame.rate, frame.pts, frame.time_base = self.sound.rate, first, Fraction(1, self.sound.rate)
        self.mux(self.sound, frame)

    def add_picture(self, picture: Image, number: int) -> None:
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = number, 1 / Fraction(self.pictures.codec_context.framerate)
        self.mux(self.pictures, frame)


def film(
    path: Path,
    script: Script,
    *,
    width: int = 320,
    height: int = 240,
    fps: int = 25,
    sound: bool = True,
    pictures: bool = True,
    video_codec: str = "",
    audio_codec: str = "",
    sample_rate: int = 44_100,
    keyframe_every: int = 50,
    grain: float = 0.0,
) -> None:
    """Write a recording of a script; the same one gives the same file.

    Args:
        path: .mp4, .mov, .mkv, .webm, .avi; or .wav, .flac, .mp3, .m4a, .ogg, which have no pictures
        script: what is said and seen
        width, height: of the pictures, even numbers
        fps: pictures per second
        sound, pictures: whether the file has them
        video_codec, audio_codec: of FFmpeg, if not the suffix's own
        sample_rate: of the sound, in Hz; Opus has 48 kHz always
        keyframe_every: pictures between two that can be read without the one before
        grain: standard deviation of the noise of the pictures; a camera's bit rate needs about 3
    """
    usual = CODECS[path.suffix.lower()]
    video_codec, audio_codec = video_codec or usual[0], audio_codec or usual[1]
    rate = 48_000 if audio_codec == "libopus" else sample_rate
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        seen = heard = None
        if pictures and video_codec:
            seen = _video_stream(container, video_codec, width, height, fps, keyframe_every)
        if sound:
            heard = container.add_stream(audio_codec, rate=rate, layout="mono")
        reel = _Reel(container, seen, heard)
        seconds = [*np.arange(0, script.length_s, 1.0), script.length_s]
        for start_s, end_s in pairwise(seconds):  # so that memory does not grow with the length
            _shoot(reel, script.cut(start_s, end_s), start_s, (width, height), fps, grain)
        for stream in container.streams:
            reel.mux(stream, None)


def _video_stream(container: Any, codec: str, width: int, height: int, fps: int, keyframe_every: int) -> Any:
    options = {**FASTEST.get(codec, {}), "g": str(keyframe_every)}
    stream = container.add_stream(codec, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.bit_rate = 4 * width * height  # of the codecs that go by it; H.264 goes by quality
    return stream


def _shoot(reel: _Reel, part: Script, start_s: float, shape: tuple[int, int], fps: int, grain: float) -> None:
    """Add a part of a script, which starts at a time of the film, to a file."""
    if reel.sound:
        rate = reel.sound.rate
        reel.add_sound(part.sound(0, part.length_s, rate), round(start_s * rate))
    if reel.pictures:
        for number in range(round(start_s * fps), round((start_s + part.length_s) * fps)):
            clock_s = number / fps
            picture = _picture(part, clock_s - start_s, clock_s, *shape)
            reel.add_picture(_grained(picture, number, grain) if grain else picture, number)


def _clock(seconds: float, point: Literal[".", ","]) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def write_srt(path: Path, script: Script) -> None:
    """Write what is said as SubRip, with the speaker before the text."""
    cues = [
        f"{number}\n{_clock(x.start_s, ',')} --> {_clock(x.end_s, ',')}\n{x.person.name}: {x.text}\n"
        for number, x in enumerate(script.lines, 1)
    ]
    path.write_text("\n".join(cues), encoding="utf-8")


def write_vtt(path: Path, script: Script) -> None:
    """Write what is said as WebVTT, with voice tags."""
    cues = [
        f"{_clock(line.start_s, '.')} --> {_clock(line.end_s, '.')}\n<v {line.person.name}>{line.text}\n"
        for line in script.lines
    ]
    path.write_text("\n".join(["WEBVTT\n", *cues]), encoding="utf-8")


def write_whisperx(path: Path, script: Script) -> None:
    """Write what is said as WhisperX does: segments of words, with speakers."""
    segments = []
    for line in script.lines:
        words = line.text.split()
        edges = [round(edge, 3) for edge in np.linspace(line.start_s, line.end_s, len(words) + 1).tolist()]
        name = line.person.name
        timed = [
            {"word": word, "start": start, "end": end, "score": 0.9, "speaker": name}
            for word, (start, end) in zip(words, pairwise(edges), strict=True)
        ]
        segment = {
            "start": edges[0],
            "end": edges[-1],
            "text": f" {line.text}",
            "words": timed,
            "speaker": name,
        }
        segments.append(segment)
    every = [word for segment in segments for word in segment["words"]]
    document = {"segments": segments, "word_segments": every, "language": "en"}
    path.write_text(json.dumps(document), encoding="utf-8")


def write_csv(path: Path, script: Script) -> None:
    """Write what is said as a table: start and end in seconds, speaker, text, label."""
    rows = [(round(x.start_s, 3), round(x.end_s, 3), x.person.name, x.text, x.label) for x in script.lines]
    pd.DataFrame(rows, columns=["start", "end", "speaker", "text", "label"]).to_csv(path, index=False)


def film_clips(folder: Path, script: Script, **how: Any) -> Path:
    """Write a clip of each line, and return the table of them: three dialogues, one to each split.

    Args:
        folder: where the clips and `table.csv` go
        script: what is said and seen
        how: see `film`
    """
    rows = []
    parts = np.array_split(np.arange(len(script.lines)), 3)
    for split, numbers in zip(("train", "validation", "test"), parts, strict=True):
        for index, number in enumerate(numbers):
            line = script.lines[number]
            name = f"{split}_{index}.mp4"
            film(folder / name, script.cut(line.start_s, line.end_s), **how)
            rows.append((name, split, index, line.person.name, line.text, line.label, split))
    table = folder / "table.csv"
    columns = ["media", "dialogue_id", "utterance_index", "speaker", "text", "label", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
    return table


def shared(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Any]) -> Path:
    """Build a file or folder once for all test processes, and return its path. Do not write to it.

    Args:
        factory: the fixture `tmp_path_factory`
        name: of the thing
        build: makes it at a path; must make the same whoever calls it
    """
    mine = factory.getbasetemp()
    folder = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "shared"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            work = folder / f"{name}.unfinished"  # what a build that failed left is not taken for the thing
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            build(work / name)
            (work / name).rename(folder / name)
    return folder / name


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make a recording to try things with.")
    parser.add_argument("out", type=Path, help=f"the file: {', '.join(CODECS)}")
    parser.add_argument("--minutes", type=float, default=RECORDING.length_s / 60)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--grain", type=float, default=2.0, help="noise of the pictures (standard deviation)")
    given = parser.parse_args()
    length_s = given.minutes * 60
    script = RECORDING.repeated(math.ceil(length_s / RECORDING.length_s)).cut(0, length_s)
    script = replace(script, lines=tuple(line for line in script.lines if line.end_s <= length_s))
    started = time.perf_counter()
    film(
        given.out, script, width=given.width, height=given.height, fps=given.fps,
        sample_rate=48_000, grain=given.grain,
    )  # fmt: skip
    took_s = time.perf_counter() - started
    write_srt(given.out.with_suffix(".srt"), script)
    Console(soft_wrap=True).print(
        f"{given.out}: {length_s:.0f} s, {given.out.stat().st_size / 2**20:.1f} MiB, "
        f"made in {took_s:.0f} s ({length_s / took_s:.1f} × real time); its transcript: .srt"
    )


if __name__ == "__main__":
    _main()
