"""The builder of test recordings makes what its script says."""

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from actors import backdrop, draw_face, paste, speak
from actors import face_patch as cut_out
from mmerc.features.recipe import Image
from screenplay import RECORDING
from studio import film, slide, write_csv, write_srt, write_vtt, write_whisperx

TEXT = "Where were you this morning?"


def faces(picture: Image) -> list[list[int]]:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    return sorted(map(list, cascade.detectMultiScale(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 1.1, 5)))


def pitch(samples: np.ndarray) -> float:
    """Return the median pitch in Hz, from the peak of the autocorrelation of loud windows."""
    found = []
    for start in range(0, len(samples) - 1024, 512):
        part = samples[start : start + 1024]
        if np.sqrt(np.mean(part**2)) > 0.1:
            same = np.correlate(part, part, "full")[1023:]
            found.append(16_000 / (40 + np.argmax(same[40:320])))
    return float(np.median(found))


def test_the_same_words_are_the_same_samples_whatever_was_said_before():
    before = speak(TEXT)
    speak.cache_clear()
    speak("Something else.", pitch=10, words_per_minute=300)
    np.testing.assert_array_equal(speak(TEXT), before)


def test_a_voice_has_its_pitch_and_its_rate():
    low, middle, high = (pitch(speak(TEXT, pitch=p)) for p in (10, 50, 90))
    assert 60 < low < 0.85 * middle < 0.75 * high < 300
    slow, fast = (len(speak(TEXT, words_per_minute=rate)) for rate in (120, 240))
    assert fast / slow == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("width", "height", "size"), [(320, 240, 120), (480, 270, 80)])
def test_one_face_is_found_where_it_was_drawn(width: int, height: int, size: int):
    for k in range(8):
        centre = (width * (0.5 + 0.1 * np.sin(k)), height * (0.5 + 0.05 * np.cos(k)))
        face = draw_face(
            width, height, centre=centre, size=size, mouth=k / 7, tilt=k - 4, smile=k % 2, seed=k
        )
        [(x, y, across, down)] = faces(face)
        np.testing.assert_allclose([x + across / 2, y + down / 2], centre, atol=0.06 * size)
        assert across == pytest.approx(size, rel=0.15)


def test_two_faces_are_two_and_none_is_none():
    both = backdrop(320, 240).copy()
    for seed, x in ((0, 80), (1, 240)):
        paste(both, cut_out(100, 0.5, 0.0, 0.0, seed), (x, 120))
    (left, *_), (right, *_) = faces(both)
    assert left < 80 < 160 < right
    assert not faces(backdrop(320, 240))
    assert not faces(slide(320, 240))
    assert not faces(slide(480, 270))


def test_a_face_beyond_the_edge_is_cut_off():
    picture = draw_face(100, 80, centre=(0, 0), size=40)
    assert (picture[:10, :10] != backdrop(100, 80)[:10, :10]).any()
    np.testing.assert_array_equal(draw_face(100, 80, centre=(-200, 900), size=40), backdrop(100, 80))


def test_a_recording_holds_what_its_script_says(recording: Path):
    with av.open(str(recording)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert len(times) == RECORDING.length_s * 25
    with av.open(str(recording)) as container:
        parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    heard = np.concatenate(parts)
    assert len(heard) / rate == pytest.approx(RECORDING.length_s, abs=0.05)
    for line in RECORDING.lines:
        part = heard[round((line.start_s + 0.1) * rate) : round((line.end_s - 0.1) * rate)]
        assert (np.abs(part).max() > 0.1) == line.voiced
    assert np.abs(heard[round(7.1 * rate) : round(8.4 * rate)]).max() < 1e-3


def test_the_mouth_opens_with_the_voice_of_its_own():
    anna, ben = RECORDING.people(13.0)
    opened = [[RECORDING.mouth(person, t) for t in np.arange(12.0, 16.0, 0.04)] for person in (anna, ben)]
    assert max(opened[0]) == 0
    assert max(opened[1]) > 0.8
    assert np.std(opened[1]) > 0.2


def test_the_same_script_gives_the_same_file(tmp_path: Path):
    part = RECORDING.cut(19.0, 21.0)
    for name in ("a.mp4", "b.mp4", "a.webm", "b.webm"):
        film(tmp_path / name, part, width=160, height=120, fps=10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.webm").read_bytes() == (tmp_path / "b.webm").read_bytes()


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.wav", "a.mp3", "a.ogg", "a.flac"])
def test_every_container_lasts_as_long(tmp_path: Path, name: str):
    film(tmp_path / name, RECORDING.cut(0.0, 1.5), width=160, height=120, fps=10)
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / av.time_base == pytest.approx(1.5, abs=0.1)
        assert bool(container.streams.video) == (name in ("a.mkv", "a.avi"))


def test_parts_of_a_script_sound_like_the_whole():
    whole = RECORDING.sound(0, RECORDING.length_s, 16_000)
    parts = [RECORDING.cut(t, t + 1).sound(0, 1, 16_000) for t in range(23)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    twice = RECORDING.repeated(2).sound(0, 46, 16_000)
    np.testing.assert_array_equal(twice, np.concatenate([whole, whole]))


def test_transcripts_say_who_says_what_when(tmp_path: Path):
    for write, name in ((write_srt, "a.srt"), (write_vtt, "a.vtt"), (write_csv, "a.csv")):
        write(tmp_path / name, RECORDING)
    write_whisperx(tmp_path / "a.json", RECORDING)
    number, times, text = (tmp_path / "a.srt").read_text(encoding="utf-8").split("\n\n")[1].split("\n")
    assert (number, times[:16], text) == ("2", "00:00:04,000 -->", f"Ben: {RECORDING.lines[1].text}")
    assert "00:00:08.500 --> " in (tmp_path / "a.vtt").read_text(encoding="utf-8")
    assert f"<v Cleo>{RECORDING.lines[2].text}" in (tmp_path / "a.vtt").read_text(encoding="utf-8")
    segments = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["segments"]
    assert [segment["speaker"] for segment in segments] == [line.person.name for line in RECORDING.lines]
    assert len((tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(RECORDING.lines)
