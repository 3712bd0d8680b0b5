"""All analyses of a run: computed, drawn, and written as Markdown and JSON."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmerc.analysis.agreement import agreement
from mmerc.analysis.calibration import calibration
from mmerc.analysis.comparisons import Comparisons
from mmerc.analysis.confusion import confusion
from mmerc.analysis.context import context
from mmerc.analysis.contributions import contributions
from mmerc.analysis.disentanglement import disentanglement
from mmerc.analysis.drawing import save
from mmerc.analysis.findings import Finding, Skipped
from mmerc.analysis.frozen_run import FrozenRun
from mmerc.analysis.reliability import reliability
from mmerc.analysis.shift import shift
from mmerc.analysis.speakers import speakers
from mmerc.storage import write_json, write_text

ANALYSES: tuple[Callable[[Comparisons], Finding | Skipped], ...] = (
    agreement,
    contributions,
    context,
    disentanglement,
    reliability,
    calibration,
    shift,
    speakers,
    confusion,
)
SUFFIXES = ("png", "svg", "csv")


def analyze(run: FrozenRun, compare: Path | None, out: Path) -> Iterator[Finding | Skipped]:
    """Make every analysis and its figure; yield each as it is done, and write the report at the end.

    Args:
        run: the run
        compare: folder with the ablations in `without-utterance`, `without-modality`, `full-context` and
            `zero-context`, as far as they are there
        out: folder for figures, data, README.md and analysis.json

    Raises:
        CheckpointError, CorpusError, FeatureError: an ablation cannot be scored on the corpus.
    """
    comparisons = Comparisons(run, compare)
    out.mkdir(parents=True, exist_ok=True)
    results = []
    for make in ANALYSES:
        result = make(comparisons)
        if isinstance(result, Finding):
            save(result.draw, result.data, out, result.stem)
        else:
            for suffix in SUFFIXES:  # of an earlier analysis
                (out / f"{result.stem}.{suffix}").unlink(missing_ok=True)
        results.append(result)
        yield result
    title = f"Analysis of {run.model} on {run.corpus.name}, {run.test_name}"
    write_text(out / "README.md", to_markdown(title, run, results))
    write_json(out / "analysis.json", to_json(title, run, results))


def to_markdown(title: str, run: FrozenRun, results: list[Finding | Skipped]) -> str:
    """Return the report: sentences, images, small tables."""
    several = "Numbers are mean ± sd over the seeds, error bars the sd." if len(run.seeds) > 1 else ""
    seeds = ", ".join(map(str, run.seeds))
    blocks = [
        f"# {title}",
        f"{run.utterances['row'].nunique()} labelled utterances; seeds: {seeds}. {several}".rstrip(),
    ]
    for result in results:
        blocks.append(f"## {result.title}")
        if isinstance(result, Skipped):
            blocks.append(f"Skipped: {result.reason}.")
            continue
        files = ", ".join(f"[{suffix.upper()}]({result.stem}.{suffix})" for suffix in SUFFIXES)
        blocks += [f"![{result.title}]({result.stem}.png)", f"{result.paper} {result.here}"]
        blocks += [*result.notes, result.grid(result.numbers).markdown(), files]
    return "\n\n".join(blocks) + "\n"


def to_json(title: str, run: FrozenRun, results: list[Finding | Skipped]) -> dict[str, Any]:
    """Return the report as data: sentences, and the rows of the small tables."""
    figures: dict[str, Any] = {}
    for result in results:
        if isinstance(result, Skipped):
            figures[result.stem] = {"title": result.title, "skipped": result.reason}
        else:
            figures[result.stem] = {
                "title": result.title,
                "paper": result.paper,
                "here": result.here,
                "notes": list(result.notes),
                "numbers": _plain(result.numbers.to_dict("records")),
            }
    return {"title": title, "seeds": run.seeds, "split": run.test_name, "figures": figures}


def _plain(value: Any) -> Any:
    """Turn numpy's scalars into Python's and NaN into None, which JSON can say."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
