"""Puts the application together."""

import importlib.metadata
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mmerc.errors import MmercError
from mmerc.recognizer import Recognizer
from mmerc.service import failures, media, page, routes, sessions
from mmerc.service.guard import Guard
from mmerc.service.schemas import describe_limits
from mmerc.service.settings import Settings
from mmerc.service.state import Service

DESCRIPTION = """Which emotion, how sure, and because of what: for every utterance of a conversation.

A label is what annotators would read into an utterance, not what a person feels. Not for decisions about
people."""


def create_app(recognizers: Mapping[str, Recognizer], settings: Settings | None = None) -> FastAPI:
    """Return the ASGI application; `app.state.service` is what its routes share.

    Args:
        recognizers: name → model; the first is the default
        settings: limits and times
    """
    service = Service(recognizers, settings or Settings())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.uploads.sweep()
        yield
        await service.finish()

    app = FastAPI(
        title="mmerc",
        version=importlib.metadata.version("mmerc"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.sessions = sessions.Sessions(service)
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(HTTPException, failures.answer_http)
    app.add_exception_handler(RequestValidationError, failures.answer_validation)
    app.add_exception_handler(MmercError, failures.answer_mmerc)
    app.include_router(routes.router)
    app.include_router(media.router)
    app.include_router(sessions.router)
    app.include_router(page.router)
    _describe(app, settings=service.settings)
    return app


def _describe(app: FastAPI, settings: Settings) -> None:
    """Have the OpenAPI document name the limits and the keys."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            describe_limits(document, settings)
            schemes = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            document["components"]["securitySchemes"] = schemes
            document["security"] = [{"bearer": []}, {"key": []}] if settings.api_keys else []
            app.openapi_schema = document
        return app.openapi_schema

    setattr(app, "openapi", openapi)  # noqa: B010  FastAPI's documented way; mypy knows it as a method
