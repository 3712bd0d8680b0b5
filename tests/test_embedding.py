"""What docs/embedding.md promises a program: its blocks run, threads agree, results are typed tables."""

import re
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import mmerc
import mmerc.recognizer
from mmerc.conversation import Conversation, Emotion, Prediction, Utterance, frame
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.recognizer import Recognizer
from mmerc.shipped import CHAT
from mmerc.training import train
from mmerc.transcripts import write_predictions
from studio import RECORDING, write_srt
from tiny import PHRASES, config, make_bert, tables, task, write

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "embedding.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


# Tables

SURE = Emotion("joy", 0.75, {"joy": 0.75, "anger": 0.25}, {"audio": None, "text": 0.5}, 0.25)
SAID = Prediction(
    Conversation(
        (
            Utterance("hi", "Zoë", label="joy", features={"text": np.ones(2, np.float32)}),
            Utterance("a,\rb", start_ms=5, end_ms=9),
        ),
        "chat",
    ),
    (SURE, Emotion("anger", 0.5, {"joy": 0.5, "anger": 0.5})),
)


def test_a_table_of_a_prediction() -> None:
    table = SAID.to_frame()
    assert list(table.columns) == [
        "dialogue_id", "turn", "speaker", "text", "start_ms", "end_ms", "gold", "label", "confidence",
        "context_weight", "probability_joy", "probability_anger", "contribution_audio", "contribution_text",
    ]  # fmt: skip
    assert table["label"].tolist() == ["joy", "anger"]
    assert table["turn"].tolist() == [1, 2]
    assert table["start_ms"].dtype == "Int64"
    assert table["start_ms"].isna().tolist() == [True, False]
    assert table["contribution_text"].tolist()[0] == 0.5
    assert table[["gold", "context_weight", "contribution_text"]].isna().iloc[1].all()
    assert table["contribution_audio"].isna().all()


def test_the_table_is_the_csv(tmp_path: Path) -> None:
    both = [SAID, replace(SAID, conversation=replace(SAID.conversation, id="other"))]
    (tmp_path / "said.csv").write_bytes(write_predictions(both, "csv").encode())
    read = pd.read_csv(tmp_path / "said.csv", dtype={"start_ms": "Int64", "end_ms": "Int64"})
    expected = pd.concat([prediction.to_frame() for prediction in both], ignore_index=True)
    pd.testing.assert_frame_equal(frame(both), expected)
    assert list(read.columns) == list(expected.columns)
    assert read["dialogue_id"].tolist() == ["chat", "chat", "other", "other"]
    assert read["start_ms"].tolist() == expected["start_ms"].tolist()
    assert read["probability_joy"].tolist() == expected["probability_joy"].tolist()


def test_nothing_predicted_is_an_empty_table() -> None:
    assert frame([]).empty
    assert list(frame([]).columns)[:3] == ["dialogue_id", "turn", "speaker"]


# Threads


@pytest.fixture(scope="module")
def vectors_only(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recognizer, list[Conversation]]:
    """A recognizer of ready-made vectors, and conversations of a corpus."""
    folder = tmp_path_factory.mktemp("vectors")
    corpus = write(folder / "c")
    train(task(corpus, config("df-erc", epochs=1)), folder / "run")
    return mmerc.load(folder / "run", "cpu"), [corpus.conversation(d) for d in range(12)]


def in_threads(work: Any, jobs: list[Any]) -> list[Any]:
    """Do the jobs in eight threads that start at the same moment."""
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=start.wait) as pool:
        return list(pool.map(work, jobs))


def test_eight_threads_get_the_bits_of_one(vectors_only: tuple[Recognizer, list[Conversation]]) -> None:
    recognizer, conversations = vectors_only
    alone = [recognizer.predict(conversation) for conversation in conversations]
    together = in_threads(recognizer.predict, conversations * 8)
    assert [p.emotions for p in together] == [p.emotions for p in alone] * 8


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that reads raw text."""
    folder = tmp_path_factory.mktemp("reader")
    bare = write(folder / "c", tables()[0], {})
    encoder = TextEncoder.load(str(make_bert(folder / "bert")))
    train(task(bare.add_modality("text", encode(encoder, bare.texts)), config(epochs=1)), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_threads_load_the_text_encoder_once(reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    original = mmerc.recognizer.encoder_for

    def counted(recipe: dict[str, Any]) -> TextEncoder:
        loads.append(recipe)
        return original(recipe)

    monkeypatch.setattr(mmerc.recognizer, "encoder_for", counted)
    texts = [[PHRASES[(i + k) % 3] for k in range(1 + i % 4)] for i in range(12)]
    talks = [Conversation(tuple(Utterance(text) for text in spoken)) for spoken in texts]
    for _ in range(5):
        recognizer = mmerc.load(reader, "cpu")
        together = in_threads(recognizer.predict, talks * 4)
        alone = [recognizer.predict(talk) for talk in talks]
        assert [p.emotions for p in together] == [p.emotions for p in alone] * 4
    assert len(loads) == 5


# The page


@pytest.mark.slow
def test_the_blocks_of_the_page_run(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.txt").write_bytes(CHAT.read_bytes())
    (tmp_path / "talk.mp4").write_bytes(recording.read_bytes())
    write_srt(tmp_path / "talk.srt", RECORDING)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/embedding.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "Ann joy 0.85" in printed
    assert "cannot predict: missing.txt" in printed
    assert {"prediction.json", "model.onnx"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_the_blocks_of_the_page_are_typed(tmp_path: Path) -> None:
    """As someone with mypy sees them, who has installed mmerc: nothing public is `Any`."""
    seen = [
        "recognizer", "prediction", "explanation", "explanation.influences[0][0].change",
        "prediction.emotions[0].probabilities", "prediction.modalities", "table", "together",
    ]  # fmt: skip
    code = "\n".join([*BLOCKS, *(f"reveal_type({name})" for name in seen)])
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(
        textwrap.dedent("""\
            [mypy]
            strict = true
            [mypy-onnxruntime.*]
            ignore_missing_imports = true
            """),
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--no-incremental", "page.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(revealed) == len(seen)
    assert not [kind for kind in revealed if "Any" in kind], done.stdout
