"""The sound of a media file as one stream, mono at `SAMPLE_RATE`, on the clock of the file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmerc.errors import MediaError
from mmerc.features.media_file import Damage, clock_origin, decode, read_packets, time_unit
from mmerc.features.recipe import SAMPLE_RATE, Samples

# PyAV comes after media_file, which says what to install when it is missing.
# isort: split
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.stream import Stream

RATES: Final = range(1_000, 768_001)  # Hz of the sound of a file
JITTER_S: Final = 0.05  # time stamps that are off by less are rounding, not a gap


class _Run:
    """A stretch of sound of one form without gaps, which is resampled as one."""

    def __init__(self, start_s: float, rate: int, floor: int) -> None:
        self.rate = rate
        self.position = max(floor, round(start_s * SAMPLE_RATE))  # in the file, of what comes out next
        self._start_s = start_s
        self._heard = 0  # samples that came in
        self._block: list[npt.NDArray[Any]] = []
        self._waiting = 0  # samples of the block
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)

    @property
    def end_s(self) -> float:
        return self._start_s + self._heard / self.rate

    def feed(self, channels: npt.NDArray[Any]) -> Iterator[tuple[int, Samples]]:
        """Take (C, S) samples at `rate`; about once a second, yield what is ready and where it lies."""
        if self._block and (self._block[0].dtype, len(self._block[0])) != (channels.dtype, len(channels)):
            yield from self._resampled()
        self._heard += channels.shape[1]
        self._waiting += channels.shape[1]
        self._block.append(channels)
        if self._waiting >= self.rate:
            yield from self._resampled()

    def finish(self) -> Iterator[tuple[int, Samples]]:
        yield from self._resampled()
        yield from self._placed(self._resampler.resample(None))

    def _resampled(self) -> Iterator[tuple[int, Samples]]:
        if self._waiting:
            mono = _mono(np.concatenate(self._block, axis=1))
            frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
            frame.sample_rate = self.rate
            yield from self._placed(self._resampler.resample(frame))
        self._block, self._waiting = [], 0

    def _placed(self, frames: Iterable[AudioFrame]) -> Iterator[tuple[int, Samples]]:
        for frame in frames:
            samples = np.clip(frame.to_ndarray()[0], -1, 1).astype(np.float32, copy=False)
            yield self.position, samples
            self.position += len(samples)


def resample(
    path: Path, container: InputContainer, stream: Stream, damage: Damage
) -> Iterator[tuple[int, Samples]]:
    """Yield the sound of a file in chunks, in order: where each starts, in samples, and its samples.

    Between chunks there may be gaps, which are silent. What overlaps with earlier sound is dropped.

    Raises:
        MediaError: the sample rate is absurd.
    """
    origin, unit = float(clock_origin(container)), float(time_unit(stream))
    run, bad_before = None, 0
    for frame in decode(stream, read_packets(container, stream, damage), damage):
        rate, channels = frame.sample_rate, _channels(frame)
        if rate not in RATES:
            raise MediaError(f"the sound of {path} has {rate} samples a second: that is not a sound")
        end_s = run.end_s if run else 0.0
        start_s = end_s if frame.pts is None else frame.pts * unit - origin
        # After a packet that was lost the time stamp counts, however little it is off.
        jitter = JITTER_S if run and damage.packets == bad_before else 1 / rate
        bad_before = damage.packets
        if start_s < end_s - jitter:
            channels = channels[:, round((end_s - start_s) * rate) :]
            start_s = end_s
        if run is None or run.rate != rate or start_s > end_s + jitter:
            if run:
                yield from run.finish()
            run = _Run(start_s, rate, run.position if run else 0)
        yield from run.feed(channels)
    if run:
        yield from run.finish()


def _channels(frame: AudioFrame) -> npt.NDArray[Any]:
    """Return the samples of a frame, (C, S)."""
    array: npt.NDArray[Any] = frame.to_ndarray()
    return array if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels).T


def _mono(channels: npt.NDArray[Any]) -> Samples:
    """Return the mean of the channels, (S,) in [-1, 1]."""
    sound: npt.NDArray[Any]
    if channels.dtype.kind == "f":
        sound = np.clip(np.nan_to_num(channels), -1, 1).astype(np.float32, copy=False)
    elif channels.dtype.kind == "u":
        sound = (channels.astype(np.float32) - 128) / 128
    else:
        sound = channels.astype(np.float32) / -float(np.iinfo(channels.dtype).min)
    return np.asarray(sound.mean(axis=0), np.float32)
