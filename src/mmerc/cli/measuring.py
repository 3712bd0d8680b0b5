"""What the commands that measure media files share: the options, and bars that show how far it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from mmerc.extraction.measuring import Meter

Engine = Literal["processes", "ray"]
Jobs = Annotated[int | None, typer.Option(help="Processes, one thread each; by default one per core.", min=1)]
Engines = Annotated[Engine, typer.Option(help="`ray`: on the Ray cluster of RAY_ADDRESS.")]
CacheFile = Annotated[
    Path | None,
    typer.Option(
        "--cache", metavar="FILE", help="Where measurements are kept; ~/.cache/mmerc/features.sqlite."
    ),
]


def default_cache() -> Path:
    """Return where measurements are kept unless the user says otherwise."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "mmerc" / "features.sqlite"


@contextmanager
def metering(jobs: int | None, engine: Engine, cache: Path | None) -> Iterator["Meter"]:
    """Yield a meter that shows its progress on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mmerc.extraction.cache import Cache
    from mmerc.extraction.engines import in_processes, on_ray
    from mmerc.extraction.measuring import Meter

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        Cache(cache or default_cache()) as kept,
        Progress(*columns, console=Console(stderr=True), transient=True) as bars,
    ):
        tasks = {}

        def report(station: str, done: int, total: int) -> None:
            if station not in tasks:
                tasks[station] = bars.add_task(f"measuring the {station}", total=total)
            bars.update(tasks[station], completed=done, total=total)

        yield Meter(on_ray if engine == "ray" else in_processes(jobs or os.cpu_count() or 1), kept, report)
