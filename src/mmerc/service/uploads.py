"""Uploads on their way to disk: into a folder of their own, under names of ours, and gone afterwards."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from filelock import lock_descriptor
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from mmerc.service.batching import too_many
from mmerc.service.failures import Failure
from mmerc.service.observing import Metrics
from mmerc.service.settings import Settings
from mmerc.storage import LOCK
from mmerc.system import NO_FOLLOW

MARK: Final = "mmerc-service-"
RECORDING: Final = "recording"
TRANSCRIPT: Final = "transcript"
FORMS: Final = (  # of transcripts, by the end of their name; see mmerc.transcripts
    ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".srt", ".vtt", ".ass", ".ssa", ".eaf", ".textgrid", ".txt",
)  # fmt: skip
FIELDS: Final = ("model", "id")
FIELD_CHARACTERS: Final = 200


class Uploads:
    """A temporary folder, and as many uploads in it at the same time as the settings allow."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._open = 0
        self._root: Path | None = None
        self._lock = -1
        self.workers = asyncio.Semaphore(settings.media_workers)

    @asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """Yield a folder for one upload; it is removed afterwards, whatever happens.

        Raises:
            Failure: there are too many (429).
        """
        if self._open >= self._settings.media_queue:
            raise too_many(10)
        self._open += 1
        self._metrics.uploads.set(self._open)
        folder = Path(tempfile.mkdtemp(dir=self._home()))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            self._open -= 1
            self._metrics.uploads.set(self._open)

    def sweep(self) -> None:
        """Remove what services left that were killed: their folders are not locked any more."""
        place = Path(self._settings.temporary or tempfile.gettempdir())
        for folder in place.glob(f"{MARK}*"):
            if folder.is_symlink():
                continue
            with contextlib.suppress(OSError):  # another user's, still in use, or no folder
                os.close(
                    _locked(folder)
                )  # Windows removes no open file; and nobody takes an old folder again
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        if self._root is not None:
            os.close(self._lock)
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    def _home(self) -> Path:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix=MARK, dir=self._settings.temporary or None))
            self._lock = _locked(self._root)
        return self._root


class Upload(NamedTuple):
    """What came in."""

    recording: Path
    transcript: Path
    model: str | None
    id: str | None


async def receive(request: Request, folder: Path, settings: Settings) -> Upload:
    """Write the parts of a multipart request into a folder, as they come in.

    Raises:
        Failure: it is no multipart (415), broken (400), or parts are missing or not known (422).
        ClientDisconnect: the client went away.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise Failure(
            415, "unsupported_media_type", "send multipart/form-data with `recording` and `transcript`"
        )
    form = _Form(folder, options.get(b"boundary", b""), settings)
    try:
        async for chunk in request.stream():
            await asyncio.to_thread(form.feed, chunk)
        return form.finished()
    finally:
        form.close()


class _Form:
    """Takes multipart apart. Names of files tell which form a transcript has, and nothing else."""

    def __init__(self, folder: Path, boundary: bytes, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._files: dict[str, Path] = {}
        self._fields: dict[str, bytearray] = {}
        self._file: BinaryIO | None = None
        self._field: bytearray | None = None
        self._room = 0
        self._name = ""
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._whole = False
        if not boundary:
            raise _broken("its Content-Type names no boundary")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begins,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._header_ends,
                    "on_headers_finished": self._part_opens,
                    "on_part_data": self._part_data,
                    "on_part_end": self.close,
                    "on_end": self._ends,
                },
            )
        except FormParserError:
            raise _broken("its boundary is too long") from None

    def feed(self, chunk: bytes) -> None:
        """Take the next piece."""
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _broken("it does not follow its boundary, or a part has no proper headers") from None

    def finished(self) -> Upload:
        """Return what came in."""
        if not self._whole:
            raise _broken("it ends early")
        for name in (RECORDING, TRANSCRIPT):
            if name not in self._files:
                raise Failure(422, "invalid", "this file is missing", name)
        texts = {name: _decoded(name, value) for name, value in self._fields.items()}
        return Upload(self._files[RECORDING], self._files[TRANSCRIPT], texts.get("model"), texts.get("id"))

    def close(self) -> None:
        """Close the part that is open."""
        if self._file is not None:
            self._file.close()
        self._file = self._field = None

    def _part_begins(self) -> None:
        self._disposition = b""

    def _header_ends(self) -> None:
        field, value = self._header
        if field.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _part_opens(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("ascii", "replace")
        if kind != b"form-data" or name not in (RECORDING, TRANSCRIPT, *FIELDS):
            known = ", ".join((RECORDING, TRANSCRIPT, *FIELDS))
            raise Failure(422, "invalid", f"a part is called otherwise than: {known}")
        if name in self._files or name in self._fields:
            raise Failure(422, "invalid", "this part is there twice", name)
        self._name = name
        if name in FIELDS:
            self._room = 4 * FIELD_CHARACTERS  # bytes of UTF-8
            self._field = self._fields[name] = bytearray()
            return
        self._room = self._settings.max_media_bytes
        suffix = ""
        if name == TRANSCRIPT:
            suffix = _form_of(options.get(b"filename", b""))
            self._room = self._settings.max_body_bytes
        self._files[name] = self._folder / f"{name}{suffix}"
        self._file = self._files[name].open("xb")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self._room -= end - start
        if self._room < 0 and self._field is not None:
            raise _long_field(self._name)
        if self._room < 0:
            raise Failure(413, "too_large", "this part is too large", self._name)
        if self._file is not None:
            self._file.write(data[start:end])
        elif self._field is not None:
            self._field += data[start:end]

    def _ends(self) -> None:
        self._whole = True


def _form_of(name: bytes) -> str:
    lower = name.lower()
    for suffix in FORMS:
        if lower.endswith(suffix.encode()):
            return suffix
    raise Failure(
        415, "unsupported_media_type", f"its file name ends in none of {', '.join(FORMS)}", TRANSCRIPT
    )


def _decoded(name: str, value: bytearray) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise Failure(400, "invalid", "this is not UTF-8", name) from None
    if len(text) > FIELD_CHARACTERS:
        raise _long_field(name)
    return text


def _long_field(name: str) -> Failure:
    return Failure(422, "too_long", f"this has at most {FIELD_CHARACTERS} characters", name)


def _broken(why: str) -> Failure:
    return Failure(400, "broken_multipart", f"this multipart body cannot be read: {why}")


def _locked(folder: Path) -> int:
    """Lock a folder of ours against `sweep`, as long as this process lives; return what must be kept open."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o600)
    try:
        if not lock_descriptor(lock, blocking=False):
            raise BlockingIOError(f"{folder} is in use")
    except OSError:
        os.close(lock)
        raise
    return lock
