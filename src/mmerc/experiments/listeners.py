"""What an experiment notes down while a run trains."""

import json
import time
from pathlib import Path
from typing import Any

from mmerc.batch import Examples
from mmerc.evaluation import predictions, score_table, write_predictions
from mmerc.models.pipeline import Pipeline
from mmerc.storage import write_json
from mmerc.training import Dialogues, Listener, Task


class Stopwatch(Listener):
    """Keeps the wall-clock seconds of every epoch in `speed.json`, over resumptions too."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "speed.json"
        self.seconds: list[float] = json.loads(self.path.read_text())["seconds"] if self.path.exists() else []
        self.start = time.perf_counter()

    def epoch(self, record: dict[str, Any]) -> None:
        """Note the epoch's seconds."""
        now = time.perf_counter()
        self.seconds.append(round(now - self.start, 3))
        self.start = now
        write_json(self.path, {"seconds": self.seconds})


class Oracle(Stopwatch):
    """Keeps the test predictions of the epoch that scores best *on test*, in `oracle.parquet`.

    What several official repositories report. No result: it is there to be told apart from one.
    """

    def __init__(self, folder: Path, task: Task, test: Dialogues) -> None:
        super().__init__(folder)
        self.folder, self.corpus, self.test = folder, task.corpus, test
        self.best = -1.0
        if (folder / "oracle.json").exists():
            self.best = json.loads((folder / "oracle.json").read_text())["weighted_f1"]

    def validated(self, epoch: int, pipeline: Pipeline, examples: Examples) -> None:
        """Score the test split, which training itself never does."""
        probabilities = pipeline.infer(examples, self.test).probabilities
        table = predictions(self.corpus, self.corpus.rows(self.test), probabilities)
        found = score_table(table, self.corpus.labels).weighted_f1
        if found > self.best:
            self.best = found
            write_predictions(self.folder / "oracle.parquet", table)
            write_json(self.folder / "oracle.json", {"epoch": epoch, "weighted_f1": found})
