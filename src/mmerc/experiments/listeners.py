"""What an experiment notes down while a run trains."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmerc.errors import TrainingError
from mmerc.evaluation import predictions, score_table, write_predictions
from mmerc.examples import Examples
from mmerc.pipeline import Pipeline
from mmerc.run_state import Progress
from mmerc.storage import write_json
from mmerc.task import Dialogues, Task
from mmerc.training import Listener

ORACLE = "oracle.parquet"  # in a run's folder: test predictions of the epoch that is best on test


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
        """Tell all of them, the last first: one that refuses the run does so before a tracker opens it."""
        for listener in reversed(self.listeners):
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
        self.seconds: list[float] = []
        self.start = time.perf_counter()

    def begin(self, progress: Progress) -> None:
        """Go on with the notes of the epochs so far; those of an attempt that left none are not used."""
        if progress.epoch:
            self.seconds = read_notes(self.folder / "speed.json").get("seconds", [])

    def epoch(self, record: dict[str, Any]) -> None:
        """Note the epoch's seconds."""
        now = time.perf_counter()
        self.seconds.append(round(now - self.start, 3))
        self.start = now
        write_json(self.folder / "speed.json", {"seconds": self.seconds})


class Oracle(Listener):
    """Keeps the test predictions of the epoch that scores best *on test*, in `oracle.parquet`.

    What several official repositories report. No result: it is there to be told apart from one. The run does
    not know of it: its weights, its log and its checkpoint are those of a run that nobody watches.
    """

    def __init__(self, folder: Path, task: Task, test: Dialogues, data: str) -> None:
        """Watch the dialogues `test` of the task's corpus; `data` is the hash that tells it from others."""
        self.folder, self.corpus, self.test, self.data = folder, task.corpus, test, data
        self.notes: dict[str, Any] = {"epoch": None, "weighted_f1": -1.0, "watched": 0, "data": data}

    def begin(self, progress: Progress) -> None:
        """Go on with what was seen so far.

        Raises:
            TrainingError: epochs of the run were not watched, or on other data.
        """
        if not progress.epoch:  # notes are those of an attempt that left nothing
            return
        notes = read_notes(self.folder / "oracle.json")
        whole = notes.get("data") == self.data and notes.get("watched", 0) >= progress.epoch
        if not (whole and (self.folder / ORACLE).exists()):
            raise TrainingError(
                f"{self.folder}: its epochs so far were not watched on these test data: delete the folder to "
                "start over, use another --out, or leave --oracle out"
            )
        self.notes = notes

    def validated(self, epoch: int, pipeline: Pipeline, examples: Examples) -> None:
        """Score the test split, which training itself never does."""
        probabilities = pipeline.infer(examples, self.test).probabilities
        if not np.isfinite(probabilities).all():
            return  # training ends over this, with a better message
        table = predictions(self.corpus, self.corpus.rows(self.test), probabilities)
        found = score_table(table, self.corpus.labels).weighted_f1
        if found > self.notes["weighted_f1"]:
            self.notes |= {"epoch": epoch, "weighted_f1": found}
            write_predictions(self.folder / ORACLE, table)
        self.notes["watched"] = epoch
        write_json(self.folder / "oracle.json", self.notes)
