"""One recording through every station: what was put in is found again, and prediction repeats training."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.corpora.clips import import_clips
from mmerc.corpus import Corpus
from mmerc.errors import ConversationError, FeatureError, MediaError
from mmerc.evaluation import infer
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_turn
from mmerc.extraction.extract import extract, with_features
from mmerc.extraction.measuring import Meter
from mmerc.features.decoding import read_pictures, read_sound
from mmerc.features.extractors import Chosen, choose
from mmerc.features.faces import FaceFinder, speaking_face
from mmerc.features.frozen import encode
from mmerc.features.loudness import loudness
from mmerc.features.prosody import Prosody
from mmerc.features.recipe import Look
from mmerc.features.spans import Span, sample_times
from mmerc.features.text import TextEncoder
from mmerc.recognizer import Recognizer, load
from mmerc.training import train
from mmerc.transcripts import read_transcript
from studio import RECORDING, film, write_csv, write_srt, write_vtt, write_whisperx
from tiny import config, make_bert, task

pytestmark = pytest.mark.slow

LINES = RECORDING.lines
WRITERS = {"talk.srt": write_srt, "talk.vtt": write_vtt, "talk.json": write_whisperx, "talk.csv": write_csv}


@pytest.fixture(scope="module")
def folder(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording, a space and an emoji in its name, transcripts (`first.srt`: one line), and a table."""
    folder = tmp_path_factory.mktemp("my recordings 🎥")
    (folder / "the talk 🙂.mp4").write_bytes(recording.read_bytes())
    for name, write in WRITERS.items():
        write(folder / name, RECORDING)
    write_srt(folder / "first.srt", replace(RECORDING, lines=LINES[:1]))
    rows = [
        ("the talk 🙂.mp4", split, split, x.person.name, x.text, x.label, *span(i))
        for split in ("train", "validation", "test")
        for i, x in enumerate(LINES)
    ]
    columns = [
        "media", "dialogue_id", "split", "speaker", "text", "label", "clip_start_ms", "clip_end_ms",
    ]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_csv(folder / "table.tsv", index=False, sep="\t")
    return folder


@pytest.fixture(scope="module")
def chosen() -> dict[str, Chosen]:
    return {"audio": choose("prosody", "audio"), "visual": choose("face-hog", "visual")}


@pytest.fixture(scope="module")
def corpus(folder: Path, chosen: dict[str, Chosen], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    out = tmp_path_factory.mktemp("extracted")
    bare = import_clips(folder, out / "corpus", table=folder / "table.tsv")
    with Cache(None) as cache:
        found = extract(bare, chosen, Meter(in_turn, cache))
    encoder = TextEncoder.load(str(make_bert(out / "bert")))
    return found.add_modality("text", encode(encoder, found.texts))


@pytest.fixture(scope="module")
def recognizer(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2)), out)
    return load(out, "cpu")


def span(number: int) -> Span:
    return Span(round(1000 * LINES[number].start_s), round(1000 * LINES[number].end_s))


# What was put in is found


@pytest.mark.parametrize("name", WRITERS)
def test_the_transcript(folder: Path, name: str) -> None:
    (found,) = read_transcript(folder / name)
    assert [(u.speaker, u.text) for u in found] == [(x.person.name, x.text) for x in LINES]
    for number, utterance in enumerate(found):
        assert abs(utterance.start_ms - span(number).start_ms) <= 1
        assert abs(utterance.end_ms - span(number).end_ms) <= 1


def test_the_voices(recording: Path) -> None:
    """Anna speaks highest, Ben lowest; Cleo fastest, Ben slowest."""
    prosody = Prosody()
    sounds = dict(read_sound(recording, [span(number) for number in range(3)]))
    rows = [dict(zip(prosody.names, prosody(sounds[n]).values, strict=True)) for n in range(3)]
    anna, ben, cleo = rows
    assert anna["pitch_p50"] > cleo["pitch_p50"] + 2 > ben["pitch_p50"] + 4  # semitones
    assert cleo["speaking_rate"] > anna["speaking_rate"] > ben["speaking_rate"]
    for row, line in zip(rows, LINES[:3], strict=True):
        lasts = line.end_s - line.start_s
        vowels = len(re.findall("[aeiouy]+", line.text.lower()))
        assert row["speaking_rate"] == pytest.approx(vowels / lasts, rel=0.35)
        assert row["log_duration"] == pytest.approx(np.log(lasts), abs=0.01)


