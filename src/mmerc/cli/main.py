"""The `mmerc` command: gathers the command groups and turns errors into one clear line."""

import functools
import logging
import os
import signal
import sys
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from mmerc.cli import common
from mmerc.cli.ablate import ablate
from mmerc.cli.analyze import analyze
from mmerc.cli.benchmark import benchmark
from mmerc.cli.corpus import app as corpus_app
from mmerc.cli.demo import demo
from mmerc.cli.evaluate import evaluate
from mmerc.cli.export import app as export_app
from mmerc.cli.extract import extract
from mmerc.cli.models import app as models_app
from mmerc.cli.predict import predict
from mmerc.cli.report import report
from mmerc.cli.serve import serve
from mmerc.cli.sweep import sweep
from mmerc.cli.terminal import SCREEN, Interrupted, show_messages
from mmerc.cli.train import train
from mmerc.cli.transfer import transfer
from mmerc.errors import MmercError
from mmerc.system import speak

app = typer.Typer(
    name="mmerc",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text is there four times as fast
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.callback()(common.mmerc)
app.command()(predict)
app.command()(report)
app.command()(serve)
app.command()(demo)
app.add_typer(corpus_app, name="corpus")
app.command()(extract)
app.command()(train)
app.command()(evaluate)
app.command()(analyze)
app.command()(benchmark)
app.command()(ablate)
app.command()(transfer)
app.command()(sweep)
app.add_typer(models_app, name="models")
app.add_typer(export_app, name="export")

# Click's own, which typer keeps in different places from version to version.
_UsageError = cast(type[Exception], typer.BadParameter.__bases__[0])


@functools.cache
def program() -> TyperGroup:
    """Return `mmerc` with all its commands, as click sees them."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return common.finish(root)


def run() -> None:
    """Entry point: a mistake of the user ends in one message on stderr and exit code 2."""
    speak()
    show_messages(logging.INFO)
    try:
        code = program().main(prog_name="mmerc", standalone_mode=False)
        sys.stdout.flush()
    except Interrupted as stopped:
        _end(130, f"interrupted: {stopped}")
    except KeyboardInterrupt:
        _end(130, "interrupted")
    except BrokenPipeError:  # `mmerc … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except _UsageError as error:
        _fail(_said(error))
    except (MmercError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        _fail(str(error))
    if code == 130:  # Ctrl-C, as typer has it
        _end(130, "interrupted")
    sys.exit(code or 0)


def _said(error: Any) -> str:
    """Return a mistake in the command line as one line, or the help, where nothing was said."""
    text = error.format_message()
    if text.startswith("Usage:"):
        sys.stderr.write(f"{text}\n")
        sys.exit(2)
    text = " ".join(text.split()).rstrip(".")
    where = f" (see {error.ctx.command_path} -h)" if error.ctx else ""
    return f"{text[:1].lower()}{text[1:]}{where}"


def _fail(message: str) -> NoReturn:
    SCREEN.print("error:", style="bold red", end=" ")
    sys.stderr.write(f"{message}\n")
    sys.exit(2)


def _end(code: int, message: str) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would end in a traceback of the exit
    sys.stderr.write(f"{message}\n")
    sys.exit(code)
