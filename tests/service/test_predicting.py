import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.testclient import TestClient

from mmerc.conversation import Conversation, Utterance
from mmerc.recognizer import Recognizer
from mmerc.service.schemas import ErrorAnswer, ModelsAnswer, PredictAnswer

SECRET = "unutterable"
CHAT = {
    "id": "on the platform",
    "utterances": [
        {"speaker": "Ann", "text": "oh no, the train is late", "start_ms": 0, "end_ms": 900},
        {"speaker": "Ben", "text": "late again"},
    ],
}


def said(*texts: str) -> dict[str, Any]:
    return {"utterances": [{"text": text} for text in texts]}


def refused(answer: Any, status: int, code: str) -> str:
    """Check the shape of an error; return its message."""
    assert answer.status_code == status, answer.text
    error = ErrorAnswer.model_validate(answer.json()).error
    assert error.code == code
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text
    return f"{error.where}: {error.message}"


def test_a_conversation_is_predicted_as_by_the_model(client: TestClient, reader: Recognizer) -> None:
    answer = client.post("/v1/predict", json=CHAT)
    assert answer.status_code == 200
    spoken = (
        Utterance("oh no, the train is late", "Ann", None, 0, 900),
        Utterance("late again", "Ben"),
    )
    expected = reader.predict(Conversation(spoken, "on the platform")).to_dict()
    assert answer.json() == {"model": "tiny", **expected}
    PredictAnswer.model_validate_json(answer.content)
    assert answer.headers["cache-control"] == "no-store"


def test_an_explanation(client: TestClient, reader: Recognizer) -> None:
    answer = client.post("/v1/predict", json={**CHAT, "explain": True}).json()
    PredictAnswer.model_validate(answer)
    spoken = tuple(Utterance(**u) for u in CHAT["utterances"])
    assert answer == {"model": "tiny", **reader.explain(Conversation(spoken, "on the platform")).to_dict()}


def test_any_text_survives(client: TestClient) -> None:
    texts = ["schön 😀", 'quotes " and \\ and \n', "電車が遅れた", "\x00\u2028", "late"]
    found = client.post("/v1/predict", json=said(*texts)).json()
    assert [row["text"] for row in found["utterances"]] == texts


def test_models(client: TestClient, reader: Recognizer) -> None:
    answer = ModelsAnswer.model_validate(client.get("/v1/models").json())
    (model,) = answer.models
    assert (model.name, tuple(model.labels), model.modalities) == ("tiny", reader.labels, ["text"])
    assert model.reads_text
    assert answer.limits["max_utterances"] == 500


def test_several_models(connect: Any, reader: Recognizer) -> None:
    client = connect({"one": reader, "two": reader})
    assert client.post("/v1/predict", json=CHAT).json()["model"] == "one"
    assert client.post("/v1/predict", json={**CHAT, "model": "two"}).json()["model"] == "two"
    message = refused(client.post("/v1/predict", json={**CHAT, "model": "three"}), 404, "no_such_model")
    assert message == "model: there is no such model; there are: one, two"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "utterances: Field required"),
        ({"utterances": []}, "utterances: List should have at least 1 item"),
        ({"utterances": [{"speaker": SECRET}]}, "utterances.0.text: Field required"),
        ({"utterances": [{"text": 1}]}, "utterances.0.text: Input should be a valid string"),
        ({"utterances": [{"text": "a", "start_ms": -1}]}, "utterances.0.start_ms: Input should be greater"),
        (
            {"utterances": [{"text": "a", "start_ms": 0.5}]},
            "utterances.0.start_ms: Input should be a valid int",
        ),
        ({"utterances": [{"text": SECRET, "mood": SECRET}]}, "utterances.0: unknown field 'mood'"),
        ({"utterances": [{"text": "a", "not a name!": 1}]}, "utterances.0: unknown field"),
        ({**said("a"), "id": 3, "explain": "yes"}, r"id: Input should be a valid string \(and 1 more\)"),
        ([SECRET], "None: Input should be a valid dictionary"),
        (
            said(" ", ""),
            "None: conversation 'conversation' has nothing that this model reads; it reads: text",
        ),
    ],
)
def test_what_does_not_fit(client: TestClient, body: Any, says: str) -> None:
    answer = client.post("/v1/predict", json=body)
    code = "cannot_be_predicted" if "nothing that" in says else "invalid"
    message = refused(answer, 422, code)
    assert message.startswith(says.replace("\\", "")), message


