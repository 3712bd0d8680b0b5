"""Live conversations over HTTP and WebSocket: a session is a `LiveConversation` that a client comes back to.

Sessions are kept in memory alone: a restart forgets them, and so do an hour of silence or `DELETE`. Their ids
cannot be guessed, and whoever knows one may read the conversation.
"""

import asyncio
import math
import secrets
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path
from prometheus_client import Gauge
from pydantic import Field, ValidationError
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from mmerc.conversation import Utterance
from mmerc.errors import MmercError
from mmerc.live import LiveConversation, Update, looks_ahead
from mmerc.recognizer import Recognizer
from mmerc.service.batching import too_many
from mmerc.service.bodies import JsonRoute
from mmerc.service.failures import Failure, of_a_conversation, of_validation
from mmerc.service.schemas import (
    Answered,
    CoverageOut,
    EmotionOut,
    ErrorAnswer,
    Name,
    Received,
    Share,
    UtteranceIn,
    errors,
)
from mmerc.service.state import Service

WAITING: Final = 8  # appends of one session that wait for the one before
GONE: Final = 4404  # why a stream is closed: the session is over


class SessionRequest(Received):
    """A conversation that is about to begin."""

    id: Name = Field("live", description="Comes back in the answers; the session's own id is another.")
    model: Name | None = Field(None, description="One of /v1/models; without it, the first.")


class SessionOut(Answered):
    """A session."""

    session: str = Field(description="The session's id: a secret of those who may read it.")
    conversation: str
    model: str
    looks_ahead: bool = Field(description="Whether later turns change what is said of earlier ones.")
    turns: int = Field(description="How many there are.")
    longest: int = Field(description="How many there may be.")
    idle_s: float = Field(description="After so many seconds without a request the session is over.")


class SessionAnswer(SessionOut):
    """A session, and all that is said of its turns."""

    modalities: dict[str, CoverageOut]
    utterances: list[EmotionOut]


class FeelingOut(Answered):
    """The emotion of a turn."""

    label: str
    confidence: Share
    probabilities: dict[str, Share]
    contributions: dict[str, Share | None] | None = Field(description="How far each modality is trusted.")
    context_weight: float | None = Field(description="How much of the rest of the conversation entered.")


class ChangeOut(Answered):
    """An earlier turn that is seen otherwise now."""

    turn: int
    before: FeelingOut
    after: FeelingOut


class UpdateAnswer(Answered):
    """What the newest turn brings."""

    turn: int = Field(description="Its number, from 1.")
    emotion: FeelingOut
    changes: list[ChangeOut] = Field(description="Earlier turns with another label or other probabilities.")


class Session:
    """A live conversation, and who waits for it."""

    def __init__(self, name: str, model: str, recognizer: Recognizer, turns: int) -> None:
        self.id = secrets.token_urlsafe(24)
        self.name = name
        self.model = model
        self.looks_ahead = looks_ahead(recognizer.checkpoint)
        self.lock = asyncio.Lock()  # it is fair: turns are appended in the order in which they came
        self.waiting = 0
        self.used = 0.0
        self.characters = 0
        self.live: LiveConversation | None = None
        self._new = partial(LiveConversation, recognizer, longest=turns, id=name)

    def __len__(self) -> int:
        return 0 if self.live is None else len(self.live)

    def append(self, utterance: Utterance) -> Update:
        """Add a turn; called by the thread that computes, since the first turn may load an encoder."""
        if self.live is None:
            self.live = self._new()
        return self.live.append(utterance)


