"""Outputs are looked at before the work, not after an hour of it: callbacks of the options that name them."""

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from mmerc.errors import ConfigError


def output_file(context: typer.Context, option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written.

    Raises:
        ConfigError: it is a folder, or its own folder cannot be written to or made.
    """
    if path is not None and not context.resilient_parsing:
        name = option.opts[0]
        if str(path) == "-":
            raise ConfigError(f"{name} - would be a file of that name: give another, such as ./result")
        if path.is_dir():
            raise ConfigError(f"{name} {path} is a folder: name a file, such as {path / 'result'}")
        _require_writable(name, path, path.absolute().parent)
    return path


def output_folder(context: typer.Context, option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a folder that cannot be written to, or be made.

    Raises:
        ConfigError: it is a file, or lies where one cannot write.
    """
    if path is not None and not context.resilient_parsing:
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{option.opts[0]} {path} is a file: name a folder")
        _require_writable(option.opts[0], path, path.absolute())
    return path


def require_apart(outputs: Sequence[Path | None], inputs: Sequence[Path | None] = ()) -> None:
    """Refuse outputs that would overwrite what is read, or one another.

    Raises:
        ConfigError: names the file.
    """
    taken = {path.resolve() for path in inputs if path is not None}
    for path in filter(None, outputs):
        if path.resolve() in taken:
            raise ConfigError(f"{path} is read or written already: choose another name for the output")
        taken.add(path.resolve())


def _require_writable(option: str, path: Path, folder: Path) -> None:
    """Refuse a folder in which nothing can be written; what is missing of its path will be made."""
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{option} {path} cannot be written: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path} cannot be written: {nearest} may not be written to by you")
