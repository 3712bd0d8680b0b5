import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from mmerc.conversation import Conversation, Utterance
from mmerc.live import LiveConversation
from mmerc.recognizer import Recognizer
from mmerc.service.failures import Failure
from mmerc.service.schemas import UtteranceIn
from mmerc.service.sessions import GONE, WAITING, SessionRequest, Sessions
from mmerc.service.settings import Settings
from mmerc.service.state import Service

SAID = ["oh no, the train is late", "great, the train is here!", "late again", "fine"]
TURNS = [{"speaker": "Ann" if i % 2 else "Ben", "text": text} for i, text in enumerate(SAID)]


def begin(client: TestClient, **given: Any) -> dict[str, Any]:
    answer = client.post("/v1/sessions", json=given)
    assert answer.status_code == 201
    session: dict[str, Any] = answer.json()
    return session


def path(session: dict[str, Any]) -> str:
    return f"/v1/sessions/{session['session']}"


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_session_says_what_a_live_conversation_says(client: TestClient, reader: Recognizer) -> None:
    session = begin(client, id="chat", model="tiny")
    assert session == {
        "session": session["session"],
        "conversation": "chat",
        "model": "tiny",
        "looks_ahead": True,
        "turns": 0,
        "longest": 200,
        "idle_s": 1800,
    }
    assert client.get(path(session)).json() == {**session, "modalities": {}, "utterances": []}
    live = LiveConversation(reader, id="chat")
    for turn in TURNS:
        answer = client.post(path(session) + "/utterances", json=turn)
        assert answer.status_code == 200
        assert answer.json() == live.append(Utterance(turn["text"], turn["speaker"])).to_dict()
    shown = client.get(path(session)).json()
    assert shown["turns"] == len(TURNS)
    expected = live.prediction.to_dict()
    assert shown["modalities"] == expected["modalities"]
    for row, other in zip(shown["utterances"], expected["utterances"], strict=True):
        assert {k: v for k, v in row.items() if v is not None} == other
    assert client.delete(path(session)).status_code == 204
    for answer in (client.get(path(session)), client.delete(path(session))):
        assert code(answer) == (404, "no_such_session")


def test_a_stream(client: TestClient, reader: Recognizer) -> None:
    session = begin(client)
    live = LiveConversation(reader)
    with client.websocket_connect(path(session) + "/stream") as stream:
        stream.send_text("{")
        assert stream.receive_json()["error"]["code"] == "invalid"
        stream.send_json({"text": "secret", "mood": "secret"})
        error = stream.receive_json()["error"]
        assert error == {"code": "invalid", "message": "unknown field 'mood'", "where": None}
        stream.send_bytes(b"{}")
        assert stream.receive_json()["error"]["code"] == "unsupported_media_type"
        stream.send_json({"text": " "})
        assert stream.receive_json()["error"]["code"] == "cannot_be_predicted"
        for turn in TURNS:  # sent without waiting: answered in order
            stream.send_json(turn)
        for turn in TURNS:
            assert stream.receive_json() == live.append(Utterance(turn["text"], turn["speaker"])).to_dict()
    assert client.get(path(session)).json()["turns"] == len(TURNS)


def test_a_stream_of_a_session_that_ends(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/v1/sessions/none/stream"),
    ):
        pass
    assert code(denied.value) == (404, "no_such_session")
    session = begin(client)
    with client.websocket_connect(path(session) + "/stream") as stream:
        client.delete(path(session))
        stream.send_json(TURNS[0])
        with pytest.raises(WebSocketDisconnect) as closed:
            stream.receive_json()
        assert closed.value.code == GONE


def test_keys(connect: Any) -> None:
    client = connect(api_keys=("open sesame",))
    assert code(client.post("/v1/sessions", json={})) == (401, "unauthorized")
    key = {"X-API-Key": "open sesame"}
    session = client.post("/v1/sessions", json={}, headers=key).json()
    assert code(client.get(path(session))) == (401, "unauthorized")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(path(session) + "/stream"):
        pass
    with client.websocket_connect(path(session) + "/stream", headers=key) as stream:
        stream.send_json(TURNS[0])
        assert stream.receive_json()["turn"] == 1


