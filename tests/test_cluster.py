import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmerc.cluster import _do, on_cluster
from mmerc.corpus import Corpus
from mmerc.errors import MediaError, MmercError
from mmerc.experiments.cells import Cell, pending, run_jobs
from mmerc.extraction.engines import in_processes
from mmerc.predictions import Setup, find_inputs, predict_files
from mmerc.predictions.index import read_index
from mmerc.training import train
from tiny import config, in_this_process, task, write, written

HERE = Path(__file__).parent


def work(folder: Path, job: str) -> str:
    """Note each attempt; fail, die once, die always, or take a while."""
    with (folder / job).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    if job == "bad":
        raise MediaError("bad is broken")
    if job == "killer" or (job == "weak" and len(attempts(folder, job)) == 1):
        psutil.Process().kill()
    time.sleep(0.2)
    return job.upper() + os.environ["MKL_NUM_THREADS"]


def attempts(folder: Path, job: str) -> list[str]:
    return (folder / job).read_text(encoding="utf-8").split()


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes on this machine, of one core each; the driver is not connected yet."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MmercError, match=r'pip install "mmerc\[ray\]"'):
        list(on_cluster(str, ["a"]))


def test_a_machine_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(MmercError, match=f"has no folder {tmp_path}/a: the machines of a cluster need the"):
        _do((str, tmp_path / "a"), 1)