class Sessions:
    """All sessions of a service: at most so many, and none idle for longer, than its settings say."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._open: dict[str, Session] = {}
        self._timer: asyncio.TimerHandle | None = None
        gauge = Gauge("mmerc_sessions_open", "Live conversations.", registry=service.metrics.registry)
        gauge.set_function(lambda: len(self._open))

    def start(self, request: SessionRequest) -> Session:
        """Open a session.

        Raises:
            Failure: no such model (404), or too many sessions (429).
        """
        model, recognizer = self._service.named(request.model)
        self._expire()
        if len(self._open) >= self._settings.sessions:
            wait = math.ceil(max(1.0, min(self.left(s) for s in self._open.values())))
            message = f"there are {len(self._open)} sessions already: end one, or try again in {wait} s"
            raise Failure(429, "too_many_sessions", message, headers={"Retry-After": str(wait)})
        session = Session(request.id, model, recognizer, self._settings.session_turns)
        self._open[session.id] = session
        self._use(session)
        return session

    def find(self, id: str) -> Session:
        """Return the session of that id, which then counts as used.

        Raises:
            Failure: there is none, or none any more (404).
        """
        self._expire()
        if id not in self._open:
            raise Failure(404, "no_such_session", "there is no such session, or it is over")
        self._use(self._open[id])
        return self._open[id]

    def end(self, id: str) -> None:
        """Forget a session.

        Raises:
            Failure: as `find`.
        """
        del self._open[self.find(id).id]

    def left(self, session: Session) -> float:
        """Return the seconds until a session is over unless it is used."""
        return session.used + self._settings.session_idle_s - asyncio.get_running_loop().time()

    async def append(self, id: str, given: UtteranceIn) -> Update:
        """Add a turn to a session, after those that came before.

        Raises:
            Failure: no such session (404), it is full (409), too much is waiting (429), it takes too long
                (504), or the text is too long (422).
            ConversationError, FeatureError: as `LiveConversation.append`.
        """
        session = self.find(id)
        if session.waiting >= WAITING:
            raise too_many(1)
        session.waiting += 1
        try:
            async with session.lock:
                self._require_room(self.find(id), given.text)
                update = await self._service.call(partial(session.append, given.spoken()))
        finally:
            session.waiting -= 1
            self._use(session)
        session.characters += len(given.text)
        self._service.metrics.utterances.labels(session.model).inc()
        return update

    def describe(self, session: Session) -> dict[str, Any]:
        """Return what a client is told of a session: `SessionOut`."""
        return {
            "session": session.id,
            "conversation": session.name,
            "model": session.model,
            "looks_ahead": session.looks_ahead,
            "turns": len(session),
            "longest": self._settings.session_turns,
            "idle_s": self._settings.session_idle_s,
        }

    def _require_room(self, session: Session, text: str) -> None:
        if len(session) >= self._settings.session_turns:
            message = f"the session is full: it has {len(session)} turns; begin another"
            raise Failure(HTTPStatus.CONFLICT, "session_full", message)
        if len(text) > self._settings.max_characters:
            message = f"a text has at most {self._settings.max_characters} characters"
            raise Failure(422, "too_long", message, "text")
        if session.characters + len(text) > self._settings.max_total_characters:
            most = self._settings.max_total_characters
            message = f"the texts of a session have at most {most} characters together"
            raise Failure(HTTPStatus.CONFLICT, "session_full", message)

    def _use(self, session: Session) -> None:
        session.used = asyncio.get_running_loop().time()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._settings.session_idle_s, self._wake)

    def _wake(self) -> None:
        """Forget what is over, and look again when the next one may be."""
        self._timer = None
        self._expire()
        if self._open:
            first = min(self.left(session) for session in self._open.values())
            self._timer = asyncio.get_running_loop().call_later(max(first, 0.0), self._wake)

    def _expire(self) -> None:
        over = [s.id for s in self._open.values() if not s.waiting and self.left(s) <= 0]
        for id in over:
            del self._open[id]


async def sessions_of(connection: HTTPConnection) -> Sessions:
    """Return the sessions of the app."""
    sessions: Sessions = connection.app.state.sessions
    return sessions


router = APIRouter(prefix="/v1/sessions", tags=["live conversations"], route_class=JsonRoute)
All = Annotated[Sessions, Depends(sessions_of)]
Id = Annotated[str, Path(max_length=64)]
Errors = dict[int | str, dict[str, Any]]
_FULL: Errors = {409: {"model": ErrorAnswer, "description": "The session is full."}}
_OVER: Errors = {404: {"model": ErrorAnswer, "description": "No such session, or it is over."}}
_ASKED = errors(401, 403, 422, 500, 503) | _OVER
_SENT = errors(400, 401, 403, 408, 413, 415, 422, 429, 500, 503)


@router.post("", status_code=HTTPStatus.CREATED, responses=_SENT | errors(404))
async def start(request: SessionRequest, sessions: All) -> SessionOut:
    """Begin a live conversation."""
    return SessionOut(**sessions.describe(sessions.start(request)))


@router.post("/{session}/utterances", responses=_SENT | errors(504) | _FULL | _OVER)
async def append(session: Id, utterance: UtteranceIn, sessions: All) -> UpdateAnswer:
    """Add a turn; the answer is its emotion, and which earlier turns it changed.

    After a 504 the turn may have been added or not: ask the session for its number of turns.
    """
    return UpdateAnswer.model_validate((await sessions.append(session, utterance)).to_dict())


@router.get("/{session}", responses=_ASKED)
async def show(session: Id, sessions: All) -> SessionAnswer:
    """Return all turns so far, as they are seen now."""
    found = sessions.find(session)
    said: dict[str, Any] = {"modalities": {}, "utterances": []}
    if found.live is not None and len(found):
        document = found.live.prediction.to_dict()
        said = {"modalities": document["modalities"], "utterances": document["utterances"]}
    return SessionAnswer(**sessions.describe(found), **said)


@router.delete("/{session}", status_code=HTTPStatus.NO_CONTENT, responses=_ASKED)
async def end(session: Id, sessions: All) -> None:
    """Forget a live conversation."""
    sessions.end(session)


@router.websocket("/{session}/stream")
async def stream(websocket: WebSocket, session: str, sessions: All) -> None:
    """Answer every utterance that is sent with an update, or with an error, after which one may go on."""
    try:
        found = sessions.find(session)
    except Failure as failure:
        await websocket.send_denial_response(failure.response())
        return
    await websocket.accept()
    try:
        while True:
            text = await _received(websocket, sessions, found)
            await websocket.send_json(await _answered(sessions, session, text))
    except WebSocketDisconnect:
        return
    except Failure as failure:
        await websocket.close(GONE, failure.detail)


async def _received(websocket: WebSocket, sessions: Sessions, session: Session) -> str | None:
    """Return the next message, None for one that is no text; an open stream alone keeps no session."""
    while True:
        try:
            async with asyncio.timeout(max(sessions.left(session), 0.1)):
                message = await websocket.receive()
        except TimeoutError:
            if sessions.left(session) <= 0:
                sessions.find(session.id)
            continue
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        text: str | None = message.get("text")
        return text


async def _answered(sessions: Sessions, id: str, text: str | None) -> dict[str, Any]:
    try:
        if text is None:
            raise Failure(415, "unsupported_media_type", "send JSON as text, not as bytes")
        return (await sessions.append(id, UtteranceIn.model_validate_json(text))).to_dict()
    except ValidationError as error:
        failure = of_validation(error.errors(include_input=False))
    except MmercError as error:
        failure = of_a_conversation(error)
    except Failure as error:
        if error.code == "no_such_session":
            raise
        failure = error
    return {"error": {"code": failure.code, "message": failure.detail, "where": failure.where}}
