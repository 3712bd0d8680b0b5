import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmerc.checkpoint import load_checkpoint
from mmerc.corpus import Corpus
from mmerc.errors import TrainingError
from mmerc.evaluation import evaluate
from mmerc.experiments.cells import (
    Cell,
    fingerprint,
    finished_seeds,
    pending,
    result_of,
    run_jobs,
    validation_of,
)
from mmerc.experiments.listeners import Stopwatch
from mmerc.experiments.runs import train_in_turn
from mmerc.training import Listener
from planned import RUN, content, copied, cut_after_one_epoch, finish, moved, run
from tiny import config, in_this_process, tables, write, written


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cell]:
    """A cell on splits and one over folds; two seeds."""
    out = tmp_path_factory.mktemp("cells")
    cells = {
        name: Cell.of(name, corpus, RUN, out / name, range(2), name == "folds")
        for name in ("splits", "folds")
    }
    finish(*cells.values())
    return cells


@pytest.fixture
def cell(finished: dict[str, Cell], tmp_path: Path) -> Cell:
    """A copy of the cell on splits."""
    return copied(finished["splits"], tmp_path / "copy")


# What is done


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_is_done_is_not_run_again(finished: dict[str, Cell], corpus: Corpus) -> None:
    cells = list(finished.values())
    before = {name: content(c.folder) for name, c in finished.items()}
    assert pending(cells) == []
    assert run(*cells) == []
    assert {name: content(c.folder) for name, c in finished.items()} == before
    for c in cells:
        assert list(finished_seeds(c, corpus)) == [0, 1]
        assert all(not (r.folder / "error.txt").exists() for r in c.runs)


@pytest.mark.usefixtures("here")
def test_only_what_is_missing_is_run(cell: Cell, finished: dict[str, Cell]) -> None:
    (cell.runs[0].folder / "test.parquet").unlink()
    shutil.rmtree(cell.runs[1].folder)
    assert [job.run for job in pending([cell])] == list(cell.runs)
    before = content(cell.runs[0].folder / "model.safetensors")
    assert [o.error for o in run(cell)] == [None, None]
    assert content(cell.runs[0].folder / "model.safetensors") == before
    for mine, theirs in zip(cell.runs, finished["splits"].runs, strict=True):
        assert written(mine.folder) == written(theirs.folder)
        assert (mine.folder / "test.parquet").read_bytes() == (theirs.folder / "test.parquet").read_bytes()


@pytest.mark.usefixtures("here")
def test_a_folder_of_mmerc_train_is_finished_without_training(
    corpus: Corpus, finished: dict[str, Cell], tmp_path: Path
) -> None:
    cell = moved(finished["splits"], tmp_path / "cell")
    list(train_in_turn(corpus, RUN, cell.runs, False, "cpu", lambda _: Listener()))
    before = content(cell.folder)
    assert [o.error for o in run(cell)] == [None, None]
    assert content(cell.folder).items() >= before.items()
    result, expected = result_of(cell), result_of(finished["splits"])
    assert result is not None
    assert expected is not None
    assert result.scores == expected.scores
    assert result.seconds_per_epoch is None


@pytest.mark.usefixtures("here")
def test_a_run_that_was_cut_goes_on(corpus: Corpus, finished: dict[str, Cell], tmp_path: Path) -> None:
    cell = moved(finished["splits"], tmp_path / "cell")
    cut_after_one_epoch(corpus, cell, Stopwatch)
    assert result_of(cell) is None
    assert [o.error for o in run(cell)] == [None, None]
    for mine, theirs in zip(cell.runs, finished["splits"].runs, strict=True):
        assert written(mine.folder) == written(theirs.folder)
        assert (mine.folder / "test.parquet").read_bytes() == (theirs.folder / "test.parquet").read_bytes()
        assert len(json.loads((mine.folder / "speed.json").read_text(encoding="utf-8"))["seconds"]) == 2


@pytest.mark.usefixtures("here")
def test_notes_of_an_attempt_that_left_nothing_are_not_used(
    finished: dict[str, Cell], tmp_path: Path
) -> None:
    cell = moved(finished["splits"], tmp_path / "cell")
    for one in cell.runs:
        one.folder.mkdir(parents=True)
        (one.folder / "speed.json").write_text('{"seconds": [9, 9, 9]}', encoding="utf-8")
    assert [o.error for o in run(cell)] == [None, None]
    for one in cell.runs:
        assert len(json.loads((one.folder / "speed.json").read_text(encoding="utf-8"))["seconds"]) == 2


