"""What all commands have in common: the options that may stand anywhere, and help in plain words."""

import copy
import importlib.metadata
import logging
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from mmerc.cli.terminal import show_messages

ANYWHERE = ("verbose", "quiet")  # the options of the whole command that may stand behind a subcommand, too


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmerc {importlib.metadata.version('mmerc')}")
        raise typer.Exit


def _speak_more(wanted: bool) -> None:
    if wanted:
        show_messages(logging.DEBUG)


def _speak_less(wanted: bool) -> None:
    if wanted:
        show_messages(logging.ERROR)


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_speak_more, help="Say what is loaded, from where, how long."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", callback=_speak_less, help="Say nothing but results and errors.")
]


Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, …")]


def mmerc(version: Version = False, verbose: Verbose = False, quiet: Quiet = False) -> None:
    """Tell the emotions of a conversation from its text, its sound and its pictures."""


class _Argument(TyperArgument):
    """An argument that the help calls by its metavar alone: no braces around it, no type behind it."""

    def display_type_rich(self, *_: Any, **__: Any) -> str | None:
        return None

    def _usage_display_name(self) -> str:
        return str(self.metavar)


def finish(root: TyperGroup) -> TyperGroup:
    """Give every command the options that may stand anywhere, and its arguments plain names."""
    shared = [copy.copy(option) for option in root.params if option.name in ANYWHERE]
    for option in shared:
        option.expose_value = False
    for command in _below(root):
        command.params += shared
        for argument in command.params:
            if isinstance(argument, TyperArgument):
                argument.__class__ = _Argument
    return root


def _below(group: TyperGroup) -> "Iterator[TyperCommand | TyperGroup]":
    for command in group.commands.values():
        assert isinstance(command, TyperCommand | TyperGroup)
        yield command
        if isinstance(command, TyperGroup):
            yield from _below(command)
