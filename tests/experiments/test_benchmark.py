import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError, CorpusError
from mmerc.experiments.benchmark import (
    open_corpora,
    plan_benchmark,
    read_settings,
    settings_for,
    tables,
    uses_folds,
)
from mmerc.experiments.cells import Cell, Result
from mmerc.experiments.comparison import Comparison
from mmerc.experiments.runs import Run
from mmerc.metrics import ClassScores, Scores
from mmerc.models import resolve
from tiny import LABELS, write
from tiny import tables as tiny_tables


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpus") / "m", name="meld")


def settings_file(folder: Path, content: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def configs(
    corpora: list[Corpus], names: list[str], *layers: dict[str, Any], **settings: Any
) -> list[RunConfig]:
    cells = plan_benchmark(names, corpora, Path("out"), [0], False, settings, *layers)
    return [cell.config for cell in cells]


# Plan


def test_a_cell_per_corpus_and_model(corpus: Corpus, meld: Corpus, tmp_path: Path) -> None:
    cells = plan_benchmark(["df-erc", "text-only"], [corpus, meld], tmp_path, range(2), True, {})
    assert [(c.folder.parent.name, c.name) for c in cells] == [
        (name, model) for name in ("tiny", "meld") for model in ("df-erc", "text-only")
    ]
    assert cells[0].config == resolve("df-erc")
    assert [r.folder for r in cells[0].runs] == [
        tmp_path / "tiny" / "df-erc" / f"seed-{s}" / f"fold-{f}" for s in (0, 1) for f in (0, 1, 2)
    ]
    on_splits = plan_benchmark(["df-erc"], [corpus], tmp_path, [0], False, {})
    assert on_splits[0].runs == (Run(tmp_path / "tiny" / "df-erc" / "seed-0", 0),)


def test_folds_are_used_where_there_is_nothing_else(corpus: Corpus, tmp_path: Path) -> None:
    frame, features = tiny_tables()
    assert [uses_folds(corpus, wanted) for wanted in (False, True)] == [False, True]
    no_splits = write(tmp_path / "a", frame.assign(split=None), features)
    assert [uses_folds(no_splits, wanted) for wanted in (False, True)] == [True, True]
    no_folds = write(tmp_path / "b", frame.assign(fold=None), features)
    assert [uses_folds(no_folds, wanted) for wanted in (False, True)] == [False, False]


def test_presets_have_rows_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    names = ["df-erc", "df-erc:paper-meld"]
    first, second = plan_benchmark(names, [corpus], tmp_path, [0], False, {}, {"preset": "paper-iemocap"})
    assert (first.name, second.name) == ("df-erc", "df-erc-paper-meld")
    assert (first.config.preset, second.config.preset) == ("paper-iemocap", "paper-meld")
    assert second.folder == tmp_path / "tiny" / "df-erc-paper-meld"
    with pytest.raises(
        ConfigError, match=r"df-erc:papre on tiny: df-erc has no preset 'papre'; .*paper-meld"
    ):
        plan_benchmark(["df-erc:papre"], [corpus], tmp_path, [0], False, {})
    with pytest.raises(ConfigError, match="has no preset ''"):
        plan_benchmark(["df-erc:"], [corpus], tmp_path, [0], False, {})


def test_what_cannot_be_planned(corpus: Corpus, tmp_path: Path) -> None:
    for names, said in (
        (["df-ecr"], "df-ecr on tiny: there is no model 'df-ecr'; did you mean 'df-erc'?"),
        (["df-erc", "text-only", "df-erc"], "df-erc is named twice"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            plan_benchmark(names, [corpus], tmp_path, [0], False, {})
    frame, features = tiny_tables()
    deaf = write(tmp_path / "deaf", frame, {"audio": features["audio"]})
    with pytest.raises(ConfigError, match="text-only on tiny: the corpus has no modality 'text'"):
        plan_benchmark(["text-only"], [deaf], tmp_path, [0], False, {})


def test_a_watched_run_is_the_same_run(corpus: Corpus, tmp_path: Path) -> None:
    (cell,) = plan_benchmark(["df-erc"], [corpus], tmp_path, range(2), True, {})
    (watched,) = plan_benchmark(["df-erc"], [corpus], tmp_path, range(2), True, {}, watched=True)
    assert watched == replace(cell, test="watched")


# Settings


def test_the_more_special_setting_wins(corpus: Corpus, meld: Corpus) -> None:
    def epochs(number: int) -> dict[str, Any]:
        return {"training": {"epochs": number}}

    layers: dict[str, dict[str, Any]] = {"*": {"*": {"training": {"epochs": 1, "patience": 7}}}}
    found = configs([corpus, meld], ["df-erc", "text-only"], **layers)
    assert {(c.training.epochs, c.training.patience) for c in found} == {(1, 7)}
    layers["*"]["df-erc"] = epochs(2)
    assert [c.training.epochs for c in configs([corpus, meld], ["df-erc", "text-only"], **layers)] == [
        2,
        1,
        2,
        1,
    ]
    layers["meld"] = {"*": epochs(3)}
    assert [c.training.epochs for c in configs([corpus, meld], ["df-erc", "text-only"], **layers)] == [
        2,
        1,
        3,
        3,
    ]
    layers["meld"]["df-erc"] = epochs(4)
    found = configs([corpus, meld], ["df-erc", "text-only"], **layers)
    assert [c.training.epochs for c in found] == [2, 1, 4, 3]
    found = configs([corpus, meld], ["df-erc", "text-only"], epochs(5), **layers)
    assert {(c.training.epochs, c.training.patience) for c in found} == {(5, 7)}
    assert settings_for(layers, "meld", "df-erc") == {"training": {"epochs": 4, "patience": 7}}
    assert settings_for({}, "meld", "df-erc") == {}


def test_a_preset_by_name_wins_over_one_in_the_settings(corpus: Corpus) -> None:
    settings = {"*": {"df-erc": {"preset": "paper-iemocap"}}}
    assert [c.preset for c in configs([corpus], ["df-erc", "df-erc:paper-meld"], **settings)] == [
        "paper-iemocap",
        "paper-meld",
    ]


def test_settings_are_read(tmp_path: Path) -> None:
    content = {"*": {"*": {"training": {"epochs": 3}}}, "meld": {"df-erc": {"preset": "paper-meld"}}}
    assert read_settings(settings_file(tmp_path, content)) == content
    assert read_settings(settings_file(tmp_path, "")) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"meld": {"df-ecr": {}}}, "settings.yaml: meld: there is no model 'df-ecr'; did you mean 'df-erc'?"),
        ({"meld": {"df-erc": 3}}, "settings.yaml: meld: expected `model: {key: value}` pairs"),
        ({"meld": None}, "settings.yaml: meld: expected `model: {key: value}` pairs"),
        ({"training": {"epochs": 3}}, "settings.yaml: training: expected"),
        ("- a", "must hold `key: value` pairs"),
        ("a: b: c", "is not a readable YAML file"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_settings(settings_file(tmp_path, content))


def test_mistakes_in_settings_say_where(corpus: Corpus) -> None:
    for given, said in (
        ({"training": {"epoch": 3}}, "df-erc on tiny: training: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"preset": "papre"}, "df-erc on tiny: df-erc has no preset 'papre'"),
        ({"training": {"epochs": 0}}, "df-erc on tiny: training.epochs must be above 0"),
        ({"modalities": ["visual"]}, "df-erc on tiny: the corpus has no modality 'visual'"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            configs([corpus], ["df-erc"], tiny={"df-erc": given})


# Corpora


def test_corpora_are_told_apart_by_name(corpus: Corpus, meld: Corpus, tmp_path: Path) -> None:
    assert [c.name for c in open_corpora([corpus.path, meld.path])] == ["tiny", "meld"]
    with pytest.raises(
        ConfigError, match="two corpora are called 'tiny'; import one of them with another --name"
    ):
        open_corpora([corpus.path, meld.path, write(tmp_path / "other").path])
    with pytest.raises(CorpusError, match="is not a corpus folder"):
        open_corpora([tmp_path / "gone"])


@pytest.mark.parametrize("name", ["a/b", "..", ".", ""])
def test_names_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot have a folder; import it with another --name"):
        open_corpora([write(tmp_path / "c", name=name).path])


# Tables


def make_result(model: str, weighted_f1: float, fold: int | None = None) -> Result:
    """Scores that were not measured, of a single seed: what a table says about them is the point."""
    scores = Scores(
        0.5, weighted_f1, 0.4, 0.1, 9, {c: ClassScores(0.5, 0.5, 0.5, 3) for c in LABELS}, [[1] * 3] * 3
    )
    cell = Cell(model, Path("c"), resolve(model), Path("out") / model, (Run(Path("out"), 0, fold),))
    return Result(cell, LABELS, {}, {0: scores}, {0: 0.6}, 1000, 1.0, 0)


def compared(name: str, *results: Result) -> Comparison:
    return Comparison(name, results, results[0].cell.name, {})


def test_published_numbers_stand_beside_those_of_meld_only(corpus: Corpus, meld: Corpus) -> None:
    results = [make_result(model, 0.6) for model in ("df-erc", "mmgcn", "late-fusion")]
    (grid, classes), records = tables(compared("meld", *results), meld)
    column = list(grid.header).index("published wF1 / acc.")
    assert [row[column] for row in grid.rows] == ["67.03 / 68.28", "58.31 / 60.42*", "–"]
    note = grid.notes[-1]
    assert "Here: audio, text; text vectors frozen." in note
    assert "best on test" in note
    assert [r["published"] and r["published"]["accuracy"] for r in records] == [68.28, 60.42, None]
    assert list(classes.header) == ["", *LABELS]

    (grid, _), records = tables(compared("tiny", *results), corpus)
    assert not any("published" in name for name in grid.header)
    assert not any("Published" in note for note in grid.notes)
    assert [r["published"] for r in records] == [None] * 3
    (grid, _), _ = tables(compared("meld", results[2]), meld)
    assert not any("published" in name for name in grid.header)


def test_the_title_says_what_was_scored(corpus: Corpus) -> None:
    title = tables(compared("tiny", make_result("df-erc", 0.5)), corpus)[0][0].title
    assert title == "tiny, test split, %, mean ± sd over 1 seed"
    title = tables(compared("tiny", make_result("df-erc", 0.5, fold=0)), corpus)[0][0].title
    assert title.startswith("tiny, test folds pooled")


def test_the_oracle_epoch_is_said_to_be_no_result(corpus: Corpus) -> None:
    honest, seen, other = (
        make_result(model, f1) for model, f1 in (("df-erc", 0.5), ("df-erc", 0.55), ("tfn", 0.4))
    )
    watched = replace(honest, oracle=seen.scores)
    (grid, _), records = tables(compared("tiny", watched, other), corpus)
    column = list(grid.header).index("oracle epoch")
    assert [row[column] for row in grid.rows] == ["55.00 (+5.00)", "–"]
    assert any("not a result" in note for note in grid.notes)
    assert records[0]["oracle_weighted_f1"] == {"mean": 0.55, "sd": None}
    assert records[0]["oracle_weighted_f1_by_seed"] == {"0": 0.55}
    assert "oracle_weighted_f1" not in records[1]
    (grid, _), _ = tables(compared("tiny", honest, other), corpus)
    assert "oracle epoch" not in grid.header
