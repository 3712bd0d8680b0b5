"""What each part of DF-ERC, each modality and the sight of later utterances is worth: what has to be trained.

A table has one or more groups of rows; what the rows of a group are compared with stands first. Rows of equal
config are one cell, whatever tables they stand in: nothing is trained twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from mmerc.causality import require_no_look_ahead
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.experiments.benchmark import Settings, row_name, settings_for, told, uses_folds
from mmerc.experiments.cells import Cell
from mmerc.models import choose_modalities, find, resolve
from mmerc.models.describe import causal_mode
from mmerc.models.labels import require_fitting_labels

TABLES = ("components", "modalities", "missing", "causal")
ABLATED = "df-erc"  # whose parts are switched off
FULL = "full"

# Table 2 of the paper: overrides of the network, decision A25 in docs/df-erc.md.
COMPONENTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "without-ddm": {"modality_branch": False, "utterance_branch": False},
    "without-utterance": {"utterance_branch": False},
    "without-modality": {"modality_branch": False},
    "without-cfm": {"fusion": "uniform"},
    "cfm-attention": {"fusion": "attention"},
    "full-context": {"refusion": "full"},
    "zero-context": {"refusion": "zero"},
    "crm-attention": {"refusion": "attention"},
}


@dataclass(frozen=True)
class Table:
    """Groups of rows, each compared with the first of its group."""

    name: str
    groups: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Plan:
    """The tables that can be made of a corpus, and why others cannot."""

    corpus: Corpus
    tables: tuple[Table, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> list[Cell]:
        """Every cell once."""
        rows = [cell for table in self.tables for group in table.groups for cell in group]
        return list({cell.folder: cell for cell in rows}.values())


class Variants:
    """Cells on one corpus, in `<out>/<corpus>/<variant>`; the full model of DF-ERC is the variant `full`."""

    def __init__(
        self,
        corpus: Corpus,
        out: Path,
        seeds: Sequence[int],
        folds: bool = False,
        settings: Settings | None = None,
        *layers: Mapping[str, Any],
    ) -> None:
        self.corpus, self.folder = corpus, out / corpus.name
        self.seeds, self.folds = seeds, uses_folds(corpus, folds)
        self.settings, self.layers = settings or {}, layers
        self.known: list[Cell] = []

    def base(self, name: str) -> Cell:
        """Return the unchanged model `name`, or `name:preset`.

        Raises:
            ConfigError: as `variant`.
        """
        row = row_name(name)
        return self._cell(name, row, FULL if name == ABLATED else row)

    def variant(self, name: str, row: str, folder: str, **overrides: Any) -> Cell:
        """Return a model with overrides of its config, or a cell that has that config already.

        Raises:
            ConfigError: an unknown model or preset, a modality that the corpus lacks, a causal model on text
                vectors that look ahead, or a preset for other labels.
        """
        self.base(name)  # first, so that a variant which changes nothing is the model itself
        return self._cell(name, row, folder, **overrides)

    def _cell(self, name: str, row: str, folder: str, **overrides: Any) -> Cell:
        model, _, preset = name.partition(":")
        own = {"preset": preset} if preset else {}
        given = settings_for(self.settings, self.corpus.name, model)
        with told(f"{row} on {self.corpus.name}"):
            config = resolve(model, given, *self.layers, own, overrides)
            require_no_look_ahead(config, self.corpus)
            require_fitting_labels(config, self.corpus)
        for known in self.known:
            if known.config == config:
                return replace(known, name=row)
        cell = Cell.of(row, self.corpus, config, self.folder / folder, self.seeds, self.folds)
        self.known.append(cell)
        return cell

    def reads(self, cell: Cell) -> tuple[str, ...]:
        """Return the modalities that a cell reads, sorted."""
        return choose_modalities(cell.config, list(self.corpus.modalities))


def plan_ablations(
    tables: Sequence[str], variants: Variants, models: Sequence[str] = (ABLATED,), dropout: float = 0.3
) -> Plan:
    """Return what to train for the named tables.

    Args:
        tables: of `TABLES`
        variants: corpus, seeds and config of the runs
        models: rows of the tables `missing` and `causal`: names, or `name:preset`
        dropout: the rate of modality dropout in the table `missing`

    Raises:
        ConfigError: an unknown table or model, or a config that does not fit the corpus.
    """
    if unknown := [name for name in tables if name not in TABLES]:
        raise ConfigError(f"there is no table {unknown[0]!r}; tables are: {', '.join(TABLES)}")
    found: list[Table] = []
    notes: list[str] = []
    for name in dict.fromkeys(tables):
        if name == "components":
            groups = [components(variants)]
        elif name == "modalities":
            groups = modalities(variants, notes)
        elif name == "missing":
            groups = missing(variants, models, dropout, notes)
        else:
            groups = causal(variants, models, notes)
        if groups:
            found.append(Table(name, tuple(groups)))
    if not found:
        raise ConfigError(f"{variants.corpus.name}: there is nothing to do: {'; '.join(notes)}")
    return Plan(variants.corpus, tuple(found), tuple(notes))


def components(variants: Variants) -> tuple[Cell, ...]:
    """Return the rows of Table 2."""
    return tuple(variants.variant(ABLATED, row, row, network=own) for row, own in COMPONENTS.items())


def modalities(variants: Variants, notes: list[str]) -> list[tuple[Cell, ...]]:
    """Return the rows of Table 3: all modalities, then every smaller set of them."""
    full = variants.base(ABLATED)
    names = variants.reads(full)
    if len(names) < 2:
        notes.append(f"modalities: {variants.corpus.name} has {names[0]} only")
        return []
    rows = [replace(full, name="+".join(names))]
    for subset in subsets(names):
        overrides: dict[str, Any] = {"modalities": list(subset)}
        if "text" not in subset:
            overrides["text_encoder"] = None
        row = "+".join(subset)
        rows.append(variants.variant(ABLATED, row, row, **overrides))
    return [tuple(rows)]


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the sets that are neither empty nor all, the smallest first."""
    return [subset for size in range(1, len(names)) for subset in combinations(names, size)]


def missing(
    variants: Variants, models: Sequence[str], dropout: float, notes: list[str]
) -> list[tuple[Cell, ...]]:
    """Return each model trained without and with modality dropout."""
    groups = []
    for name in models:
        base = variants.base(name)
        row, names = base.name, variants.reads(base)
        if len(names) < 2:
            notes.append(f"missing: {row} reads {names[0]} only")
            continue
        pair = [
            variants.variant(
                name,
                f"{row}, dropout {rate:g}",
                f"{row}-modality-dropout-{rate:g}",
                training={"modality_dropout": rate},
            )
            for rate in (0.0, dropout)
        ]
        groups.append(tuple(pair))
    return groups


def causal(variants: Variants, models: Sequence[str], notes: list[str]) -> list[tuple[Cell, ...]]:
    """Return each model with and without sight of later utterances."""
    groups = []
    for name in models:
        mode = causal_mode(find(name.partition(":")[0]))
        if mode != "yes":
            notes.append(f"causal: {name} {'never looks ahead' if mode == 'always' else 'cannot be causal'}")
            continue
        row = variants.base(name).name
        pair = [
            variants.variant(name, row, f"{row}-looking-ahead", network={"causal": False}),
            variants.variant(name, f"{row}-causal", f"{row}-causal", network={"causal": True}),
        ]
        groups.append(tuple(pair))
    return groups
