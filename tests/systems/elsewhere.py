"""Runs `mmerc` commands as if on Windows: `python elsewhere.py COMMANDS.json`, a list of lists of words.

What is simulated, and how:

* Names of the standard library that Windows lacks are taken away, but only from what mmerc's own modules see:
  an import in one of them gets a double of the module, where asking for such a name is an AttributeError.
  Python's subprocess, torch and others need these names on Linux, and have other ways on Windows; they go on
  seeing the system as it is. `sys.platform` and `os.name` say Windows, for mmerc's modules alone.
* Files behave as there, for everybody: what this process has open or mapped is neither renamed nor removed,
  nor a folder with it in it. (Linux tells in /proc what is open.)
* Text that is written without saying how its lines end gets `\\r\\n`; without saying an encoding, cp1252.

What is not: the file system itself (drives, names in any case), the console, signals, other processes.
"""

import builtins
import ctypes
import fcntl
import io
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios", "tty",
)  # fmt: skip
NAMES = {
    "os": (
        "O_ASYNC", "O_CLOEXEC", "O_DIRECTORY", "O_DIRECT", "O_DSYNC", "O_EVTONLY", "O_EXLOCK", "O_NDELAY",
        "O_NOATIME", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "O_RSYNC", "O_SHLOCK", "O_SYNC",
        "O_TMPFILE", "WNOHANG", "chown", "chroot", "confstr", "copy_file_range", "eventfd", "fchdir",
        "fchmod", "fchown", "fdatasync", "fork", "forkpty", "fpathconf", "fstatvfs", "getegid", "geteuid",
        "getgid", "getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority", "getresuid", "getsid",
        "getuid", "getxattr", "initgroups", "killpg", "lchown", "listxattr", "lockf", "major", "makedev",
        "memfd_create", "minor", "mkfifo", "mknod", "nice", "openpty", "pathconf", "pidfd_open", "pipe2",
        "posix_fadvise", "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "readv",
        "register_at_fork", "sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setegid",
        "seteuid", "setgid", "setgroups", "setpgid", "setpgrp", "setpriority", "setregid", "setresuid",
        "setreuid", "setsid", "setuid", "setxattr", "splice", "statvfs", "sync", "sysconf", "tcgetpgrp",
        "tcsetpgrp", "ttyname", "uname", "unshare", "wait", "wait3", "wait4", "waitid", "writev",
    ),
    "signal": (
        "ITIMER_PROF", "ITIMER_REAL", "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE",
        "SIGPROF", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
        "alarm", "getitimer", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "siginterrupt",
        "sigwait",
    ),
    "mmap": (
        "MADV_DONTNEED", "MADV_NORMAL", "MADV_RANDOM", "MADV_SEQUENTIAL", "MADV_WILLNEED", "MAP_ANON",
        "MAP_ANONYMOUS", "MAP_NORESERVE", "MAP_POPULATE", "MAP_PRIVATE", "MAP_SHARED", "PROT_EXEC",
        "PROT_READ", "PROT_WRITE",
    ),
    "select": (
        "epoll", "poll",
    ),
    "socket": (
        "AF_UNIX", "SO_REUSEPORT",
    ),
    "time": (
        "clock_settime", "pthread_getcpuclockid", "tzset",
    ),
}  # fmt: skip


class Double(ModuleType):
    """A module without some of its names, and with others in place of its own."""

    def __init__(self, name: str, gone: tuple[str, ...], other: dict[str, Any]) -> None:
        super().__init__(name)
        self._gone = frozenset(gone)
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> Any:
        if name in self._gone:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} on this system")
        return getattr(sys.modules[self.__name__], name)


def fsync(handle: int) -> None:
    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")


def kill(process: int, signal: int) -> None:
    raise AssertionError("os.kill would end the process, or send Ctrl-C")


class Library(ctypes.CDLL):
    def __init__(self, name: str | None, *arguments: Any, **more: Any) -> None:
        raise TypeError("there is no library without a name")


def take_names_away() -> None:
    """Let modules of mmerc see what Windows has."""
    other: dict[str, dict[str, Any]] = {
        "os": {"name": "nt", "fsync": fsync, "kill": kill},
        "sys": {"platform": "win32"},
        "ctypes": {"CDLL": Library},
        "subprocess": {"CREATE_NEW_PROCESS_GROUP": 0x200},
    }
    doubles = {name: Double(name, NAMES.get(name, ()), other.get(name, {})) for name in NAMES | other}
    real = builtins.__import__

    def load(
        name: str, globals: Any = None, locals: Any = None, fromlist: tuple[str, ...] = (), level: int = 0
    ) -> Any:
        if level == 0 and f"{(globals or {}).get('__name__')}.".startswith("mmerc."):
            if name in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            if name in doubles:
                real(name)
                return doubles[name]
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = load


def in_use() -> set[str]:
    """The files that this process has open or mapped."""
    found = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text("utf-8").splitlines()}
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            if handle.is_file():
                found.add(str(handle.readlink()))
    return found


def hold_what_is_open() -> None:
    """Let files behave as on Windows."""

    def require_closed(path: Any, folder: int | None = None) -> None:
        base = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
        whole = base / os.fsdecode(path)
        whole = whole.parent.resolve() / whole.name
        if used := [file for file in in_use() if f"{file}/".startswith(f"{whole}/")]:
            raise PermissionError(13, f"Permission denied, {used[0]} is open", os.fsdecode(path))

    def mover(move: Callable[..., None], replaces: bool) -> Callable[..., None]:
        def moved(path: Any, target: Any) -> None:
            require_closed(path)
            require_closed(target)
            there = Path(os.fsdecode(target))
            if there.is_dir() or (there.exists() and not replaces):
                raise PermissionError(13, "Permission denied, the target is there", str(there))
            move(path, target)

        return moved

    def remover(remove: Callable[..., None]) -> Callable[..., None]:
        def removed(path: Any, *, dir_fd: int | None = None) -> None:
            require_closed(path, dir_fd)
            remove(path, dir_fd=dir_fd)

        return removed

    os.replace, os.rename = mover(os.replace, True), mover(os.rename, False)
    os.remove, os.unlink = remover(os.remove), remover(os.unlink)


def write_as_there() -> None:
    """End lines and encode text as Windows does where nobody says how."""
    real = io.open

    def opened(
        file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, *more: Any, **others: Any,
    ) -> Any:  # fmt: skip
        if "b" not in mode:
            encoding = "cp1252" if encoding in (None, "locale") else encoding
            newline = "\r\n" if newline is None and mode[0] in "wax" else newline
        return real(file, mode, buffering, encoding, errors, newline, *more, **others)

    io.open = builtins.open = opened
    os.linesep = "\r\n"


def import_everything() -> None:
    """Import each module of mmerc."""
    import mmerc

    for module in pkgutil.walk_packages(mmerc.__path__, "mmerc."):
        __import__(module.name)


def run_all(commands: list[list[str]]) -> int:
    """Run commands until one fails."""
    from mmerc.cli.main import run

    for command in commands:
        sys.argv = ["mmerc", *command]
        try:
            run()
        except SystemExit as end:
            if end.code:
                sys.stderr.write(f"failed: {command}\n")
                return 1
    return 0


def main() -> int:
    """Take away what Windows lacks, import everything, run the commands."""
    commands = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    import matplotlib.figure  # noqa: F401  # files of its own that it caches, in its own way
    import torch  # noqa: F401

    take_names_away()
    hold_what_is_open()
    write_as_there()
    import_everything()
    return run_all(commands)


if __name__ == "__main__":
    try:
        code = main()
    except Exception:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
