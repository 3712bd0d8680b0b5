"""Scores of frozen checkpoints: the only place where a test split is read."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from mmerc.checkpoint import Checkpoint, load_checkpoint
from mmerc.corpus import MISSING, Corpus, Modality
from mmerc.errors import CheckpointError, CorpusError, FeatureError
from mmerc.examples import Examples
from mmerc.metrics import Scores, score
from mmerc.optimization import choose_device
from mmerc.pipeline import Inference
from mmerc.shipped import located
from mmerc.storage import atomic_path


@dataclass(frozen=True)
class Evaluation:
    """Predictions of one seed on a split (or on all test folds, pooled), and their scores."""

    seed: int
    fold_count: int  # test folds that were pooled; 0 without cross-validation
    checkpoints: tuple[Path, ...]
    rows: npt.NDArray[np.int64]  # (N,) utterance rows of the corpus, sorted
    probabilities: npt.NDArray[np.float32]  # (N, K)
    contributions: npt.NDArray[np.float32] | None  # (N, M)
    context_weight: npt.NDArray[np.float32] | None  # (N,)
    scores: Scores


def find_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoint folders at or below `path`, or that of the shipped model of this name, sorted.

    Raises:
        CheckpointError: there is none.
    """
    found = sorted(p.parent for p in located(path).glob("**/checkpoint.json"))
    if not found:
        raise CheckpointError(f"{path} holds no finished checkpoint (a folder with a checkpoint.json)")
    return found


def evaluate(
    path: Path, corpus: Corpus, split: str = "test", device: str = "auto", hide: Sequence[str] = ()
) -> list[Evaluation]:
    """Score all checkpoints at or below `path`, one evaluation per seed.

    Checkpoints of a cross-validation are scored on their own test fold, and the folds of a seed are pooled.

    Args:
        path: a checkpoint, or the folder of a run with several seeds or folds
        corpus: the corpus to score on; labels, modalities and recipes must be the checkpoints'
        split: the split of a corpus without folds
        device: `auto`, or a torch device
        hide: modalities to take away from every utterance

    Raises:
        CheckpointError: no checkpoint, a broken one, other labels, or a seed whose folds are incomplete.
        CorpusError: the corpus has no such split, or no labels in it.
        FeatureError: the corpus's features were made by another recipe.
    """
    whole = not (located(path) / "checkpoint.json").exists()
    by_seed: dict[int, list[Checkpoint]] = defaultdict(list)
    for folder in find_checkpoints(path):
        checkpoint = load_checkpoint(folder)
        by_seed[checkpoint.info.seed].append(checkpoint)
    for seed, group in by_seed.items():
        _check_group(seed, group, corpus, whole)
    return [
        _evaluate_seed(seed, group, corpus, split, device, hide) for seed, group in sorted(by_seed.items())
    ]


def _check_group(seed: int, group: Sequence[Checkpoint], corpus: Corpus, whole: bool) -> None:
    """Refuse checkpoints that do not add up to one run, or to all folds unless one fold's is asked for."""
    folds = [checkpoint.info.fold for checkpoint in group]
    if len(group) > 1 and (None in folds or len(set(folds)) != len(folds)):
        names = ", ".join(str(c.path) for c in group[:3])
        raise CheckpointError(
            f"several checkpoints have seed {seed} ({names} …): evaluate one run folder at a time"
        )
    missing = sorted(set(corpus.folds) - set(folds))
    if whole and missing and None not in folds:
        raise CheckpointError(f"seed {seed}: fold {missing} not finished; resume the run before evaluating")


def _evaluate_seed(
    seed: int, group: Sequence[Checkpoint], corpus: Corpus, split: str, device: str, hide: Sequence[str]
) -> Evaluation:
    folds = [checkpoint.info.fold for checkpoint in group]
    parts = []
    for checkpoint in group:
        dialogues = (
            corpus.split(split) if checkpoint.info.fold is None else corpus.fold(checkpoint.info.fold)["test"]
        )
        check_fit(checkpoint, corpus)
        parts.append((dialogues, infer(checkpoint, corpus, dialogues, device, hide)))
    rows = np.concatenate([corpus.rows(dialogues) for dialogues, _ in parts])
    if (corpus.targets[rows] == MISSING).all():
        where = "the test folds" if None not in folds else f"the split {split!r}"
        raise CorpusError(f"{corpus.path}: nothing to score, no utterance has a label in {where}")
    order = np.argsort(rows)

    def pooled(name: str) -> npt.NDArray[np.float32] | None:
        arrays = [getattr(inference, name) for _, inference in parts]
        return None if any(a is None for a in arrays) else np.concatenate(arrays)[order]

    probabilities = pooled("probabilities")
    assert probabilities is not None
    return Evaluation(
        seed=seed,
        fold_count=len(folds) - folds.count(None),
        checkpoints=tuple(checkpoint.path for checkpoint in group),
        rows=rows[order],
        probabilities=probabilities,
        contributions=pooled("contributions"),
        context_weight=pooled("context_weight"),
        scores=score(probabilities, corpus.targets[rows[order]], corpus.labels),
    )


