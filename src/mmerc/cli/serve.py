"""`mmerc serve`: the models over HTTP."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmerc.cli.common import Device
from mmerc.cli.terminal import loading

if TYPE_CHECKING:
    from mmerc.recognizer import Recognizer

log = logging.getLogger(__name__)


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FOLDER",
            help="A shipped model or a checkpoint folder; again for more. First: default.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address; by default reached from this machine alone."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0: any that is free.")] = 8000,
    device: Device = "auto",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Limits and times (docs/service.md); also MMERC_SERVE_…"
        ),
    ] = None,
) -> None:
    """Serve models over HTTP, with a page to try them.

    REST, OpenAPI, Prometheus; docs/service.md is the page on it. Keys are read from MMERC_API_KEY. Ctrl-C
    finishes what was accepted, and ends.
    """
    from mmerc.config import parse_overrides
    from mmerc.extras import needed

    with needed("the service", "mmerc[serve]"), loading("the service"):
        from mmerc.service.server import LOOPBACK, is_loopback
        from mmerc.service.server import serve as run
        from mmerc.service.settings import Settings
    given = parse_overrides(settings or ())
    if is_loopback(host):
        given = {"allowed_hosts": LOOPBACK, **given}
    read = Settings.read(given=given)
    if not is_loopback(host) and not read.api_keys:
        log.warning("%s is reached from other machines, and no key is asked for: set MMERC_API_KEY", host)
    run(_loaded(model or (), device), read, host, port)


def _loaded(models: "list[str] | tuple[()]", device: str) -> "dict[str, Recognizer]":
    """Load the models under their names: a shipped one's own, or the last part of the folder's path.

    Raises:
        ConfigError: two have the same name.
        CheckpointError: one cannot be loaded.
    """
    from mmerc.errors import ConfigError
    from mmerc.recognizer import load
    from mmerc.shipped import DEFAULT

    loaded: dict[str, Recognizer] = {}
    for text in models or (DEFAULT,):
        name, separator, folder = text.partition("=")
        if not separator:
            name, folder = Path(text).resolve().name, text
        if name in loaded:
            raise ConfigError(f"two models are called {name!r}: name them, --model NAME=FOLDER")
        with loading(folder):
            loaded[name] = load(folder, device)
    return loaded
