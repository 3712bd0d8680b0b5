"""All models on all corpora under one protocol: the cells, and the tables with the published numbers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmerc.config import merge, read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.experiments.cells import Cell, Result
from mmerc.experiments.comparison import Comparison, protocol
from mmerc.experiments.published import published_scores
from mmerc.metrics import summarise
from mmerc.models import choose_modalities, find, resolve
from mmerc.models.labels import require_fitting_labels
from mmerc.system import file_name
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
                with told(f"{path}: {corpus}"):
                    find(model)
    return settings


@contextmanager
def told(where: str) -> Iterator[None]:
    """Say in a mistake's message where it is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def settings_for(settings: Settings, corpus: str, model: str) -> dict[str, Any]:
    """Return what a settings file says about a model on a corpus; the more special wins."""
    keys = [(c, m) for c in (ANY, corpus) for m in (ANY, model)]
    return merge(*(settings.get(c, {}).get(m, {}) for c, m in keys))


def open_corpora(paths: Sequence[Path]) -> list[Corpus]:
    """Open corpora that are told apart by name, which is also that of their folder among the runs.

    Raises:
        CorpusError: one cannot be opened.
        ConfigError: two have the same name, or one has a name that no folder here can have.
    """
    corpora = [Corpus.open(path) for path in paths]
    names = [corpus.name for corpus in corpora]
    if bad := [name for name in names if file_name(name) != name]:
        raise ConfigError(f"a corpus called {bad[0]!r} cannot have a folder; import it with another --name")
    folders = [name.casefold() for name in names]  # not all file systems tell A from a
    if twice := [name for name in names if folders.count(name.casefold()) > 1]:
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
    watched: bool = False,
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
        watched: note what choosing the epoch on test would report

    Raises:
        ConfigError: an unknown model or key, a model named twice, one that a corpus lacks features for, or a
            preset for other labels.
    """
    if twice := [name for name in models if list(models).count(name) > 1]:
        raise ConfigError(f"{twice[0]} is named twice")
    cells = []
    for corpus in corpora:
        for name in models:
            model, colon, preset = name.partition(":")
            own = {"preset": preset} if colon else {}
            with told(f"{name} on {corpus.name}"):
                config = resolve(model, settings_for(settings, corpus.name, model), *layers, own)
                choose_modalities(config, list(corpus.modalities))
                require_fitting_labels(config, corpus)
            row = row_name(name)
            folder = out / corpus.name / row
            cell = Cell.of(row, corpus, config, folder, seeds, uses_folds(corpus, folds))
            cells.append(replace(cell, test="watched") if watched else cell)
    return cells


def row_name(name: str) -> str:
    """Return how the row and the folder of `model:preset` are called."""
    return name.replace(":", "-")


def tables(comparison: Comparison, corpus: Corpus) -> tuple[list[Grid], list[dict[str, Any]]]:
    """Return the tables of a benchmark on one corpus and the records behind them, best model first.

    Args:
        comparison: the results
        corpus: where they come from
    """
    columns: dict[str, list[str]] = {}
    notes = []
    if any(result.oracle for result in comparison.results):
        columns["oracle epoch"] = list(map(_oracle_cell, comparison.results))
        notes.append(
            "Oracle epoch: the wF1 that the same runs would report if their epochs were chosen on test, and "
            "how much more that is than wF1, whose epochs are chosen on validation; not a result."
        )
    printed = published_scores().get(corpus.name, {})
    found = [printed.get(result.cell.config.model) for result in comparison.results]
    if any(found):
        columns["published wF1 / acc."] = [_published_cell(entry) for entry in found]
        notes.append(_what_differs(comparison.results, corpus))
    records = comparison.records()
    for record, entry, result in zip(records, found, comparison.results, strict=True):
        record["published"] = entry
        if result.oracle:
            record["oracle_weighted_f1"] = summarise(list(result.oracle.values())).weighted_f1._asdict()
            record["oracle_weighted_f1_by_seed"] = {str(s): x.weighted_f1 for s, x in result.oracle.items()}
    title = f"{corpus.name}, {protocol(comparison.results)}"
    return [comparison.grid(title, notes, columns), comparison.class_grid()], records


def _oracle_cell(result: Result) -> str:
    if not result.oracle:
        return "–"
    chosen = summarise(list(result.oracle.values())).weighted_f1
    return f"{chosen} ({100 * (chosen.mean - result.summary.weighted_f1.mean):+.2f})"


def _published_cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "–"
    mark = "*" if entry.get("selection") == "test" else ""
    return f"{entry['weighted_f1']:.2f} / {entry['accuracy']:.2f}{mark}"


def _what_differs(results: Sequence[Result], corpus: Corpus) -> str:
    """Say how what was measured here differs from what was published."""
    return (
        "Published: other inputs (the JSON says which), mostly text, audio and video. "
        f"{inputs(results, corpus)} * its official code reports the epoch that is best on test."
    )


def inputs(results: Sequence[Result], corpus: Corpus) -> str:
    """Say what the rows of a table read."""
    configs = [result.cell.config for result in results]
    read = {m for config in configs for m in choose_modalities(config, list(corpus.modalities))}
    text = sorted({c.text_encoder.name + " trained along" if c.text_encoder else "frozen" for c in configs})
    return f"Here: {', '.join(sorted(read))}; text vectors {', '.join(text)}."
