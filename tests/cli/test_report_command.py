from collections.abc import Callable
from pathlib import Path

import pytest

from mmerc.corpus import Corpus
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.recognizer import load
from mmerc.report import explain
from mmerc.training import train
from mmerc.transcripts import read_transcript
from tiny import config, make_bert, tables, task, write

Command = Callable[..., tuple[int, str, str]]
CHAT = "Ann: oh no, the train is late\nBen: great 😀\nAnn: late again!\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    frame, _ = tables()
    bare = write(folder / "c", frame, {})
    encoder = TextEncoder.load(str(make_bert(folder / "bert")))
    dialogues = [[u.text for u in bare.conversation(d)] for d in range(len(bare.dialogue_ids))]
    corpus: Corpus = bare.add_modality("text", encode(encoder, dialogues))
    train(task(corpus, config("df-erc", epochs=2)), folder / "run")
    return folder / "run"


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.txt"
    path.write_text(CHAT, encoding="utf-8")
    return path


def test_a_report_of_a_chat(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    code, _, err = mmerc("report", trained, chat, "--out", out, "--title", "Our talk")
    assert code == 0, err
    html = out.read_text(encoding="utf-8")
    for said in ("great 😀", "df-erc, trained on tiny", "Our talk", "moved by"):
        assert said in html
    mmerc("report", trained, chat, "--out", out, "--influences", "0")
    assert 'class="moved"' not in out.read_text(encoding="utf-8")


def test_a_report_that_plays_a_recording(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    timed = tmp_path / "chat.csv"
    timed.write_text("start,end,speaker,text\n0,1.5,Ann,oh no\n1.5,2,Ben,late again!\n", encoding="utf-8")
    (tmp_path / "talk.mp3").write_bytes(b"x")
    out = tmp_path / "r.html"
    code, _, err = mmerc("report", trained, timed, "--out", out, "--media", tmp_path / "talk.mp3")
    assert code == 0, err
    assert 'href="./talk.mp3#t=1.5,2"' in out.read_text(encoding="utf-8")


def test_mistakes(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    (tmp_path / "talk.mp4").write_bytes(b"x")
    for arguments, said in (
        ((trained, chat, "--media", tmp_path / "gone.mp4"), "gone.mp4 does not exist"),
        ((trained, chat, "--media", chat, "--transcript", chat), "--media goes with a transcript alone"),
        ((trained, tmp_path / "talk.mp4"), "is a recording: hand in its transcript"),
        ((tmp_path / "gone", chat), "gone"),
    ):
        code, _, err = mmerc("report", *arguments, "--out", out)
        assert code == 2
        assert err.startswith("error: ")
        assert said in err
        assert not out.exists()


def test_explaining_keeps_what_was_said_of_the_modalities(trained: Path, chat: Path) -> None:
    recognizer = load(trained)
    (prediction,) = recognizer.predict_many(read_transcript(chat))
    explained = explain(recognizer, prediction)
    assert explained.prediction is prediction
    assert explained.influences == recognizer.explain(prediction.conversation).influences
    assert explain(recognizer, prediction, 0).influences == ((), (), ())