def test_limits(connect: Any) -> None:
    client = connect(max_utterances=3, max_characters=20, max_total_characters=30, max_explained=2)
    cases = {
        "utterances: a conversation has at most 3 utterances, this has 4": said(*"abcd"),
        "utterances.1.text: a text has at most 20 characters": said("a", f"{SECRET} {SECRET}"),
        "utterances: the texts of a conversation have at most 30 characters together": said(
            *["late" * 5] * 2
        ),
        "explain: `explain` takes at most 2 utterances": {**said(*"abc"), "explain": True},
    }
    for message, body in cases.items():
        assert refused(client.post("/v1/predict", json=body), 422, "too_long") == message
    assert client.post("/v1/predict", json=said("late", "late", "late")).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"utterances": [{"text": "unutterable',
        b'{"utterances":' + b"[" * 100_000,
        b"NaN",
        b"\x00",
    ],
)
def test_what_is_not_json(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/predict", content=content, headers={"Content-Type": "application/json"})
    if content:
        assert "the body is not JSON" in refused(answer, 400, "invalid_json")
    else:
        refused(answer, 422, "invalid")


@pytest.mark.parametrize("content", [b'"\xff\xfe"', '{"id": "ä"}'.encode("latin-1"), b'"\\ud800"'])
def test_what_is_not_unicode(client: TestClient, content: bytes) -> None:
    answer = client.post("/v1/predict", content=content, headers={"Content-Type": "application/json"})
    refused(answer, 400, "invalid_json")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonp", "application/json; charset=latin-1"])
def test_another_type_of_content(client: TestClient, kind: str) -> None:
    answer = client.post("/v1/predict", content=json.dumps(CHAT), headers={"Content-Type": kind})
    refused(answer, 415, "unsupported_media_type")


def test_compressed_bodies_are_not_unpacked(client: TestClient) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused(client.post("/v1/predict", content=b"\x1f\x8b", headers=headers), 415, "compressed")


def test_what_is_not_there(client: TestClient) -> None:
    refused(client.get("/v2/predict"), 404, "not_found")
    refused(client.get("/v1/predict/"), 404, "not_found")
    answer = client.get("/v1/predict")
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_how_it_is(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    app = client.app
    assert isinstance(app, FastAPI)
    app.state.service.stopping = True
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    answer = client.post("/v1/predict", json=CHAT)
    refused(answer, 503, "stopping")
    assert answer.headers["retry-after"]


def test_metrics(client: TestClient) -> None:
    for _ in range(3):
        client.post("/v1/predict", json=CHAT)
    client.post("/v1/predict", json={})
    client.get("/v1/nothing/unutterable")
    text = client.get("/metrics").text
    assert 'mmerc_requests_total{method="POST",route="/v1/predict",status="200"} 3.0' in text
    assert 'mmerc_requests_total{method="POST",route="/v1/predict",status="422"} 1.0' in text
    assert 'mmerc_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert 'mmerc_utterances_total{model="tiny"} 6.0' in text
    assert "mmerc_batch_requests_sum 3.0" in text
    assert "mmerc_queue_length 0.0" in text
    assert 'mmerc_request_seconds_bucket{le="+Inf",route="/v1/predict"} 4.0' in text
    assert SECRET not in text


def test_many_clients_at_once(client: TestClient, reader: Recognizer) -> None:
    talks = [Conversation(tuple(Utterance(f"late {'again ' * k}") for _ in range(k + 1))) for k in range(12)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda t: client.post("/v1/predict", json=said(*(u.text for u in t))).json(), talks)
        )
    for talk, answer in zip(talks, answers, strict=True):
        expected = reader.predict(talk)
        for row, emotion in zip(answer["utterances"], expected.emotions, strict=True):
            assert row["probabilities"] == pytest.approx(emotion.probabilities, abs=1e-6)


# What is written down


def test_the_log_says_what_happened_and_nothing_of_what_was_said(client: TestClient, log: list[str]) -> None:
    spoken = {"id": SECRET, "utterances": [{"speaker": SECRET, "text": f"oh no {SECRET}"}]}
    client.post("/v1/predict", json=spoken, headers={"X-Request-ID": "mine-1"})
    client.post("/v1/predict", json={**spoken, "explain": True})
    client.post("/v1/predict", json={**spoken, SECRET: SECRET})
    client.post("/v1/predict", json={**spoken, "model": SECRET})
    client.post("/v1/predict", content=SECRET, headers={"Content-Type": "application/json"})
    client.get(f"/v1/{SECRET}?{SECRET}")
    text = "\n".join(log)
    assert SECRET not in text
    requests = [json.loads(line) for line in log if '"event": "request"' in line]
    assert [r["status"] for r in requests] == [200, 200, 422, 404, 400, 404]
    first = requests[0]
    assert (first["request_id"], first["route"], first["utterances"]) == ("mine-1", "/v1/predict", 1)
    assert first["bytes_in"] > 0
    assert first["bytes_out"] > 0
    assert first["ms"] > 0


def test_a_fault_of_ours_is_told_in_the_log_alone(client: TestClient, log: list[str]) -> None:
    app = client.app
    assert isinstance(app, FastAPI)

    @app.get("/v1/broken")
    async def broken(request: Request) -> None:
        raise RuntimeError(SECRET)

    answer = client.get("/v1/broken")
    message = refused(answer, 500, "internal")
    assert "X-Request-ID" in message
    (line,) = [json.loads(line) for line in log if '"event": "fault"' in line]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert line["exception"][0] == "RuntimeError"
    assert line["exception"][-1].endswith("in broken")
    assert SECRET not in "\n".join(log)


def test_a_fault_of_the_model_is_told_in_the_log_alone(
    client: TestClient, reader: Recognizer, log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError(SECRET)

    monkeypatch.setattr(reader, "predict_many", fail)
    refused(client.post("/v1/predict", json=said(SECRET)), 500, "internal")
    assert SECRET not in "\n".join(log)
    monkeypatch.undo()
    assert client.post("/v1/predict", json=CHAT).status_code == 200


def test_requests_without_a_running_lifespan(reader: Recognizer) -> None:
    import httpx

    from mmerc.service.app import create_app

    async def ask() -> int:
        transport = httpx.ASGITransport(create_app({"tiny": reader}))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return (await http.post("/v1/predict", json=CHAT)).status_code

    assert asyncio.run(ask()) == 200