@pytest.mark.usefixtures("here")
def test_another_config_is_refused(cell: Cell) -> None:
    before = content(cell.folder)
    other = replace(cell, config=config("df-erc", epochs=3))
    assert result_of(other) is None
    outcomes = run(other)
    assert all("belongs to another run (config" in (o.error or "") for o in outcomes)
    assert len(outcomes) == 2
    errors = [r.folder / "error.txt" for r in cell.runs]
    assert all("another run" in e.read_text(encoding="utf-8") for e in errors)
    for error in errors:
        error.unlink()
    assert content(cell.folder) == before
    assert pending([cell]) == []


@pytest.mark.usefixtures("here")
def test_a_checkpoint_of_unknown_origin_is_not_overwritten(cell: Cell) -> None:
    (cell.runs[0].folder / "state.pt").unlink()
    assert pending([cell]) == []
    before = content(cell.folder)
    outcomes = run(replace(cell, config=config("df-erc", epochs=3)))
    assert "would overwrite it" in (outcomes[0].error or "")
    for one in cell.runs:
        (one.folder / "error.txt").unlink()
    assert content(cell.folder) == before


@pytest.mark.usefixtures("here")
def test_a_damaged_config_is_a_failure_of_its_run(cell: Cell) -> None:
    (cell.runs[0].folder / "config.yaml").write_text("a: b: c", encoding="utf-8")
    (outcome,) = run(cell)
    assert "config.yaml" in (outcome.error or "")
    assert list(finished_seeds(cell, Corpus.open(cell.corpus))) == [1]


# Data


def test_the_fingerprint_is_that_of_the_data(corpus: Corpus, tmp_path: Path) -> None:
    frame, features = tables()
    expected = fingerprint(corpus)
    assert fingerprint(write(tmp_path / "same")) == expected
    changed = {
        "label": write(tmp_path / "a", frame.assign(label=np.roll(frame["label"], 1)), features),
        "text": write(tmp_path / "b", frame.assign(text="?"), features),
        "features": write(
            tmp_path / "c",
            frame,
            {**features, "text": features["text"]._replace(values=features["text"].values + 1)},
        ),
        "modalities": write(tmp_path / "d", frame, {"text": features["text"]}),
        "name": write(tmp_path / "e", name="other"),
        "order of labels": write(tmp_path / "f", labels=corpus.labels[::-1]),
    }
    assert len({expected, *map(fingerprint, changed.values())}) == 7
    rewritten = write(tmp_path / "same", frame.assign(text="?"), features)
    assert fingerprint(rewritten) != expected


@pytest.mark.usefixtures("here")
def test_a_corpus_that_was_rewritten(finished: dict[str, Cell], tmp_path: Path) -> None:
    frame, features = tables()
    same = write(tmp_path / "corpus")
    cell = replace(copied(finished["splits"], tmp_path / "cell"), corpus=same.path)
    assert pending([cell]) == []

    # Other test labels: training stays as it is, but not the scores.
    test = frame["split"] == "test"
    frame.loc[test, "label"] = np.roll(frame.loc[test, "label"], 1)
    other = write(tmp_path / "corpus", frame, features)
    assert len(pending([cell])) == 2
    before = written(cell.runs[0].folder)
    assert [o.error for o in run(cell)] == [None, None]
    assert written(cell.runs[0].folder) == before
    result = result_of(cell)
    assert result is not None
    assert result.scores[0] == evaluate(cell.runs[0].folder, other)[0].scores

    # Other features: another run.
    features["text"] = features["text"]._replace(values=features["text"].values + 1)
    write(tmp_path / "corpus", frame, features)
    assert all("belongs to another run" in (o.error or "") for o in run(cell))
    assert result_of(cell) is None


# Failures


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_not_finite(corpus: Corpus, tmp_path: Path) -> None:
    diverging = config(learning_rate=1e30, clip_norm=0, batch_size=100, warmup_steps=0)
    cell = Cell.of("bad", corpus, diverging, tmp_path, [0], False)
    (outcome,) = run(cell)
    assert "not finite; try a lower training.learning_rate" in (outcome.error or "")
    assert (tmp_path / "seed-0" / "error.txt").read_text(encoding="utf-8") == f"{outcome.error}\n"


