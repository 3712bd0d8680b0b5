"""What a run trains on, and how much each class weighs in it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmerc.config import RunConfig
from mmerc.corpus import MISSING, Corpus
from mmerc.errors import ConfigError, TrainingError

Dialogues = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """One run: a corpus, its dialogues for training and validation, a config and a seed."""

    corpus: Corpus
    run: RunConfig
    train: Dialogues
    validation: Dialogues
    seed: int
    fold: int | None = None


def class_weights(task: Task, setting: float | dict[str, float] | None) -> Tensor | None:
    """Return the weight of each class in the loss (K,), in label order; None for no weighting.

    A number p gives weights ∝ count^−p over the training utterances (p = 1: inverse frequency), scaled so
    that the mean over these utterances is 1. A mapping gives the weights by label name.

    Raises:
        TrainingError: no training or no validation utterance has a label.
        ConfigError: a mapping that does not name exactly the corpus's labels.
    """
    labels = task.corpus.labels
    counts = _class_counts(task, "training", task.train)
    _class_counts(task, "validation", task.validation)
    if setting is None:
        return None
    if isinstance(setting, dict):
        if set(setting) != set(labels):
            raise ConfigError(f"training.class_weights must name each label once: {', '.join(labels)}")
        return torch.tensor([setting[name] for name in labels], dtype=torch.float32)
    # Counts relative to the smallest, so that a large exponent does not underflow everywhere.
    relative = counts / counts[counts > 0].min()
    weights = np.where(counts > 0, np.maximum(relative, 1.0) ** -setting, 0.0)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def _class_counts(task: Task, split: str, dialogues: Dialogues) -> npt.NDArray[np.float64]:
    targets = task.corpus.targets[task.corpus.rows(dialogues)]
    counts = np.bincount(targets[targets != MISSING], minlength=len(task.corpus.labels)).astype(float)
    if not counts.sum():
        raise TrainingError(f"{task.corpus.path}: no utterance of the {split} split has a label")
    return counts
