import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmerc.evaluation import score_table
from mmerc.experiments.cells import Cell, Result
from mmerc.experiments.comparison import Comparison, protocol, write_report
from mmerc.experiments.runs import Run
from mmerc.experiments.significance import dialogue_confusions, holm, paired_bootstrap
from mmerc.metrics import paired_test
from mmerc.tables import Grid
from tiny import LABELS, config

UTTERANCES = pd.DataFrame({"dialogue_id": np.repeat([f"d{k:02}" for k in range(30)], 5)}).assign(
    utterance_index=np.tile(range(5), 30), label=np.random.default_rng(0).choice(LABELS, 150)
)


def make_result(
    name: str,
    right: float,
    seeds: Sequence[int] = (0, 1, 2),
    planned: int = 3,
    folds: Sequence[int | None] = (None,),
    seconds: float | None = 1.25,
) -> Result:
    """What a method left that is right with chance `right`, and else guesses."""
    truth = UTTERANCES["label"].map(LABELS.index).to_numpy()
    found = {}
    for seed in seeds:
        rng = np.random.default_rng([seed, *name.encode()])
        guess = np.where(rng.random(150) < right, truth, rng.integers(3, size=150))
        chances = np.full((150, 3), 0.2)
        chances[range(150), guess] = 0.6
        table = UTTERANCES.assign(predicted=np.array(LABELS)[guess])
        found[seed] = table.assign(**{f"p:{label}": chances[:, k] for k, label in enumerate(LABELS)})
    folder = Path("out/tiny") / name
    runs = tuple(Run(folder / f"seed-{s}", s, fold) for s in range(planned) for fold in folds)
    return Result(
        cell=Cell(name, Path("corpus"), config("df-erc"), folder, runs),
        labels=LABELS,
        predictions=found,
        scores={seed: score_table(table, LABELS) for seed, table in found.items()},
        validation=dict.fromkeys(found, 0.5),
        parameters=1_234_567,
        seconds_per_epoch=seconds,
        unfinished=planned - len(seeds),
    )


def cells_of(grid: Grid, row: int) -> dict[str, str]:
    return dict(zip(grid.header, grid.rows[row], strict=True))


def test_differences_are_those_of_the_means() -> None:
    results = [make_result("good", 0.8), make_result("fair", 0.7), make_result("bad", 0.2)]
    comparison = Comparison.of("tiny", results)
    assert comparison.reference == "good"
    assert comparison.contrasts.keys() == {"fair", "bad"}
    raw = []
    for result in results[1:]:
        contrast = comparison.contrasts[result.cell.name]
        gap = result.summary.weighted_f1.mean - results[0].summary.weighted_f1.mean
        assert contrast.difference.value == pytest.approx(gap)
        confusions = [
            np.stack([dialogue_confusions(t, LABELS)[1] for t in r.predictions.values()])
            for r in (result, results[0])
        ]
        assert contrast.difference == paired_bootstrap(*confusions)
        scores = [[s.weighted_f1 for s in r.scores.values()] for r in (result, results[0])]
        assert contrast.p_seeds_raw == paired_test(*scores)
        raw.append((contrast.difference.p, contrast.p_seeds_raw))
    for position, name in enumerate(("p_bootstrap", "p_seeds")):
        found = [getattr(contrast, name) for contrast in comparison.contrasts.values()]
        assert found == holm([p[position] for p in raw])


def test_the_reference_is_the_best_unless_another_is_asked_for() -> None:
    results = [make_result("bad", 0.3), make_result("good", 0.8)]
    assert Comparison.of("tiny", results).reference == "good"
    assert Comparison.of("tiny", results, "bad").reference == "bad"
    assert Comparison.of("tiny", results, "not finished").reference == "good"


def test_marks() -> None:
    results = [make_result("good", 0.8), make_result("bad", 0.1)]
    comparison = Comparison.of("tiny", results)
    contrast = comparison.contrasts["bad"]
    assert contrast.mark == "†‡"
    grid = comparison.grid("t")
    assert cells_of(grid, 0)["Δ"] == "ref."
    assert cells_of(grid, 1)["Δ"] == f"{100 * contrast.difference.value:+.2f}†‡"
    assert any("†" in note and "‡" in note for note in grid.notes)

    same = Comparison.of("tiny", [results[0], make_result("twin", 0.8)])
    assert all(c.mark == "" for c in same.contrasts.values())

    single = Comparison.of("tiny", [make_result("good", 0.8, [0], 1), make_result("bad", 0.1, [0], 1)])
    assert single.contrasts["bad"].mark == "†"
    assert single.contrasts["bad"].p_seeds is None
    assert single.records()[1]["difference"]["p_seeds_holm"] is None


