"""What runs in the process of its own: reads a job from standard input, writes the answer to standard output.

The pipe stays open as long as the service lives: when it closes, this process ends.
"""

import json
import os
import re
import sys
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from mmerc.errors import ConversationError, MmercError
from mmerc.system import limit_memory

if TYPE_CHECKING:
    from mmerc.conversation import Conversation

QUOTED: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


def main() -> None:
    """Do one job."""
    job = json.loads(sys.stdin.readline())
    Thread(target=_end_with_the_service, daemon=True).start()
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # decoders say things now and then
    most = job["settings"]["media_memory_mb"] * 2**20
    if most:
        limit_memory(most)
    with answer:
        json.dump(_answer(job), answer)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    from mmerc.service.failures import Failure, of_a_conversation
    from mmerc.service.observing import places

    try:
        return {"prediction": _predicted(job)}
    except (Failure, MmercError) as error:
        told = error if isinstance(error, Failure) else of_a_conversation(error)
        if told.status_code >= 500:
            return {"fault": places(error)}
        return {"failure": [told.status_code, told.code, told.detail, told.where]}
    except Exception as error:  # a fault of ours: the service notes it, without what it says
        return {"fault": places(error)}


def _predicted(job: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import replace

    from mmerc.extraction.cache import Cache
    from mmerc.extraction.engines import in_processes
    from mmerc.extraction.measuring import Meter
    from mmerc.features.media_file import probe
    from mmerc.recognizer import load
    from mmerc.service.failures import Failure
    from mmerc.service.schemas import check_length
    from mmerc.service.settings import Settings

    settings = Settings(**job["settings"])
    recording = Path(job["recording"])
    conversation = _read(job["transcript"])
    check_length(conversation, settings)
    if job["id"]:
        conversation = replace(conversation, id=job["id"])
    length_ms = probe(recording).length_ms or 0
    if length_ms > 1000 * settings.max_media_s:
        raise Failure(413, "too_long", f"a recording lasts at most {settings.max_media_s} s", "recording")
    recognizer = load(job["checkpoint"])
    with Cache(None) as cache:
        meter = Meter(in_processes(settings.media_jobs), cache)
        return recognizer.predict_recording(conversation, recording, meter).to_dict()


def _read(transcript: str) -> "Conversation":
    from mmerc.forms import conversation
    from mmerc.service.failures import Failure

    try:
        return conversation(Path(transcript))
    except ConversationError as error:  # it quotes what it cannot read, for a user's own screen
        raise Failure(422, "cannot_be_read", QUOTED.sub("…", str(error)), "transcript") from None


def _end_with_the_service() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
