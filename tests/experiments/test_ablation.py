from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mmerc.corpus import Corpus, Features
from mmerc.errors import ConfigError
from mmerc.evaluation import evaluate
from mmerc.experiments.ablation import COMPONENTS, TABLES, Plan, Table, Variants, plan_ablations
from mmerc.experiments.ablation_tables import hidden_scores, published_ablations, show
from mmerc.experiments.cells import pending, result_of, run_jobs
from mmerc.experiments.published import published_scores
from mmerc.metrics import summarise
from mmerc.models import resolve
from tiny import SMALL, in_this_process, tables, write

pytestmark = pytest.mark.slow

TRAINING = {"epochs": 1, "batch_size": 4, "warmup_steps": 1}
LAYER = {"network": SMALL["df-erc"], "training": TRAINING}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write(tmp_path_factory.mktemp("corpus") / "tiny", name="meld")  # has published numbers


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    frame, features = tables()
    visual = Features(np.ones((len(frame), 3), dtype=np.float32), np.ones(len(frame), dtype=bool), {})
    return write(tmp_path_factory.mktemp("corpus") / "three", frame, features | {"visual": visual})


def variants(corpus: Corpus, out: Path, *layers: Mapping[str, Any], seeds: int = 1) -> Variants:
    return Variants(corpus, out, range(seeds), False, {}, *(layers or [LAYER]))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """All tables but the components, two seeds."""
    out = tmp_path_factory.mktemp("runs")
    plan = plan_ablations(["modalities", "missing", "causal"], variants(corpus, out, seeds=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
        assert [o.error for o in run_jobs(pending(plan.cells), 1)] == [None] * 10
    return plan


def folders(plan: Plan, corpus: Corpus, out: Path) -> list[str]:
    return [str(cell.folder.relative_to(out / corpus.name)) for cell in plan.cells]


# What is trained


def test_the_rows_of_table_2_differ_in_what_they_are_called_after(corpus: Corpus, tmp_path: Path) -> None:
    (table,) = plan_ablations(["components"], variants(corpus, tmp_path)).tables
    (rows,) = table.groups
    assert [cell.name for cell in rows] == [cell.folder.name for cell in rows] == list(COMPONENTS)
    for cell in rows:
        changed = {k: v for k, v in cell.config.network.items() if v != rows[0].config.network[k]}
        assert changed == COMPONENTS[cell.name]
        assert cell.config.training == rows[0].config.training
    assert {"full", "without-utterance", "without-modality", "full-context", "zero-context"} <= set(
        COMPONENTS
    )


def test_what_stands_in_several_tables_is_trained_once(corpus: Corpus, tmp_path: Path) -> None:
    for order in (TABLES, TABLES[::-1]):
        plan = plan_ablations(order, variants(corpus, tmp_path))
        found = folders(plan, corpus, tmp_path)
        more = ["audio", "text", "df-erc-modality-dropout-0.3", "df-erc-causal"]
        assert sorted(found) == sorted([*COMPONENTS, *more])
        firsts = {table.name: [group[0] for group in table.groups] for table in plan.tables}
        names = {name: cells[0].name for name, cells in firsts.items()}
        assert {cells[0].folder.name for cells in firsts.values()} == {"full"}
        assert names == {
            "components": "full",
            "modalities": "audio+text",
            "missing": "df-erc, dropout 0",
            "causal": "df-erc",
        }


def test_every_set_of_modalities_is_a_row(three: Corpus, tmp_path: Path) -> None:
    ((rows,),) = [t.groups for t in plan_ablations(["modalities"], variants(three, tmp_path)).tables]
    assert [cell.name for cell in rows] == [
        "audio+text+visual", "audio", "text", "visual", "audio+text", "audio+visual", "text+visual",
    ]  # fmt: skip
    assert [cell.config.modalities for cell in rows[1:]] == [tuple(c.name.split("+")) for c in rows[1:]]


def test_a_text_encoder_is_left_out_where_no_text_is_read(corpus: Corpus, tmp_path: Path) -> None:
    plan = plan_ablations(["modalities"], variants(corpus, tmp_path, LAYER, {"text_encoder": "minilm"}))
    encoders = {cell.name: cell.config.text_encoder is not None for cell in plan.tables[0].groups[0]}
    assert encoders == {"audio+text": True, "audio": False, "text": True}


def test_the_users_own_settings_are_not_taken_for_the_plain_model(corpus: Corpus, tmp_path: Path) -> None:
    own = {"training": {"modality_dropout": 0.1}, "network": {"causal": True}}
    plan = plan_ablations(["missing", "causal"], variants(corpus, tmp_path, LAYER, own), dropout=0.1)
    missing, causal = (table.groups[0] for table in plan.tables)
    assert [cell.config.training.modality_dropout for cell in missing] == [0.0, 0.1]
    assert [cell.config.network["causal"] for cell in causal] == [False, True]
    names = ["df-erc-modality-dropout-0", "full", "df-erc-looking-ahead"]
    assert folders(plan, corpus, tmp_path) == names


def test_settings_by_corpus_and_model_then_layers_then_the_preset_in_the_name(
    corpus: Corpus, tmp_path: Path
) -> None:
    settings = {"meld": {"df-erc": {"training": {"epochs": 7, "patience": 3}}}, "x": {"*": {"preset": "no"}}}
    made = Variants(
        corpus, tmp_path, [0], False, settings, {"preset": "paper-meld"}, {"training": {"epochs": 5}}
    )
    expected = {"preset": "paper-meld", "training": {"epochs": 5, "patience": 3}}
    assert made.base("df-erc").config == resolve("df-erc", expected)
    named = made.base("df-erc:paper-iemocap")
    assert (named.name, named.folder.name) == ("df-erc-paper-iemocap", "df-erc-paper-iemocap")
    assert named.config == resolve("df-erc", expected, {"preset": "paper-iemocap"})


def test_models_side_by_side(corpus: Corpus, tmp_path: Path) -> None:
    models = ["df-erc", "late-fusion", "mfn", "text-only"]
    plan = plan_ablations(["missing", "causal"], variants(corpus, tmp_path, {"training": TRAINING}), models)
    missing, causal = ([cell.name for g in t.groups for cell in g] for t in plan.tables)
    assert missing[2:] == [
        "late-fusion, dropout 0",
        "late-fusion, dropout 0.3",
        "mfn, dropout 0",
        "mfn, dropout 0.3",
    ]
    assert causal[2:] == ["late-fusion", "late-fusion-causal", "text-only", "text-only-causal"]
    assert plan.notes == ("missing: text-only reads text only", "causal: mfn never looks ahead")


def test_a_single_modality(tmp_path: Path) -> None:
    frame, features = tables()
    corpus = write(tmp_path / "c", frame, {"text": features["text"]})
    plan = plan_ablations(TABLES, variants(corpus, tmp_path))
    assert [table.name for table in plan.tables] == ["components", "causal"]
    assert plan.notes == ("modalities: tiny has text only", "missing: df-erc reads text only")
    with pytest.raises(ConfigError, match="tiny: there is nothing to do: modalities: tiny has text only"):
        plan_ablations(["modalities"], variants(corpus, tmp_path))


def test_refused_before_any_work(corpus: Corpus, tmp_path: Path) -> None:
    made = variants(corpus, tmp_path)
    with pytest.raises(ConfigError, match="no table 'component'; tables are: components, "):
        plan_ablations(["component"], made)
    with pytest.raises(ConfigError, match=r"df-er on meld: there is no model 'df-er'; did you mean"):
        plan_ablations(["missing"], made, ["df-er"])
    frame, features = tables()
    ahead = features["text"]._replace(recipe={"kind": "text-encoder", "encoder": "minilm", "scope": "both"})
    other = write(tmp_path / "c", frame, features | {"text": ahead})
    with pytest.raises(ConfigError, match=r"df-erc-causal on tiny: network\.causal: .* --scope utterance"):
        plan_ablations(["components", "causal"], variants(other, tmp_path))


# What is shown


def test_published_numbers_belong_to_rows() -> None:
    for name, found in published_ablations().items():
        assert list(found["components"]) == list(COMPONENTS)
        names = {"+".join(sorted(row.split("+"))) for row in found["modalities"]}
        assert names == set(found["modalities"])
        assert len(names) == 7
        own = published_scores()[name]["df-erc"]
        for row in (found["components"]["full"], found["modalities"]["audio+text+visual"]):
            assert row == {k: own[k] for k in ("accuracy", "weighted_f1")}


def test_rows_are_scored_and_compared_with_the_first(corpus: Corpus, trained: Plan) -> None:
    for table in (trained.tables[0], trained.tables[2]):
        (grid,), records, facts = show(table, corpus, "cpu")
        cells = table.groups[0]
        scores = [[e.scores for e in evaluate(cell.folder, corpus)] for cell in cells]
        assert [row[0] for row in grid.rows] == [r["name"] for r in records] == [c.name for c in cells]
        for row, record, found in zip(grid.rows, records, scores, strict=True):
            assert record["test"] == summarise(found).to_dict()
            assert row[1] == str(summarise(found).weighted_f1)
        for record, found in zip(records[1:], scores[1:], strict=True):
            gap = np.mean([a.weighted_f1 - b.weighted_f1 for a, b in zip(found, scores[0], strict=True)])
            assert record["difference"]["value"] == pytest.approx(gap)
            assert record["against"] == cells[0].name
        assert grid.rows[0][2] == "ref."
        assert (facts["corpus"], facts["table"]) == ("meld", table.name)


def test_published_numbers_stand_beside_the_rows(corpus: Corpus, trained: Plan) -> None:
    (grid,), records, _ = show(trained.tables[0], corpus, "cpu")
    shown = dict(zip((row[0] for row in grid.rows), (row[5] for row in grid.rows), strict=True))
    assert shown == {"audio+text": "64.95/65.10", "audio": "41.72/43.83", "text": "64.54/65.17"}
    assert records[2]["published"] == {"accuracy": 65.17, "weighted_f1": 64.54}
    assert any("Here: audio, text; text vectors frozen." in note for note in grid.notes)
    (causal,), _, _ = show(trained.tables[2], corpus, "cpu")
    assert len(causal.header) == len(grid.header) - 1


def test_what_hiding_does_is_what_evaluate_says(corpus: Corpus, trained: Plan) -> None:
    (grid,), records, _ = show(trained.tables[1], corpus, "cpu")
    assert [row[0] for row in grid.rows] == ["nothing", "audio", "text"]
    pair = trained.tables[1].groups[0]
    table = pd.DataFrame([{**r, "hidden": "+".join(r["hidden"])} for r in records])
    assert table["modality_dropout"].tolist() == [0.0, 0.3] * 3
    for row, hide in zip(grid.rows, [(), ("audio",), ("text",)], strict=True):
        found = [[e.scores for e in evaluate(cell.folder, corpus, hide=hide)] for cell in pair]
        summaries = [summarise(scores) for scores in found]
        expected = [str(x) for s in summaries for x in (s.weighted_f1, s.macro_f1)]
        gain = summaries[1].weighted_f1.mean - summaries[0].weighted_f1.mean
        assert row[1:] == [*expected, f"{100 * gain:+.2f}"]
        tests = table.loc[table["hidden"] == "+".join(hide), "test"].tolist()
        assert tests == [s.to_dict() for s in summaries]
    assert len({row[1] for row in grid.rows}) > 1


def test_hiding_in_a_cross_validation(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmerc.experiments.cells.side_by_side", in_this_process)
    cell = Variants(corpus, tmp_path, [4], True, {}, LAYER).base("df-erc")
    assert [o.error for o in run_jobs(pending([cell]), 1)] == [None] * 3
    result = result_of(cell)
    assert result is not None
    (evaluation,) = evaluate(cell.folder, corpus, hide=["audio"])
    assert hidden_scores(result, corpus, ["audio"], "cpu") == {4: evaluation.scores}
    assert evaluation.scores.utterances == len(corpus)


def test_what_is_not_finished_is_not_shown(corpus: Corpus, trained: Plan, tmp_path: Path) -> None:
    nothing = plan_ablations(TABLES, variants(corpus, tmp_path))
    assert [show(table, corpus, "cpu")[0] for table in nothing.tables] == [[]] * 4
    unfinished = nothing.tables[0].groups[0][0]
    others = trained.tables[0].groups[0][1:]
    (grid,), _, _ = show(Table("modalities", ((unfinished, *others),)), corpus, "cpu")
    assert [row[0] for row in grid.rows] == ["audio", "text"]
    assert any("full is not finished" in note for note in grid.notes)
    missing = trained.tables[1].groups[0]
    (grid,), records, _ = show(Table("missing", ((unfinished, missing[1]),)), corpus, "cpu")
    assert grid.header == ["hidden", "wF1 (0.3)", "macro F1 (0.3)"]
    assert {len(row) for row in grid.rows} == {3}
    assert len(records) == 3


def test_several_models_in_one_table(corpus: Corpus, trained: Plan) -> None:
    ((pair,),) = (trained.tables[2].groups,)
    (grid,), records, facts = show(Table("causal", (pair, pair)), corpus, "cpu")
    assert [row[2] for row in grid.rows[::2]] == ["ref.", "ref."]
    assert len(records) == 4
    assert "no correction between models" in facts["method"]
    assert len(set(grid.notes)) == len(grid.notes)


def test_tables_fit_a_terminal(corpus: Corpus, trained: Plan) -> None:
    console = Console(width=100)
    for table in trained.tables:
        for grid in show(table, corpus, "cpu")[0]:
            wide = [["audio+text+visual", *row[1:]] for row in grid.rows]
            with console.capture() as capture:
                console.print(type(grid)(grid.title, grid.header, wide).terminal())
            lines = [line.split() for line in capture.get().splitlines()]
            assert [" ".join(row).split() for row in wide] == [
                x for x in lines if x[:1] == ["audio+text+visual"]
            ]
            assert grid.latex()
            assert grid.markdown()
