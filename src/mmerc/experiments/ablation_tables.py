"""The tables of the ablations, from what their cells left."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate
from mmerc.experiments.ablation import Table, subsets
from mmerc.experiments.benchmark import inputs
from mmerc.experiments.cells import Cell, Result, result_of
from mmerc.experiments.comparison import METHOD, Comparison, protocol
from mmerc.metrics import Scores, summarise
from mmerc.models import choose_modalities
from mmerc.tables import Grid

Content = tuple[list[Grid], list[dict[str, Any]], dict[str, Any]]  # tables, records behind them, facts

TITLES = {
    "components": "parts of DF-ERC (Table 2 of its paper)",
    "modalities": "modalities (Table 3 of the DF-ERC paper)",
    "missing": "modalities hidden at test",
    "causal": "without later utterances",
}
NOTHING = "nothing"


def show(table: Table, corpus: Corpus, device: str = "auto") -> Content:
    """Return a table of what is finished: its grids, the records behind them, and facts about all of them.

    The grids are empty if no row has a complete seed.
    """
    groups = [(group, list(filter(None, map(result_of, group)))) for group in table.groups]
    groups = [(group, results) for group, results in groups if results]
    facts: dict[str, Any] = {"corpus": corpus.name, "table": table.name}
    if table.name == "missing":
        made = [_hidden(results, corpus, device) for _, results in groups]
        facts["method"] = (
            "The same frozen checkpoints in all rows; what is hidden is hidden in every utterance."
        )
        return [grid for grid, _ in made], [record for _, records in made for record in records], facts
    facts["method"] = METHOD
    if len(groups) > 1:
        facts["method"] += " Every model is compared with itself; no correction between models."
    made = [_against_first(table, group, results, corpus) for group, results in groups]
    return _stacked([grid for grid, _ in made]), [r for _, records in made for r in records], facts


@cache
def published_ablations() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the published numbers (%): corpus → table → row → accuracy and weighted F1."""
    folder = resources.files("mmerc.experiments")
    content: dict[str, dict[str, dict[str, dict[str, float]]]] = yaml.safe_load(
        folder.joinpath("published_ablations.yaml").read_text(encoding="utf-8")
    )
    return content


def _against_first(
    table: Table, group: Sequence[Cell], results: Sequence[Result], corpus: Corpus
) -> tuple[Grid, list[dict[str, Any]]]:
    """Compare the results of a group with that of its first cell."""
    comparison = Comparison.of(corpus.name, results, group[0].name)
    notes, columns = [], {}
    if comparison.reference != group[0].name:
        notes.append(f"{group[0].name} is not finished: the reference is the best of the others.")
    printed = published_ablations().get(corpus.name, {}).get(table.name, {})
    found = [printed.get(result.cell.name) for result in results]
    if any(found):
        columns["published wF1/acc."] = [
            "–" if x is None else f"{x['weighted_f1']:.2f}/{x['accuracy']:.2f}" for x in found
        ]
        notes.append(
            "Published: text, audio and video, RoBERTa-large trained along, mean of 5 seeds. "
            + inputs(results, corpus)
        )
    records = comparison.records()
    for record, entry in zip(records, found, strict=True):
        record["published"] = entry
    title = f"{corpus.name}, {TITLES[table.name]}: {protocol(results)}"
    return comparison.grid(title, notes, columns, speed=False), records


def _stacked(grids: Sequence[Grid]) -> list[Grid]:
    """Return the rows of all grids, which have the same columns, as one grid."""
    if not grids:
        return []
    notes = dict.fromkeys(note for grid in grids for note in grid.notes)
    return [replace(grids[0], rows=[row for grid in grids for row in grid.rows], notes=list(notes))]


def _hidden(results: Sequence[Result], corpus: Corpus, device: str) -> tuple[Grid, list[dict[str, Any]]]:
    """Score a model's trainings with each smaller set of modalities hidden at test."""
    rows, records = [], []
    names = choose_modalities(results[0].cell.config, list(corpus.modalities))
    for hide in [(), *subsets(names)]:
        row = ["+".join(hide) or NOTHING]
        found = [hidden_scores(result, corpus, hide, device) for result in results]
        for result, scores in zip(results, found, strict=True):
            summary = summarise(list(scores.values()))
            row += [str(summary.weighted_f1), str(summary.macro_f1)]
            records.append(
                {
                    "corpus": corpus.name,
                    "model": result.cell.config.model,
                    "modality_dropout": result.cell.config.training.modality_dropout,
                    "hidden": list(hide),
                    "seeds": sorted(scores),
                    "test": summary.to_dict(),
                }
            )
        rows.append([*row, _gain(*found)] if len(found) == 2 else row)
    rates = [f"{result.cell.config.training.modality_dropout:g}" for result in results]
    header = ["hidden", *(f"{score} ({rate})" for rate in rates for score in ("wF1", "macro F1"))]
    model = results[0].cell.name.partition(",")[0]
    return Grid(
        title=f"{corpus.name}, {model}, {TITLES['missing']}: {protocol(results)}",
        header=[*header, "Δ wF1"] if len(results) == 2 else header,
        rows=rows,
        notes=[
            f"({', '.join(rates)}): chance that training hid a modality of an utterance. Δ: what that gains."
        ],
    ), records


def hidden_scores(result: Result, corpus: Corpus, hide: Sequence[str], device: str) -> dict[int, Scores]:
    """Return the test scores of each finished seed with modalities taken away from every utterance."""
    if not hide:
        return result.scores
    found = {}
    for run in result.cell.runs:
        if run.seed in result.scores and run.seed not in found:
            folder = run.folder if run.fold is None else run.folder.parent
            (evaluation,) = evaluate(folder, corpus, device=device, hide=hide)
            found[run.seed] = evaluation.scores
    return found


def _gain(without: Mapping[int, Scores], with_dropout: Mapping[int, Scores]) -> str:
    shared = without.keys() & with_dropout.keys()
    gains = [with_dropout[seed].weighted_f1 - without[seed].weighted_f1 for seed in shared]
    return f"{100 * np.mean(gains):+.2f}" if gains else "–"
