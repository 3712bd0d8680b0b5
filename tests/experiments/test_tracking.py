"""The trackers themselves, each installed or left out here."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, TrainingError
from mmerc.experiments import tracking
from mmerc.experiments.tracker_stores import Facts, Tracker, store_class
from mmerc.experiments.tracking import lost_trackers, read_trackers, train_tracked
from mmerc.training import Listener, train
from tiny import LABELS, config, task, written

TRACKERS: tuple[Tracker, ...] = ("tensorboard", "mlflow", "trackio")
EPOCHS = 3
RUN = config("late-fusion", epochs=EPOCHS)

# Of the libraries that MLflow stands on.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(
    params=["tensorboard", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlflow", "trackio"))]
)
def tracker(request: pytest.FixtureRequest, local: None, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    found: Tracker = request.param
    pytest.importorskip(found)
    if found == "tensorboard":  # sorts the files of one second and one process by number: 10 before 9
        from tensorboard.summary.writer import event_file_writer

        monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))
    return found


class Found(NamedTuple):
    """What a tracker has of a run."""

    facts: dict[str, str]
    values: dict[str, list[tuple[int, float]]]  # (epoch, value) by name, as often as they were told
    status: str


def read_mlflow(folder: Path) -> Found:
    from mlflow import MlflowClient

    client = MlflowClient()
    (number,) = {x.experiment_id for x in client.search_experiments() if x.name == "mmerc"}
    (run,) = (x for x in client.search_runs([number]) if x.info.run_name == str(folder))
    points = {
        name: [(x.step, x.value) for x in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    assert (run.info.status == "FINISHED") == (run.data.tags["status"] == "finished")
    return Found(run.data.params | run.data.tags, points, run.data.tags["status"])


def read_trackio(folder: Path) -> Found:
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = (x for x in SQLiteStorage.get_run_records("mmerc") if x["name"].startswith(f"{folder} "))
    points: dict[str, list[tuple[int, float]]] = {}
    for line in SQLiteStorage.get_logs("mmerc", run["name"], run_id=run["id"]):
        for name, value in line.items():
            if "/" in name:
                points.setdefault(name, []).append((line["step"], value))
    alerts = SQLiteStorage.get_alerts("mmerc", run_name=run["name"], run_id=run["id"])
    stored = SQLiteStorage.get_run_config("mmerc", run["name"], run_id=run["id"])
    return Found(stored, points, alerts[-1]["title"] if alerts else "finished")


def read_tensorboard(folder: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    points = {name: [(x.step, x.value) for x in events.Scalars(name)] for name in events.Tags()["scalars"]}

    def text(name: str) -> str:
        tensor = events.Tensors(f"{name}/text_summary")[-1].tensor_proto
        return str(tensor.string_val[0].decode())

    facts = dict(line.strip().split(": ", 1) for line in text("config").splitlines())
    return Found(facts, points, text("status"))


READERS: dict[Tracker, Callable[[Path], Found]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep MLflow and trackio, which reads its folder once, to a folder of the tests."""
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        yield


def tracked(corpus: Corpus, folder: Path, tracker: Tracker, *listeners: Listener, seed: int = 4) -> None:
    train_tracked(task(corpus, RUN, seed), folder, [tracker], listeners, resume=True, device="cpu")


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_whole(found: Found, folder: Path) -> None:
    """Every epoch of the run is there, once, and so is the choice."""
    records = log_of(folder)
    for name in ("accuracy", "weighted_f1", "macro_f1", "expected_calibration_error"):
        expected = [(r["epoch"], r["validation"][name]) for r in records]
        assert [e for e, _ in found.values[f"validation/{name}"]] == [e for e, _ in expected]
        assert [v for _, v in found.values[f"validation/{name}"]] == pytest.approx([v for _, v in expected])
    for label in LABELS:
        f1 = [r["validation"]["per_class"][label]["f1"] for r in records]
        assert [v for _, v in found.values[f"validation/f1/{label}"]] == pytest.approx(f1)
    for name in records[0]["losses"]:
        losses = [r["losses"][name] for r in records]
        assert [v for _, v in found.values[f"loss/{name}"]] == pytest.approx(losses)
    best = max(records, key=lambda r: r["validation"]["weighted_f1"])
    assert found.values["chosen/epoch"] == [(best["epoch"], best["epoch"])]
    assert found.values["chosen/weighted_f1"][0][1] == pytest.approx(best["validation"]["weighted_f1"])
    assert found.status == "finished"