# Not the last line, during which two speak at once: the sound does not tell whose it is.
@pytest.mark.parametrize(("number", "right"), [(3, True), (5, False)])
def test_which_of_two_faces_speaks(recording: Path, number: int, right: bool) -> None:
    (_, samples), *_ = read_sound(recording, [span(number)])
    times = sample_times(span(number), 5.0)
    finder = FaceFinder()
    looks = [Look(at, finder(image)) for at, image in read_pictures(recording, times)]
    assert max(len(look.seen) for look in looks) == 2
    found = speaking_face(looks, loudness(samples, span(number).start_ms))
    middles = [look.seen.box[0] + look.seen.box[2] / 2 for look in found]
    assert (np.mean(middles) > 160) == right


def test_what_is_absent(corpus: Corpus) -> None:
    table = pd.read_csv(corpus.path / "absent.csv")
    unvoiced = [i for i, x in enumerate(LINES) if not x.voiced]
    slide = [i for i, x in enumerate(LINES) if not RECORDING.people(x.start_s + 0.1)]
    for modality, reason, expected in (("audio", "silence", unvoiced), ("visual", "no face", slide)):
        present = corpus.features(modality)[1].numpy().reshape(3, -1)
        assert [np.flatnonzero(~row).tolist() for row in present] == [expected] * 3
        rows = table[table["modality"] == modality]
        assert rows["utterance_index"].tolist() == expected * 3
        assert set(rows["reason"]) == {reason}


# Prediction repeats training


def test_prediction_has_the_features_of_training(
    folder: Path, corpus: Corpus, recognizer: Recognizer, chosen: dict[str, Chosen]
) -> None:
    (spoken,) = read_transcript(folder / "talk.srt")
    with Cache(None) as cache:
        meter = Meter(in_turn, cache)
        ready, _ = with_features(spoken, folder / "the talk 🙂.mp4", chosen, meter)
        said = recognizer.predict_recording(spoken, folder / "the talk 🙂.mp4", meter)
    rows = corpus.rows(corpus.split("test"))
    for modality in chosen:
        values, present = corpus.features(modality)
        for row, utterance in zip(rows, ready, strict=True):
            assert (modality in utterance.features) == bool(present[row])
            if present[row]:
                assert np.abs(values[row].numpy() - utterance.features[modality]).max() == 0
    found = infer(recognizer.checkpoint, corpus, corpus.split("test"), "cpu").probabilities
    mine = np.array([list(e.probabilities.values()) for e in said.emotions])
    np.testing.assert_allclose(mine, found, atol=1e-6)
    counts = {m: (c.present, c.absent) for m, c in said.modalities.items()}
    assert counts == {"audio": (6, "silence (1)"), "text": (7, ""), "visual": (6, "no face (1)")}


def test_extracting_again_gives_the_same_bits(
    folder: Path, corpus: Corpus, chosen: dict[str, Chosen], tmp_path: Path
) -> None:
    bare = import_clips(folder, tmp_path / "again", table=folder / "table.tsv")
    with Cache(None) as cache:
        extract(bare, {"audio": chosen["audio"]}, Meter(in_turn, cache))
    name = "features/audio.safetensors"
    assert (bare.path / name).read_bytes() == (corpus.path / name).read_bytes()


@pytest.mark.parametrize("missing", ["sound", "pictures"])
def test_a_recording_that_lacks_one(
    folder: Path, recognizer: Recognizer, tmp_path: Path, missing: str
) -> None:
    path = tmp_path / ("only.mp4" if missing == "sound" else "only.wav")
    short = replace(RECORDING, lines=LINES[:1], shots=RECORDING.shots[:1], length_s=4.0)
    film(path, short, **({"sound": False} if missing == "sound" else {}))
    write_srt(tmp_path / "only.srt", short)
    said = recognizer.predict(path, transcript=tmp_path / "only.srt")
    lost = "audio" if missing == "sound" else "visual"
    assert said.modalities[lost].present == 0
    assert f"has no {missing}" in said.modalities[lost].absent
    assert all(c.present == 1 for m, c in said.modalities.items() if m != lost)
    assert said.to_dict()["modalities"][lost]["present"] == 0


