"""Runs the application: from warm models to an orderly end."""

import asyncio
import logging.config
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from types import FrameType
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmerc.errors import ConfigError
from mmerc.recognizer import Recognizer
from mmerc.service.app import create_app
from mmerc.service.failures import Failure
from mmerc.service.observing import LOG, logging_config
from mmerc.service.settings import Settings
from mmerc.service.state import Service
from mmerc.system import LIMITS_MEMORY

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
BACKLOG: Final = 2048


def serve(recognizers: Mapping[str, Recognizer], settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT, and finish what was accepted.

    Raises:
        ConfigError: the address cannot be used.
        FeatureError: the text encoder of a model cannot be loaded.
    """
    logging.config.dictConfig(logging_config())
    listener = _listen(host, port)
    for recognizer in recognizers.values():  # a failure shows now, and the first client does not wait
        recognizer.text_encoder()
    app = create_app(recognizers, settings)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=_protocol(settings.body_s),
        ws_max_size=settings.max_body_bytes,
        limit_concurrency=settings.connections,
        timeout_graceful_shutdown=settings.shutdown_s,
    )
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    if settings.media_memory_mb and not LIMITS_MEMORY:
        LOG.warning("recordings are measured without a limit of memory: this system keeps none")
    LOG.info("serving", extra={"fields": {"address": f"http://{shown}:{bound}", "models": list(recognizers)}})
    _Server(config, service).run([listener])


class _Server(uvicorn.Server):
    """Tells the service to stop before it stops itself."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; the second signal does not wait."""
        drain = self._service.settings.drain_s
        if self._service.stopping or not drain:
            self._service.stopping = True
            super().handle_exit(sig, frame)
            return
        self._service.stopping = True
        loop = asyncio.get_running_loop()
        loop.call_soon_threadsafe(loop.call_later, drain, super().handle_exit, sig, None)


def _protocol(headers_s: float) -> type[H11Protocol]:
    """Return uvicorn's HTTP, which gives up clients that do not send their headers in time."""

    class Impatient(H11Protocol):
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
            super().connection_made(transport)
            self._patience = self.loop.call_later(headers_s, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._calm()
            elif self._patience is None:  # the beginning of another request on the same connection
                self._patience = self.loop.call_later(headers_s, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            answer = Failure(HTTPStatus.BAD_REQUEST, "bad_request", "this is not HTTP/1.1").response()
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=answer.status_code, headers=headers),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _calm(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Impatient


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the address is taken, not ours, or not to be found.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        if os.name == "posix":  # on Windows it would let two programs listen on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}: try another --port") from None
    return listener


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    return host in LOOPBACK or host.startswith("127.")
