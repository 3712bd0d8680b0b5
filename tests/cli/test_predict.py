import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fake_hub import FakeHub, ask_there, fake_hub
from mmerc.corpus import Corpus
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.recognizer import load
from mmerc.training import train
from mmerc.transcripts import read_transcript
from tiny import LABELS, config, make_bert, tables, task, write

Command = Callable[..., tuple[int, str, str]]
CHAT = "Ann: oh no, the train is late\nBen: great 😀\nAnn: late again!\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("encoded")
    frame, features = tables()
    bare = write(folder / "c", frame, {"audio": features["audio"]})
    encoder = TextEncoder.load(str(make_bert(folder / "bert")))
    dialogues = [[u.text for u in bare.conversation(d)] for d in range(len(bare.dialogue_ids))]
    return bare.add_modality("text", encode(encoder, dialogues))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(task(corpus, config("df-erc", epochs=2)), out)
    return out


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "chat.txt"
    path.write_text(CHAT, encoding="utf-8")
    return path


def assert_one_line(result: tuple[int, str, str], *said: str) -> None:
    code, out, err = result
    assert (code, out) == (2, "")
    *notes, last = err.splitlines()
    assert last.startswith("error: ")
    assert all("fetching" in note for note in notes)
    for part in said:
        assert part in err


def test_a_table(mmerc: Command, trained: Path, chat: Path) -> None:
    code, out, err = mmerc("predict", trained, chat)
    assert code == 0, err
    (prediction,) = load(trained).predict_many(read_transcript(chat))
    for utterance, emotion in prediction:
        assert utterance.text in out
        assert emotion.label in out


def test_json_to_the_terminal_and_to_a_file(
    mmerc: Command, trained: Path, chat: Path, tmp_path: Path
) -> None:
    code, out, err = mmerc("predict", trained, chat, "--format", "json")
    assert code == 0, err
    (document,) = json.loads(out)
    (prediction,) = load(trained).predict_many(read_transcript(chat))
    assert document == prediction.to_dict()
    assert [u["speaker"] for u in document["utterances"]] == ["Ann", "Ben", "Ann"]
    code, shown, _ = mmerc("predict", trained, chat, "--format", "json", "--out", tmp_path / "p.json")
    assert (code, shown) == (0, "")
    assert (tmp_path / "p.json").read_text(encoding="utf-8") == out


