"""Trained on one corpus, tested on another: what has to be trained, and the matrix train × test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mmerc.causality import require_no_look_ahead
from mmerc.checkpoint import load_checkpoint
from mmerc.config import merge
from mmerc.corpus import MISSING, Corpus
from mmerc.errors import ConfigError, FeatureError
from mmerc.evaluation import check_fit, infer, interchangeable
from mmerc.experiments.benchmark import Settings, settings_for, told, uses_folds
from mmerc.experiments.cells import Cell, Result
from mmerc.metrics import Scores, Spread, score, spread
from mmerc.models import choose_modalities, resolve
from mmerc.models.labels import require_fitting_labels
from mmerc.tables import Grid

MEASURES = {"weighted_f1": "weighted F1", "macro_f1": "macro F1"}
METHOD = (
    "Every checkpoint of a corpus predicts all test utterances of the other one; where there is one for each "
    "fold, a seed's score is their mean. Features are standardised with the training corpus's statistics."
)


class Shared(NamedTuple):
    """The modalities that a network can take from one corpus to another."""

    names: tuple[str, ...]
    left_out: dict[str, str]  # name → why
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The utterances of a corpus that everything is tested on."""

    corpus: Corpus
    dialogues: npt.NDArray[np.int64]
    folds: bool  # trained on itself, it is cross-validated

    @classmethod
    def of(cls, corpus: Corpus, folds: bool) -> "Target":
        """Take the test split; all test folds of a corpus that is cross-validated."""
        if not uses_folds(corpus, folds):
            return cls(corpus, corpus.split("test"), False)
        return cls(corpus, np.concatenate([corpus.fold(f)["test"] for f in corpus.folds]), True)

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """Their class indices, `MISSING` where there is no label."""
        return self.corpus.targets[self.corpus.rows(self.dialogues)]


def require_same_labels(corpora: Sequence[Corpus]) -> None:
    """Make sure that there are several corpora and that all tell the same emotions, in any order.

    Raises:
        ConfigError: a single corpus, or other labels.
    """
    if len(corpora) < 2:
        raise ConfigError("--corpora names one corpus: transfer needs two at least")
    first = corpora[0]
    for other in corpora[1:]:
        if set(other.labels) != set(first.labels):
            raise ConfigError(
                f"{first.name} tells {', '.join(first.labels)}, {other.name} {', '.join(other.labels)}: "
                "transfer needs the same labels; import one of them with the labels of the other"
            )


def share_modalities(model: str, corpora: Sequence[Corpus], layers: Sequence[Mapping[str, Any]]) -> Shared:
    """Return the modalities of a model that all corpora have in a form that can be exchanged.

    Raises:
        ConfigError: an unknown model or key.
        FeatureError: a modality was asked for that cannot be exchanged, or there is none.
    """
    config = resolve(model, *layers)
    read = config.modalities or {
        name for corpus in corpora for name in choose_modalities(config, list(corpus.modalities))
    }
    left_out: dict[str, str] = {}
    warnings, names = [], []
    for name in sorted(set(read)):
        trained_along = name == "text" and config.text_encoder is not None
        reason = None if trained_along else _obstacle(name, corpora)
        if reason is not None:
            left_out[name] = reason
            continue
        names.append(name)
        if not trained_along and any(c.modalities[name] != corpora[0].modalities[name] for c in corpora):
            warnings.append(f"{name}: the recipes differ; make sure that the same code made the features")
    if not names or (config.modalities and left_out):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise FeatureError(f"the corpora do not share what is to be read: {reasons}")
    return Shared(tuple(names), left_out, tuple(warnings))


def _obstacle(name: str, corpora: Sequence[Corpus]) -> str | None:
    """Say why a modality cannot be exchanged between corpora."""
    if lacking := [corpus.name for corpus in corpora if name not in corpus.modalities]:
        return f"not in {', '.join(lacking)}"
    found = [corpus.modalities[name] for corpus in corpora]
    if len({modality.width for modality in found}) > 1:
        widths = [f"{m.width} in {c.name}" for m, c in zip(found, corpora, strict=True)]
        return f"width {', '.join(widths)}"
    if not all(interchangeable(found[0], other) for other in found[1:]):
        return "made by different text encoders or settings; encode them alike"
    return None


