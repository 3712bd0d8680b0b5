"""What an experiment notes down while a run trains."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmerc.batch import Examples
from mmerc.errors import TrainingError
from mmerc.evaluation import predictions, score_table, write_predictions
from mmerc.models.pipeline import Pipeline
from mmerc.run_state import Progress
from mmerc.storage import write_json
from mmerc.task import Dialogues, Task
from mmerc.training import Listener


def read_notes(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; nothing if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class Together(Listener):
    """Several listeners, told one after the other."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners

    def begin(self, progress: Progress) -> None:
        """Tell all of them."""
        for listener in self.listeners:
            listener.begin(progress)

    def step(self, epoch: int, done: int, total: int, losses: dict[str, float]) -> None:
        """Tell all of them."""
        for listener in self.listeners:
            listener.step(epoch, done, total, losses)

    def validated(self, epoch: int, pipeline: Pipeline, examples: Examples) -> None:
        """Tell all of them."""
        for listener in self.listeners:
            listener.validated(epoch, pipeline, examples)

    def epoch(self, record: dict[str, Any]) -> None:
        """Tell all of them."""
        for listener in self.listeners:
            listener.epoch(record)


class Pruned(Exception):  # noqa: N818  # how a run may end, and no mistake
    """A run was cut short after `epoch`, since others had scored better by then."""

    def __init__(self, epoch: int) -> None:
        super().__init__(epoch)
        self.epoch = epoch


class Stopwatch(Listener):
    """Keeps the wall-clock seconds of every epoch in `speed.json`, over resumptions too.

    The first one includes the start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.goes_on = (folder / "state.pt").exists()  # else notes are those of an attempt that left nothing
        self.seconds: list[float] = self._notes("speed.json").get("seconds", [])
        self.start = time.perf_counter()

    def epoch(self, record: dict[str, Any]) -> None:
        """Note the epoch's seconds."""
        now = time.perf_counter()
        self.seconds.append(round(now - self.start, 3))
        self.start = now
        write_json(self.folder / "speed.json", {"seconds": self.seconds})

    def _notes(self, name: str) -> dict[str, Any]:
        return read_notes(self.folder / name) if self.goes_on else {}


class Oracle(Stopwatch):
    """Keeps the test predictions of the epoch that scores best *on test*, in `oracle.parquet`.

    What several official repositories report. No result: it is there to be told apart from one.

    Raises:
        TrainingError: the run goes on, but its earlier epochs were not watched, or on other data.
    """

    def __init__(self, folder: Path, task: Task, test: Dialogues, data: str) -> None:
        """Watch the dialogues `test` of the task's corpus; `data` is the hash that tells it from others."""
        super().__init__(folder)
        self.corpus, self.test, self.data = task.corpus, test, data
        notes = self._notes("oracle.json")
        self.best: float = notes.get("weighted_f1", -1.0)
        if self.goes_on and not (notes.get("data") == data and (folder / "oracle.parquet").exists()):
            raise TrainingError(
                f"{folder}: its epochs so far were not watched on these data: delete the folder to start over"
            )

    def validated(self, epoch: int, pipeline: Pipeline, examples: Examples) -> None:
        """Score the test split, which training itself never does."""
        probabilities = pipeline.infer(examples, self.test).probabilities
        if not np.isfinite(probabilities).all():
            return  # training ends over this, with a better message
        table = predictions(self.corpus, self.corpus.rows(self.test), probabilities)
        found = score_table(table, self.corpus.labels).weighted_f1
        if found > self.best:
            self.best = found
            write_predictions(self.folder / "oracle.parquet", table)
            write_json(self.folder / "oracle.json", {"epoch": epoch, "weighted_f1": found, "data": self.data})
