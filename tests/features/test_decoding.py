"""Sound and pictures come back at the right times, whatever the container and whatever else is read."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmerc.errors import MediaError
from mmerc.features.decoding import Damage, probe, read_pictures, read_sound
from mmerc.features.recipe import LONGEST_S, SAMPLE_RATE, Image, Samples
from mmerc.features.spans import Span, sample_times

av = pytest.importorskip("av")

BITS = 12  # of the number of a frame, drawn as dark and light blocks
SIZE = (8 * BITS, 32)


def tones(seconds: int, rate: int) -> Samples:
    """A sine whose frequency is another one in each second and whose phase is 0 at each full second."""
    time = np.arange(rate) / rate
    return np.concatenate([0.5 * np.sin(2 * np.pi * hertz(k) * time) for k in range(seconds)])


def hertz(second: int) -> int:
    return 300 + 70 * (second % 10)


def lag(samples: Samples, second: int, offset_s: float) -> float:
    """How many samples too late a tone is that should start `offset_s` into its second."""
    time = np.arange(len(samples)) / SAMPLE_RATE + offset_s
    phase = np.angle(np.sum(samples * np.exp(-2j * np.pi * hertz(second) * time))) + np.pi / 2
    return float(-phase / (2 * np.pi * hertz(second)) * SAMPLE_RATE)


def numbered(number: int) -> Image:
    picture = np.full(SIZE[::-1], 16, np.uint8)
    for bit in range(BITS):
        picture[:, 8 * bit : 8 * bit + 8] = 235 if number >> bit & 1 else 16
    return np.repeat(picture[..., None], 3, axis=2)


def number_of(image: Image) -> int:
    return sum(int(image[8:24, 8 * bit + 2 : 8 * bit + 6].mean() > 128) << bit for bit in range(BITS))


def write(
    path: Path,
    *,
    sound: Samples | None = None,  # (S,) or (C, S)
    audio: str = "pcm_s16le",
    rate: int = 48_000,
    layout: str = "stereo",
    late: Callable[[int], int] = lambda sample: 0,  # how much a block of sound is late, in samples
    pictures: Sequence[Image] = (),  # RGB
    video: str = "libx264",
    fps: int = 25,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: float = 0,
) -> Path:
    """Make a media file."""
    with av.open(str(path), "w", format=None if path.suffix else "wav") as container:
        streams = []
        if len(pictures):
            streams.append(container.add_stream(video, rate=fps, options=options or {}))
            streams[0].height, streams[0].width = pictures[0].shape[:2]
            streams[0].pix_fmt = pixels
            streams[0].thread_count = 1
            if rotation:
                streams[0].set_display_rotation(rotation)
        if sound is not None:
            streams.append(container.add_stream(audio, rate=rate, layout=layout))
            container.mux(list(encoded_sound(streams[-1], sound, layout, late)))
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(streams[0].encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def encoded_sound(stream, sound: Samples, layout: str, late: Callable[[int], int]) -> Iterator:
    channels = np.broadcast_to(np.atleast_2d(sound), (av.AudioLayout(layout).nb_channels, sound.shape[-1]))
    for start in range(0, channels.shape[1], 4800):
        block = np.ascontiguousarray(channels[:, start : start + 4800], np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = stream.rate, Fraction(1, stream.rate)
        frame.pts = start + late(start)
        yield from stream.encode(frame)


def sounds(path: Path, *spans: Span, **options) -> list[Samples]:
    """The sound of each span, in their order."""
    found = dict(read_sound(path, spans, **options))
    assert sorted(found) == list(range(len(spans)))
    return [found[index] for index in range(len(spans))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def tone(folder: Path) -> Path:
    return write(folder / "tone.wav", sound=tones(4, 44_100), rate=44_100)


def write_film(path: Path) -> Path:
    """A minute and a half with sound, a keyframe every four seconds, and B-frames that refer over them."""
    options = {"g": "20", "bf": "3", "preset": "ultrafast", "x264-params": "open-gop=1:b-adapt=0:scenecut=0"}
    pictures = [numbered(k) for k in range(450)]
    return write(path, pictures=pictures, fps=5, options=options, sound=tones(2, 48_000), audio="flac")


@pytest.fixture(scope="module")
def film(folder: Path) -> Path:
    return write_film(folder / "film.mp4")


@pytest.mark.parametrize(
    ("ending", "codec", "rate"),
    [
        (".wav", "pcm_u8", 48_000),
        (".wav", "pcm_s24le", 48_000),
        (".wav", "pcm_f32le", 16_000),
        (".mp3", "libmp3lame", 44_100),
        (".flac", "flac", 22_050),
        (".ogg", "libopus", 48_000),
        (".mp4", "aac", 44_100),
        (".mkv", "ac3", 48_000),
        (".webm", "libopus", 48_000),
    ],
)
def test_the_sound_of_a_span_is_the_sound_of_its_time(
    folder: Path, ending: str, codec: str, rate: int
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = write(folder / f"{codec}{ending}", sound=tones(4, rate), audio=codec, rate=rate)
    info = probe(path)
    assert info.pictures is None
    assert info.sound is not None
    assert (info.sound.sample_rate, info.sound.channels) == (rate, 2)
    assert info.length_ms == pytest.approx(4000, abs=60)
    for second, samples in enumerate(sounds(path, *(Span(k * 1000 + 123, k * 1000 + 877) for k in range(4)))):
        assert len(samples) == 754 * 16
        assert samples.dtype == np.float32
        assert abs(lag(samples, second, 0.123)) < (2 if codec == "ac3" else 0.5)
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)  # LAME is quieter


def test_resampling_is_exact_to_the_sample(tone: Path) -> None:
    (samples,) = sounds(tone, Span(1000, 2000))
    wanted = 0.5 * np.sin(2 * np.pi * hertz(1) * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    np.testing.assert_allclose(samples[100:-100], wanted[100:-100], atol=1e-4)


@pytest.fixture(scope="module")
def whole_tone(tone: Path) -> Samples:
    return sounds(tone, Span())[0]


times = st.integers(-500, 5000)


@given(st.lists(st.builds(Span, times, st.none() | times), max_size=6), st.sampled_from([0.3, 60.0]))
@settings(max_examples=25, deadline=None)
def test_a_span_does_not_depend_on_the_others(
    tone: Path, whole_tone: Samples, spans: list[Span], longest_s: float
) -> None:
    for span, samples in zip(spans, sounds(tone, *spans, longest_s=longest_s), strict=True):
        start = max(0, span.start_ms) * 16
        end = len(whole_tone) if span.end_ms is None else max(0, span.end_ms * 16)
        np.testing.assert_array_equal(samples, whole_tone[start : min(end, start + int(longest_s * 16_000))])


def test_spans_come_as_soon_as_they_are_complete(tone: Path) -> None:
    spans = [Span(2000, 3000), Span(3000, 1000), Span(0, 1500), Span(9000, None), Span(500, 600)]
    assert [index for index, _ in read_sound(tone, spans)] in ([1, 4, 2, 0, 3], [1, 2, 4, 0, 3])


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_sound_that_starts_late_is_preceded_by_silence(folder: Path, ending: str) -> None:
    path = write(
        folder / f"late{ending}",
        sound=tones(2, 48_000),
        audio="flac",
        late=lambda sample: 48_000,
        pictures=[numbered(k) for k in range(10)],
        fps=5,
    )
    before, first, second = sounds(path, Span(0, 990), Span(1100, 1900), Span(2100, 2900))
    assert not before.any()
    assert abs(lag(first, 0, 0.1)) < 0.5
    assert abs(lag(second, 1, 0.1)) < 0.5


def test_gaps_are_silent_and_jitter_is_not_a_gap(folder: Path) -> None:
    gap = write(folder / "gap.mkv", sound=tones(2, 48_000), late=lambda sample: 24_000 * (sample >= 48_000))
    silence, second = sounds(gap, Span(1001, 1499), Span(1600, 2400))
    assert not silence.any()
    assert abs(lag(second, 1, 0.1)) < 0.5
    jitter = write(
        folder / "jitter.mkv", sound=tones(2, 48_000), late=lambda sample: sample // 4800 % 3 * 500
    )
    steady = write(folder / "steady.mkv", sound=tones(2, 48_000))
    np.testing.assert_array_equal(sounds(jitter, Span())[0], sounds(steady, Span())[0])


def test_what_overlaps_with_earlier_sound_is_dropped(folder: Path) -> None:
    path = write(folder / "over.mkv", sound=tones(2, 48_000), late=lambda sample: -3840 * (sample >= 48_000))
    first, second = sounds(path, Span(0, 1000), Span(1050, 1800))
    assert abs(lag(first, 0, 0)) < 0.5
    assert abs(lag(second, 1, 0.13)) < 0.5


def test_mono_is_the_mean_of_the_channels(folder: Path) -> None:
    levels = np.array([0.1, -0.2, 0.3, 0.0, 0.5, 0.05])
    path = write(
        folder / "surround.wav",
        sound=np.repeat(levels[:, None], 48_000, axis=1),
        audio="pcm_f32le",
        layout="5.1",
    )
    np.testing.assert_allclose(sounds(path, Span(100, 900))[0], levels.mean(), atol=1e-5)


def test_sound_that_is_not_a_number_or_too_loud_stays_in_bounds(folder: Path) -> None:
    loud = np.tile([np.nan, np.inf, -np.inf, 1e30, -3.0, 0.5], 8000)
    samples = sounds(write(folder / "loud.wav", sound=loud, audio="pcm_f32le"), Span())[0]
    assert len(samples) == SAMPLE_RATE
    assert np.abs(samples).max() <= 1


@given(
    st.integers(-5000, 100_000),
    st.none() | st.integers(-5000, 100_000),
    st.sampled_from([0.5, 3.0, 5.0, 29.97]),
)
@settings(deadline=None)
def test_sample_times_lie_on_one_grid(start_ms: int, end_ms: int | None, fps: float) -> None:
    times = sample_times(Span(start_ms, end_ms), fps)
    start = max(0, start_ms)
    end = min(start + LONGEST_S * 1000, np.inf if end_ms is None else end_ms)
    grid = {round(k * 1000 / fps) for k in range(int(170 * fps))}
    wanted = sorted(time for time in grid if start <= time < end)
    if wanted or end <= start:
        assert times == wanted
    else:
        assert times == [(start + end) // 2]


@pytest.mark.parametrize(
    ("ending", "codec", "pixels"),
    [
        (".mp4", "libx264", "yuv420p"),
        (".mkv", "mpeg4", "yuv420p"),
        (".webm", "libvpx-vp9", "yuv420p"),
        (".mkv", "ffv1", "yuv420p10le"),
        (".mov", "mjpeg", "yuvj420p"),
    ],
)
def test_the_picture_at_a_time_is_the_one_that_is_shown_then(
    folder: Path, ending: str, codec: str, pixels: str
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    path = write(
        folder / f"{codec}{ending}", pictures=[numbered(k) for k in range(50)], video=codec, pixels=pixels
    )
    info = probe(path)
    assert info.sound is None
    assert info.pictures is not None
    assert info.pictures[1:4] == (*SIZE, 25.0)
    asked = [0, 39, 40, 41, 1000, 1039, 1960, 1999, 2040, 99_000]
    found = {time: number_of(image) for time, image in read_pictures(path, asked)}
    assert found == {time: time // 40 for time in asked if time < 2000}


@pytest.fixture(scope="module")
def whole_film(film: Path) -> dict[int, Image]:
    return dict(read_pictures(film, range(0, 90_000, 200)))


def test_every_picture_is_found(whole_film: dict[int, Image]) -> None:
    assert [number_of(image) for image in whole_film.values()] == list(range(450))


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_a_picture_does_not_depend_on_the_others(
    film: Path, whole_film: dict[int, Image], ending: str
) -> None:
    path = film if ending == ".mp4" else write_film(film.with_suffix(ending))

    @given(st.sets(st.sampled_from(sorted(whole_film)), min_size=1, max_size=5), st.integers(0, 199))
    @settings(max_examples=15, deadline=None)
    def check(times: set[int], later: int) -> None:
        found = dict(read_pictures(path, [time + later for time in sorted(times)]))
        assert set(found) == {time + later for time in times}
        for time in times:
            np.testing.assert_array_equal(found[time + later], whole_film[time])

    check()


def test_what_lies_between_is_not_decoded(film: Path, whole_film: dict[int, Image], tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pos and 100 < packet.pts < 300]
        for packet in packets[:50]:
            data[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    path = tmp_path / "holes.mp4"
    path.write_bytes(data)
    damage = Damage()
    found = dict(read_pictures(path, [0, 80_000], damage=damage))
    assert damage.packets == 0
    np.testing.assert_array_equal(found[80_000], whole_film[80_000])


def test_times_must_ascend(film: Path) -> None:
    with pytest.raises(ValueError, match="ascend"):
        next(read_pictures(film, [200, 0]))


QUARTERS = np.kron(np.array([[255, 85], [170, 0]], np.uint8), np.ones((32, 64), np.uint8))


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_pictures_are_upright(folder: Path, rotation: int) -> None:
    pictures = [np.repeat(QUARTERS[..., None], 3, axis=2)]
    path = write(folder / f"turned{rotation}.mp4", pictures=pictures, rotation=rotation)
    upright = np.rot90(QUARTERS, rotation // 90).astype(int)
    info = probe(path).pictures
    assert info is not None
    assert (info.height, info.width, info.rotation) == (*upright.shape, rotation % 360)
    half = upright.shape[1] // 2
    for crop, wanted in {"": upright, "left": upright[:, :half], "right": upright[:, half:]}.items():
        for colour in (False, True):
            ((_, image),) = read_pictures(path, [0], crop=crop, colour=colour)
            assert image.flags.c_contiguous
            grey = image.mean(axis=2) if colour else image
            assert grey.shape == wanted.shape
            assert np.median(np.abs(grey - wanted)) < 5


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("ffv1", "yuv420p"),
        ("mjpeg", "yuvj420p"),
        ("ffv1", "yuv420p10le"),
        ("ffv1", "bgr0"),
        ("ffv1", "gray"),
        ("rawvideo", "nv12"),
    ],
)
def test_grey_is_the_same_in_every_form(folder: Path, codec: str, pixels: str) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
    path = write(
        folder / f"ramp-{pixels}.mkv",
        pictures=[np.repeat(ramp[..., None], 3, axis=2)],
        video=codec,
        pixels=pixels,
    )
    ((_, grey),) = read_pictures(path, [0])
    ((_, rgb),) = read_pictures(path, [0], colour=True)
    assert np.abs(grey.astype(int) - ramp).max() <= 2
    assert np.abs(rgb.astype(int) - ramp[..., None]).max() <= 4


def test_colour_is_rgb(folder: Path) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255
    ((_, image),) = read_pictures(write(folder / "red.mp4", pictures=[red]), [0], colour=True)
    assert np.abs(image.astype(int) - red).max() < 12


def test_a_cover_is_not_a_picture(folder: Path) -> None:
    path = folder / "cover.mp3"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=48_000, layout="stereo")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(frame), *cover.encode()])
        container.mux([*encoded_sound(sound, tones(1, 48_000), "stereo", lambda _: 0), *sound.encode()])
    assert probe(path).pictures is None
    with pytest.raises(MediaError, match="has no pictures"):
        next(read_pictures(path, [0]))


def test_pictures_without_sound(folder: Path) -> None:
    path = write(folder / "silent.mp4", pictures=[numbered(0)])
    with pytest.raises(MediaError, match="has no sound"):
        next(read_sound(path, [Span()]))


def read_all(path: Path) -> None:
    """Read everything; whatever is wrong must be a MediaError."""
    readers: list[Callable[[], object]] = [
        lambda: probe(path),
        lambda: list(read_sound(path, [Span(), Span(300, 700)])),
        lambda: list(read_pictures(path, [0, 400, 20_000])),
    ]
    for reader in readers:
        with contextlib.suppress(MediaError):
            reader()


def test_what_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        probe(tmp_path / "missing.mp4")
    with pytest.raises(MediaError, match="is a folder"):
        next(read_sound(tmp_path, [Span()]))
    with pytest.raises(MediaError, match="name too long"):
        probe(tmp_path / ("x" * 300))
    empty = tmp_path / "empty.wav"
    empty.touch()
    with pytest.raises(MediaError, match="0 bytes"):
        next(read_pictures(empty, [0]))


@pytest.mark.parametrize(
    "text",
    [
        "Just some words that somebody has renamed.\n" * 50,
        "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\ntone.wav\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile tone.wav\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
)
@pytest.mark.parametrize("ending", [".mp4", ".m3u8", ".txt"])
def test_text_and_playlists_are_not_media(tone: Path, text: str, ending: str) -> None:
    path = tone.parent / f"text{ending}"  # beside a file that the playlists name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MediaError, match="cannot be read as sound or video"):
        probe(path)


@pytest.mark.parametrize(
    "name",
    ["a b 😀 'q\" ü.wav", "-i.wav", "http:x.wav", "concat:a|b.wav", "pipe:0", "file:x.wav", "%03d.wav", "-"],
)
def test_names_are_nothing_but_names(
    tone: Path, whole_tone: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(tone.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert probe(Path(name)).length_ms == 4000
    np.testing.assert_array_equal(sounds(Path(name), Span(0, 100))[0], whole_tone[:1600])
    with pytest.raises(MediaError, match="does not exist"):
        probe(Path("http://127.0.0.1:9/x.wav"))


@pytest.fixture(scope="module")
def small(folder: Path) -> dict[str, bytes]:
    """Short files to break."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000)
    pictures = [numbered(k) for k in range(10)]
    files = [
        write(folder / "small.wav", sound=noise, layout="mono"),
        write(folder / "small.mp4", sound=noise, audio="aac", pictures=pictures),
        write(folder / "small.mkv", sound=noise, audio="flac", pictures=pictures, video="mpeg4"),
    ]
    return {path.suffix: path.read_bytes() for path in files}


