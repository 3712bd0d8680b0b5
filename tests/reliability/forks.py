"""Commands in a fork of this process, which has all libraries loaded: it can be killed, limited, disowned."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple

import pytest

from mmerc.cli.main import run

if sys.platform != "linux":
    pytest.skip("commands run in forks of this process, with all libraries loaded", allow_module_level=True)


class Ended(NamedTuple):
    """How a command ended; a negative status is the signal that killed it."""

    status: int
    said: str  # on standard error


def in_child(
    command: tuple[str, ...], prepare: Callable[[], object] = lambda: None, after_s: float | None = None
) -> Ended:
    """Run `mmerc COMMAND` in a fork, after `prepare()` there; kill it after a time, if one is given."""
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(errors.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # in place of those of pytest
                sys.argv = ["mmerc", *command]
                prepare()
                run()
                code = 0
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                try:
                    sys.stderr.flush()
                finally:  # whatever happens, this is not the process that goes on with the test
                    os._exit(code)
        if after_s is not None:
            time.sleep(after_s)
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return Ended(status, errors.read().decode())
