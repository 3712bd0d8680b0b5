"""What was measured, when and on which machine: a JSON line per measurement, and a plot of all."""

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmerc.analysis.drawing import MUTED, look, new_figure, save
from mmerc.checkpoint import git_commit
from publications import PUBLICATIONS
from shapes import SHAPES

LINES = "measurements.jsonl"


@dataclass(frozen=True)
class Measurement:
    """What one model takes, measured in a process of its own."""

    date: str  # ISO 8601, UTC
    commit: str | None  # `+dirty` if the package was changed
    torch: str
    cpu: str
    threads: int
    shape: str
    model: str
    preset: str | None
    batch: str
    repeats: int  # epochs, of which the best counts
    parameters: int
    epoch_seconds: float
    test_seconds: float  # of one pass over the test split
    gemm_rate: float  # 10⁹ operations a second, in the same process between the epochs
    arithmetic: float  # 10¹² operations per epoch
    mib_loaded: float  # resident before the first step
    mib_added: float  # by training, at its peak

    @property
    def times_arithmetic(self) -> float:
        """Return the seconds of an epoch over those of its arithmetic at the rate of a large product."""
        return self.epoch_seconds * self.gemm_rate / 1000 / self.arithmetic

    @property
    def name(self) -> str:
        """Return model and preset, for people."""
        return f"{self.model} ({self.preset})" if self.preset else self.model


def circumstances() -> dict[str, str | None]:
    """Return when, with what and on which machine this process measures."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "torch": torch.__version__,
        "cpu": cpu_name(),
    }


def cpu_name() -> str:
    """Return the processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def append(folder: Path, measurement: Measurement) -> None:
    """Add a line to the history in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(asdict(measurement) | {"times_arithmetic": measurement.times_arithmetic})
    with (folder / LINES).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def draw(folder: Path) -> None:
    """Draw the whole history of one thread: `epochs.svg` (also .png and .csv)."""
    history = pd.read_json(folder / LINES, lines=True)
    history = history[history["threads"] == 1]
    if len(history):
        save(_panels, history, folder, "epochs")


def _panels(history: pd.DataFrame) -> Figure:
    """Return a panel for each model: × arithmetic of an epoch, measurement after measurement."""
    columns, looks = 4, {shape: look(k) for k, shape in enumerate(SHAPES)}
    models = list(dict.fromkeys(history["model"]))
    rows = -(-len(models) // columns)
    figure = new_figure(7.0, 1.5 * rows + 0.4)
    for position, model in enumerate(models):
        axes = figure.add_subplot(rows, columns, position + 1)
        of_model = history[history["model"] == model]
        longest = of_model.groupby(["shape", "preset"], dropna=False).size().max()
        for shape, of_shape in of_model.groupby("shape"):
            style = looks[str(shape)]
            for preset, group in of_shape.groupby("preset", dropna=False, sort=False):
                published = model in PUBLICATIONS and preset == PUBLICATIONS[model].get(shape)
                fill = "white" if published else style.color
                axes.plot(
                    range(1, len(group) + 1), group["times_arithmetic"], color=style.color,
                    marker=style.marker, linestyle=style.line, markerfacecolor=fill,
                )  # fmt: skip
        axes.set(title=model, xlim=(0.5, longest + 0.5), ylim=(0, 1.05 * axes.get_ylim()[1]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles = [
        Line2D([], [], color=style.color, marker=style.marker, linestyle=style.line)
        for style in looks.values()
    ]
    figure.legend(handles, list(looks), loc="outside upper center", ncols=len(looks))
    figure.supxlabel("measurement; hollow: the publication's sizes", fontsize=7.5, color=MUTED)
    figure.supylabel("epoch, × its arithmetic", fontsize=7.5)
    return figure
