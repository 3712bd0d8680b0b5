"""Where commands speak: results on standard output, all else on standard error.

What the package itself has to say goes through `logging`, to the loggers `mmerc.…`: warnings, notes (INFO),
and with `--verbose` what is loaded, from where, and how long that took (DEBUG).
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.text import Text

LOG = logging.getLogger("mmerc")
SCREEN = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
WHOLE = 1_000_000  # columns of a file or a pipe: no text of a chat is as long


class Interrupted(BaseException):
    """Ctrl-C during work that can go on later; the message says how."""


class _OnScreen(logging.Handler):
    """Writes a record as a line on standard error, above bars that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        style = "dim" if record.levelno < logging.INFO else ""
        text = Text(self.format(record), style=style)
        SCREEN.print(Text.assemble(("warning: ", "bold yellow"), text) if warning else text)


def show_messages(level: int) -> None:
    """Let the loggers of mmerc write to standard error, from this level on."""
    LOG.setLevel(level)
    if not any(isinstance(handler, _OnScreen) for handler in LOG.handlers):
        LOG.addHandler(_OnScreen())


def results() -> Console:
    """Return the console that results are printed on.

    Texts of a corpus stay as they are: `[sad]` and `:smile:` mean nothing. A terminal wraps what is too wide
    for it; a file or a pipe gets whole lines.
    """
    width = None if sys.stdout.isatty() else WHOLE
    return Console(width=width, highlight=False, markup=False, emoji=False)


@contextmanager
def status(doing: str) -> Iterator[None]:
    """Show on a terminal what is being done; nothing stays of it."""
    shown = SCREEN.is_terminal and LOG.isEnabledFor(logging.INFO)
    with SCREEN.status(f"{doing} …", spinner="line") if shown else nullcontext():
        yield


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Show on a terminal that something is being loaded; with `--verbose`, say how long it took."""
    begin = time.perf_counter()
    with status(f"loading {what}"):
        yield
    LOG.debug("%s loaded in %.1f s", what, time.perf_counter() - begin)


def load_torch() -> None:
    """Import PyTorch, and show that: it takes seconds, and commands import what needs it as they go."""
    if "torch" not in sys.modules:
        with loading("PyTorch"):
            import torch  # noqa: F401


@contextmanager
def resumable(how: str = "the same command goes on where it stopped") -> Iterator[None]:
    """Turn Ctrl-C into a message that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(how) from None
