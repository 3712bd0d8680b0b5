"""What can be set of the service: its limits, its times and its keys; docs/service.md is the page on them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from mmerc.config import build, require_ranges
from mmerc.errors import ConfigError

KEYS: Final = "MMERC_API_KEY"
PREFIX: Final = "MMERC_SERVE_"


@dataclass(frozen=True)
class Settings:
    """Limits, times and keys. Each field is an option of `mmerc serve --set` and a variable MMERC_SERVE_…"""

    max_body_bytes: int = 2**20  # of a request other than an upload
    max_utterances: int = 500  # of a conversation
    max_characters: int = 4000  # of one text
    max_total_characters: int = 100_000  # of all texts of a conversation
    max_explained: int = 60  # utterances of a conversation with `explain`: its work grows with their square
    sessions: int = 200  # live conversations at the same time; more get 429
    session_turns: int = 200  # of a live conversation; more get 409
    session_idle_s: float = 1800.0  # after which a live conversation is forgotten
    queue: int = 256  # requests that wait for the model; more get 429
    batch_utterances: int = 256  # that are computed together, of as many requests as are waiting
    gather_ms: float = 0.0  # wait so long for more requests although the model is free
    timeout_s: float = 30.0  # from a whole request to its answer; then 504
    body_s: float = 10.0  # in which the headers, and then the body of a request must have come in
    max_media_bytes: int = 2**28  # of an upload
    max_media_s: int = 3600  # length of a recording
    upload_s: float = 600.0  # in which an upload must have come in; silent for `body_s`, it is given up, too
    media_timeout_s: float = 900.0  # for measuring a recording
    media_workers: int = 1  # recordings that are measured at the same time
    media_queue: int = 4  # uploads that are received, waiting or measured; more get 429
    media_jobs: int = 1  # processes that measure a recording
    media_memory_mb: int = 8192  # of a process that measures; 0: no limit
    temporary: str = ""  # where uploads are kept while they are measured; empty: the system's place
    connections: int = 1000  # open at the same time; more get 503
    shutdown_s: int = 30  # to finish what was accepted, when the service is told to stop
    drain_s: float = 0.0  # before that: /readyz says 503, so that a balancer sends no more
    allowed_hosts: tuple[str, ...] = ()  # names that requests may be addressed to; empty: any
    api_keys: tuple[str, ...] = field(default=(), repr=False)  # one of them must be sent; empty: none needed

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a field is out of its range.
        """
        free = ("gather_ms", "drain_s", "media_memory_mb")
        numbers = [f.name for f in fields(self) if f.type in (int, float) and f.name not in free]
        require_ranges(self, "serve", positive=numbers, not_negative=free)
        if not all(key.isascii() and key.isprintable() and len(key) >= 8 for key in self.api_keys):
            raise ConfigError(f"{KEYS}: a key has at least 8 characters, printable ASCII ones")

    @classmethod
    def read(
        cls, environment: Mapping[str, str] = os.environ, given: Mapping[str, Any] | None = None
    ) -> "Settings":
        """Read the settings from environment variables; what is given goes before them.

        Raises:
            ConfigError: an unknown name, a value of the wrong type or out of range.
        """
        found: dict[str, Any] = {
            name.removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.startswith(PREFIX)
        }
        for values, where in ((found, f"environment variables {PREFIX}…"), (dict(given or {}), "serve")):
            if "api_keys" in values:
                raise ConfigError(f"{where}: keys are read from the environment variable {KEYS} alone")
            if isinstance(values.get("allowed_hosts"), str):
                values["allowed_hosts"] = _words(values["allowed_hosts"])
            build(cls, values, where)  # each by itself, so that the message names the place
            found |= values
        return build(cls, {**found, "api_keys": _words(environment.get(KEYS, ""))}, "serve")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(r"[,\s]+", text) if word)
