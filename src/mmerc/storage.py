"""Writing files so that a crash at any moment leaves the old file or the new one, never half of one.

A folder that is being written to belongs to one process at a time (`exclusive`).
"""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mmerc.errors import MmercError
from mmerc.system import FIXED_WHILE_OPEN, NO_FOLLOW, exchange, is_alive, replace

LOCK = ".lock"
_LEFTOVER = re.compile(r"\..+\.\d+\.(tmp|old)")
_held: dict[Path, int] = {}  # the folders that this process holds, and what keeps their locks
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNSEALED = '"sha256": ""'


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it to `path`.

    On an exception the temporary file is removed and `path` stays as it was. What a killed process of this
    machine left of the same file is removed, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors writes files that nobody else may read
        with temporary.open("r+b") as handle:  # Windows flushes only what may be written
            os.fsync(handle.fileno())
        replace(temporary, path)
    except OSError as error:
        if error.errno in _NO_ROOM and error.filename is None:  # writing, unlike opening, does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _remove_orphans(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        if left.is_file() and number.isdecimal() and not is_alive(int(number)):
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically; lines end as they do in `text`, on every system."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


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
        if not (path.exists() and exchange(temporary, path)):
            _put_in_place(temporary, path, retired)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, path: Path, retired: Path) -> None:
    """Rename a folder to `path`, and what is there to `retired`; if that fails, back again."""
    if FIXED_WHILE_OPEN and (handle := _held.pop(path.resolve(), None)) is not None:
        _unlock(handle, path / LOCK)  # a moment early; whoever takes it now stops the rename
    if path.exists():
        shutil.rmtree(retired, ignore_errors=True)
        replace(path, retired)
    try:
        replace(temporary, path)
    except OSError:
        if retired.exists():
            replace(retired, path)
        raise


@contextmanager
def exclusive(folder: Path, kind: type[MmercError]) -> Iterator[None]:
    """Keep other processes from writing to a folder, which is made if it is missing.

    The system gives the lock back when its holder dies, so there are no stale ones; what a killed process
    left half written is removed. Within a process, whoever holds a folder may ask for it again.

    Raises:
        MmercError: of the given kind: another process holds it, and which one; or it cannot be written to.
    """
    folder = folder.resolve()
    if folder in _held:
        yield
        return
    made = not folder.exists()
    if made:
        for retired in folder.parent.glob(f".{folder.name}.*.old"):  # killed between two renames
            if _LEFTOVER.fullmatch(retired.name):
                replace(retired, folder)
                break
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _lock(folder / LOCK, kind)
    except OSError as error:
        _remove_empty(folder, made)
        reason = error.strerror or str(error)
        raise kind(f"{folder} cannot be written to ({reason}): make room, or choose another folder") from None
    _held[folder] = handle
    try:
        _remove_leftovers(folder)
        yield
    finally:
        if _held.pop(folder, None) is not None:
            _unlock(handle, folder / LOCK)
        _remove_empty(folder, made)


def _remove_empty(folder: Path, made: bool) -> None:
    if made:
        with suppress(OSError):  # it is not empty: the rule
            folder.rmdir()


def _lock(file: Path, kind: type[MmercError]) -> int:
    """Return a descriptor that holds the lock; the file says who has it, for others to read.

    Windows lets nobody else read what is locked, which is the first byte: the note stands behind it.
    """
    from filelock import lock_descriptor  # a tenth of a second, which only those wait for who write

    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        try:
            free = lock_descriptor(handle, blocking=False)
        except OSError as error:
            free, reason = True, f"its file system has no locks ({error.strerror})"
            warnings.warn(f"{file.parent} is not protected from other processes: {reason}", stacklevel=4)
        if not free:
            os.lseek(handle, 1, os.SEEK_SET)
            text = os.read(handle, 1000)
            os.close(handle)
            raise kind(f"{file.parent} is in use by {_holder(text)}: wait until it ends, or stop it")
        if _lies_at(handle, file):  # else its last holder has removed it meanwhile
            break
        os.close(handle)
    note = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    try:
        os.ftruncate(handle, 0)
        os.write(handle, b" " + json.dumps(note).encode())
    except OSError:
        _unlock(handle, file)
        raise
    return handle


def _unlock(handle: int, file: Path) -> None:
    """Remove the file of a lock, and give the lock back."""
    if FIXED_WHILE_OPEN:
        os.close(handle)
        with suppress(OSError):  # another process has opened it meanwhile
            file.unlink()
        return
    if _lies_at(handle, file):
        file.unlink()
    os.close(handle)


def _holder(text: bytes) -> str:
    try:
        note = json.loads(text)
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (ValueError, KeyError, TypeError):  # it has just begun
        return "another process"


def _lies_at(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _remove_leftovers(folder: Path) -> None:
    places = (folder.glob(".*"), folder.glob("features/.*"), folder.parent.glob(f".{folder.name}.*"))
    for path in [path for place in places for path in place if _LEFTOVER.fullmatch(path.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):  # gone already, or, on Windows, open
                path.unlink()