@pytest.mark.parametrize("ending", [".wav", ".mp4", ".mkv"])
def test_truncated_files_work_or_say_why_not(small: dict[str, bytes], tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"cut{ending}"
    for length in np.linspace(1, len(small[ending]) - 1, 12, dtype=int):
        path.write_bytes(small[ending][:length])
        read_all(path)
    if ending == ".mp4":  # the index is at its end
        path.write_bytes(small[ending][: len(small[ending]) // 2])
        with pytest.raises(MediaError, match="is it complete"):
            probe(path)


@given(st.data(), st.sampled_from([".wav", ".mp4", ".mkv"]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_files_work_or_say_why_not(
    small: dict[str, bytes], tmp_path: Path, data: st.DataObject, ending: str
) -> None:
    broken = bytearray(small[ending])
    places = st.integers(0, min(len(broken), 1500) - 1) | st.integers(0, len(broken) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        broken[place] = value
    path = tmp_path / f"broken{ending}"
    path.write_bytes(broken)
    read_all(path)


def test_a_hole_in_the_middle_is_left_out(folder: Path) -> None:
    path = write(folder / "whole.flac", sound=tones(4, 48_000), audio="flac")
    clean = sounds(path, Span(0, 900), Span(3200, 3900))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 20] = b"\x55" * (len(data) // 20)
    holed = folder / "holed.flac"
    holed.write_bytes(data)
    damage = Damage()
    before, after = sounds(holed, Span(0, 900), Span(3200, 3900), damage=damage)
    np.testing.assert_array_equal(before, clean[0])
    np.testing.assert_allclose(after, clean[1], atol=1e-4)


def test_nothing_that_decodes_is_an_error(small: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "zeros.mp4"
    data = bytearray(small[".mp4"])
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="none of the pictures"):
        list(read_pictures(path, [0]))
    with pytest.raises(MediaError, match="none of the sound"):
        list(read_sound(path, [Span()]))
