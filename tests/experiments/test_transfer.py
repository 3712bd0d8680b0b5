from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmerc.checkpoint import load_checkpoint
from mmerc.corpus import Corpus
from mmerc.errors import CheckpointError, ConfigError, FeatureError
from mmerc.evaluation import check_fit, evaluate
from mmerc.examples import Examples
from mmerc.experiments.cells import Result, pending, result_of, run_jobs
from mmerc.experiments.transfer import (
    Target,
    constant,
    grids,
    matrix,
    plan_transfer,
    require_same_labels,
    score_elsewhere,
    share_modalities,
    transferred,
)
from mmerc.metrics import score
from tiny import LABELS, SMALL, in_this_process, tables, write

pytestmark = pytest.mark.slow

LAYER = {
    "preset": "plain",
    "network": SMALL["late-fusion"],
    "training": {"epochs": 2, "batch_size": 4, "warmup_steps": 1},
}
ENCODED = {"kind": "text-encoder", "encoder": "minilm", "scope": "both"}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Corpus]:
    """A corpus; itself with its labels in another order; other dialogues without splits."""
    folder = tmp_path_factory.mktemp("corpora")
    frame, features = tables(dialogues=9, seed=1)
    return [
        write(folder / "first", name="first"),
        write(folder / "twin", labels=LABELS[::-1], name="twin"),
        write(folder / "folded", frame.assign(split=None), features, name="folded"),
    ]


