"""The gate that every request passes: who may come in, how much, how slowly; and what is noted of it."""

import asyncio
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmerc.service.failures import Failure, internal, of_the_framework
from mmerc.service.observing import LOG
from mmerc.service.state import Service

UPLOAD: Final = "/v1/predict/media"
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class _Exchange:
    """What is known of a request and its answer."""

    scope: Scope
    id: str
    started: float = field(default_factory=time.perf_counter)
    received: int = 0
    sent: int = 0
    status: int = 0  # 0: nothing was answered yet
    whole: bool = False  # the request has come in to its end

    @property
    def route(self) -> str:
        """The pattern of the path: the path itself may name what is nobody's business."""
        return getattr(self.scope.get("route"), "path", "") or "none"


class Guard:
    """ASGI middleware; it must be the outermost."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._keys = [_digest(key.encode()) for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        bodiless = "content-length" not in headers and "transfer-encoding" not in headers
        exchange = _Exchange(
            scope, given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, whole=bodiless
        )
        answer = self._answering(exchange, send)
        with self._noting(exchange):
            try:
                self._admit(scope, headers)
                self._check_length(scope, headers)
                await self._app(scope, self._receiving(exchange, receive), answer)
            except HTTPException as error:
                await _respond(of_the_framework(error), exchange, receive, answer)
            except Exception as error:  # a fault of ours: its message may quote a conversation
                LOG.error("fault", exc_info=error, extra={"fields": {"request_id": exchange.id}})
                await _respond(internal(), exchange, receive, answer)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, uuid.uuid4().hex, status=HTTPStatus.SWITCHING_PROTOCOLS)
        with self._noting(exchange):
            try:
                self._admit(scope, Headers(scope=scope))
                await self._app(scope, receive, send)
            except HTTPException as error:
                exchange.status = error.status_code
                if "websocket.http.response" in scope.get("extensions", {}):
                    await of_the_framework(error).response()(scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": 1008, "reason": error.detail})
            except Exception as error:  # as above
                exchange.status = HTTPStatus.INTERNAL_SERVER_ERROR
                LOG.error("fault", exc_info=error, extra={"fields": {"request_id": exchange.id}})
                await send({"type": "websocket.close", "code": 1011})

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Refuse what is addressed to another host, comes from a page of another site, or has no key."""
        host, origin = headers.get("host", ""), headers.get("origin")
        allowed = self._service.settings.allowed_hosts
        if allowed and _name(host) not in allowed:
            raise Failure(403, "wrong_host", "this service is not reached under that name (allowed_hosts)")
        # Browsers let any page send some requests to any host, loopback included, and say whose page it is.
        if (
            origin is not None
            and urlsplit(origin).netloc != host
            and _name(urlsplit(origin).netloc) not in allowed
        ):
            raise Failure(
                403, "wrong_origin", "pages of other sites may not use this service (allowed_hosts)"
            )
        path = scope["path"]
        if not path.startswith("/v1/") and path != "/metrics":
            return
        if self._keys and not self._knows(headers):
            challenge = {"WWW-Authenticate": "Bearer"}
            message = "send a key: Authorization: Bearer KEY, or X-API-Key: KEY"
            raise Failure(401, "unauthorized", message, headers=challenge)
        if self._service.stopping and path.startswith("/v1/"):
            raise Failure(503, "stopping", "the service is about to stop", headers={"Retry-After": "5"})

    def _knows(self, headers: Headers) -> bool:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode("latin-1"))
        matches = [hmac.compare_digest(digest, key) for key in self._keys]  # all are compared, always
        return any(matches)

    def _check_length(self, scope: Scope, headers: Headers) -> None:
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Failure(415, "compressed", "compressed bodies are not read: send it as it is")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._most(scope):
            raise _too_large(self._most(scope))

    def _most(self, scope: Scope) -> int:
        settings = self._service.settings
        return settings.max_media_bytes if scope["path"] == UPLOAD else settings.max_body_bytes

    def _receiving(self, exchange: _Exchange, receive: Receive) -> Receive:
        """Count and time what comes in; waiting for the client to go away afterwards is not timed."""
        settings = self._service.settings
        upload = exchange.scope["path"] == UPLOAD
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (settings.upload_s if upload else settings.body_s)
        most = self._most(exchange.scope)

        async def limited() -> Message:
            if exchange.whole:
                return await receive()
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + settings.body_s)):
                    message = await receive()
            except TimeoutError:
                raise Failure(408, "slow", "the request did not come in in time") from None
            if message["type"] == "http.request":
                exchange.received += len(message.get("body", b""))
                exchange.whole = not message.get("more_body", False)
                if exchange.received > most:
                    raise _too_large(most)
            return message

        return limited

    def _answering(self, exchange: _Exchange, send: Send) -> Send:
        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = exchange.id
                headers["X-Content-Type-Options"] = "nosniff"
                if exchange.scope["path"].startswith("/v1/"):
                    headers["Cache-Control"] = "no-store"
                if exchange.status >= HTTPStatus.BAD_REQUEST and not exchange.whole:
                    headers["Connection"] = "close"  # nobody reads the rest of the request
            elif message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
            await send(message)

        return noted

    @contextmanager
    def _noting(self, exchange: _Exchange) -> Iterator[None]:
        metrics = self._service.metrics
        metrics.open.inc()
        try:
            yield
        finally:
            metrics.open.dec()
            took, method = time.perf_counter() - exchange.started, exchange.scope.get("method", "WEBSOCKET")
            method = method if method in ("GET", "POST", "DELETE", "WEBSOCKET") else "other"
            metrics.requests.labels(exchange.route, method, str(int(exchange.status))).inc()
            metrics.latency.labels(exchange.route).observe(took)
            fields = {
                "request_id": exchange.id,
                "route": exchange.route,
                "method": method,
                "status": int(exchange.status),
                "ms": round(1000 * took, 2),
                "bytes_in": exchange.received,
                "bytes_out": exchange.sent,
                **exchange.scope.get("state", {}).get("noted", {}),
            }
            LOG.info("request", extra={"fields": fields})


async def _respond(failure: Failure, exchange: _Exchange, receive: Receive, answer: Send) -> None:
    if exchange.status == 0:  # otherwise it is too late to say anything
        await failure.response()(exchange.scope, receive, answer)


def _too_large(most: int) -> Failure:
    return Failure(413, "too_large", f"the body has more than {most} bytes")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()  # of one length, so that comparing tells nothing of the key's


def _name(host: str) -> str:
    """Return the name in `name:port`, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
