"""The `mmerc` command: gathers the command groups and turns errors into one clear line."""

import os
import sys

import typer
from rich.console import Console

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
from mmerc.cli.train import train
from mmerc.cli.transfer import transfer
from mmerc.errors import MmercError
from mmerc.system import speak

app = typer.Typer(
    name="mmerc",
    help="Multimodal emotion recognition in conversation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(corpus_app, name="corpus", help="Import, inspect and check corpora.")
app.add_typer(models_app, name="models", help="List the models and explain their settings.")
app.add_typer(export_app, name="export", help="Write trained models for other runtimes.")
app.command()(extract)
app.command()(train)
app.command()(evaluate)
app.command()(analyze)
app.command()(predict)
app.command()(report)
app.command()(serve)
app.command()(benchmark)
app.command()(ablate)
app.command()(transfer)
app.command()(sweep)
app.command()(demo)


def run() -> None:
    """Entry point: a mistake of the user ends in one message on stderr and exit code 2."""
    speak()
    try:
        app()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:  # `mmerc … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (MmercError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        Console(stderr=True, highlight=False, soft_wrap=True).print("error:", style="bold red", end=" ")
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
