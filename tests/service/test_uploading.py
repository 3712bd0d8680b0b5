import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import lock_descriptor
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from test_guarding import code, exchange
from test_predicting import SECRET, refused

from mmerc.recognizer import Recognizer
from mmerc.service import media
from mmerc.service.app import create_app
from mmerc.service.observing import Metrics
from mmerc.service.schemas import PredictAnswer
from mmerc.service.settings import Settings
from mmerc.service.uploads import MARK, Uploads
from mmerc.storage import LOCK
from studio import RECORDING, write_srt

SRT = b"1\n00:00:00,000 --> 00:00:01,000\nAnn: oh no, the train is late\n"
FILES = {"recording": ("a.wav", b"RIFF"), "transcript": ("a.srt", SRT)}
UPLOAD = "/v1/predict/media"
HEADERS = {"Content-Type": "multipart/form-data; boundary=xx", "Transfer-Encoding": "chunked"}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """In place of measuring: what would be measured, and the files as they are on disk then."""
    jobs: list[dict[str, Any]] = []

    async def note(service: Any, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*")}
        jobs.append({**job, "folder": folder, "files": found})
        row = {"turn": 1, "speaker": "", "text": "", "label": "joy", "confidence": 1.0}
        row |= {"probabilities": {"joy": 1.0}, "contributions": None, "context_weight": None}
        return {"prediction": {"conversation": "c", "modalities": {}, "utterances": [row]}}

    monkeypatch.setattr(media, "_measured", note)
    return jobs


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def nothing_left(client: Any, tmp_path: Path) -> None:
    """The temporary folder holds no upload, and no other is there."""
    assert all(path.count("/") == 0 or path.endswith(f"/{LOCK}") for path in tree(tmp_path / "uploads"))
    assert tree(tmp_path)[0] == "uploads"
    assert all(path.startswith("uploads") for path in tree(tmp_path))


def test_what_is_kept_while_it_is_measured(
    client: TestClient, measured: list[dict[str, Any]], tmp_path: Path
) -> None:
    answer = client.post(UPLOAD, files=FILES, data={"model": "tiny", "id": "monday"})
    assert answer.status_code == 200, answer.text
    PredictAnswer.model_validate(answer.json())
    (job,) = measured
    assert job["files"] == {"recording": b"RIFF", "transcript.srt": SRT}
    assert job["id"] == "monday"
    assert job["folder"].is_relative_to(tmp_path / "uploads")
    assert not job["folder"].exists()
    nothing_left(client, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../../escape.srt",
        "/etc/passwd.srt",
        "..\\..\\x.SRT",
        "a\x00b.srt",
        "x" * 3000 + ".srt",
        "％2e％2e/.srt",
        ".srt",
    ],
)
def test_names_of_files_are_not_used(
    client: TestClient, measured: list[dict[str, Any]], tmp_path: Path, name: str
) -> None:
    files = {"recording": (name, b"RIFF"), "transcript": (name, SRT)}
    assert client.post(UPLOAD, files=files).status_code == 200
    assert sorted(measured[0]["files"]) == ["recording", "transcript.srt"]
    nothing_left(client, tmp_path)


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 300_000])
def test_files_of_any_size_and_content(client: TestClient, measured: list[dict[str, Any]], size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    files = {"recording": ("a", content[:size]), "transcript": ("t.vtt", b"\r\n--\r\n" * 100)}
    assert client.post(UPLOAD, files=files).status_code == 200
    assert measured[0]["files"] == {"recording": content[:size], "transcript.vtt": b"\r\n--\r\n" * 100}


def part(name: str, content: str, more: str = "") -> str:
    return f'--xx\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'


GOOD = part("recording", "RIFF") + part("transcript", "1", '; filename="a.srt"')


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "broken_multipart"),
        ("--", 400, "broken_multipart"),
        (SECRET, 400, "broken_multipart"),
        (GOOD, 400, "broken_multipart"),  # no end
        (GOOD[:-30] + "--xx--", 400, "broken_multipart"),
        (f"--xx\r\n{SECRET}\r\n\r\n--xx--", 400, "broken_multipart"),
        (f"--xx\r\nA: {'b' * 100_000}\r\n\r\n--xx--", 400, "broken_multipart"),
        ("--xx\r\n" + "A: b\r\n" * 1000 + "\r\n--xx--", 400, "broken_multipart"),
        (f"--xx\r\nA: b\r\n\r\n{SECRET}\r\n--xx--", 422, "invalid"),  # a part without a name
        ("--xx--", 422, "invalid"),
        (part("recording", "RIFF") + "--xx--", 422, "invalid"),
        (GOOD + part(SECRET, "x") + "--xx--", 422, "invalid"),
        (GOOD + part("recording", "x") + "--xx--", 422, "invalid"),
        (GOOD + part("model", "x" * 1000) + "--xx--", 422, "too_long"),
        (GOOD + part("id", "x" * 201) + "--xx--", 422, "too_long"),
        (GOOD + part("model", SECRET) + "--xx--", 404, "no_such_model"),
        (part("transcript", "1", '; filename="a.exe"') + "--xx--", 415, "unsupported_media_type"),
        (part("transcript", "1") + "--xx--", 415, "unsupported_media_type"),
        (part("transcript", "1" * 5000, '; filename="a.srt"') + "--xx--", 413, "too_large"),
    ],
)
def test_multipart_that_is_broken(
    connect: Any, measured: list[dict[str, Any]], tmp_path: Path, body: str, status: int, error: str
) -> None:
    client = connect(max_body_bytes=4000)
    answer = client.post(UPLOAD, content=body.encode(), headers={"Content-Type": HEADERS["Content-Type"]})
    refused(answer, status, error)
    assert not measured
    nothing_left(client, tmp_path)


