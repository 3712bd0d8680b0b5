"""What the service says when it cannot do what is asked: one JSON shape, whatever went wrong.

    {"error": {"code": "too_large", "message": "…", "where": "utterances.3.text"}}

Messages say what was wrong and where, and never repeat what was said in a conversation.
"""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from mmerc.errors import ConversationError, FeatureError, MediaError, MmercError

# What a client did wrong; the other errors of mmerc are those of whoever runs the service.
FAULTS_OF_THE_CLIENT = (ConversationError, FeatureError, MediaError)


class Failure(HTTPException):
    """Ends a request with a status and a message.

    Args:
        status: HTTP status
        code: for programs; it does not change
        message: for people
        where: the field of the request, with dots
        headers: of the answer
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        where: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code
        self.where = where

    def document(self) -> dict[str, Any]:
        """Return what the client is told."""
        return {"error": {"code": self.code, "message": self.detail, "where": self.where}}

    def response(self) -> Response:
        """Return what the client is told, as a response."""
        body = json.dumps(self.document(), ensure_ascii=False).encode()
        return Response(body, self.status_code, self.headers, "application/json")


def of_the_framework(error: HTTPException) -> Failure:
    """Put an error of routing (404, 405, …) into our shape."""
    if isinstance(error, Failure):
        return error
    status = HTTPStatus(error.status_code)
    code = re.sub(r"\W+", "_", status.phrase.lower())
    return Failure(status, code, status.description or status.phrase, headers=error.headers)


def of_a_conversation(error: MmercError) -> Failure:
    """Say what mmerc says of a conversation; what is wrong with a checkpoint is nobody else's business."""
    if isinstance(error, FAULTS_OF_THE_CLIENT):
        return Failure(HTTPStatus.UNPROCESSABLE_ENTITY, "cannot_be_predicted", str(error))
    return internal()


def internal() -> Failure:
    """Return what is said of a fault of ours."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Failure(status, "internal", "the service failed; its log says more under this X-Request-ID")


def of_validation(problems: Sequence[Mapping[str, Any]]) -> Failure:
    """Name the first field that does not fit, and how many more there are; values are not repeated."""
    first, *others = problems
    kind, place = first["type"], [part for part in first["loc"] if part != "body"]
    message = str(first["msg"])
    if kind == "extra_forbidden":
        name = str(place.pop())
        shown = f" {name!r}" if re.fullmatch(r"\w{1,40}", name) else ""
        message = f"unknown field{shown}"
    if others:
        message += f" (and {len(others)} more)"
    where = ".".join(map(str, place)) or None
    return Failure(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", message, where)


async def answer_http(_: Request, error: Exception) -> Response:
    """Handle what routes and the framework raise."""
    assert isinstance(error, HTTPException)
    return of_the_framework(error).response()


async def answer_validation(_: Request, error: Exception) -> Response:
    """Handle what does not fit the schemas."""
    assert isinstance(error, RequestValidationError)
    return of_validation(error.errors()).response()


async def answer_mmerc(_: Request, error: Exception) -> Response:
    """Handle what mmerc raises on purpose."""
    assert isinstance(error, MmercError)
    return of_a_conversation(error).response()
