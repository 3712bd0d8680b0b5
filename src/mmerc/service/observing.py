"""What can be seen of the service from outside: counts for Prometheus, and one line of JSON per event.

Neither holds anything of a conversation: no texts, names of speakers, predictions or file names.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

LOG: Final = logging.getLogger("mmerc.service")
SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counts of one service."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mmerc_requests",
            "Requests by route and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.latency = Histogram(
            "mmerc_request_seconds",
            "From the headers to the answer.",
            ["route"],
            registry=registry,
            buckets=SECONDS,
        )
        self.open = Gauge("mmerc_requests_open", "Requests that are being answered.", registry=registry)
        self.queue = Gauge("mmerc_queue_length", "Requests that wait for the model.", registry=registry)
        self.batch_requests = Histogram(
            "mmerc_batch_requests", "Requests that were computed together.", registry=registry, buckets=COUNTS
        )
        self.batch_utterances = Histogram(
            "mmerc_batch_utterances", "Utterances computed together.", registry=registry, buckets=COUNTS
        )
        self.compute = Histogram(
            "mmerc_compute_seconds", "Time of the model per batch.", registry=registry, buckets=SECONDS
        )
        self.utterances = Counter("mmerc_utterances", "Utterances predicted.", ["model"], registry=registry)
        self.uploads = Gauge("mmerc_uploads_open", "Recordings received or measured.", registry=registry)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON; of exceptions, the type and the places, but not the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        document |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            document["exception"] = places(record.exc_info[1])
        return json.dumps(document)


def places(error: BaseException) -> list[str]:
    """Return the type of an exception and where it was raised; its message may quote a conversation."""
    frames = traceback.extract_tb(error.__traceback__)
    return [type(error).__name__, *(f"{f.filename}:{f.lineno} in {f.name}" for f in frames)]


def logging_config() -> dict[str, Any]:
    """Return the configuration of `logging` under which everything is written to stderr as JSON lines.

    `mmerc serve --quiet` leaves the errors; `--verbose` ends here, since it would name files of clients.
    """
    level = "ERROR" if logging.getLogger("mmerc").level > logging.INFO else "INFO"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {
            "mmerc": {"handlers": [], "level": level},  # without the handler of the command line
            "mmerc.service": {"level": level},
            "uvicorn": {"level": level},
            "python_multipart": {"level": "CRITICAL"},  # it quotes what it reads
        },
    }