def test_multipart_that_is_not_unicode(client: TestClient, measured: list[dict[str, Any]]) -> None:
    content = (GOOD + part("id", "schön") + "--xx--").encode("latin-1")
    answer = client.post(UPLOAD, content=content, headers={"Content-Type": HEADERS["Content-Type"]})
    refused(answer, 400, "invalid")


@pytest.mark.parametrize(
    "kind", ["", "multipart/form-data", "multipart/form-data; boundary=" + "x" * 1000, "application/json"]
)
def test_content_types_of_uploads(client: TestClient, tmp_path: Path, kind: str) -> None:
    answer = client.post(UPLOAD, content=GOOD, headers={"Content-Type": kind})
    assert answer.status_code == (400 if kind.startswith("multipart") else 415)
    nothing_left(client, tmp_path)


def test_uploads_that_are_too_large(connect: Any, tmp_path: Path) -> None:
    client = connect(max_media_bytes=10_000)
    answer = client.post(UPLOAD, files={**FILES, "recording": ("a", b"x" * 20_000)})
    refused(answer, 413, "too_large")
    nothing_left(client, tmp_path)


def test_uploads_that_do_not_end(reader: Recognizer, tmp_path: Path) -> None:
    app = create_app({"tiny": reader}, Settings(max_media_bytes=50_000, body_s=0.1, temporary=str(tmp_path)))
    start = part("recording", "").encode()
    endless = (start if k == 0 else b"x" * 1000 for k in range(10**6))
    assert code(exchange(app, endless, HEADERS, UPLOAD)) == (413, "too_large")
    assert code(exchange(app, [start, 5.0], HEADERS, UPLOAD)) == (408, "slow")
    (home,) = tmp_path.iterdir()
    assert [path.name for path in home.iterdir()] == [LOCK]


def test_too_many_uploads(connect: Any, tmp_path: Path) -> None:
    client = connect(media_queue=1)
    uploads: Uploads = client.app.state.service.uploads
    uploads._open = 1
    answer = client.post(UPLOAD, files=FILES)
    refused(answer, 429, "busy")
    assert answer.headers["retry-after"] == "10"


