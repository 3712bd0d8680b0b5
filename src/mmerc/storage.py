"""Writing files so that a crash at any moment leaves the old file or the new one, never half of one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNSEALED = '"sha256": ""'


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    On an exception the temporary file is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def seal_text(text: str) -> str:
    """Fill the last `"sha256": ""` of a JSON text with the checksum of the text as it is given."""
    head, mark, tail = text.rpartition(_UNSEALED)
    if not mark:
        raise ValueError("the text has no empty field sha256")
    return f'{head}"sha256": "{hashlib.sha256(text.encode()).hexdigest()}"{tail}'


def is_sealed(text: str, seal: str) -> bool:
    """Return whether a text is, byte for byte, what `seal_text` made; `seal` is the checksum it names."""
    head, mark, tail = text.rpartition(f'"sha256": "{seal}"')
    return bool(mark) and hashlib.sha256(f"{head}{_UNSEALED}{tail}".encode()).hexdigest() == seal


def append_checksum(path: Path) -> None:
    """Put the SHA-256 of a file, 32 bytes, at its end."""
    digest = bytes.fromhex(sha256(path))
    with path.open("ab") as handle:
        handle.write(digest)


def has_own_checksum(path: Path) -> bool:
    """Return whether a file ends in the SHA-256 of what comes before, as `append_checksum` leaves it."""
    digest = hashlib.sha256()
    left = path.stat().st_size - digest.digest_size
    with path.open("rb") as handle:
        while left > 0 and (block := handle.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
        return handle.read() == digest.digest()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    An existing `path` is replaced only after the new folder is complete. On an exception the
    temporary folder is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    retired = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed process may have had our number
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
            path.replace(retired)
        try:
            temporary.replace(path)
        except OSError:
            if retired.exists():
                retired.replace(path)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
