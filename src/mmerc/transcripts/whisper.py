"""Segments as Whisper, the OpenAI API (`verbose_json`), WhisperX and whisper.cpp write them.

A segment is an utterance. Where its words have several speakers (WhisperX), it is cut at each change.
whisper.cpp calls the list "transcription" and keeps times in milliseconds, under "offsets".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

from mmerc.errors import ConversationError

SEGMENTS = ("segments", "transcription")  # the keys of a document that hold them


def turns(segment: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """Yield the fields of the utterances of one segment; none where nothing is said.

    Args:
        segment: as it stands in the file
        fields: what `mmerc.transcripts.rows.FIELDS` knows of it
        where: file and segment, for messages

    Raises:
        ConversationError: the words or the offsets are not as they should be.
    """
    if "offsets" in segment:
        fields = {**fields, **_offsets(segment["offsets"], where)}
    text = fields.get("text")
    words = _words(segment.get("words"), where)
    speakers = _speakers(words)
    if not isinstance(text, str):
        yield fields  # the check of rows says what is wrong with it
    elif len(set(speakers)) > 1:
        yield from _cut(fields, words, speakers)
    elif text.strip() or fields.get("features"):
        named = {} if fields.get("speaker") is not None else {"speaker": next(iter(speakers), "")}
        yield {**fields, **named, "text": text.strip()}


def _offsets(offsets: Any, where: str) -> dict[str, Any]:
    if not isinstance(offsets, dict) or not {"from", "to"} <= offsets.keys():
        raise ConversationError(f"{where}: offsets: expected the milliseconds 'from' and 'to'")
    return {"start_ms": offsets["from"], "end_ms": offsets["to"]}


def _words(words: Any, where: str) -> Sequence[Mapping[str, Any]]:
    """Return the words of a segment; [] where they have no speakers, and so say nothing that it does not."""
    if not isinstance(words, list) or not any(isinstance(word, dict) and "speaker" in word for word in words):
        return []
    for number, word in enumerate(words, start=1):
        spoken = isinstance(word, dict) and isinstance(word.get("word"), str)
        if not spoken or not isinstance(word.get("speaker"), str | int | None):
            raise ConversationError(
                f"{where}, word {number}: expected an object whose 'word' and 'speaker' are texts"
            )
    return words


def _speakers(words: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return who says each word; one without a speaker goes to the one before it, else to the first."""
    named = ["" if word.get("speaker") is None else str(word["speaker"]).strip() for word in words]
    current = next(filter(None, named), "")
    speakers = []
    for speaker in named:
        current = speaker or current
        speakers.append(current)
    return speakers


def _cut(
    fields: Mapping[str, Any], words: Sequence[Mapping[str, Any]], speakers: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield one utterance per run of words of one speaker; a word without times takes its neighbours'."""
    before = _nearest(words, ("end", "start"), fields.get("start"))
    after = _nearest(words[::-1], ("start", "end"), fields.get("end"))[::-1]
    texts = _texts(fields["text"], [word["word"].strip() for word in words])
    kept = {key: fields[key] for key in ("label",) if fields.get(key) is not None}
    for speaker, run in groupby(range(len(words)), speakers.__getitem__):
        numbers = list(run)
        first, last = numbers[0], numbers[-1]
        times = {
            "start": _first(words[first].get("start"), before[first]),
            "end": _first(words[last].get("end"), after[last]),
        }
        if said := " ".join("".join(texts[first : last + 1]).split()):
            known = {key: time for key, time in times.items() if time is not None}
            yield {**kept, "speaker": speaker, "text": said, **known}


def _nearest(words: Sequence[Mapping[str, Any]], keys: tuple[str, str], border: Any) -> list[Any]:
    """Return for each word the time that was known last before it."""
    times = []
    for word in words:
        times.append(border)
        border = _first(*(word.get(key) for key in keys), border)
    return times


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _texts(text: str, words: Sequence[str]) -> list[str]:
    """Return the part of the text that each word begins; the words themselves where they are not the text.

    The text knows better than the words where blanks stand: Chinese has none between them.
    """
    places, end = [], 0
    for word in words:
        at = text.find(word, end)
        if at < 0 or re.search(r"\w", text[end:at]):
            return [f"{word} " for word in words]
        places.append(at)
        end = at + len(word)
    return [text[at:following] for at, following in pairwise([*places, len(text)])]
