"""Results of several cells on one corpus side by side, each tested against a reference."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmerc.experiments.cells import Result
from mmerc.experiments.significance import RESAMPLES, Difference, dialogue_confusions, holm, paired_bootstrap
from mmerc.metrics import paired_test
from mmerc.storage import atomic_path, write_text
from mmerc.tables import Grid

LEVEL = 0.05
METHOD = (
    "Differences of weighted F1 from the reference, on the seeds that both have: paired bootstrap over "
    f"dialogues ({RESAMPLES} resamples, the same for all seeds, 95 % interval of percentiles, two-sided p), "
    "and a two-sided paired t-test over seeds; both Holm-corrected over the rows of the table."
)
MARKS = (
    "Δ: from the row marked ref., on the seeds that both have; † the bootstrap over dialogues, ‡ the t-test "
    "over seeds sees a difference, p < 0.05 (Holm)."
)


@dataclass(frozen=True)
class Contrast:
    """How a result differs from the reference; corrected p-values are Holm's."""

    difference: Difference
    p_bootstrap: float  # corrected
    p_seeds_raw: float | None  # None with a single seed
    p_seeds: float | None  # corrected

    @property
    def mark(self) -> str:
        """† and ‡ where a test sees a difference."""
        seeds = self.p_seeds is not None and self.p_seeds < LEVEL
        return ("†" if self.p_bootstrap < LEVEL else "") + ("‡" if seeds else "")


@dataclass(frozen=True)
class Comparison:
    """Results on one corpus in the order of their rows, with their contrasts to the reference."""

    corpus: str
    results: tuple[Result, ...]
    reference: str
    contrasts: Mapping[str, Contrast]  # without the reference, and rows that share no seed with it

    @classmethod
    def of(cls, corpus: str, results: Sequence[Result], reference: str | None = None) -> "Comparison":
        """Compare results with the one called `reference`; by default the best weighted F1 on test."""
        best = max(results, key=lambda r: r.summary.weighted_f1.mean).cell.name
        names = [result.cell.name for result in results]
        chosen = reference if reference in names else best
        return cls(corpus, tuple(results), chosen, _contrasts(results, names.index(chosen)))

    def grid(
        self,
        title: str,
        notes: Sequence[str] = (),
        columns: Mapping[str, Sequence[str]] | None = None,
        speed: bool = True,
    ) -> Grid:
        """Return the table of scores; `columns` are further ones, with a cell per result."""
        more = columns or {}
        header = ["", "wF1", "Δ", "macro F1", "acc.", *more, "10⁶ weights", *(["s/epoch"] if speed else [])]
        rows = []
        for k, result in enumerate(self.results):
            summary, contrast = result.summary, self.contrasts.get(result.cell.name)
            delta = "ref." if result.cell.name == self.reference else "–"  # –: no seed in common
            if contrast is not None:
                delta = f"{100 * contrast.difference.value:+.2f}{contrast.mark}"
            name = result.cell.name + (f" ({summary.runs} seeds)" if result.unfinished else "")
            scores = [str(summary.weighted_f1), delta, str(summary.macro_f1), str(summary.accuracy)]
            cost = [f"{result.parameters / 1e6:.2f}"]
            if speed:
                seconds = result.seconds_per_epoch
                cost.append("–" if seconds is None else f"{seconds:.1f}")
            rows.append([name, *scores, *(cells[k] for cells in more.values()), *cost])
        return Grid(title, header, rows, notes=[MARKS, *notes] if self.contrasts else notes)

    def class_grid(self) -> Grid:
        """Return the F1 of every class."""
        labels = self.results[0].labels
        rows = [[r.cell.name, *(str(r.summary.per_class_f1[c]) for c in labels)] for r in self.results]
        return Grid(f"F1 by class on {self.corpus} (%)", ["", *labels], rows)

    def records(self) -> list[dict[str, Any]]:
        """Return everything that is known about each row, ready for JSON."""
        return [self._record(result) for result in self.results]

    def _record(self, result: Result) -> dict[str, Any]:
        contrast = self.contrasts.get(result.cell.name)
        config = result.cell.config
        record: dict[str, Any] = {
            "corpus": self.corpus,
            "name": result.cell.name,
            "model": config.model,
            "preset": config.preset,
            "seeds": sorted(result.scores),
            "unfinished_seeds": result.unfinished,
            "parameters": result.parameters,
            "seconds_per_epoch": result.seconds_per_epoch,
            "test": result.summary.to_dict(),
            "test_weighted_f1_by_seed": {str(s): x.weighted_f1 for s, x in result.scores.items()},
            "validation_weighted_f1_by_seed": {str(s): x for s, x in result.validation.items()},
        }
        if contrast is not None:
            record["against"] = self.reference
            record["difference"] = contrast.difference._asdict() | {
                "p_holm": contrast.p_bootstrap,
                "p_seeds": contrast.p_seeds_raw,
                "p_seeds_holm": contrast.p_seeds,
            }
        return record


def _contrasts(results: Sequence[Result], reference: int) -> dict[str, Contrast]:
    base = results[reference]
    others = [r for r in results if r is not base and r.scores.keys() & base.scores.keys()]
    differences: list[Difference] = []
    p_seeds: list[float | None] = []
    for other in others:
        shared = sorted(other.scores.keys() & base.scores.keys())
        ours, theirs = (
            np.stack([dialogue_confusions(r.predictions[s], r.labels)[1] for s in shared])
            for r in (other, base)
        )
        differences.append(paired_bootstrap(ours, theirs))
        scores = [[r.scores[s].weighted_f1 for s in shared] for r in (other, base)]
        p_seeds.append(paired_test(*scores) if len(shared) > 1 else None)
    corrected = iter(holm([p for p in p_seeds if p is not None]))
    p_seeds_holm = [None if p is None else next(corrected) for p in p_seeds]
    return {
        other.cell.name: Contrast(difference, p, raw, p_holm)
        for other, difference, p, raw, p_holm in zip(
            others, differences, holm([d.p for d in differences]), p_seeds, p_seeds_holm, strict=True
        )
    }


def protocol(results: Sequence[Result]) -> str:
    """Say what the numbers of a table are of: test split or folds, over how many seeds."""
    seeds = max(len(result.scores) for result in results)
    folds = results[0].cell.runs[0].fold is not None
    where = "test folds pooled" if folds else "test split"
    return f"{where}, %, mean ± sd over {seeds} seed{'s' if seeds > 1 else ''}"


def write_report(
    out: Path, grids: Sequence[Grid], records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> list[Path]:
    """Write tables beside each other as Markdown, LaTeX, CSV and JSON; return the files.

    Args:
        out: path without ending
        grids: the tables to be read
        records: the numbers behind them, one mapping per row; nested mappings become columns of the CSV
        facts: what the JSON says about all of them
    """
    files = [out.with_suffix(ending) for ending in (".md", ".tex", ".csv", ".json")]
    write_text(files[0], "\n\n".join(grid.markdown() for grid in grids) + "\n")
    write_text(files[1], "\n".join(grid.latex() for grid in grids))
    with atomic_path(files[2]) as temporary:
        pd.json_normalize(list(map(dict, records))).to_csv(temporary, index=False, lineterminator="\n")
    write_text(files[3], json.dumps({**facts, "rows": list(records)}, indent=2, ensure_ascii=False) + "\n")
    return files