def test_what_is_told(corpus: Corpus, tmp_path: Path, tracker: Tracker) -> None:
    out = tmp_path / "run"
    tracked(corpus, out, tracker)
    found = READERS[tracker](out)
    assert_whole(found, out)
    expected = {
        "model": "late-fusion", "corpus": "tiny", "seed": "4", "training.learning_rate": "0.02",
        "network.hidden": "6", "training.epochs": "3",
    }  # fmt: skip
    assert {key: found.facts[key] for key in expected} == expected
    assert {"git_commit", "version.torch", "version.mmerc"} <= {*found.facts}
    assert "fold" not in found.facts
    assert lost_trackers([out]) == []


def test_it_changes_nothing_and_a_finished_run_is_not_told_again(
    corpus: Corpus, tmp_path: Path, tracker: Tracker
) -> None:
    train(task(corpus, RUN, 4), tmp_path / "plain", device="cpu")
    tracked(corpus, tmp_path / "run", tracker)
    assert written(tmp_path / "run") == written(tmp_path / "plain")
    tracked(corpus, tmp_path / "run", tracker)
    assert_whole(READERS[tracker](tmp_path / "run"), tmp_path / "run")


class Stopping(Listener):
    """Ends a run after its second epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def epoch(self, record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(TrainingError("no"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_run_that_goes_on_is_one_run(
    corpus: Corpus, tmp_path: Path, tracker: Tracker, error: BaseException, status: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(type(error)):
        tracked(corpus, out, tracker, Stopping(error))
    found = READERS[tracker](out)
    assert found.status == status
    assert "chosen/epoch" not in found.values
    assert [epoch for epoch, _ in found.values["validation/weighted_f1"]] == [1, 2]
    tracked(corpus, out, tracker)
    found = READERS[tracker](out)
    assert_whole(found._replace(status="finished") if tracker == "trackio" else found, out)


def test_a_run_killed_at_the_end_of_an_epoch(
    corpus: Corpus, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process leaves: the epoch in `state.pt`, and a tracker that has not heard of it."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(tracking.Tracking, "__exit__", lambda *_: None)
        patch.setattr(tracking.Tracking, "epoch", lambda *_: Stopping(KeyboardInterrupt()).epoch(_[1]))
        with pytest.raises(KeyboardInterrupt):
            tracked(corpus, out, tracker)
    assert [r["epoch"] for r in log_of(out)] == [1, 2]
    tracked(corpus, out, tracker)
    assert_whole(READERS[tracker](out), out)


def break_down(patch: pytest.MonkeyPatch, tracker: Tracker, epochs: set[int]) -> None:
    """Let a tracker fail when it is told of these epochs, each time."""
    store = store_class(tracker)
    log = store.log

    def failing(self: Any, epoch: int, values: dict[str, float]) -> None:
        if epoch in epochs:
            raise ConnectionError("the server\nis gone")
        log(self, epoch, values)

    patch.setattr(store, "log", failing)


def test_a_tracker_that_is_lost_stops_nothing(
    corpus: Corpus,
    tmp_path: Path,
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train(task(corpus, RUN, 4), tmp_path / "plain", device="cpu")
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        break_down(patch, tracker, {2})
        tracked(corpus, out, tracker)
    assert written(out) == written(tmp_path / "plain")
    (said,) = (record.getMessage() for record in caplog.records if record.name == tracking.__name__)
    assert said == f"{out}: {tracker} failed (the server is gone); the run goes on without it"
    assert lost_trackers([out]) == [f"{out}: {tracker} lacks a part of the run (the server is gone)"]
    tracked(corpus, out, tracker)
    assert lost_trackers([out]) == []
    assert_whole(READERS[tracker](out), out)


def test_a_tracker_that_comes_back_is_told_at_the_end(
    corpus: Corpus, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {2}
    break_down(monkeypatch, tracker, away)

    class Returning(Listener):
        def epoch(self, record: dict[str, Any]) -> None:
            if record["epoch"] == EPOCHS:
                away.clear()

    tracked(corpus, tmp_path / "run", tracker, Returning())
    assert lost_trackers([tmp_path / "run"]) == []
    assert_whole(READERS[tracker](tmp_path / "run"), tmp_path / "run")


def test_a_tracker_that_fails_at_the_start(
    corpus: Corpus, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(store_class(tracker), "__init__", refusing)
    with pytest.raises(TrainingError, match=f"{tracker} cannot be used .no server.: see to it, or leave"):
        tracked(corpus, tmp_path / "run", tracker)
    assert not (tmp_path / "run").exists()


def test_an_emptied_folder_begins_a_run_of_its_own(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    notes = []
    for name in ("first", "second"):
        tracked(corpus, tmp_path / "run", "trackio")
        notes.append(json.loads((tmp_path / "run" / "tracking.json").read_text(encoding="utf-8")))
        (tmp_path / "run").rename(tmp_path / name)
    assert notes[0]["trackio"]["run"] != notes[1]["trackio"]["run"]


@pytest.mark.usefixtures("tracker")
def test_nothing_goes_over_the_network(
    corpus: Corpus, tmp_path: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []

    def calling(*address: Any, **_: Any) -> None:
        called.append(address)
        raise OSError("no network in tests")

    from huggingface_hub import constants

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, calling)
    monkeypatch.setattr(socket, "getaddrinfo", calling)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")  # of a user who is logged in
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    read_trackers([tracker])
    tracked(corpus, tmp_path / "run", tracker)
    assert called == []
    assert constants.HF_HUB_OFFLINE is False


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrainingError, match="mlflow cannot be used"):
        read_trackers(["mlflow"])


def test_names_are_read_once() -> None:
    assert read_trackers([]) == []
    with pytest.raises(ConfigError, match="no tracker 'wandb': expected tensorboard, mlflow, trackio"):
        read_trackers(["wandb"])


def test_facts_are_those_of_the_command_line(corpus: Corpus, tmp_path: Path) -> None:
    facts = Facts.of(
        task(corpus, config("df-erc", class_weights={"joy": 1.0, "sadness": 2.0, "anger": 3.0})), tmp_path
    )
    assert facts.parameters["training.class_weights"] == '{"joy": 1.0, "sadness": 2.0, "anger": 3.0}'
    assert facts.parameters["text_encoder"] == "null"
    assert len(facts.parameters) < 100  # MLflow takes no more at a time


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_processes_of_their_own(corpus: Corpus, tmp_path: Path, tracker: Tracker) -> None:
    """Two runs side by side, killed while they train, are two runs when they have gone on."""
    long = [f"--set=training.{key}" for key in ("epochs=60", "patience=60")]
    where = ["--corpus", corpus.path, "--out", tmp_path / "runs", "--device", "cpu", "--track", tracker]
    words = ["train", "late-fusion", *where, "--seeds", 2, "--jobs", 2, *long, "--resume"]
    script = "from mmerc.cli.main import run; run()"
    command = [sys.executable, "-c", script, *map(str, words)]
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (0, 1)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        try:
            while not all((folder / "log.jsonl").exists() and len(log_of(folder)) > 3 for folder in folders):
                time.sleep(0.01)
                assert process.poll() is None
        finally:
            process.kill()
    assert not any((folder / "checkpoint.json").exists() for folder in folders)
    said = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "lacks a part" not in said
    for folder in folders:
        assert_whole(READERS[tracker](folder), folder)
