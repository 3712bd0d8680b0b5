import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message
from test_predicting import CHAT, SECRET, refused

from mmerc.recognizer import Recognizer
from mmerc.service.app import create_app
from mmerc.service.settings import Settings

KEY = "sesame-open-42"
JSON = {"Content-Type": "application/json"}


def exchange(
    app: Any, chunks: Iterable[bytes | float], headers: dict[str, str], path: str = "/v1/predict"
) -> Any:
    """Send a body in pieces, numbers being pauses, straight into the application: (status, answer)."""

    async def call() -> tuple[int, dict[str, Any]]:
        pieces = iter(chunks)
        sent: list[Message] = []

        async def receive() -> Message:
            for piece in pieces:
                if isinstance(piece, bytes):
                    return {"type": "http.request", "body": piece, "more_body": True}
                await asyncio.sleep(piece)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": b"", "headers": raw, "http_version": "1.1", "scheme": "http",
            "server": ("testserver", 80), "client": ("tests", 1),
        }  # fmt: skip
        await app(scope, receive, send)
        closes = (b"connection", b"close") in sent[0]["headers"]
        assert closes == (sent[0]["status"] >= 400)
        return sent[0]["status"], json.loads(sent[1]["body"])

    return asyncio.run(call())


def code(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["error"]["code"]


# Keys


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"X-API-Key": KEY.upper()},
        {"X-API-Key": ""},
        {"X-API-Key": "sch\xfcssel"},
    ],
)
def test_wrong_keys(connect: Any, headers: dict[str, str]) -> None:
    client = connect(api_keys=(KEY, "another-key"))
    raw = {k: v.encode("latin-1") for k, v in headers.items()}
    for answer in (
        client.post("/v1/predict", json=CHAT, headers=raw),
        client.get("/v1/models", headers=raw),
        client.post("/v1/predict/media", headers=raw),
        client.get("/metrics", headers=raw),
        client.get("/v1/nothing", headers=raw),
    ):
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEY not in answer.text


def test_right_keys(connect: Any) -> None:
    client = connect(api_keys=(KEY, "another-key"))
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": "another-key"}, {"X-API-Key": KEY}):
        assert client.post("/v1/predict", json=CHAT, headers=headers).status_code == 200
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/openapi.json").json()["security"]


# Hosts and pages


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "[::2]", "127.0.0.1.nip.example"]
)
def test_addressed_to_another_host(connect: Any, host: str) -> None:
    client = connect(allowed_hosts=("localhost", "127.0.0.1", "::1"))
    refused(client.get("/healthz", headers={"Host": host}), 403, "wrong_host")
    for good in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert client.get("/healthz", headers={"Host": good}).status_code == 200


def test_pages_of_other_sites(connect: Any) -> None:
    client = connect(allowed_hosts=("testserver", "good.example"))
    for origin in ("https://evil.example", "null", "http://testserver:81", "testserver"):
        expected = origin == "http://testserver:81"  # the same machine, another port: the name is allowed
        answer = client.post("/v1/predict", json=CHAT, headers={"Origin": origin})
        assert (answer.status_code == 200) == expected, origin
    for origin in ("http://testserver", "https://good.example"):
        assert client.post("/v1/predict", json=CHAT, headers={"Origin": origin}).status_code == 200


# How much, how slowly


def test_bodies_that_are_too_large(connect: Any) -> None:
    client = connect(max_body_bytes=1000)
    body = {"utterances": [{"text": SECRET * 200}]}
    refused(client.post("/v1/predict", json=body), 413, "too_large")
    long = {**JSON, "Content-Length": "9" * 5000}
    refused(client.post("/v1/predict", content=b"{}", headers=long), 413, "too_large")
    whole = json.dumps(CHAT).encode()
    assert client.post("/v1/predict", content=whole, headers=JSON).status_code == 200


def test_bodies_that_are_larger_than_they_say(reader: Recognizer) -> None:
    app = create_app({"tiny": reader}, Settings(max_body_bytes=1000))
    read = 0

    def endless() -> Iterable[bytes]:
        nonlocal read
        while True:
            read += 100
            yield b" " * 100

    for headers in ({**JSON, "Content-Length": "2"}, {**JSON, "Transfer-Encoding": "chunked"}):
        read = 0
        assert code(exchange(app, endless(), headers)) == (413, "too_large")
        assert read <= 1100


def test_slow_clients(reader: Recognizer) -> None:
    app = create_app({"tiny": reader}, Settings(body_s=0.1))
    headers = {**JSON, "Transfer-Encoding": "chunked"}
    assert code(exchange(app, [b"{", 5.0], headers)) == (408, "slow")
    dripping = [piece for _ in range(100) for piece in (b" ", 0.02)]
    assert code(exchange(app, dripping, headers)) == (408, "slow")
    whole = [json.dumps(CHAT).encode()[:50], 0.01, json.dumps(CHAT).encode()[50:]]
    assert exchange(app, whole, headers)[0] == 200


# What goes into headers


@pytest.mark.parametrize("id", ["a\r\nSet-Cookie: x=1", "x" * 65, "schön", "a b", ""])
def test_request_ids_that_are_not_repeated(client: TestClient, id: str) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": id.encode()})
    assert answer.headers["x-request-id"].isalnum()
    assert "set-cookie" not in answer.headers


def test_request_ids_that_are(client: TestClient) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": "trace-7.a_b"})
    assert answer.headers["x-request-id"] == "trace-7.a_b"