def infer(
    checkpoint: Checkpoint,
    corpus: Corpus,
    dialogues: npt.NDArray[np.int64],
    device: str = "auto",
    hide: Sequence[str] = (),
) -> Inference:
    """Predict the given dialogues of a corpus, the modalities in `hide` taken away.

    Raises:
        CheckpointError: `hide` names a modality that the checkpoint does not read.
    """
    names = sorted(checkpoint.info.modalities)
    if unknown := sorted(set(hide) - set(names)):
        raise CheckpointError(
            f"{checkpoint.path} does not read {', '.join(unknown)}; it reads {', '.join(names)}"
        )
    pipeline = checkpoint.pipeline.to(choose_device(device))
    examples = Examples.from_corpus(corpus, names, pipeline.encoder)
    if hide:
        kept = torch.tensor([name not in hide for name in names])
        examples = replace(examples, present=examples.present & kept)
    return pipeline.infer(examples, dialogues)


def predictions(
    corpus: Corpus, rows: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> pd.DataFrame:
    """Return predictions as a table: a row per utterance, a column `p:<label>` per label.

    The other columns are dialogue_id, utterance_index, label (None where nobody labelled) and predicted.

    Args:
        corpus: whose utterances they are
        rows: (N,) rows of the utterances
        probabilities: (N, K)
    """
    table = corpus.utterances.iloc[rows][["dialogue_id", "utterance_index", "label"]]
    best = probabilities.argmax(axis=1)
    table = table.assign(predicted=[corpus.labels[k] for k in best]).reset_index(drop=True)
    for k, label in enumerate(corpus.labels):
        table[f"p:{label}"] = probabilities[:, k]
    return table


def write_predictions(path: Path, table: pd.DataFrame) -> None:
    """Write a table of predictions as Parquet, atomically."""
    with atomic_path(path) as temporary:
        table.to_parquet(temporary, index=False)


def score_table(table: pd.DataFrame, labels: Sequence[str]) -> Scores:
    """Score a table of predictions."""
    targets = pd.Index(labels).get_indexer(pd.Index(table["label"]))
    targets[table["label"].isna().to_numpy()] = MISSING
    return score(table[[f"p:{label}" for label in labels]].to_numpy(), targets, labels)


def interchangeable(one: Modality, other: Modality) -> bool:
    """Return whether a network for one corpus's features may be tried on another's.

    Imported features say too little about themselves to be told apart; the recipes of text encoders must be
    equal, since vectors of two encoders have nothing in common but their width.
    """
    told = "text-encoder" in (one.recipe.get("kind"), other.recipe.get("kind"))
    return one.width == other.width and (one.recipe == other.recipe or not told)


def check_fit(checkpoint: Checkpoint, corpus: Corpus, transfer: bool = False) -> None:
    """Make sure that a checkpoint and a corpus speak of the same labels and features.

    Args:
        checkpoint: what is to predict
        corpus: what is to be predicted
        transfer: to another corpus: labels may be in another order, features `interchangeable`

    Raises:
        CheckpointError: the labels differ.
        FeatureError: a modality is missing or was made by another recipe.
    """
    info = checkpoint.info
    if not corpus.labels:
        raise CorpusError(f"{corpus.path} has no labels: there is nothing to score")
    if info.labels != corpus.labels and not (transfer and set(info.labels) == set(corpus.labels)):
        raise CheckpointError(
            f"{checkpoint.path} tells {', '.join(info.labels)}; {corpus.path} "
            f"is labelled {', '.join(corpus.labels)}"
        )
    for name, modality in info.modalities.items():
        if name == "text" and checkpoint.pipeline.encoder is not None:
            continue
        found = corpus.modalities.get(name)
        if found is None:
            raise FeatureError(
                f"{checkpoint.path} needs the modality {name!r}, which {corpus.path} does not have"
            )
        if found != modality and not (transfer and interchangeable(found, modality)):
            raise FeatureError(
                f"{name!r} was made by different recipes: {checkpoint.path} expects width {modality.width}, "
                f"{modality.recipe}; {corpus.path} has width {found.width}, {found.recipe}"
            )
