"""`mmerc serve` as a process of its own, over real sockets."""

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from test_predicting import CHAT, SECRET

from mmerc.recognizer import Recognizer
from studio import RECORDING, write_srt

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="a signal tells the service to stop"),
]
PAGE = (Path(__file__).resolve().parents[2] / "docs/service.md").read_text(encoding="utf-8")


class Process:
    """A service, its log, and how to reach it."""

    def __init__(self, reader: Recognizer, folder: Path, port: int, settings: dict[str, object]) -> None:
        self.log = folder / "log.jsonl"
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        options = [f"--set={k}={v}" for k, v in {"temporary": folder / "uploads", **settings}.items()]
        (folder / "uploads").mkdir(exist_ok=True)
        mmerc = [sys.executable, "-c", "from mmerc.cli.main import run; run()"]
        command = [*mmerc, "serve", "--model", reader.checkpoint.path]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, "--port", str(port), *options], stderr=log)
        deadline = time.monotonic() + 60
        while not self.ready():
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz").status_code == 200
        return False

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


Start = Callable[..., Process]


@pytest.fixture
def start(reader: Recognizer, tmp_path: Path) -> Iterator[Start]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[Process] = []

    def make(**settings: object) -> Process:
        started.append(Process(reader, tmp_path, port, settings))
        return started[-1]

    yield make
    for one in started:
        one.process.kill()
        one.process.wait()


def answer(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


def test_it_stops_when_it_has_finished(start: Start) -> None:
    service = start()
    body = {"utterances": [{"text": "late again " * 300}] * 25}

    async def stop_amid() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as http:
            asking = [
                asyncio.create_task(http.post(f"{service.url}/v1/predict", json=body)) for _ in range(20)
            ]
            while (await http.get(f"{service.url}/metrics")).text.count("mmerc_requests_open 1.0"):
                await asyncio.sleep(0.01)
            service.process.send_signal(signal.SIGTERM)
            return await asyncio.gather(*asking)

    assert {r.status_code for r in asyncio.run(stop_amid())} == {200}
    assert service.process.wait(20) == -signal.SIGTERM
    events = [json.loads(line)["event"] for line in service.log.read_text(encoding="utf-8").splitlines()]
    assert events[-1].startswith("Finished server process")
    assert not list((service.log.parent / "uploads").iterdir())
    assert not service.ready()


def test_it_says_that_it_will_stop(start: Start) -> None:
    service = start(drain_s=1)
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert httpx.get(f"{service.url}/readyz").status_code == 503
    assert httpx.post(f"{service.url}/v1/predict", json=CHAT).status_code == 503
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    assert service.process.wait(20) == -signal.SIGTERM


def test_killed_it_serves_again_at_once(start: Start, tmp_path: Path) -> None:
    service = start()
    with service.connect() as upload:
        head = "POST /v1/predict/media HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="recording"\r\n\r\nRIFF'
        upload.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n{part}".encode())
        while not list(tmp_path.glob("uploads/*/*/recording")):
            time.sleep(0.02)
        service.process.kill()
        service.process.wait()
    assert list(tmp_path.glob("uploads/*"))
    again = start()
    assert httpx.post(f"{again.url}/v1/predict", json=CHAT).status_code == 200
    assert not list(tmp_path.glob("uploads/*"))


def test_slow_and_broken_clients(start: Start) -> None:
    service = start(body_s=1)
    started = time.monotonic()
    silent, dripping, slow = (service.connect() for _ in range(3))
    dripping.sendall(b"POST /v1/pre")
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    slow.sendall(head + b"Content-Length: 100\r\n\r\n{")
    assert httpx.post(f"{service.url}/v1/predict", json=CHAT).status_code == 200
    for connection, begins in ((silent, b""), (dripping, b""), (slow, b"HTTP/1.1 408")):
        with connection:
            received = answer(connection)
        assert received[:12] == begins
    assert time.monotonic() - started < 5
    for raw in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", f"GET /{SECRET} HTTP/9\r\n\r\n".encode()):
        with service.connect() as broken:
            broken.sendall(raw)
            received = answer(broken)
            assert received.startswith(b"HTTP/1.1 400")
            assert b'"bad_request"' in received
    with service.connect() as long:
        long.sendall(head + b"X: " + b"a" * 200_000 + b"\r\n")
        assert answer(long).startswith((b"HTTP/1.1 400", b""))
    with service.connect() as chunked:
        chunked.sendall(head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert answer(chunked).startswith(b"HTTP/1.1 4")
    assert service.ready()
    assert SECRET not in service.log.read_text(encoding="utf-8")


def test_a_client_that_sends_without_end(start: Start) -> None:
    service = start(max_body_bytes=100_000)
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with service.connect() as endless, contextlib.suppress(ConnectionError):
        endless.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(1000):
            endless.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        pytest.fail("64 MB were taken")
    assert service.ready()


def test_the_examples_of_the_page(start: Start, tmp_path: Path, recording: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    service = start()
    shutil.copy(recording, tmp_path / "meeting.mp4")
    write_srt(tmp_path / "meeting.srt", RECORDING)
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = block.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").split("curl -s")[1:]
    assert len(commands) == 6
    for command in commands:
        command = re.sub(r'"text": "', '"text": "late ', command)  # a word that the tiny model reads
        words = ["curl", "-sS", "--fail-with-body", *shlex.split(command)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr
        if "metrics" not in command:
            json.loads(done.stdout)
