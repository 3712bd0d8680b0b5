"""What systems do differently. It is asked here and nowhere else, so that the rest of mmerc runs on any.

What a system lacks is done in another way, or left out; whoever leaves something out says so.
"""

import ctypes
import io
import mmap
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

# An open file can be neither removed nor renamed, and no folder that has one in it.
FIXED_WHILE_OPEN: Final = sys.platform == "win32"
# For `os.open`: refuse a link that somebody has put in the place of a file, where the system can.
NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
# Whether `limit_memory` does something: macOS takes the limit and does not keep it, Windows has none.
LIMITS_MEMORY: Final = sys.platform == "linux"

# What ends what is typed into standard input.
END_OF_INPUT: Final = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"

PATIENCE_S: Final = 1.0
_MAP_NORESERVE: Final = 0x4000  # of Linux; Python has it since 3.13
_REFUSED: Final = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$')
_DEVICES: Final = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)


# Files


def file_name(text: str) -> str:
    """Return a text as the name of a file or a folder, which every system takes.

    Windows has names and characters of its own (`aux`, `a:b`). They give way on all systems, so that a folder
    can be carried from one to another; a hash keeps apart what would then be called alike.
    """
    if text and not _REFUSED.search(text) and not _DEVICES.fullmatch(text):
        return text
    near = _REFUSED.sub("_", text) or "_"
    return f"{'_' * bool(_DEVICES.fullmatch(near))}{near}-{sha256(text.encode()).hexdigest()[:8]}"


def replace(source: Path, target: Path) -> None:
    """Rename a file or a folder; a file that is called `target` gives way.

    Windows refuses while anyone has one of them open. A virus scanner is done in a moment, so it is tried for
    a second.

    Raises:
        OSError: it cannot be done.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            source.replace(target)
            return
        except PermissionError as error:
            if not FIXED_WHILE_OPEN:
                raise
            if time.monotonic() > until:
                reason = f"{error.strerror}: is it open in another program?"
                raise PermissionError(error.errno, reason, str(source), None, str(target)) from None
            time.sleep(0.05)


def exchange(one: Path, other: Path) -> bool:
    """Swap two folders in a single step; return False where the system cannot."""
    rename = getattr(c_library(), "renameat2", None)
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def map_copy(file: BinaryIO) -> mmap.mmap:
    """Map a file; who writes to it changes a copy of the page, which is this process's own.

    Linux is asked to set no memory aside for such copies, macOS does not: there the file may be larger than
    memory. Windows counts it as if all of it were to be copied.
    """
    if sys.platform == "linux":
        own = mmap.MAP_PRIVATE | _MAP_NORESERVE
        return mmap.mmap(file.fileno(), 0, flags=own, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def give_back(mapping: mmap.mmap) -> None:
    """Give the pages of a mapped file that are in memory back to the system, if it takes them.

    Linux and the BSDs do; elsewhere they stay until something else wants the room.
    """
    if sys.platform != "win32" and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


# Memory


def c_library() -> ctypes.CDLL | None:
    """Return the C library of this process on Linux, whose functions differ from one to the other."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def limit_memory(size: int) -> None:
    """Limit the memory of this process to so many bytes, where the system can (`LIMITS_MEMORY`)."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


# Processes


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Start processes here that never hear Ctrl-C, where the system can: it would end them in tracebacks."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which children inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def is_alive(process: int) -> bool:
    """Return whether a process of that number lives, whoever's it is."""
    import psutil

    try:
        return bool(psutil.pid_exists(process))
    except OverflowError:  # no number of a process
        return False


def apart() -> dict[str, Any]:
    """Return what `subprocess.Popen` takes to start a process that does not hear the Ctrl-C of this one."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def end_tree(process: int) -> None:
    """Kill a process that has not been waited for, and all that it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process)
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                one.kill()


# Output


def quoted(text: str) -> str:
    """Return a word of a command as it is to be typed."""
    return subprocess.list2cmdline([text]) if sys.platform == "win32" else shlex.quote(text)


def speak() -> None:
    """Let no character that the terminal lacks end the command, and write UTF-8 where there is no terminal.

    What a terminal cannot show becomes a question mark. A file or a program reads what is redirected: UTF-8
    is what JSON is written in and what programs expect, where Windows would take the code page of the
    machine. Who sets PYTHONIOENCODING gets what it says.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if not stream.isatty() and "PYTHONIOENCODING" not in os.environ:
            stream.reconfigure(encoding="utf-8")
        if stream.errors in ("strict", "surrogateescape"):  # the latter without a locale
            stream.reconfigure(errors="replace")
