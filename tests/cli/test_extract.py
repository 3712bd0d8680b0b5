"""`mmerc extract` as a user calls it, on small copies of the layouts that there are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.corpus import Corpus
from studio import RECORDING, film, write_csv, write_srt
from tiny import make_bert

Command = Callable[..., tuple[int, str, str]]
HERE = ("--jobs", "1")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmerc" / "features.sqlite"


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording without pictures and its transcripts."""
    folder = tmp_path_factory.mktemp("talk")
    film(folder / "talk.wav", RECORDING)
    write_srt(folder / "talk.srt", RECORDING)
    write_csv(folder / "talk.csv", RECORDING)
    return folder


@pytest.mark.slow
def test_meld(mmerc: Command, meld_raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "meld"
    code, said, err = mmerc("extract", meld_raw, "--out", out, "--text", "none", *HERE)
    assert code == 0, err
    corpus = Corpus.open(out)
    assert corpus.modalities.keys() == {"audio", "visual"}
    assert set(corpus.utterances["split"]) == {"train", "validation", "test"}
    absent = pd.read_csv(out / "absent.csv")
    for modality in corpus.modalities:
        present = corpus.features(modality)[1].numpy()
        assert present.any()
        assert (~present).sum() == (absent["modality"] == modality).sum()
    assert "prosody" in said


@pytest.mark.slow
def test_iemocap(mmerc: Command, iemocap_release: Path, tmp_path: Path) -> None:
    out = tmp_path / "iemocap"
    options = ("--label-map", "iemocap-4", "--text", "none", *HERE)
    code, _, err = mmerc("extract", iemocap_release, "--out", out, *options)
    assert code == 0, err
    corpus = Corpus.open(out)
    assert len(corpus.labels) == 4
    assert set(corpus.utterances["split"]) == {"train", "validation", "test"}
    assert corpus.features("audio")[1].all()
    assert corpus.features("visual")[1].float().mean() > 0.9  # the half in which the speaker is


@pytest.mark.slow
def test_a_recording_and_going_on(mmerc: Command, talk: Path, tmp_path: Path, cache: Path) -> None:
    out, bert = tmp_path / "c", make_bert(tmp_path / "bert")
    command = (
        "extract",
        talk / "talk.wav",
        "--transcript",
        talk / "talk.csv",
        "--out",
        out,
        "--text",
        bert,
        *HERE,
    )
    code, said, err = mmerc(*command)
    assert code == 0, err
    first = Corpus.open(out)
    assert first.labels == ("anger", "joy", "neutral", "sadness", "surprise")
    assert first.modalities.keys() == {"audio", "text"}  # what cannot be had at all is left out, and said
    assert "no visual for 7" in said
    assert "no visual for 7: no file" in said
    assert f"all of them: {out / 'absent.csv'}" in said
    assert "no audio for 1: silence (first: talk, utterance 4)" in said
    values = first.features("audio")[0].clone()
    assert cache.stat().st_size > 0

    code, said, err = mmerc(*command)  # again: nothing is lost, nothing measured
    assert code == 0, err
    assert "is there: going on with it" in err
    np.testing.assert_array_equal(Corpus.open(out).features("audio")[0], values)
    code, said, err = mmerc("extract", out, "--visual", "none", "--text", "none", *HERE)  # a corpus as source
    assert code == 0, err
    assert Corpus.open(out).modalities.keys() == {"audio", "text"}


@pytest.mark.slow
def test_another_recipe_needs_force(mmerc: Command, talk: Path, tmp_path: Path) -> None:
    pytest.importorskip("opensmile", reason="openSMILE is not installed")
    out = tmp_path / "c"
    options = ("--visual", "none", "--text", "none", *HERE)
    assert (
        mmerc("extract", talk / "talk.wav", "--transcript", talk / "talk.srt", "--out", out, *options)[0] == 0
    )
    again = ("extract", out, "--audio", "opensmile/eGeMAPSv02", *options)
    code, _, err = mmerc(*again)
    assert code == 2
    assert "'kind': 'prosody'" in err
    assert "'kind': 'opensmile'" in err
    assert "--force replaces them" in err
    code, _, err = mmerc(*again, "--force")
    assert code == 0, err
    assert "audEERING Research License" in err  # the licence is told where it is chosen
    assert Corpus.open(out).modalities["audio"].width == 88


def test_a_folder_of_recordings(mmerc: Command, talk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / f"{name}.wav").write_bytes((talk / "talk.wav").read_bytes())
        (folder / f"{name}.csv").write_bytes((talk / "talk.csv").read_bytes())
    (folder / "three.wav").write_bytes(b"")
    (folder / "three.csv").write_text("text,start,end,label\nhello,0,1,joy\n", encoding="utf-8")
    options = ("--visual", "none", "--text", "none", "--labels", "joy,anger,neutral,sadness,surprise", *HERE)
    code, said, err = mmerc("extract", folder, "--out", tmp_path / "c", *options)
    assert code == 0, err
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.labels[:2] == ("joy", "anger")
    assert sorted(corpus.dialogue_ids) == ["one", "three", "two"]
    assert "three.wav" in said  # a bad file stops nothing


def test_mistakes(mmerc: Command, talk: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        code, _, err = mmerc("extract", *arguments, "--text", "none", *HERE)
        assert code == 2
        return err

    wav, srt, out = talk / "talk.wav", talk / "talk.srt", tmp_path / "c"
    assert "say where to write the corpus: --out DIR" in refused(wav, "--transcript", srt)
    assert "needs a transcript: --transcript FILE" in refused(wav, "--out", out)
    assert "does not exist" in refused(tmp_path / "gone.mp4", "--out", out)
    assert "there is no audio recipe 'prosodie'; there are: opensmile, prosody" in refused(
        wav, "--transcript", srt, "--out", out, "--audio", "prosodie"
    )
    assert "needs a file: onnx:PATH" in refused(wav, "--transcript", srt, "--out", out, "--visual", "onnx")
    assert "'face-hog' takes neither 'big'" in refused(
        wav, "--transcript", srt, "--out", out, "--visual", "face-hog/big"
    )
    assert "nothing could be measured" in refused(wav, "--transcript", srt, "--out", out, "--audio", "none")
    other = tmp_path / "other"
    other.mkdir()
    (other / "talk.wav").write_bytes(wav.read_bytes())
    assert "choose another --out" in refused(other / "talk.wav", "--transcript", srt, "--out", out)
    (out / "media.parquet").unlink()
    assert "does not say where its media are" in refused(out, "--visual", "none")


def test_media_that_were_moved(mmerc: Command, talk: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "talk.wav").write_bytes((talk / "talk.wav").read_bytes())
    options = ("--visual", "none", "--text", "none", *HERE)
    out = tmp_path / "c"
    source = ("extract", old / "talk.wav", "--transcript", talk / "talk.srt", "--out", out)
    assert mmerc(*source, *options)[0] == 0
    old.rename(new)
    code, _, err = mmerc("extract", out, *options)
    assert code == 2
    assert "does not exist: say where it is with --media-root" in err
    assert mmerc("extract", out, *options, "--media-root", new)[0] == 0


def test_a_broken_cache_is_told(mmerc: Command, talk: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.sqlite"
    bad.write_text("x" * 5000, encoding="utf-8")
    source = ("extract", talk / "talk.wav", "--transcript", talk / "talk.srt", "--out", tmp_path / "c")
    code, _, err = mmerc(*source, "--text", "none", "--cache", bad, *HERE)
    assert code == 2
    assert "bad.sqlite cannot be used" in err