def test_a_client_that_goes_away(reader: Recognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    stopped = []

    async def endless(*_: object) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(True)

    monkeypatch.setattr(media, "_measured", endless)
    app = create_app({"tiny": reader}, Settings(temporary=str(tmp_path)))
    whole = (GOOD + "--xx--").encode()

    async def call() -> None:
        messages = [{"type": "http.request", "body": whole}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(_: Any) -> None:
            pass

        headers = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
        scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers, "query_string": b""}
        await app({**scope, "http_version": "1.1", "scheme": "http", "server": ("t", 80)}, receive, send)

    with contextlib.suppress(ClientDisconnect):
        asyncio.run(call())
    assert stopped
    (home,) = tmp_path.iterdir()
    assert [path.name for path in home.iterdir()] == [LOCK]


# What a service that was killed has left


def test_what_was_left_is_swept(tmp_path: Path) -> None:
    left, used, other = (tmp_path / f"{MARK}{name}" for name in ("left", "used", "other"))
    for folder in (left, used):
        (folder / "upload").mkdir(parents=True)
    other.write_text("a file", encoding="utf-8")
    lock = os.open(used / LOCK, os.O_RDWR | os.O_CREAT)
    assert lock_descriptor(lock, blocking=False)
    Uploads(Settings(temporary=str(tmp_path)), Metrics()).sweep()
    os.close(lock)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{MARK}other", f"{MARK}used"]


def test_a_link_is_not_followed_by_the_sweep(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    try:
        (tmp_path / f"{MARK}link").symlink_to(mine, target_is_directory=True)
    except OSError:
        pytest.skip("this user may not make links")
    Uploads(Settings(temporary=str(tmp_path)), Metrics()).sweep()
    assert mine.is_dir()
    assert not list(mine.iterdir())


def test_the_folder_goes_with_the_service(reader: Recognizer, tmp_path: Path) -> None:
    with TestClient(create_app({"tiny": reader}, Settings(temporary=str(tmp_path)))) as client:
        client.post(UPLOAD, files={"recording": ("a", b"")})
        assert len(list(tmp_path.iterdir())) == 1
    assert not list(tmp_path.iterdir())


# With the process that measures


@pytest.mark.slow
class TestMeasuring:
    """Each test starts a process, which takes seconds."""

    def test_a_recording(
        self, client: TestClient, reader: Recognizer, recording: Path, tmp_path: Path, log: list[str]
    ) -> None:
        write_srt(tmp_path / "talk.srt", RECORDING)
        expected = reader.predict(recording, transcript=tmp_path / "talk.srt").to_dict()
        files = {
            "recording": recording.read_bytes(),
            "transcript": ("x.srt", (tmp_path / "talk.srt").read_bytes()),
        }
        (tmp_path / "talk.srt").unlink()
        answer = client.post(UPLOAD, files=files, data={"id": "talk"})
        assert answer.status_code == 200, answer.text
        document = answer.json()
        assert document.pop("model") == "tiny"
        for row, other in zip(document["utterances"], expected["utterances"], strict=True):
            assert row.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-5)
            assert row["label"] == other["label"]
        assert RECORDING.lines[0].text.split()[0] not in "".join(log)
        nothing_left(client, tmp_path)

    @pytest.mark.parametrize(
        ("recording", "transcript", "status"),
        [
            (b"RIFF", SRT, 422),
            (b"#EXTM3U\n/etc/passwd\n", SRT, 422),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", SRT, 422),
            (b"RIFF", b"\xff\xfe\xff", 422),
            (b"RIFF", b"unutterable", 422),
            (b"RIFF", b'1\n00:00:00,000 --> it\'s "unutterable"\nA: b\n', 422),
        ],
    )
    def test_what_cannot_be_read(
        self, client: TestClient, tmp_path: Path, recording: bytes, transcript: bytes, status: int
    ) -> None:
        files = {"recording": ("a.mp4", recording), "transcript": ("t.srt", transcript)}
        code = "cannot_be_predicted" if transcript == SRT else "cannot_be_read"
        message = refused(client.post(UPLOAD, files=files), status, code)
        assert str(tmp_path) not in message
        assert MARK not in message
        nothing_left(client, tmp_path)

    def test_limits_of_recordings(self, connect: Any, recording: Path, tmp_path: Path) -> None:
        files = {"recording": recording.read_bytes(), "transcript": ("t.srt", SRT)}
        refused(connect(max_media_s=1).post(UPLOAD, files=files), 413, "too_long")
        refused(connect(max_characters=5).post(UPLOAD, files=files), 422, "too_long")
        refused(connect(media_memory_mb=10).post(UPLOAD, files=files), 422, "cannot_be_measured")
        nothing_left(None, tmp_path)

    def test_a_recording_that_takes_too_long(self, connect: Any, recording: Path, tmp_path: Path) -> None:
        files = {"recording": recording.read_bytes(), "transcript": ("t.srt", SRT)}
        started = time.monotonic()
        refused(connect(media_timeout_s=0.2).post(UPLOAD, files=files), 504, "timeout")
        assert time.monotonic() - started < 5
        nothing_left(None, tmp_path)