@pytest.mark.usefixtures("here")
def test_a_failure_that_nobody_foresaw_leaves_its_traceback(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(cell.folder)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("what is this?")

    monkeypatch.setattr("mmerc.experiments.tracking.train", broken)
    outcome, _ = run(cell)
    assert outcome.error == "ZeroDivisionError: what is this?"
    text = (cell.runs[0].folder / "error.txt").read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "in broken" in text
    monkeypatch.undo()
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    run(cell)
    assert not (cell.runs[0].folder / "error.txt").exists()


@pytest.mark.usefixtures("here")
def test_a_run_that_fails_stops_no_other(corpus: Corpus, tmp_path: Path, finished: dict[str, Cell]) -> None:
    features_gone = write(tmp_path / "gone")
    (features_gone.path / "features" / "text.safetensors").unlink()
    bad = Cell.of("bad", features_gone, RUN, tmp_path / "bad", [0], False)
    good = Cell.of("good", corpus, RUN, tmp_path / "good", [0], False)
    outcomes = {o.job.cell.name: o for o in run_jobs(pending([bad, good]), 1, "cpu")}
    assert "text.safetensors is missing" in (outcomes["bad"].error or "")
    assert "text.safetensors is missing" in (tmp_path / "bad" / "seed-0" / "error.txt").read_text(
        encoding="utf-8"
    )
    assert outcomes["good"].error is None
    mine, theirs = good.runs[0].folder, finished["splits"].runs[0].folder
    assert written(mine) == written(theirs)
    assert (mine / "test.parquet").read_bytes() == (theirs / "test.parquet").read_bytes()


# Results


@pytest.mark.parametrize("name", ["splits", "folds"])
def test_results_are_those_of_evaluate(finished: dict[str, Cell], corpus: Corpus, name: str) -> None:
    result = result_of(finished[name])
    assert result is not None
    found = {e.seed: e for e in evaluate(finished[name].folder, corpus)}
    assert found.keys() == result.scores.keys() == {0, 1}
    for seed, evaluation in found.items():
        assert result.scores[seed] == evaluation.scores
        rows = corpus.utterances.iloc[evaluation.rows]
        assert result.predictions[seed]["dialogue_id"].tolist() == rows["dialogue_id"].tolist()
        assert result.predictions[seed]["utterance_index"].tolist() == rows["utterance_index"].tolist()
    assert result.summary.runs == 2
    assert result.unfinished == 0
    pipeline = load_checkpoint(finished[name].runs[0].folder).pipeline
    assert result.parameters == sum(p.numel() for p in pipeline.parameters() if p.requires_grad)
    assert result.seconds_per_epoch is not None
    for seed, score in result.validation.items():
        folders = [r.folder for r in finished[name].runs if r.seed == seed]
        scores = [load_checkpoint(f).info.validation["weighted_f1"] for f in folders]
        assert score == pytest.approx(np.mean(scores))
        assert score == validation_of([r for r in finished[name].runs if r.seed == seed])


def test_seeds_that_lack_a_fold_are_left_out(finished: dict[str, Cell], tmp_path: Path) -> None:
    whole, cell = result_of(finished["folds"]), copied(finished["folds"], tmp_path / "folds")
    (cell.runs[1].folder / "test.parquet").unlink()
    result = result_of(cell)
    assert result is not None
    assert whole is not None
    assert result.unfinished == 1
    assert result.scores == {1: whole.scores[1]}
    (cell.runs[-1].folder / "checkpoint.json").unlink()
    assert result_of(cell) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}', None])
def test_speed_that_is_not_known_is_no_reason_to_lose_a_run(cell: Cell, text: str | None) -> None:
    for one in cell.runs:
        if text is None:
            (one.folder / "speed.json").unlink()
        else:
            (one.folder / "speed.json").write_text(text, encoding="utf-8")
    assert pending([cell]) == []
    result = result_of(cell)
    assert result is not None
    assert result.seconds_per_epoch is None


@pytest.mark.usefixtures("here")
def test_damaged_predictions_can_be_written_again(cell: Cell) -> None:
    path = cell.runs[0].folder / "test.parquet"
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"PAR1" + whole[50:]):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"test\.parquet cannot be read .*delete it, and the same"):
            result_of(cell)
    path.unlink()
    assert [o.error for o in run(cell)] == [None]
    assert path.read_bytes() == whole


@pytest.mark.usefixtures("here")
def test_a_cell_that_leaves_the_test_split_alone(finished: dict[str, Cell], tmp_path: Path) -> None:
    frame, features = tables()
    frame.loc[frame["split"] == "test", "label"] = None
    blind = write(tmp_path / "c", frame, features)
    cell = replace(Cell.of("blind", blind, RUN, tmp_path / "run", [0], False), test="never")
    assert [o.error for o in run(cell)] == [None]
    assert pending([cell]) == []
    assert result_of(cell) is None
    assert not list(cell.folder.rglob("*.parquet"))
    assert written(cell.runs[0].folder) == written(finished["splits"].runs[0].folder)
    assert [job.run for job in pending([replace(cell, test="frozen")])] == list(cell.runs)
