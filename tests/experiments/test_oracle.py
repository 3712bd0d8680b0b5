"""The epoch that is best on test: a run is watched, and does not know it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from mmerc.corpus import Corpus
from mmerc.errors import TrainingError
from mmerc.evaluation import evaluate, score_table
from mmerc.experiments.cells import Cell, pending, result_of
from mmerc.experiments.listeners import Oracle, Together
from mmerc.run_state import Progress
from mmerc.training import Listener
from planned import RUN, copied, cut_after_one_epoch, finish, moved, run, watching
from tiny import config, tables, task, write, written

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """A cell on splits, one over folds, and each watched on test; two seeds."""
    out = tmp_path_factory.mktemp("cells")
    cells = {
        name: replace(
            Cell.of(name, corpus, RUN, out / name, range(2), "folds" in name),
            test="watched" if "watched" in name else "frozen",
        )
        for name in ("splits", "folds", "watched", "watched-folds")
    }
    finish(*cells.values())
    return cells


@pytest.fixture
def cell(finished: dict[str, Cell], tmp_path: Path) -> Cell:
    """A copy of the cell on splits that nobody watched."""
    return copied(finished["splits"], tmp_path / "copy")


class Answering(NamedTuple):
    """Stands in for a pipeline: its answers are known beforehand."""

    probabilities: np.ndarray[Any, Any]

    def infer(self, *_: object) -> "Answering":
        return self


@pytest.mark.parametrize("name", ["splits", "folds"])
def test_watching_changes_nothing(finished: dict[str, Cell], name: str) -> None:
    honest, watched = finished[name], finished["watched" if name == "splits" else "watched-folds"]
    labels = Corpus.open(honest.corpus).labels
    for one, other in zip(honest.runs, watched.runs, strict=True):
        assert written(one.folder) == written(other.folder)
        assert (one.folder / "test.parquet").read_bytes() == (other.folder / "test.parquet").read_bytes()
        assert not list(one.folder.glob("oracle.*"))
        chosen = score_table(pd.read_parquet(one.folder / "test.parquet"), labels).weighted_f1
        best = score_table(pd.read_parquet(other.folder / "oracle.parquet"), labels).weighted_f1
        assert best >= chosen - 1e-12
        notes = json.loads((other.folder / "oracle.json").read_text(encoding="utf-8"))
        assert notes["weighted_f1"] == best
        assert notes["watched"] == RUN.training.epochs


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("model", ["df-erc", "mm-dfn", "cfn-esa", "late-fusion"])
def test_watching_changes_no_model(corpus: Corpus, tmp_path: Path, model: str) -> None:
    """With dropout, whose random numbers an epoch draws, and averaged weights, which validation swaps in."""
    dull = config(model, epochs=3, ema_decay=0.9)
    honest = Cell.of("honest", corpus, dull, tmp_path / "honest", [3], False)
    watched = replace(Cell.of("watched", corpus, dull, tmp_path / "watched", [3], False), test="watched")
    assert [o.error for o in run(honest, watched)] == [None, None]
    assert written(honest.runs[0].folder) == written(watched.runs[0].folder)


def test_the_best_of_all_epochs_is_kept(corpus: Corpus, tmp_path: Path) -> None:
    listener = Oracle(tmp_path, task(corpus, RUN), corpus.split("test"), "data")
    right = np.eye(len(corpus.labels))[corpus.targets[corpus.rows(corpus.split("test"))]]
    wrong = np.roll(right, 1, axis=1)
    for epoch, probabilities in enumerate([wrong, right, wrong], start=1):
        listener.validated(epoch, Answering(probabilities), None)  # type: ignore[arg-type]  # all that it uses
    assert json.loads((tmp_path / "oracle.json").read_text(encoding="utf-8")) == {
        "epoch": 2,
        "weighted_f1": 1.0,
        "watched": 3,
        "data": "data",
    }
    table = pd.read_parquet(tmp_path / "oracle.parquet")
    assert table["predicted"].tolist() == table["label"].tolist()


@pytest.mark.usefixtures("here")
def test_a_watched_run_that_was_cut_goes_on(
    corpus: Corpus, finished: dict[str, Cell], tmp_path: Path
) -> None:
    cell = moved(finished["watched"], tmp_path / "cell")
    cut_after_one_epoch(corpus, cell, watching(corpus))
    assert result_of(cell) is None
    assert [o.error for o in run(cell)] == [None, None]
    for mine, theirs in zip(cell.runs, finished["watched"].runs, strict=True):
        assert written(mine.folder) == written(theirs.folder)
        for file in ("test.parquet", "oracle.parquet", "oracle.json"):
            assert (mine.folder / file).read_bytes() == (theirs.folder / file).read_bytes()


@pytest.mark.usefixtures("here")
def test_notes_of_an_attempt_that_left_nothing_are_not_used(
    finished: dict[str, Cell], tmp_path: Path
) -> None:
    cell = moved(finished["watched"], tmp_path / "cell")
    for one in cell.runs:
        one.folder.mkdir(parents=True)
        (one.folder / "oracle.json").write_text('{"weighted_f1": 1.0, "data": "other"}', encoding="utf-8")
    assert [o.error for o in run(cell)] == [None, None]
    for mine, theirs in zip(cell.runs, finished["watched"].runs, strict=True):
        assert (mine.folder / "oracle.json").read_bytes() == (theirs.folder / "oracle.json").read_bytes()


@pytest.mark.usefixtures("here")
def test_other_test_labels_are_refused(finished: dict[str, Cell], tmp_path: Path) -> None:
    """The checkpoint stays as it is, but what its epochs score does not."""
    frame, features = tables()
    same = write(tmp_path / "corpus")
    cell = replace(copied(finished["watched"], tmp_path / "cell"), corpus=same.path)
    assert pending([cell]) == []
    test = frame["split"] == "test"
    frame.loc[test, "label"] = np.roll(frame.loc[test, "label"], 1)
    write(tmp_path / "corpus", frame, features)
    assert all("not watched on these test data" in (o.error or "") for o in run(cell))
    assert result_of(cell) is None


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_not_finite(corpus: Corpus, tmp_path: Path) -> None:
    """What is watched before training sees it says no worse what is wrong."""
    diverging = config(learning_rate=1e30, clip_norm=0, batch_size=100, warmup_steps=0)
    cell = replace(Cell.of("bad", corpus, diverging, tmp_path, [0], False), test="watched")
    (outcome,) = run(cell)
    assert "not finite; try a lower training.learning_rate" in (outcome.error or "")


def test_what_choosing_on_test_reports(finished: dict[str, Cell], corpus: Corpus) -> None:
    for name in ("watched", "watched-folds"):
        result = result_of(finished[name])
        assert result is not None
        for seed, scores in result.oracle.items():
            folders = [one.folder for one in finished[name].runs if one.seed == seed]
            pooled = pd.concat([pd.read_parquet(folder / "oracle.parquet") for folder in folders])
            assert scores.weighted_f1 == pytest.approx(score_table(pooled, corpus.labels).weighted_f1)
        assert result.oracle.keys() == {0, 1}
    honest, watched = result_of(finished["splits"]), result_of(finished["watched"])
    assert honest is not None
    assert watched is not None
    assert honest.oracle == {}
    assert honest.scores == watched.scores


@pytest.mark.usefixtures("here")
def test_nothing_else_reads_what_was_seen_on_test(
    finished: dict[str, Cell], corpus: Corpus, tmp_path: Path
) -> None:
    watched = copied(finished["watched"], tmp_path / "cell")
    for one in watched.runs:
        for path in one.folder.glob("oracle.*"):
            path.write_bytes(b"nonsense")
    honest, expected = replace(watched, test="frozen"), result_of(finished["splits"])
    assert pending([honest]) == []
    result = result_of(honest)
    assert result is not None
    assert expected is not None
    assert result.scores == expected.scores
    assert {e.seed: e.scores for e in evaluate(watched.folder, corpus)} == expected.scores
    with pytest.raises(TrainingError, match=r"oracle\.parquet cannot be read"):
        result_of(watched)


@pytest.mark.usefixtures("here")
def test_labels_of_the_test_split_do_not_change_what_is_trained(
    finished: dict[str, Cell], tmp_path: Path
) -> None:
    frame, features = tables()
    test = frame["split"] == "test"
    frame.loc[test, "label"] = np.roll(frame.loc[test, "label"], 1)
    other = write(tmp_path / "c", frame, features)
    cell = replace(Cell.of("o", other, RUN, tmp_path / "run", [0], False), test="watched")
    assert [o.error for o in run(cell)] == [None]
    assert written(cell.runs[0].folder) == written(finished["watched"].runs[0].folder)
    mine, theirs = (c.runs[0].folder / "oracle.parquet" for c in (cell, finished["watched"]))
    assert pd.read_parquet(mine)["label"].tolist() != pd.read_parquet(theirs)["label"].tolist()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("lost", ["oracle.json", "oracle.parquet"])
def test_an_oracle_that_lost_its_memory(finished: dict[str, Cell], tmp_path: Path, lost: str) -> None:
    cell = copied(finished["watched"], tmp_path / "o")
    (cell.runs[0].folder / lost).unlink()
    (cell.runs[0].folder / "done.json").unlink()
    (outcome,) = run(cell)
    assert "delete the folder to start over" in (outcome.error or "")


@pytest.mark.usefixtures("here")
def test_a_finished_run_that_was_not_watched_is_refused(finished: dict[str, Cell], cell: Cell) -> None:
    before = written(cell.runs[0].folder)
    watched = replace(cell, test="watched")
    assert len(pending([watched])) == 2
    assert all("not watched on these test data: delete the folder" in (o.error or "") for o in run(watched))
    assert written(cell.runs[0].folder) == before
    assert result_of(watched) is None
    assert pending([cell]) == []
    shutil.rmtree(cell.folder)
    assert [o.error for o in run(watched)] == [None, None]
    assert written(cell.runs[0].folder) == written(finished["watched"].runs[0].folder)


@pytest.mark.usefixtures("here")
def test_epochs_that_were_not_watched_in_between(
    corpus: Corpus, finished: dict[str, Cell], tmp_path: Path
) -> None:
    """Watched until it was cut, ended without --oracle: what was seen is not of all epochs."""
    watched = moved(finished["watched"], tmp_path / "cell")
    cut_after_one_epoch(corpus, watched, watching(corpus))
    honest = replace(watched, test="frozen")
    assert [o.error for o in run(honest)] == [None, None]
    assert result_of(honest) is not None
    assert result_of(watched) is None
    assert all("not watched on these test data" in (o.error or "") for o in run(watched))


def test_a_run_that_is_refused_is_not_told_to_a_tracker() -> None:
    told: list[str] = []

    class Telling(Listener):
        def begin(self, progress: Progress) -> None:
            told.append("begun")

    class Refusing(Listener):
        def begin(self, progress: Progress) -> None:
            raise TrainingError("no")

    with pytest.raises(TrainingError):
        Together([Telling(), Refusing()]).begin(Progress())
    assert told == []
