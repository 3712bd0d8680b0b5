"""Two processes on one folder: the second is told of the first, and a dead one stands in nobody's way."""

import json
import os
import shutil
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from holding import holder
from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.errors import CorpusError, TrainingError
from mmerc.experiments.cells import Cell, pending, run_jobs
from mmerc.manifest import seal
from mmerc.storage import LOCK, atomic_folder, exclusive
from mmerc.training import train
from tiny import LABELS, config, in_this_process, tables, task, write

IN_USE = (
    r"is in use by process {} on {} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d.*: wait until it ends, or stop it"
)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write(tmp_path / "corpus")


def ones(corpus: Corpus) -> Features:
    return Features(np.ones((len(corpus), 2), np.float32), np.ones(len(corpus), bool), {"kind": "new"})


def test_the_second_process_is_told_of_the_first(corpus: Corpus) -> None:
    frame, features = tables()
    with holder(corpus.path) as other:
        for attempt in (
            lambda: corpus.add_modality("new", ones(corpus)),
            lambda: seal(corpus.path),
            lambda: write(corpus.path, frame, features),
        ):
            with pytest.raises(CorpusError, match=IN_USE.format(other.pid, socket.gethostname())):
                attempt()
        assert Corpus.open(corpus.path).manifest == corpus.manifest  # reading is free
    assert corpus.add_modality("new", ones(corpus)).modalities["new"].width == 2
    assert not (corpus.path / LOCK).exists()


def test_training_is_told_too(corpus: Corpus, tmp_path: Path) -> None:
    run = config(epochs=1)
    with holder(tmp_path / "run") as other:
        for resume in (False, True):
            with pytest.raises(TrainingError, match=IN_USE.format(other.pid, ".*")):
                train(task(corpus, run), tmp_path / "run", resume=resume)
    train(task(corpus, run), tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_cell_of_a_benchmark_is_told_too(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    cell = Cell.of("tiny", corpus, config(epochs=1), tmp_path / "out", [0], False)
    with holder(cell.runs[0].folder):
        (outcome,) = run_jobs(pending([cell]), 1)
        assert "is in use by process" in str(outcome.error)
    (outcome,) = run_jobs(pending([cell]), 1)
    assert outcome.error is None


def test_the_lock_of_a_killed_process_is_taken_over(corpus: Corpus) -> None:
    with holder(corpus.path) as other:
        other.kill()
        other.wait()
        assert json.loads((corpus.path / LOCK).read_text(encoding="utf-8"))["pid"] == other.pid
        for left in (".utterances.parquet.7.tmp", "features/.text.safetensors.7.tmp"):
            (corpus.path / left).touch()
        (corpus.path.parent / ".corpus.7.tmp").mkdir()
        (corpus.path / ".mine.tmp").touch()
        corpus.add_modality("new", ones(corpus))
    hidden = [p.name for p in corpus.path.parent.rglob(".*")]
    assert hidden == [".mine.tmp"]  # no file of ours


def test_a_copied_lock_locks_nothing(corpus: Corpus, tmp_path: Path) -> None:
    with holder(corpus.path):
        copy = Path(shutil.copytree(corpus.path, tmp_path / "copy"))
    assert (copy / LOCK).exists()
    Corpus.open(copy).add_modality("new", ones(corpus))


def test_two_additions_at_the_same_time_both_stay(corpus: Corpus) -> None:
    stale = Corpus.open(corpus.path)
    corpus.add_modality("one", ones(corpus))
    both = stale.add_modality("two", ones(corpus))
    assert set(both.modalities) == set(Corpus.open(corpus.path).modalities) == {"audio", "text", "one", "two"}


def test_whoever_holds_a_folder_may_ask_again(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with exclusive(folder, CorpusError):
        with exclusive(folder, CorpusError):
            assert (folder / LOCK).exists()
        assert (folder / LOCK).exists()
    assert not folder.exists()  # made for the lock alone


def test_a_corpus_that_is_replaced_is_free_at_once(corpus: Corpus) -> None:
    frame, features = tables(7)
    again = write_corpus(
        corpus.path, name="again", labels=LABELS, utterances=frame, features=features, provenance={}
    )
    with holder(corpus.path):
        assert Corpus.open(corpus.path).name == "again"
    assert not (again.path / LOCK).exists()


def test_a_replacement_that_was_cut_between_two_renames(corpus: Corpus, tmp_path: Path) -> None:
    corpus.path.rename(tmp_path / ".corpus.7.old")
    with exclusive(corpus.path, CorpusError):
        assert Corpus.open(corpus.path).name == "tiny"
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_on_any_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr("mmerc.storage.exchange", lambda one, other: False)
    for name in ("first", "second"):
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / name).touch()
        assert [p.name for p in (tmp_path / "folder").iterdir()] == [name]
        assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork gives its rights away")
def test_a_folder_without_leave_to_write() -> None:
    """In a process without privileges: for root there are no closed folders."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        child = os.fork()
        if not child:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                with exclusive(folder, TrainingError):
                    pass
            except TrainingError as error:
                code = 0 if "cannot be written to (Permission denied): make room" in str(error) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
