"""`/v1/transcripts`: the content of a transcript file in, its conversations out; nothing touches the disk."""

from pathlib import Path, PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from mmerc.service.schemas import Answered, errors
from mmerc.transcripts.reading import parse_transcript

router = APIRouter(tags=["predict"])
_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


class TurnOut(Answered):
    """An utterance as the transcript has it."""

    text: str
    speaker: str
    start_ms: int | None
    end_ms: int | None


class ConversationOut(Answered):
    """A conversation of the transcript."""

    id: str
    utterances: list[TurnOut]


class TranscriptAnswer(Answered):
    """What a transcript holds: its utterances can be sent to /v1/predict as they are."""

    conversations: list[ConversationOut] = Field(min_length=1)


@router.post(
    "/v1/transcripts",
    summary="Read a transcript file",
    openapi_extra={"requestBody": _BODY},
    responses=errors(401, 403, 408, 413, 415, 422, 500, 503),
)
async def read(
    request: Request,
    name: Annotated[
        str,
        Query(min_length=1, max_length=200, description="The file's name: its suffix says what it is."),
    ] = "transcript.txt",
) -> TranscriptAnswer:
    """Return the conversations of SRT, WebVTT, WhisperX, ELAN, Praat, CSV, JSON or plain text."""
    path = Path(PurePath(name.replace("\\", "/")).name or "transcript.txt")
    found = await run_in_threadpool(parse_transcript, await request.body(), path)
    return TranscriptAnswer(
        conversations=[
            ConversationOut(
                id=conversation.id,
                utterances=[
                    TurnOut(text=u.text, speaker=u.speaker, start_ms=u.start_ms, end_ms=u.end_ms)
                    for u in conversation
                ],
            )
            for conversation in found
        ]
    )
