"""Reading JSON bodies strictly: UTF-8, no deep nesting, no lone surrogates, declared as what they are."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from mmerc.service.failures import Failure


class JsonRoute(APIRoute):
    """A route whose body, where it has one, is strict JSON: `APIRouter(route_class=JsonRoute)`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of FastAPI, which is given a request that reads JSON as we do."""
        handle = super().get_route_handler()
        wanted = self.body_field is not None

        async def strict(request: Request) -> Response:
            if wanted:
                _require_json(request)
            return await handle(_StrictRequest(request.scope, request.receive))

        return strict


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:  # its message has line and column, and nothing of the content
            raise Failure(HTTPStatus.BAD_REQUEST, "invalid_json", f"the body is not JSON: {error}") from None


def _require_json(request: Request) -> None:
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.replace(" ", "").lower()
    if kind.strip().lower() != "application/json" or charset not in ("", "charset=utf-8", 'charset="utf-8"'):
        raise Failure(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send JSON in UTF-8, with the header Content-Type: application/json",
        )
