"""`POST /v1/predict/media`: a recording and its transcript, measured in a process of its own.

What decodes media is large, old and written in C, and how long it takes is up to the file. In a process of
its own it can neither take the service down nor hold it up, and it ends when the client goes away.
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mmerc.service.failures import Failure, internal
from mmerc.service.observing import LOG
from mmerc.service.schemas import PredictAnswer, errors
from mmerc.service.settings import KEYS, Settings
from mmerc.service.state import Service
from mmerc.service.uploads import receive
from mmerc.system import apart, end_tree

Result = TypeVar("Result")

_PARTS: Final = {
    "type": "object",
    "required": ["recording", "transcript"],
    "additionalProperties": False,
    "properties": {
        "recording": {"type": "string", "format": "binary", "description": "An audio or video file."},
        "transcript": {
            "type": "string",
            "format": "binary",
            "description": "Who says what when: .srt, .vtt, .json (Whisper, WhisperX), .csv, .eaf, "
            ".TextGrid, …; the end of the file name tells which. Every utterance has its times.",
        },
        "model": {"type": "string", "description": "One of /v1/models; without it, the first."},
        "id": {"type": "string", "maxLength": 200, "description": "Comes back in the answer."},
    },
}

router = APIRouter()


@router.post(
    "/v1/predict/media",
    summary="Predict the emotions of a recording",
    tags=["predict"],
    responses={
        200: {"model": PredictAnswer},
        **errors(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504),
    },
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _PARTS}}}},
)
async def predict_media(request: Request) -> Response:
    """Measure sound and faces by the recipes of the model, and predict.

    The files are kept in a temporary folder until the answer is sent, and not longer.
    """
    service: Service = request.app.state.service
    async with service.uploads.folder() as folder:
        upload = await receive(request, folder, service.settings)
        name, recognizer = service.named(upload.model)
        job = {
            "checkpoint": str(recognizer.checkpoint.path.resolve()),
            "recording": str(upload.recording),
            "transcript": str(upload.transcript),
            "id": upload.id,
        }
        document = await _unless_gone(request, _measured(service, folder, job))
    if "failure" in document:
        status, code, message, where = document["failure"]
        raise Failure(status, code, message, where)
    answer = {"model": name, **document["prediction"]}
    service.metrics.utterances.labels(name).inc(len(answer["utterances"]))
    request.state.noted = {"model": name, "utterances": len(answer["utterances"])}
    return Response(json.dumps(answer, ensure_ascii=False).encode(), media_type="application/json")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work; stop when the client goes away."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, waiting = asyncio.ensure_future(work), asyncio.create_task(gone())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.wait((working, waiting))  # the process has ended, too, before its files go


async def _measured(service: Service, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
    settings = service.settings
    limits = {
        name: getattr(settings, name)
        for name in (
            "max_utterances", "max_characters", "max_total_characters",
            "max_media_s", "media_jobs", "media_memory_mb",
        )
    }  # fmt: skip
    async with service.uploads.workers:
        code, output = await _run(folder, json.dumps({**job, "settings": limits}), settings)
    try:
        place = json.dumps(f"{folder}{os.sep}")[1:-1].encode()  # as a message in the answer names it
        document: dict[str, Any] = json.loads(output.replace(place, b""))
    except ValueError:  # killed, by the system or by a decoder, before it could say anything
        LOG.error("measuring died", extra={"fields": {"exit_code": code}})
        message = "measuring this recording failed: is it broken, or too large a picture?"
        raise Failure(422, "cannot_be_measured", message, "recording") from None
    if "fault" in document:
        LOG.error("measuring failed", extra={"fields": {"exception": document["fault"]}})
        raise internal()
    return document


async def _run(folder: Path, job: str, settings: Settings) -> tuple[int, bytes]:
    """Run `mmerc.service.measuring`, which is killed with all it has started when it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "mmerc.service.measuring"),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != KEYS},
        **apart(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(settings.media_timeout_s):
            with contextlib.suppress(ConnectionError):  # it is gone already; its exit code tells
                process.stdin.write(f"{job}\n".encode())
                await process.stdin.drain()
            output = await process.stdout.read()
            return await process.wait(), output
    except TimeoutError:
        message = f"measuring this recording took longer than {settings.media_timeout_s:g} s"
        raise Failure(504, "timeout", message, "recording") from None
    finally:
        if process.returncode is None:  # else its number may be another's by now
            await asyncio.to_thread(end_tree, process.pid)
        process.stdin.close()
        await process.wait()