def test_the_page_beside_the_table(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    page = tmp_path / "chat.html"
    code, out, err = mmerc("predict", trained, chat, "--html", page)
    assert code == 0, err
    assert "late again!" in out
    assert "late again!" in page.read_text(encoding="utf-8")


def test_the_model_in_the_box(mmerc: Command, chat: Path) -> None:
    code, out, err = mmerc("predict", chat, "--format", "json")
    assert code == 0, err
    (document,) = json.loads(out)
    assert set(document["utterances"][0]["probabilities"]) >= {"neutral", "joy", "disgust"}
    assert err == "used: text in 3 of 3\n"


def test_csv(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    code, out, err = mmerc("predict", trained, chat, "--format", "csv")
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 3
    for row in rows:
        assert row["label"] in LABELS
        assert sum(float(row[f"probability_{name}"]) for name in LABELS) == pytest.approx(1, abs=1e-4)
        assert row["contribution_audio"] == ""
        assert 0 <= float(row["contribution_text"]) <= 1
    mmerc("predict", trained, chat, "--format", "csv", "--out", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines() == out.splitlines()


def test_features_in_the_input(mmerc: Command, trained: Path, corpus: Corpus, tmp_path: Path) -> None:
    conversation = corpus.conversation(0)
    rows = [
        {"text": u.text, "speaker": u.speaker, "features": {m: x.tolist() for m, x in u.features.items()}}
        for u in conversation
    ]
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    code, out, err = mmerc("predict", trained, path, "--format", "json")
    assert code == 0, err
    said = json.loads(out)[0]["utterances"]
    for row, emotion in zip(said, load(trained).predict(conversation).emotions, strict=True):
        assert row["probabilities"] == pytest.approx(emotion.probabilities, abs=1e-6)
        assert row["contributions"] == pytest.approx(emotion.contributions, abs=1e-6)


def test_many_files(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name, text in (("one.txt", CHAT), ("two.srt", "no subtitles"), ("three.txt", "oh no\n")):
        (tmp_path / "more" / name).write_text(text, encoding="utf-8")
    command = ("predict", trained, chat, tmp_path / "more", "--out-dir", tmp_path / "out", "--jobs", 1)
    code, out, err = mmerc(*command)
    assert (code, out) == (2, "")
    assert "3 file(s) predicted, 0 there before" in err
    assert "used: audio in 0 of 7; text in 7 of 7" in err
    assert err.count("error: ") == 1
    assert "error: 1 of 4 files failed; the same command tries them again:\n" in err
    assert err.splitlines()[-1].startswith(f"  {tmp_path}/more/two.srt")
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"chat", "one", "three"}
    _, alone, _ = mmerc("predict", trained, chat, "--format", "json")
    assert (tmp_path / "out" / "chat.json").read_text(encoding="utf-8") == alone
    (tmp_path / "more" / "two.srt").unlink()
    code, _, err = mmerc(*command)
    assert code == 0, err
    assert "0 file(s) predicted, 3 there before" in err
    code, _, err = mmerc(*command, "--force", "--format", "csv")
    assert code == 0, err
    assert "3 file(s) predicted, 0 there before" in err
    assert {path.stem for path in (tmp_path / "out").glob("*.csv")} == {"chat", "one", "three"}


def test_mistakes_with_many_files(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    out = ("--out-dir", tmp_path / "out")
    assert_one_line(mmerc("predict", chat, chat), "several conversations can be predicted with --out-dir DIR")
    assert_one_line(mmerc("predict", trained, chat, chat), "several conversations")
    assert_one_line(
        mmerc("predict", trained, tmp_path), "is a folder: all that is in it can be predicted with"
    )
    assert_one_line(mmerc("predict", chat, "--engine", "ray"), "are for many files")
    assert_one_line(mmerc("predict", chat, "--force"), "are for many files")
    assert_one_line(mmerc("predict", trained, *out), "there is nothing to predict")
    assert_one_line(
        mmerc("predict", "meld-texts", chat, *out), "a model in the box (meld-text, meld-text-live)"
    )
    assert_one_line(mmerc("predict", trained.parent, chat, *out), "name one of: ")
    assert_one_line(mmerc("predict", trained, chat, tmp_path / "gone.txt", *out), "gone.txt does not exist")
    for wrong in (("--format", "table"), ("--out", "x"), ("--html", "x"), ("--transcript", "x")):
        assert_one_line(mmerc("predict", trained, chat, *out, *wrong), "--out-dir writes JSON or CSV")
    assert_one_line(mmerc("predict", trained, chat, *out, "--gpus", "0.5"), "--gpus goes with --engine ray")
    assert_one_line(
        mmerc("predict", trained, chat, *out, "--engine", "ray", "--cache", "x"), "a file of one machine"
    )
    assert_one_line(mmerc("predict", trained, chat, *out, "--device", "gpu"), "device 'gpu' cannot be used")
    assert not (tmp_path / "out").exists()


def test_many_files_without_ray(
    mmerc: Command, trained: Path, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = mmerc("predict", trained, chat, "--out-dir", tmp_path / "out", "--engine", "ray")
    assert code == 2
    assert 'pip install "mmerc[ray]"' in err


@pytest.mark.parametrize("text", ["Ann: 😀👩‍👩‍👧\n", "Ann: " + "late " * 10_000, "Ann: 電車が遅れた\n", "hm"])
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_any_text(mmerc: Command, trained: Path, tmp_path: Path, text: str, form: str) -> None:
    path = tmp_path / "chat.txt"
    path.write_text(text, encoding="utf-8")
    code, out, err = mmerc("predict", trained, path, "--format", form)
    assert code == 0, err
    assert any(label in out for label in LABELS)


def write_jsonl(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({"text": "oh no", **fields}), encoding="utf-8")
    return path


def test_mistakes(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    assert_one_line(mmerc("predict", tmp_path / "gone", chat), "is not a checkpoint folder")
    assert_one_line(mmerc("predict", tmp_path, chat), "it has no checkpoint.json")
    assert_one_line(mmerc("predict", trained, tmp_path / "gone.txt"), "gone.txt does not exist")
    assert_one_line(mmerc("predict", trained, chat, "--device", "gpu"), "device 'gpu' cannot be used")
    assert_one_line(
        mmerc("predict", trained, chat, "--out", tmp_path / "x"), "--out needs --format json or csv"
    )
    assert not (tmp_path / "x").exists()
    wide = write_jsonl(tmp_path / "wide.jsonl", features={"audio": [1.0] * 9})
    assert_one_line(mmerc("predict", trained, wide), "'audio' has shape (9,), the model expects (4,)")
    huge = write_jsonl(tmp_path / "huge.jsonl", features={"audio": [1, 2, 3, float("nan")]})
    assert_one_line(mmerc("predict", trained, huge))
    blank = tmp_path / "blank.csv"
    blank.write_text("speaker,text\nAnn,\n", encoding="utf-8")
    assert_one_line(mmerc("predict", trained, blank), "has nothing that this model reads")


def test_a_damaged_checkpoint(mmerc: Command, trained: Path, chat: Path, tmp_path: Path) -> None:
    for file in trained.iterdir():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run" / "model.safetensors").write_bytes(np.zeros(99, np.uint8).tobytes())
    assert_one_line(mmerc("predict", tmp_path / "run", chat), "model.safetensors is damaged")


def test_a_failing_write_leaves_the_old_file(
    mmerc: Command, trained: Path, chat: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("old", encoding="utf-8")
    result = mmerc("predict", trained, chat, "--format", "csv", "--out", tmp_path / "file" / "p.csv")
    assert result[0] == 2
    assert (tmp_path / "file").read_text(encoding="utf-8") == "old"


# Models on the Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, trained: Path, tmp_path: Path) -> Iterator[FakeHub]:
    with fake_hub() as running:
        ask_there(monkeypatch, running.address, str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        names = ("checkpoint.json", "config.yaml", "model.safetensors")
        running.repositories["ann/talks"] = [{name: (trained / name).read_bytes() for name in names}]
        yield running


def test_a_model_on_the_hub(mmerc: Command, hub: FakeHub, trained: Path, chat: Path, tmp_path: Path) -> None:
    code, out, err = mmerc("predict", "ann/talks", chat, "--format", "json")
    assert code == 0, err
    assert out == mmerc("predict", trained, chat, "--format", "json")[1]
    code, _, err = mmerc("predict", "ann/talks", chat, "--out-dir", "results", "--jobs", "1")
    assert code == 0, err
    assert json.loads((tmp_path / "results/chat.json").read_text(encoding="utf-8")) == json.loads(out)


def test_a_name_that_is_neither_here_nor_there(mmerc: Command, hub: FakeHub, chat: Path) -> None:
    for out in ((), ("--out-dir", "results")):
        assert_one_line(
            mmerc("predict", "ann/other", chat, *out), "no folder ann/other here", "on the Hugging Face Hub"
        )


def test_what_the_hub_is_not_asked_for(mmerc: Command, hub: FakeHub, chat: Path) -> None:
    """The conversation's own name, that of a file, and a model before its conversation is there."""
    for out in ((), ("--out-dir", "results")):
        assert_one_line(mmerc("predict", "talks/one", *out), "talks/one does not exist")
        assert_one_line(mmerc("predict", "talks/one.srt", chat, *out), "talks/one.srt")
    assert_one_line(mmerc("predict", "ann/talks", "gone.txt"), "gone.txt does not exist")
    assert hub.asked == []