def test_nothing_to_do_needs_no_cluster() -> None:
    assert list(on_cluster(str, [])) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_every_result_arrives_once_though_workers_and_a_machine_die(two_nodes: Any, tmp_path: Path) -> None:
    second = two_nodes.add_node(num_cpus=1)
    two_nodes.wait_for_nodes()
    jobs = ["bad", "weak", "killer", *map(str, range(30))]
    ended = []
    for job, result in on_cluster(partial(work, tmp_path), jobs):
        ended.append((job, result))
        if len(ended) == 8:
            two_nodes.remove_node(second, allow_graceful=False)
    assert sorted(job for job, _ in ended) == sorted(jobs)
    found = dict(ended)
    assert all(found[job] == job.upper() + "1" for job in jobs if job not in ("bad", "killer"))
    assert isinstance(found["bad"], MediaError)
    assert str(found["bad"]) == "bad is broken"
    assert "its worker died, 4 times" in str(found["killer"])
    assert len(attempts(tmp_path, "weak")) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_runs_is_stopped_and_relative_paths_hold(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = on_cluster(partial(work, Path()), list(map(str, range(20))))
    assert next(ended)[1] in [f"{n}1" for n in range(20)]
    ended.close()  # type: ignore[attr-defined]
    time.sleep(1)
    begun = {path.name for path in tmp_path.iterdir()}  # relative to this folder
    assert len(begun) < 20
    time.sleep(1)
    assert {path.name for path in tmp_path.iterdir()} == begun


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shares_of_a_gpu(two_nodes: Any) -> None:
    with pytest.raises(MmercError, match="no GPU to share"):
        list(on_cluster(devices, [0], gpus=0.5))
    two_nodes.add_node(num_cpus=4, num_gpus=1)
    two_nodes.wait_for_nodes()
    ended = dict(on_cluster(devices, [0, 1, 2, 3], gpus=0.5))
    assert {seen for seen, _, _ in ended.values()} == {"0"}
    for _, start, _ in ended.values():
        assert sum(a <= start < b for _, a, b in ended.values()) <= 2  # type: ignore[misc]


def devices(_: int) -> tuple[str, float, float]:
    start = time.time()
    time.sleep(0.5)
    return os.environ["CUDA_VISIBLE_DEVICES"], start, time.time()


DRIVER = """
import sys
from pathlib import Path
from mmerc.cluster import on_cluster
from mmerc.experiments.cells import pending, run_jobs
from test_cluster import the_cell
for outcome in run_jobs(pending([the_cell(Path(sys.argv[1]))]), 1, "cpu", on_cluster):
    print(outcome.error, flush=True)
"""


def the_cell(folder: Path) -> Cell:
    run = config("late-fusion", epochs=60)
    return Cell.of("late-fusion", Corpus.open(folder / "corpus"), run, folder / "cell", range(6), False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_driver_that_was_killed_goes_on_as_if_undisturbed(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_nodes.add_node(num_cpus=1)
    write(tmp_path / "corpus")
    cell = the_cell(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, encoding="utf-8"
    ) as driver:
        assert driver.stdout
        assert driver.stdout.readline() == "None\n"
        driver.kill()
    left = len(pending([cell]))
    assert 0 < left < 6
    time.sleep(2)  # Ray stops the workers of a driver that is gone
    first = [o.error for o in run_jobs(pending([cell]), 1, "cpu", on_cluster)]
    assert first == [None] * len(first)
    assert pending([cell]) == []
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    plain = Cell.of(
        "late-fusion", Corpus.open(tmp_path / "corpus"), cell.config, tmp_path / "plain", range(6), False
    )
    assert [o.error for o in run_jobs(pending([plain]), 1, "cpu")] == [None] * 6
    for mine, theirs in zip(cell.runs, plain.runs, strict=True):
        assert written(mine.folder) == written(theirs.folder)
        assert (mine.folder / "test.parquet").read_bytes() == (theirs.folder / "test.parquet").read_bytes()


PREDICT = """
import sys
from pathlib import Path
from mmerc.cluster import on_cluster
from mmerc.predictions import Setup, find_inputs, predict_files
folder = Path(sys.argv[1])
setup = Setup(folder / "out", folder / "run")
for outcome in predict_files(find_inputs([folder / "chats"]), setup, on_cluster):
    print(outcome.error, flush=True)
"""


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Eighty conversations that are long enough to be interrupted, a broken one, and a model."""
    corpus = write(tmp_path / "corpus")
    train(task(corpus, config("df-erc", epochs=1)), tmp_path / "run")
    rows = [
        {"text": u.text, "features": {m: x.tolist() for m, x in u.features.items()}}
        for d in range(len(corpus.dialogue_ids))
        for u in corpus.conversation(d)
    ]
    (tmp_path / "chats").mkdir()
    for n in range(80):
        lines = "\n".join(map(json.dumps, [*rows[n % 20 :], *rows] * 10))
        (tmp_path / "chats" / f"{n}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "chats" / "bad.jsonl").write_text("{", encoding="utf-8")
    return tmp_path / "chats"


def results(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_many_files_are_predicted_once_though_a_machine_and_a_driver_die(two_nodes: Any, chats: Path) -> None:
    folder = chats.parent
    second = two_nodes.add_node(num_cpus=1)
    command = [sys.executable, "-c", PREDICT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as driver:
        assert driver.stdout
        for _ in range(9):
            driver.stdout.readline()
        driver.kill()
    time.sleep(2)  # Ray stops the workers of a driver that is gone
    begun = {name: path.stat().st_mtime_ns for name, path in whole(folder / "out").items()}
    assert 9 <= len(begun) < 80

    inputs = find_inputs([chats])
    ended = []
    for outcome in predict_files(inputs, Setup(folder / "out", folder / "run"), on_cluster):
        ended.append(outcome)
        if sum(not o.kept for o in ended) == 9:
            two_nodes.remove_node(second, allow_graceful=False)
    assert sorted(o.given for o in ended) == sorted(inputs)
    assert {o.given.path.stem: o.error for o in ended if o.error}.keys() == {"bad"}
    assert {f"{o.given.path.stem}.json" for o in ended if o.kept} == set(begun)
    found = whole(folder / "out")
    assert {name: found[name].stat().st_mtime_ns for name in begun} == begun  # left as they were

    for name, engine in {"alone": in_processes(1), "aside": in_processes(3)}.items():
        outcomes = list(predict_files(inputs, Setup(folder / name, folder / "run"), engine))
        assert sorted(o.given for o in outcomes) == sorted(inputs)
        assert results(folder / name) == results(folder / "out")
    assert len(results(folder / "out")) == 80


def whole(out: Path) -> dict[str, Path]:
    """The results that the index knows to be whole."""
    return {name: out / name for name, entry in read_index(out).items() if entry.sha256}