def test_limits(connect: Any) -> None:
    client = connect(sessions=2, session_turns=2, max_characters=30, max_total_characters=40)
    session, other = begin(client), begin(client)
    assert session["session"] != other["session"]
    assert len(session["session"]) >= 32
    refused = client.post("/v1/sessions", json={})
    assert code(refused) == (429, "too_many_sessions")
    assert 1 <= int(refused.headers["Retry-After"]) <= 1800
    client.delete(path(other))
    other = begin(client)

    def say(text: str, to: dict[str, Any] = session) -> Any:
        return client.post(path(to) + "/utterances", json={"text": text})

    assert say("fine").status_code == 200
    refused = say("no " * 11)
    assert code(refused) == (422, "too_long")
    assert refused.json()["error"]["where"] == "text"
    assert say("fine").status_code == 200
    assert code(say("fine")) == (409, "session_full")
    assert client.get(path(session)).json()["turns"] == 2
    assert say("no " * 9, other).status_code == 200
    assert code(say("no " * 9, other)) == (409, "session_full")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model": "none"}, (404, "no_such_model")),
        ({"id": 5}, (422, "invalid")),
        ({"id": "x" * 201}, (422, "invalid")),
        ({"colour": "red"}, (422, "invalid")),
    ],
)
def test_what_cannot_begin(client: TestClient, given: Any, expected: tuple[int, str]) -> None:
    assert code(client.post("/v1/sessions", json=given)) == expected


def test_a_refused_turn_changes_nothing(client: TestClient) -> None:
    session = begin(client)
    assert code(client.post(path(session) + "/utterances", json={"text": ""})) == (422, "cannot_be_predicted")
    assert code(client.post(path(session) + "/utterances", json={})) == (422, "invalid")
    assert client.get(path(session)).json()["turns"] == 0
    assert code(client.post("/v1/sessions/none/utterances", json=TURNS[0])) == (404, "no_such_session")


def test_nothing_of_the_content_is_noted(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", logger="mmerc")
    session = begin(client, id="whose")
    client.post(path(session) + "/utterances", json={"text": "the train is late", "speaker": "Ann"})
    noted = " ".join(str(vars(record)) for record in caplog.records)
    assert "/v1/sessions/{session}/utterances" in noted
    for secret in ("train", "Ann", "whose", session["session"]):
        assert secret not in noted
    counts = client.get("/metrics").text
    assert "mmerc_sessions_open 1.0" in counts
    assert session["session"] not in counts


# Time and order, without HTTP


@pytest.fixture
def service(reader: Recognizer, tmp_path: Path) -> Service:
    return Service({"tiny": reader}, Settings(session_idle_s=0.3, sessions=2, temporary=str(tmp_path)))


def test_sessions_expire(service: Service) -> None:
    async def scenario() -> None:
        sessions = Sessions(service)
        idle, used = (sessions.start(SessionRequest()) for _ in range(2))
        for _ in range(4):
            await asyncio.sleep(0.1)
            sessions.find(used.id)
        with pytest.raises(Failure, match="it is over"):
            sessions.find(idle.id)
        sessions.start(SessionRequest())  # there is room again
        await asyncio.sleep(0.8)
        assert not sessions._open  # forgotten although nobody asked
        await service.finish()

    asyncio.run(scenario())


def test_turns_are_added_in_order_one_at_a_time(service: Service, reader: Recognizer) -> None:
    async def scenario() -> list[Any]:
        sessions = Sessions(service)
        session = sessions.start(SessionRequest())
        turns = [UtteranceIn(text=SAID[i % len(SAID)], speaker=str(i)) for i in range(WAITING + 1)]
        answers = await asyncio.gather(
            *(sessions.append(session.id, turn) for turn in turns), return_exceptions=True
        )
        assert session.live is not None
        assert [u.speaker for u in session.live.prediction.conversation] == [str(i) for i in range(WAITING)]
        await service.finish()
        return list(answers)

    *answers, refused = asyncio.run(scenario())
    assert [update.turn for update in answers] == list(range(WAITING))
    assert isinstance(refused, Failure)
    assert refused.status_code == 429
    said = Conversation(tuple(Utterance(SAID[i % len(SAID)], str(i)) for i in range(WAITING)))
    expected = reader.predict(said).emotions[-1].probabilities
    assert answers[-1].emotion.probabilities == pytest.approx(expected, abs=1e-6)


def test_a_session_that_is_at_work_does_not_expire(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        sessions = Sessions(service)
        session = sessions.start(SessionRequest())

        async def slowly(work: Any, utterances: int = 1) -> Any:
            await asyncio.sleep(0.5)
            return work()

        monkeypatch.setattr(service, "call", slowly)
        update = await sessions.append(session.id, UtteranceIn(text="fine"))
        assert update.turn == 0
        assert len(sessions.find(session.id)) == 1
        await service.finish()

    asyncio.run(scenario())