@pytest.fixture(scope="module")
def results(corpora: list[Corpus], tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    out = tmp_path_factory.mktemp("runs")
    names = ("audio", "text")
    cells = plan_transfer("late-fusion", corpora, names, out, range(2), False, {}, LAYER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
        assert [o.error for o in run_jobs(pending(cells), 1)] == [None] * (2 + 2 + 6)
    found = [result_of(cell) for cell in cells]
    assert None not in found
    return [result for result in found if result is not None]


@pytest.fixture(scope="module")
def targets(corpora: list[Corpus]) -> list[Target]:
    return [Target.of(corpus, folds=False) for corpus in corpora]


def encoded(folder: Path, name: str, **recipe: Any) -> Corpus:
    frame, features = tables()
    return write(
        folder / name, frame, features | {"text": features["text"]._replace(recipe=recipe)}, name=name
    )


# What is trained


def test_each_corpus_is_trained_on_by_its_own_protocol(corpora: list[Corpus], tmp_path: Path) -> None:
    cells = plan_transfer("late-fusion", corpora, ["audio"], tmp_path, [0], False, {}, LAYER)
    assert [cell.name for cell in cells] == ["first", "twin", "folded"]
    assert [cell.folder for cell in cells] == [tmp_path / c.name / "late-fusion" for c in corpora]
    assert [[run.fold for run in cell.runs] for cell in cells] == [[None], [None], [0, 1, 2]]
    assert {cell.config.modalities for cell in cells} == {("audio",)}
    folded = plan_transfer("late-fusion", corpora, ["audio"], tmp_path, [0], True, {}, LAYER)
    assert [[run.fold for run in cell.runs] for cell in folded] == [[0, 1, 2]] * 3


def test_the_utterances_to_be_tested_on(corpora: list[Corpus], targets: list[Target]) -> None:
    assert targets[0].dialogues.tolist() == corpora[0].split("test").tolist()
    assert sorted(targets[2].dialogues) == list(range(9))
    assert sorted(Target.of(corpora[0], folds=True).dialogues) == list(range(15))


def test_labels_are_the_same_in_any_order(corpora: list[Corpus], tmp_path: Path) -> None:
    require_same_labels(corpora)
    with pytest.raises(ConfigError, match="two at least"):
        require_same_labels(corpora[:1])
    other = write(tmp_path / "c", labels=(*LABELS, "fear"), name="more")
    with pytest.raises(
        ConfigError, match="first tells joy, sadness, anger, more joy, sadness, anger, fear: "
    ):
        require_same_labels([corpora[0], other])


def test_all_that_is_shared_is_read(corpora: list[Corpus]) -> None:
    assert share_modalities("late-fusion", corpora, [LAYER]) == (("audio", "text"), {}, ())
    assert share_modalities("text-only", corpora, []).names == ("text",)
    wanted = [LAYER, {"modalities": ["audio"]}]
    assert share_modalities("late-fusion", corpora, wanted).names == ("audio",)


def test_what_cannot_be_exchanged_is_left_out_or_refused(corpora: list[Corpus], tmp_path: Path) -> None:
    frame, features = tables()
    wide = features["text"]._replace(values=np.ones((len(frame), 7), dtype=np.float32))
    other = write(tmp_path / "w", frame, features | {"text": wide}, name="wide")
    reason = "width 5 in first, 7 in wide"
    shared = share_modalities("late-fusion", [corpora[0], other], [LAYER])
    assert shared == (("audio",), {"text": reason}, ())
    audio = write(tmp_path / "a", frame, {"audio": features["audio"]}, name="audio")
    assert share_modalities("late-fusion", [corpora[0], audio], [LAYER]).left_out == {"text": "not in audio"}
    for layer in ({"modalities": ["audio", "text"]}, {"modalities": ["text"]}):
        with pytest.raises(FeatureError, match=f"text: {reason}"):
            share_modalities("late-fusion", [corpora[0], other], [LAYER, layer])
    with pytest.raises(FeatureError, match=f"text: {reason}"):
        share_modalities("text-only", [corpora[0], other], [])
    encoder = {"text_encoder": "minilm"}  # then the stored vectors are not read
    assert share_modalities("late-fusion", [corpora[0], audio], [LAYER, encoder]).names == ("audio", "text")


def test_recipes_of_text_encoders_must_be_equal_others_are_warned_of(
    corpora: list[Corpus], tmp_path: Path
) -> None:
    imported, other = (encoded(tmp_path, n, kind="imported", sha256=n) for n in ("i", "j"))
    minilm, alike, alone = (
        encoded(tmp_path, name, **ENCODED | {"scope": scope})
        for name, scope in (("k", "both"), ("l", "both"), ("m", "utterance"))
    )
    shared = share_modalities("late-fusion", [imported, other], [LAYER])
    assert shared.names == ("audio", "text")
    assert [warning.partition(":")[0] for warning in shared.warnings] == ["text"]
    assert share_modalities("late-fusion", [minilm, alike], [LAYER]) == (("audio", "text"), {}, ())
    for pair in ([minilm, alone], [minilm, imported], [imported, minilm]):
        assert list(share_modalities("late-fusion", pair, [LAYER]).left_out) == ["text"]


# What is tested


def test_labels_are_matched_by_name(
    corpora: list[Corpus], results: list[Result], targets: list[Target]
) -> None:
    """The twin holds the same data, so the score there is that at home."""
    for run, scores in zip(results[0].cell.runs, results[0].scores.values(), strict=True):
        elsewhere = score_elsewhere(run.folder, targets[1], "cpu")
        assert elsewhere.weighted_f1 == pytest.approx(scores.weighted_f1)
        assert elsewhere.macro_f1 == pytest.approx(scores.macro_f1)
        assert {k: v.f1 for k, v in elsewhere.per_class.items()} == {
            k: v.f1 for k, v in scores.per_class.items()
        }


def test_the_checkpoints_of_a_seed_are_averaged(results: list[Result], targets: list[Target]) -> None:
    found = transferred(results[2], targets[1], "cpu")
    assert list(found) == [0, 1]
    corpus = targets[1].corpus
    rows = corpus.rows(corpus.split("test"))
    for seed, measures in found.items():
        runs = [run for run in results[2].cell.runs if run.seed == seed]
        assert len(runs) == 3
        scores = []
        for run in runs:
            pipeline = load_checkpoint(run.folder).pipeline
            examples = Examples.from_corpus(corpus, ["audio", "text"])
            values = pipeline.infer(examples, corpus.split("test")).probabilities
            scores.append(score(values[:, ::-1], corpus.targets[rows], corpus.labels))
        assert measures["weighted_f1"] == pytest.approx(np.mean([s.weighted_f1 for s in scores]))
        assert measures["macro_f1"] == pytest.approx(np.mean([s.macro_f1 for s in scores]))


def test_the_matrix(corpora: list[Corpus], results: list[Result], targets: list[Target]) -> None:
    records = matrix(results, targets, "cpu")
    assert [(r["train"], r["test"]) for r in records] == [(a.name, b.name) for a in corpora for b in corpora]
    for record, result in zip(records[::4], results, strict=True):
        assert record["in_corpus"]
        own = [e.scores.weighted_f1 for e in evaluate(result.cell.folder, Corpus.open(result.cell.corpus))]
        assert record["weighted_f1"]["mean"] == pytest.approx(np.mean(own))
        assert record["weighted_f1"]["sd"] == pytest.approx(np.std(own, ddof=1))
    assert sum(r["in_corpus"] for r in records) == 3
    weighted, macro = grids("late-fusion", ["audio", "text"], records, targets)
    assert [row[0] for row in weighted.rows] == ["first", "twin", "folded", "always the commonest"]
    assert weighted.header[1:] == ["first", "twin", "folded"]
    for k, record in enumerate(records):
        for grid, measure in ((weighted, "weighted_f1"), (macro, "macro_f1")):
            mean, sd = (100 * record[measure][x] for x in ("mean", "sd"))
            assert grid.rows[k // 3][1 + k % 3] == f"{mean:.2f} ± {sd:.2f}"


def test_the_constant_guess(targets: list[Target]) -> None:
    for target in targets:
        truth = target.corpus.targets[target.corpus.rows(target.dialogues)]
        assert constant(target).accuracy == pytest.approx(np.bincount(truth).max() / len(truth))


def test_a_checkpoint_fits_another_corpus_only_on_request(
    corpora: list[Corpus], results: list[Result], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(results[0].cell.runs[0].folder)
    check_fit(checkpoint, corpora[0])
    check_fit(checkpoint, corpora[1], transfer=True)
    with pytest.raises(CheckpointError, match="is labelled anger, sadness, joy"):
        check_fit(checkpoint, corpora[1])
    other = encoded(tmp_path, "other", kind="imported")
    check_fit(checkpoint, other, transfer=True)
    with pytest.raises(FeatureError, match="'text' was made by different recipes"):
        check_fit(checkpoint, other)
    with pytest.raises(FeatureError, match="'text' was made by different recipes"):
        check_fit(checkpoint, encoded(tmp_path, "encoded", **ENCODED), transfer=True)
    with pytest.raises(CheckpointError, match="fear"):
        check_fit(checkpoint, write(tmp_path / "m", labels=(*LABELS, "fear")), transfer=True)
