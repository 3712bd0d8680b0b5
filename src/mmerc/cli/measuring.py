"""What the commands that measure media files share: the options, and a meter that shows how far it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmerc.cli.progress import Work, progress
from mmerc.cli.terminal import resumable

if TYPE_CHECKING:
    from mmerc.extraction.measuring import Meter

Engine = Literal["processes", "ray"]
Jobs = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes, one thread each; by default one per core.", min=1),
]
Engines = Annotated[
    Engine, typer.Option(metavar="processes|ray", help="`ray`: on the Ray cluster of RAY_ADDRESS.")
]
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
    """Yield a meter that shows how far it is; what was measured until Ctrl-C is kept."""
    from mmerc.extraction.cache import Cache
    from mmerc.extraction.engines import in_processes, on_ray
    from mmerc.extraction.measuring import Meter

    with Cache(cache or default_cache()) as kept, resumable(), progress() as begin:
        stations: dict[str, Work] = {}

        def report(station: str, done: int, total: int) -> None:
            if station not in stations:
                stations[station] = begin(f"measuring the {station}", total)
            stations[station].update(done, total=total)

        yield Meter(on_ray if engine == "ray" else in_processes(jobs or os.cpu_count() or 1), kept, report)