def test_a_method_is_equal_to_itself() -> None:
    one = make_result("one", 0.6)
    other = make_result("one", 0.6)
    comparison = Comparison.of("tiny", [one, Result(**{**vars(other), "cell": make_result("x", 0.6).cell})])
    (contrast,) = comparison.contrasts.values()
    assert contrast.difference == (0, 0, 0, 1)
    assert contrast.p_seeds == 1


def test_a_single_row_has_nothing_to_be_compared_with() -> None:
    comparison = Comparison.of("tiny", [make_result("one", 0.6)])
    assert comparison.contrasts == {}
    assert comparison.grid("t").notes == ()
    assert cells_of(comparison.grid("t"), 0)["Δ"] == "ref."
    assert "difference" not in comparison.records()[0]


def test_seeds_that_are_missing() -> None:
    results = [
        make_result("whole", 0.9),
        make_result("two", 0.5, [0, 2]),
        make_result("one", 0.4, [1]),
    ]
    comparison = Comparison.of("tiny", results)
    shared = [results[1].scores[s].weighted_f1 - results[0].scores[s].weighted_f1 for s in (0, 2)]
    assert comparison.contrasts["two"].difference.value == pytest.approx(np.mean(shared))
    assert comparison.contrasts["one"].p_seeds is None
    grid = comparison.grid("t")
    assert [row[0] for row in grid.rows] == ["whole", "two (2 seeds)", "one (1 seeds)"]
    assert protocol(results) == "test split, %, mean ± sd over 3 seeds"

    apart = Comparison.of("tiny", results[1:])
    assert apart.reference == "two"
    assert apart.contrasts == {}
    assert [row[2] for row in apart.grid("t").rows] == ["ref.", "–"]
    assert "difference" not in apart.records()[1]


def test_the_table_shows_the_scores() -> None:
    result = make_result("one", 0.6, folds=(0, 1))
    comparison = Comparison.of("tiny", [result, make_result("unmeasured", 0.1, seconds=None)])
    grid = comparison.grid("A title", ["A note."], {"further": ["x", "y"]})
    shown, summary = cells_of(grid, 0), result.summary
    assert shown["wF1"] == str(summary.weighted_f1)
    assert shown["macro F1"] == str(summary.macro_f1)
    assert shown["acc."] == str(summary.accuracy)
    assert (shown["10⁶ weights"], shown["s/epoch"]) == ("1.23", "1.2")
    assert [cells_of(grid, k)["further"] for k in (0, 1)] == ["x", "y"]
    assert cells_of(grid, 1)["s/epoch"] == "–"
    assert grid.notes[-1] == "A note."
    assert protocol([result]) == "test folds pooled, %, mean ± sd over 3 seeds"
    classes = comparison.class_grid()
    assert list(classes.header) == ["", *LABELS]
    assert classes.rows[0] == ["one", *(str(summary.per_class_f1[label]) for label in LABELS)]


def test_the_files_agree(tmp_path: Path) -> None:
    results = [make_result("good", 0.8), make_result("bad_one", 0.1)]
    comparison = Comparison.of("tiny", results)
    grids = [comparison.grid("Scores, %"), comparison.class_grid()]
    files = write_report(tmp_path / "new" / "report", grids, comparison.records(), {"corpus": "tiny"})
    assert [f.name for f in files] == ["report.md", "report.tex", "report.csv", "report.json"]
    markdown, latex, _, _ = (f.read_text(encoding="utf-8") for f in files)
    content = json.loads(files[3].read_text(encoding="utf-8"))
    table = pd.read_csv(files[2])
    assert content["corpus"] == "tiny"
    assert markdown == "\n\n".join(grid.markdown() for grid in grids) + "\n"
    assert latex.count(r"\begin{tabular}") == 2
    for row, (result, record) in enumerate(zip(results, content["rows"], strict=True)):
        summary = result.summary
        assert record["name"] == table.loc[row, "name"] == result.cell.name
        assert record["test"] == json.loads(json.dumps(summary.to_dict()))
        assert table.loc[row, "test.weighted_f1.mean"] == pytest.approx(summary.weighted_f1.mean)
        assert table.loc[row, "test.per_class_f1.joy.sd"] == pytest.approx(summary.per_class_f1["joy"].sd)
        mean, sd = (f"{100 * x:.2f}" for x in record["test"]["weighted_f1"].values())
        assert f"| {mean} ± {sd} |" in markdown
        assert rf"{mean} $\pm$ {sd}" in latex
        seeds = record["test_weighted_f1_by_seed"]
        assert seeds == {str(s): x.weighted_f1 for s, x in result.scores.items()}
        assert record["seeds"] == [0, 1, 2]
    difference = content["rows"][1]["difference"]
    assert difference["value"] == pytest.approx(table.loc[1, "difference.value"])
    assert np.isnan(table.loc[0, "difference.value"])
    assert content["rows"][1]["against"] == "good"
    assert difference.keys() == {"value", "low", "high", "p", "p_holm", "p_seeds", "p_seeds_holm"}
    assert r"bad\_one" in latex
