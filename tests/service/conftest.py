"""A tiny model that reads raw text, and clients of a service with it, in this process."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mmerc.corpus import Corpus
from mmerc.features.frozen import encode
from mmerc.features.text import TextEncoder
from mmerc.recognizer import Recognizer, load
from mmerc.service.app import create_app
from mmerc.service.observing import JsonLines
from mmerc.service.settings import Settings
from mmerc.training import train
from tiny import config, make_bert, tables, task, write

Connect = Callable[..., TestClient]


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """Reads raw text by the recipe of its checkpoint."""
    folder = tmp_path_factory.mktemp("reader")
    frame, _ = tables()
    bare: Corpus = write(folder / "c", frame, {})
    encoder = TextEncoder.load(str(make_bert(folder / "bert")))
    dialogues = [[u.text for u in bare.conversation(d)] for d in range(len(bare.dialogue_ids))]
    corpus = bare.add_modality("text", encode(encoder, dialogues))
    train(task(corpus, config("df-erc", epochs=2)), folder / "run")
    return load(folder / "run")


@pytest.fixture
def connect(reader: Recognizer, tmp_path: Path) -> Iterator[Connect]:
    """Start a service with some settings; return a client of it. Uploads go to `tmp_path / "uploads"`."""
    (tmp_path / "uploads").mkdir()
    with ExitStack() as stack:

        def start(recognizers: Mapping[str, Recognizer] | None = None, **settings: Any) -> TestClient:
            chosen = Settings(**{"temporary": str(tmp_path / "uploads"), **settings})
            app = create_app(recognizers or {"tiny": reader}, chosen)
            return stack.enter_context(TestClient(app, raise_server_exceptions=True))

        yield start


@pytest.fixture
def client(connect: Connect) -> TestClient:
    """A client of a service with the default settings."""
    return connect()


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("httpx"):  # the client's
            self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Everything that is logged, as the lines that the service writes."""
    handler, root = _Kept(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel("DEBUG")
    yield handler.lines
    root.setLevel(level)
    root.removeHandler(handler)
