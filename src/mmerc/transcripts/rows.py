"""What every reader of a transcript yields: the fields of one utterance, which are checked here."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from mmerc.conversation import Utterance
from mmerc.errors import ConversationError
from mmerc.transcripts.clock import clock_ms

FIELDS = {
    "text": ("text", "utterance", "sentence", "message", "content"),
    "speaker": ("speaker", "name", "author", "from", "user"),
    "dialogue_id": ("dialogue_id", "dialogue", "conversation_id", "conversation"),
    "label": ("label", "emotion"),
    "start_ms": ("start_ms",),
    "end_ms": ("end_ms",),
    "start": ("start", "start_s", "start_seconds", "start_time", "starttime"),  # in seconds, or as a clock
    "end": ("end", "end_s", "end_seconds", "end_time", "endtime"),
    "features": ("features",),  # JSON only: modality → list of numbers
}

LATEST_MS = 1e14  # no recording lasts 3000 years; what is later is no time


class Row(NamedTuple):
    """The fields of one utterance as the file has them, and where they stand."""

    where: str
    fields: Mapping[str, Any]  # the keys are those of `FIELDS`
    dialogue: str | None = None  # the conversation object around it
    timed: bool = False  # of a format whose utterances are in order of time, whatever their order in the file


def _seconds(value: Any) -> Any:
    """Turn a clock into seconds; anything else is left to the check of numbers."""
    milliseconds = clock_ms(value) if isinstance(value, str) else None
    return value if milliseconds is None else milliseconds / 1000


def _listed(value: Any) -> Any:
    """Turn an array into a list, as JSON would have it; whoever hands in dicts may hand in arrays."""
    return value.tolist() if isinstance(value, np.ndarray) else value


_Name = Annotated[str, StringConstraints(strip_whitespace=True)]
_Time = Annotated[float, Field(ge=0, le=LATEST_MS, allow_inf_nan=False)]
_Seconds = Annotated[_Time, BeforeValidator(_seconds)]
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Number = Annotated[float, Field(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX, allow_inf_nan=False)]
_Vector = Annotated[list[_Number], BeforeValidator(_listed), Field(min_length=1)]


class _Fields(BaseModel):
    """The fields of one utterance, checked."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)
    text: str | None = None
    speaker: _Name | None = None
    dialogue_id: _Name | None = None
    label: _Name | None = None
    start_ms: _Time | None = None
    end_ms: _Time | None = None
    start: _Seconds | None = None
    end: _Seconds | None = None
    features: dict[str, _Vector | None] | None = None

    def utterance(self) -> Utterance:
        """Return the utterance; a modality whose vector is null is missing."""
        vectors = (self.features or {}).items()
        return Utterance(
            text=self.text or "",
            speaker=self.speaker or "",
            label=self.label or None,
            start_ms=_milliseconds(self.start_ms, self.start),
            end_ms=_milliseconds(self.end_ms, self.end),
            features={m: np.array(v, dtype=np.float32) for m, v in vectors if v is not None},
        )


def checked(path: Path, row: Row) -> tuple[str | None, Utterance]:
    """Return the name of the conversation, None without one, and the utterance.

    Raises:
        ConversationError: a value is of the wrong kind, a time is negative, NaN or before the start, or
            there is nothing to predict from; says where.
    """
    try:
        fields = _Fields.model_validate(row.fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        unit = " (in seconds, or as 0:01:02.5)" if where in ("start", "end") else ""
        raise ConversationError(
            f"{path}: {row.where}: {where}{unit}: {first['msg']}, not {short(first['input'])}"
        ) from None
    utterance = fields.utterance()
    if fields.text is None and not utterance.features:
        raise ConversationError(f"{path}: {row.where}: an utterance needs a text or features")
    start, end = utterance.start_ms, utterance.end_ms
    if start is not None and end is not None and end < start:
        raise ConversationError(f"{path}: {row.where}: it ends at {end} ms, before it starts at {start} ms")
    return row.dialogue or fields.dialogue_id or None, utterance


def known_fields(found: Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Return the values that `FIELDS` knows, under their first names."""
    pairs = [(plain_name(name), value) for name, value in found]
    names = [name for name, _ in pairs]
    known = [alias for aliases in FIELDS.values() for alias in aliases]
    if twice := next((name for name in known if names.count(name) > 1), None):
        raise ConversationError(f"{where}: {twice!r} is there {names.count(twice)} times: keep one of them")
    values = dict(pairs)
    firsts = {f: next((a for a in aliases if a in values), None) for f, aliases in FIELDS.items()}
    return {field: values[alias] for field, alias in firsts.items() if alias is not None}


def plain_name(name: str) -> str:
    """Return the name of a column or key without regard to case, blanks and hyphens."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def short(value: Any) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _milliseconds(milliseconds: float | None, seconds: float | None) -> int | None:
    if milliseconds is not None:
        return round(milliseconds)
    return None if seconds is None else round(1000 * seconds)
