"""Runs told to TensorBoard, MLflow and trackio, each from the process that trains it.

A tracker never changes a run. One that cannot be reached when the run begins is an error; one that is lost
later is named, the run goes on, and what it missed is told at the end or when the run is resumed. A tracker
is asked which epochs it has, and the run's folder keeps the id of the tracked run (`tracking.json`).
Nothing leaves the machine unless the user has named a server to MLflow or trackio.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, get_args

from mmerc.errors import ConfigError, TrainingError
from mmerc.experiments.listeners import Pruned, Together, read_notes
from mmerc.experiments.tracker_stores import Facts, Store, Tracker, store_class
from mmerc.run_state import Progress
from mmerc.storage import write_json
from mmerc.task import Task
from mmerc.training import Listener, train

NOTES = "tracking.json"
logger = logging.getLogger(__name__)


def read_trackers(names: Sequence[str]) -> list[Tracker]:
    """Return the trackers with these names, each once, after a look whether they can be used.

    Raises:
        ConfigError: there is none of the name, or it is not installed.
        TrainingError: it cannot be reached.
    """
    for name in names:
        if name not in get_args(Tracker):
            raise ConfigError(f"no tracker {name!r}: expected {', '.join(get_args(Tracker))}")
    trackers: list[Tracker] = [tracker for tracker in get_args(Tracker) if tracker in names]
    for tracker in trackers:
        store = store_class(tracker)
        with _reached(tracker):
            store.prepare()
    return trackers


def train_tracked(
    task: Task,
    folder: Path,
    trackers: Sequence[Tracker],
    listeners: Sequence[Listener],
    *,
    resume: bool,
    device: str,
) -> Progress:
    """Train as `mmerc.training.train` does, told to the trackers first and then to the listeners."""
    with ExitStack() as stack:
        told = [stack.enter_context(Tracking(tracker, task, folder)) for tracker in trackers]
        listener = Together([*told, *listeners])
        return train(task, folder, resume=resume, device=device, listener=listener)


class Tracking(Listener):
    """Tells one tracker of one run, as long as the context lasts."""

    def __init__(self, tracker: Tracker, task: Task, folder: Path) -> None:
        self.tracker = tracker
        self.task, self.folder = task, folder
        self.store: Store | None = None
        self.progress = Progress()
        self.told: set[int] = set()
        self.chosen: int | None = None
        self.lost = ""

    def __enter__(self) -> "Tracking":
        return self

    def begin(self, progress: Progress) -> None:
        """Open or reopen the tracked run; tell what it lacks of an interrupted one."""
        notes = read_notes(self.folder / NOTES).get(self.tracker, {})
        opened = store_class(self.tracker)
        with _reached(self.tracker):
            self.store = opened(self.folder, Facts.of(self.task, self.folder), notes.get("run"))
            self._note()
            self.told = self.store.epochs()
            self.chosen = notes.get("chosen") if self.told else None
            self.progress = progress
            self._tell()

    def epoch(self, record: dict[str, Any]) -> None:
        """Tell what is new; a tracker that fails is left alone until the end."""
        if not self.lost:
            with self._surviving():
                self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.store is None:
            return
        status = "finished" if error is None else "interrupted"
        if isinstance(error, Exception):
            status = "pruned" if isinstance(error, Pruned) else "failed"
        was_lost, self.lost = self.lost, ""
        with self._surviving(again=bool(was_lost)):
            self._tell()
            if status == "finished":
                self._tell_choice(self.store)
            self.store.end(status)
        if was_lost and not self.lost:
            self._note()

    def _tell(self) -> None:
        assert self.store is not None
        for record in self.progress.history:
            if record["epoch"] not in self.told:
                self.store.log(record["epoch"], values_of(record))
                self.told.add(record["epoch"])

    def _tell_choice(self, store: Store) -> None:
        """Tell the chosen epoch's scores, once for each choice."""
        best = self.progress.best_epoch
        if self.chosen == best:
            return
        scores = values_of(self.progress.history[best - 1])
        found = {k.replace("validation/", "chosen/"): v for k, v in scores.items() if "validation/" in k}
        store.log(best, {"chosen/epoch": best, **found})
        self._note(chosen=best)

    def _note(self, **more: Any) -> None:
        assert self.store is not None
        notes = read_notes(self.folder / NOTES)
        own = {**notes.get(self.tracker, {}), "run": self.store.id, "lost": self.lost, **more}
        write_json(self.folder / NOTES, {**notes, self.tracker: own})

    @contextmanager
    def _surviving(self, again: bool = False) -> Iterator[None]:
        """Note that the tracker is lost instead of ending the run over it; warn, unless it was `again`."""
        try:
            yield
        except Exception as error:  # of whatever library
            self.lost = _reason(error)
            if not again:
                logger.warning(
                    "%s: %s failed (%s); the run goes on without it", self.folder, self.tracker, self.lost
                )
            self._note()


def lost_trackers(folders: Sequence[Path]) -> list[str]:
    """Return a line for each run that a tracker does not have as a whole."""
    return [
        f"{folder}: {tracker} lacks a part of the run ({notes['lost']})"
        for folder in folders
        for tracker, notes in read_notes(folder / NOTES).items()
        if notes.get("lost")
    ]


def values_of(record: dict[str, Any]) -> dict[str, float]:
    """Return the losses and the validation scores of an epoch by name."""
    validation = record["validation"]
    return {
        **{f"loss/{name}": value for name, value in record["losses"].items()},
        **{f"validation/{name}": x for name, x in validation.items() if isinstance(x, float)},
        **{f"validation/f1/{label}": scores["f1"] for label, scores in validation["per_class"].items()},
    }


@contextmanager
def _reached(tracker: Tracker) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of whatever library
        raise TrainingError(
            f"{tracker} cannot be used ({_reason(error)}): see to it, or leave --track {tracker} out"
        ) from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