def test_text_alone(folder: Path, recognizer: Recognizer) -> None:
    said = recognizer.predict(folder / "talk.srt")
    assert {m: c.present for m, c in said.modalities.items()} == {"audio": 0, "text": 7, "visual": 0}


# Mistakes


def test_a_recipe_that_is_not_installed(recognizer: Recognizer, folder: Path) -> None:
    info = recognizer.checkpoint.info
    audio = info.modalities["audio"]
    other = audio.model_copy(update={"recipe": {**audio.recipe, "version": 99}})
    changed = info.model_copy(update={"modalities": {**info.modalities, "audio": other}})
    stranger = Recognizer(replace(recognizer.checkpoint, info=changed), "cpu")
    with pytest.raises(FeatureError, match=r"'version': 99.* follows .*'version': 1"):
        stranger.predict(folder / "the talk 🙂.mp4", transcript=folder / "talk.srt")
    other = audio.model_copy(update={"recipe": {"kind": "imported", "file": "audio.npy"}})
    changed = info.model_copy(update={"modalities": {**info.modalities, "audio": other}})
    said = Recognizer(replace(recognizer.checkpoint, info=changed), "cpu").predict(
        folder / "the talk 🙂.mp4", transcript=folder / "first.srt"
    )
    assert said.modalities["audio"].present == 0
    assert "trained on imported features" in said.modalities["audio"].absent


def test_transcripts_that_do_not_fit(recognizer: Recognizer, folder: Path, tmp_path: Path) -> None:
    video = folder / "the talk 🙂.mp4"
    with pytest.raises(ConversationError, match="is a recording: hand in its transcript, too"):
        recognizer.predict(video)
    chat = tmp_path / "chat.txt"
    chat.write_text("Ann: hello\nBen: hi\n", encoding="utf-8")
    with pytest.raises(ConversationError, match="utterance 1 of 'chat' has no start and end"):
        recognizer.predict(video, transcript=chat)
    late = tmp_path / "late.srt"
    late.write_text("1\n01:00:00,000 --> 01:00:01,000\nhello\n", encoding="utf-8")
    with pytest.raises(ConversationError, match=r"begins at 3600000 ms, .* ends at 23"):
        recognizer.predict(video, transcript=late)
    several = tmp_path / "several.csv"
    several.write_text("dialogue_id,text,start,end\na,x,0,1\nb,y,1,2\n", encoding="utf-8")
    with pytest.raises(ConversationError, match="holds 2 conversations, expected one"):
        recognizer.predict(video, transcript=several)
    with pytest.raises(MediaError, match=r"gone\.mp4 does not exist"):
        recognizer.predict(tmp_path / "gone.mp4", transcript=folder / "talk.srt")
    fake = tmp_path / "fake.mp4"
    fake.write_text("text", encoding="utf-8")
    with pytest.raises(MediaError, match=r"fake\.mp4"):
        recognizer.predict(fake, transcript=folder / "talk.srt")


def test_a_transcript_that_goes_on_after_the_end(
    recognizer: Recognizer, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "longer.srt"
    text = (folder / "first.srt").read_text(
        encoding="utf-8"
    ) + "\n2\n00:05:00,000 --> 00:05:01,000\nAnna: anyone?\n"
    path.write_text(text, encoding="utf-8")
    said = recognizer.predict(folder / "the talk 🙂.mp4", transcript=path)
    assert "after the end of the file (1)" in said.modalities["audio"].absent
    assert said.modalities["audio"].present == 1
    assert said.modalities["text"].present == 2


def test_nothing_to_measure(tmp_path: Path, chosen: dict[str, Chosen]) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.wav").write_bytes(b"")
    table = tmp_path / "table.csv"
    table.write_text("media,dialogue_id,text,label\na.wav,d,hi,joy\na.wav,d,ho,anger\n", encoding="utf-8")
    bare = import_clips(tmp_path / "m", tmp_path / "c", table=table)
    with Cache(None) as cache, pytest.raises(FeatureError, match=r"nothing could be measured: .*a\.wav"):
        extract(bare, chosen, Meter(in_turn, cache))
    assert Corpus.open(bare.path).modalities == {}
