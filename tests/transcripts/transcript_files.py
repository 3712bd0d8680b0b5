"""Files of transcripts, written, read and refused."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mmerc.conversation import Conversation
from mmerc.errors import ConversationError
from mmerc.transcripts import read_transcript

one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(folder: Path, name: str, content: str | bytes) -> list[Conversation]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_transcript(path)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    return [(u.speaker, u.text) for u in conversation]


def timed(conversation: Conversation) -> list[tuple[int | None, int | None, str, str]]:
    return [(u.start_ms, u.end_ms, u.speaker, u.text) for u in conversation]


def complaint(folder: Path, name: str, content: str | bytes) -> str:
    with pytest.raises(ConversationError) as caught:
        read(folder, name, content)
    assert name in str(caught.value)
    return str(caught.value)
