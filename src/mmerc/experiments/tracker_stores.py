"""Where TensorBoard, MLflow and trackio keep a run; each library is imported when it is asked for."""

import io
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from mmerc.checkpoint import git_commit, versions
from mmerc.extras import needed
from mmerc.task import Task

Tracker = Literal["tensorboard", "mlflow", "trackio"]

PROJECT = "mmerc"  # the experiment of MLflow, the project of trackio


class Facts(NamedTuple):
    """What a tracker is told of a run before its first epoch."""

    name: str
    parameters: dict[str, str]
    tags: dict[str, str]

    @classmethod
    def of(cls, task: Task, folder: Path) -> "Facts":
        """Gather the config, and what it was trained on with what."""
        found = {
            "model": task.run.model,
            "preset": task.run.preset,
            "corpus": task.corpus.name,
            "seed": task.seed,
            "fold": task.fold,
            "git_commit": git_commit(),
            **{f"version.{name}": version for name, version in versions().items()},
        }
        tags = {name: str(value) for name, value in found.items() if value is not None}
        return cls(str(folder), _flat(asdict(task.run)), tags)


class Store(Protocol):
    """Where one tracker keeps one run."""

    id: str

    def epochs(self) -> set[int]:
        """Return the epochs that it has."""

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Keep an epoch's values."""

    def end(self, status: str) -> None:
        """Keep how the run ended, and whatever is still on its way."""


def _flat(config: dict[str, Any]) -> dict[str, str]:
    """Return the config's keys as they are written on the command line, with their values as text."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        section = value if isinstance(value, dict) else None
        found |= {key: value} if section is None else {f"{key}.{name}": x for name, x in section.items()}
    return {key: x if isinstance(x, str) else json.dumps(x) for key, x in found.items()}


def store_class(tracker: Tracker) -> type[Any]:
    """Import a tracker; return the class that keeps a run in it.

    Raises:
        ConfigError: it is not installed.
    """
    # Neither statistics of use nor the mere start of a run shall reach the network.
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ.setdefault(name, "true")
    with needed(f"--track {tracker}", f"mmerc[{tracker}]"):
        return _STORES[tracker]()


def _tensorboard() -> type[Any]:
    import torch.utils.tensorboard  # noqa: F401

    return TensorBoard


def _mlflow() -> type[Any]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else a run waits for minutes
    import mlflow  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they report on the tables of the database
    return MLflow


def _trackio() -> type[Any]:
    import trackio  # noqa: F401

    return Trackio


_STORES = {"tensorboard": _tensorboard, "mlflow": _mlflow, "trackio": _trackio}


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder."""

    id = ""

    def __init__(self, folder: Path, facts: Facts, _: str | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote is void for the reader from the first epoch on, and written anew.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=1)
        lines = [f"    {key}: {value}" for key, value in (facts.tags | facts.parameters).items()]
        self.writer.add_text("config", "\n".join(lines), 0)

    @staticmethod
    def prepare() -> None:
        """Nothing can be out of reach: the files lie in the run's folder."""

    def epochs(self) -> set[int]:
        """Return none: see above."""
        return set()

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Write an epoch's values."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def end(self, status: str) -> None:
        """Close the file."""
        self.writer.add_text("status", status, 0)
        self.writer.close()


class MLflow:
    """A run of MLflow, in the database that MLFLOW_TRACKING_URI names or in `mlflow.db` of this folder."""

    def __init__(self, _: Path, facts: Facts, run: str | None) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self.client = MlflowClient()
        self.id = run if run and self._has(run) else self._new(facts.name)
        self.client.update_run(self.id, status="RUNNING")
        self.client.log_batch(
            self.id,
            params=[Param(key, value) for key, value in facts.parameters.items()],
            tags=[RunTag(key, value) for key, value in facts.tags.items()],
        )

    @classmethod
    def prepare(cls) -> str:
        """Return the id of the experiment, which is made if it is missing."""
        from mlflow import MlflowClient

        client, name = MlflowClient(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = client.get_experiment_by_name(name)
        return str(found.experiment_id if found else client.create_experiment(name))

    def _has(self, run: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # it was begun in another database
                return False
            raise
        return True

    def _new(self, name: str) -> str:
        return str(self.client.create_run(self.prepare(), run_name=name).info.run_id)

    def epochs(self) -> set[int]:
        """Return the epochs that the database has."""
        return {x.step for x in self.client.get_metric_history(self.id, "validation/weighted_f1")}

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Write an epoch's values."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        # Labels may hold what MLflow does not allow in a name.
        found = [Metric(re.sub(r"[^\w./ -]", "_", name), x, now, epoch) for name, x in values.items()]
        self.client.log_batch(self.id, metrics=found)

    def end(self, status: str) -> None:
        """Set the status; a run that was pruned is finished for MLflow, and the tag says more."""
        self.client.set_tag(self.id, "status", status)
        known = {"failed": "FAILED", "interrupted": "KILLED"}
        self.client.set_terminated(self.id, known.get(status, "FINISHED"))


class Trackio:
    """A run of trackio: below TRACKIO_DIR, or in the Space or on the server that the user has named."""

    def __init__(self, _: Path, facts: Facts, run: str | None) -> None:
        import trackio

        # Its runs go by name, and a folder may be trained in again after it was emptied.
        self.id = run or f"{facts.name} {uuid.uuid4().hex[:6]}"
        with _quiet(), _offline():
            self.run = trackio.init(
                project=PROJECT,
                name=self.id,
                group=f"{facts.tags['model']} on {facts.tags['corpus']}",
                config=facts.tags | facts.parameters,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    @staticmethod
    def prepare() -> None:
        """Make the folder, as trackio itself would only fail to."""
        from trackio.utils import TRACKIO_DIR

        if not _remote():
            Path(TRACKIO_DIR).mkdir(parents=True, exist_ok=True)
            if not os.access(TRACKIO_DIR, os.W_OK):
                raise PermissionError(f"{TRACKIO_DIR} cannot be written to")

    def epochs(self) -> set[int]:
        """Return the epochs that trackio has."""
        return set(range(1, self.run._next_step))

    def log(self, epoch: int, values: dict[str, float]) -> None:
        """Hand an epoch's values to trackio, which writes them within a second."""
        self.run.log(values, step=epoch)

    def end(self, status: str) -> None:
        """Wait until all is written."""
        import trackio

        with _quiet():
            if status != "finished":
                level = trackio.AlertLevel.ERROR if status == "failed" else trackio.AlertLevel.INFO
                self.run.alert(status, level=level)
            trackio.finish()


def _remote() -> bool:
    return any(os.environ.get(name) for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep trackio, which prints where it writes, out of the command's output."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def _offline() -> Iterator[None]:
    """Keep trackio, which asks the hub for the name of whoever is logged in, from the network."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _remote()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
