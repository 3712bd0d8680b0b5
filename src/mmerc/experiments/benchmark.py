"""All models on all corpora under one protocol: the cells, and the tables with the published numbers."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mmerc.config import merge, read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.experiments.cells import Cell, Result
from mmerc.experiments.comparison import Comparison
from mmerc.models import choose_modalities, find, resolve
from mmerc.tables import Grid

ANY = "*"  # in a settings file: every corpus, or every model

Settings = Mapping[str, Mapping[str, Mapping[str, Any]]]


def read_settings(path: Path) -> Settings:
    """Read overrides of configs by corpus and model: `corpus → model → config`, `*` for all of them.

    Raises:
        ConfigError: not such a file, or a model that does not exist.
    """
    settings = read_yaml(path)
    for corpus, models in settings.items():
        if not isinstance(models, dict) or not all(isinstance(v, dict) for v in models.values()):
            raise ConfigError(f"{path}: {corpus}: expected `model: {{key: value}}` pairs")
        for model in models:
            if model != ANY:
                find(model)
    return settings


def settings_for(settings: Settings, corpus: str, model: str) -> dict[str, Any]:
    """Return what a settings file says about a model on a corpus; the more special wins."""
    keys = [(c, m) for c in (ANY, corpus) for m in (ANY, model)]
    return merge(*(settings.get(c, {}).get(m, {}) for c, m in keys))


def open_corpora(paths: Sequence[Path]) -> list[Corpus]:
    """Open corpora that are told apart by name.

    Raises:
        CorpusError: one cannot be opened.
        ConfigError: two have the same name.
    """
    corpora = [Corpus.open(path) for path in paths]
    names = [corpus.name for corpus in corpora]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"two corpora are called {twice[0]!r}; import one of them with another --name")
    return corpora


def uses_folds(corpus: Corpus, wanted: bool) -> bool:
    """Return whether a corpus is cross-validated: where it has folds and they are wanted, or no splits."""
    return len(corpus.folds) > 1 and (wanted or not corpus.utterances["split"].notna().any())


def plan_benchmark(
    models: Sequence[str],
    corpora: Sequence[Corpus],
    out: Path,
    seeds: Sequence[int],
    folds: bool,
    settings: Settings,
    *layers: Mapping[str, Any],
) -> list[Cell]:
    """Return a cell per corpus and model.

    Args:
        models: names, or `name:preset`
        corpora: what to train on; cross-validated as `uses_folds` says
        out: runs go to `<out>/<corpus>/<model>/seed-<s>[/fold-<f>]`
        seeds: of every model
        folds: cross-validate where a corpus has splits, too
        settings: overrides by corpus and model
        layers: overrides of every config

    Raises:
        ConfigError: an unknown model or key, a model named twice, or one that a corpus lacks features for.
    """
    if twice := [name for name in models if list(models).count(name) > 1]:
        raise ConfigError(f"{twice[0]} is named twice")
    cells = []
    for corpus in corpora:
        for name in models:
            model, _, preset = name.partition(":")
            own = {"preset": preset} if preset else {}
            config = resolve(model, settings_for(settings, corpus.name, model), *layers, own)
            choose_modalities(config, list(corpus.modalities))
            row = name.replace(":", "-")
            folder = out / corpus.name / row
            cells.append(Cell.of(row, corpus, config, folder, seeds, uses_folds(corpus, folds)))
    return cells


def tables(
    comparison: Comparison, corpus: Corpus, oracle: Mapping[str, str] | None = None
) -> tuple[list[Grid], list[dict[str, Any]]]:
    """Return the tables of a benchmark on one corpus and the records behind them, best model first.

    Args:
        comparison: the results
        corpus: where they come from
        oracle: per row, weighted F1 of the epoch that is best on test, ready to be read
    """
    columns: dict[str, list[str]] = {}
    notes = []
    names = [result.cell.name for result in comparison.results]
    if oracle:
        columns["oracle epoch"] = [oracle.get(name, "–") for name in names]
        notes.append("Oracle epoch (chosen on test): the wF1 that such a choice would report; not a result.")
    printed = published().get(corpus.name, {})
    found = [printed.get(result.cell.config.model) for result in comparison.results]
    if any(found):
        columns["published wF1 / acc."] = [_published_cell(entry) for entry in found]
        notes.append(_what_differs(comparison.results, corpus))
    seeds = max(len(result.scores) for result in comparison.results)
    protocol = "test folds pooled" if comparison.results[0].cell.runs[0].fold is not None else "test split"
    title = f"{corpus.name}, {protocol}, %, mean ± sd over {seeds} seed{'s' if seeds > 1 else ''}"
    records = comparison.records()
    for record, entry in zip(records, found, strict=True):
        record["published"] = entry
        if oracle and record["name"] in oracle:
            record["oracle_weighted_f1"] = oracle[record["name"]]
    return [comparison.grid(title, notes, columns), comparison.class_grid()], records


@cache
def published() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the published numbers: corpus → model → accuracy, weighted F1 (%) and what the system read."""
    text = resources.files("mmerc.experiments").joinpath("published.yaml").read_text(encoding="utf-8")
    content: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(text)
    return content


def _published_cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    mark = "*" if entry.get("selection") == "test" else ""
    return f"{entry['weighted_f1']:.2f} / {entry['accuracy']:.2f}{mark}"


def _what_differs(results: Sequence[Result], corpus: Corpus) -> str:
    """Say how what was measured here differs from what was published."""
    configs = [result.cell.config for result in results]
    read = {m for config in configs for m in choose_modalities(config, list(corpus.modalities))}
    text = sorted({c.text_encoder.name + " trained along" if c.text_encoder else "frozen" for c in configs})
    return (
        "Published: other inputs (the JSON says which), mostly text, audio and video. "
        f"Here: {', '.join(sorted(read))}; text vectors {', '.join(text)}. "
        "* its official code reports the epoch that is best on test."
    )
