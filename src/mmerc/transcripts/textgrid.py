"""Praat's TextGrid, in its long and its short text form.

Praat itself reads both as one: numbers and quoted texts that stand free count, everything else (`xmin =`,
`intervals [1]:`) is decoration.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mmerc.errors import ConversationError
from mmerc.transcripts.rows import Row, short
from mmerc.transcripts.tiers import Annotation, Tier, moment, tier_rows

_FREE = re.compile(
    r"""  " (?P<text> (?: [^"] | "" )*+ ) (?P<closed> " )?
    | (?<!\S) (?: (?P<number> [-+]?[0-9][^\s"]* | --undefined-- ) | (?P<flag> <exists> | <absent> ) ) (?!\S)
    | (?<!\S) ! [^\n]*""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str  # text, number or flag
    value: str
    line: int


class _Tokens:
    """Takes what stands free in the file, one after the other."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._found = self._scan(text)

    def take(self, kind: str, what: str) -> _Token:
        """Return the next one, which must be of a kind."""
        token = next(self._found, None)
        if token is None:
            raise ConversationError(f"{self._path}: it ends where {what} should be: is it cut off?")
        if token.kind != kind:
            raise self.error(token, f"expected {what}, not {short(token.value)}")
        return token

    def error(self, token: _Token, message: str) -> ConversationError:
        """Return an error that says where."""
        return ConversationError(f"{self._path}: line {token.line}: {message}")

    def count(self, what: str) -> int:
        """Return a number of things."""
        token = self.take("number", what)
        if not re.fullmatch("[0-9]{1,9}", token.value):
            raise self.error(token, f"expected {what}, not {short(token.value)}")
        return int(token.value)

    def _scan(self, text: str) -> Iterator[_Token]:
        line, position = 1, 0
        for found in _FREE.finditer(text):
            line, position = line + text.count("\n", position, found.start()), found.start()
            if kind := found.lastgroup:
                kind = "text" if kind == "closed" else kind
                token = _Token(kind, found[kind].replace('""', '"') if kind == "text" else found[kind], line)
                if kind == "text" and not found["closed"]:
                    raise self.error(token, 'a text has no " at its end')
                yield token


def textgrid_rows(path: Path, text: str) -> Iterator[Row]:
    """Yield the utterances of the interval tiers of a TextGrid; empty intervals are silence.

    Point tiers are left out. The tier's name is the speaker (`mmerc.transcripts.tiers`).
    """
    tokens = _Tokens(path, text)
    form, kind = tokens.take("text", "the file type"), tokens.take("text", "the object class")
    if not form.value.startswith("ooTextFile") or kind.value != "TextGrid":
        raise tokens.error(form, 'not a TextGrid: it begins with File type = "ooTextFile" and "TextGrid"')
    for what in ("the start of the file", "its end"):
        tokens.take("number", what)
    if tokens.take("flag", "<exists>").value == "<absent>":
        return iter(())
    number = tokens.count("the number of tiers")
    return tier_rows(path, [tier for _ in range(number) for tier in _tiers(path, tokens)])


def _tiers(path: Path, tokens: _Tokens) -> Iterator[Tier]:
    """Yield the next tier of the file, nothing if it is one of points."""
    kind = tokens.take("text", "the kind of a tier")
    if kind.value not in ("IntervalTier", "TextTier"):
        raise tokens.error(kind, f"expected IntervalTier or TextTier, not {short(kind.value)}")
    name = tokens.take("text", "the name of a tier").value
    for what in ("the start of a tier", "its end"):
        tokens.take("number", what)
    size = tokens.count("the number of intervals or points")
    if kind.value == "TextTier":
        for _ in range(size):
            tokens.take("number", "a time"), tokens.take("text", "a text")
        return
    found = (_interval(path, tokens, f"tier {short(name)}, interval {n}") for n in range(1, size + 1))
    yield Tier(name, [annotation for annotation in found if annotation.text])


def _interval(path: Path, tokens: _Tokens, where: str) -> Annotation:
    start, end = tokens.take("number", "a start"), tokens.take("number", "an end")
    text = " ".join(tokens.take("text", "a text").value.split())
    place = f"{where} (line {start.line})"
    start_ms, end_ms = (moment(f"{path}: {place}", token.value, 1000) for token in (start, end))
    return Annotation(place, start_ms, end_ms, text)