def plan_transfer(
    model: str,
    corpora: Sequence[Corpus],
    shared: Sequence[str],
    out: Path,
    seeds: Sequence[int],
    folds: bool,
    settings: Settings,
    *layers: Mapping[str, Any],
) -> list[Cell]:
    """Return a cell per corpus, in `<out>/<corpus>/<model>`; its row is named after the corpus.

    Args:
        model: name of the model
        corpora: what to train on, each by its own protocol
        shared: the modalities to read
        out: folder of the runs
        seeds: of every corpus
        folds: cross-validate where a corpus has splits, too
        settings: overrides by corpus and model
        layers: overrides of every config

    Raises:
        ConfigError: a key or value that is not allowed, a causal model on text vectors that look ahead, or a
            preset for other labels.
    """
    cells = []
    for corpus in corpora:
        given = merge(settings_for(settings, corpus.name, model), *layers, {"modalities": list(shared)})
        with told(corpus.name):
            config = resolve(model, given)
            require_no_look_ahead(config, corpus)
            require_fitting_labels(config, corpus)
        folder = out / corpus.name / model
        cells.append(Cell.of(corpus.name, corpus, config, folder, seeds, uses_folds(corpus, folds)))
    return cells


def score_elsewhere(checkpoint: Path, target: Target, device: str = "auto") -> Scores:
    """Score a frozen checkpoint on another corpus, whose labels may be in another order.

    Raises:
        CheckpointError, FeatureError: labels or features do not fit.
    """
    loaded = load_checkpoint(checkpoint)
    check_fit(loaded, target.corpus, transfer=True)
    found = infer(loaded, target.corpus, target.dialogues, device)
    columns = [loaded.info.labels.index(label) for label in target.corpus.labels]
    return score(found.probabilities[:, columns], target.targets, target.corpus.labels)


def transferred(result: Result, target: Target, device: str = "auto") -> dict[int, dict[str, float]]:
    """Return the measures of each finished seed on another corpus, a mean over its checkpoints."""
    found: dict[int, dict[str, float]] = {}
    for seed in result.scores:
        folders = [run.folder for run in result.cell.runs if run.seed == seed]
        scores = [score_elsewhere(folder, target, device) for folder in folders]
        found[seed] = {name: float(np.mean([getattr(s, name) for s in scores])) for name in MEASURES}
    return found


def matrix(
    results: Sequence[Result], targets: Sequence[Target], device: str = "auto"
) -> list[dict[str, Any]]:
    """Return a record for every pair of corpora, trained on × tested on; the diagonal is its own score.

    Raises:
        CheckpointError, FeatureError: a checkpoint does not fit a corpus.
    """
    records = []
    for result in results:
        for target in targets:
            own = result.cell.corpus == target.corpus.path
            if own:
                by_seed = {s: {m: getattr(x, m) for m in MEASURES} for s, x in result.scores.items()}
            else:
                by_seed = transferred(result, target, device)
            record = {"train": result.cell.name, "test": target.corpus.name, "in_corpus": own}
            spreads = {name: spread([x[name] for x in by_seed.values()])._asdict() for name in MEASURES}
            records.append(record | spreads | {"by_seed": {str(s): x for s, x in by_seed.items()}})
    return records


def constant(target: Target) -> Scores:
    """Score the guess of always the most frequent label of the test utterances themselves."""
    truth = target.targets
    counts = np.bincount(truth[truth != MISSING], minlength=len(target.corpus.labels))
    guess = np.zeros((len(truth), len(counts)), dtype=np.float32)
    guess[:, counts.argmax()] = 1.0
    return score(guess, truth, target.corpus.labels)


def grids(
    model: str, shared: Sequence[str], records: Sequence[Mapping[str, Any]], targets: Sequence[Target]
) -> list[Grid]:
    """Return the matrix train × test, once for each measure."""
    cells = {(r["train"], r["test"]): r for r in records}
    seeds = max(len(record["by_seed"]) for record in records)
    what = f"{model} on {', '.join(shared)}, %, mean ± sd over {seeds} seed{'s' if seeds > 1 else ''}"
    tests = [target.corpus.name for target in targets]
    chance = [constant(target) for target in targets]
    made = []
    for measure, title in MEASURES.items():
        rows = []
        for train in dict.fromkeys(record["train"] for record in records):
            done = len(cells[train, train]["by_seed"])
            name = train if done == seeds else f"{train} ({done} seeds)"
            rows.append([name, *(str(Spread(**cells[train, test][measure])) for test in tests)])
        rows.append(["always the commonest", *(f"{100 * getattr(s, measure):.2f}" for s in chance)])
        made.append(Grid(f"{title}, {what}", ["trained on → tested on", *tests], rows))
    notes = ["Where both are the same corpus: its own test scores.", *map(_tested_on, targets)]
    return [*made[:-1], Grid(made[-1].title, made[-1].header, made[-1].rows, notes=notes)]


def _tested_on(target: Target) -> str:
    where = "all test folds" if target.folds else "the test split"
    count = int((target.targets != MISSING).sum())
    return f"{target.corpus.name} is tested on {where}: {count} utterances."
