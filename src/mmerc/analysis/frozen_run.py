"""A trained run with its weights frozen: what its checkpoints say about every labelled test utterance."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mmerc.analysis.groups import omega_columns
from mmerc.analysis.internals import Hidden, hidden
from mmerc.checkpoint import Checkpoint, load_checkpoint
from mmerc.corpus import MISSING, Corpus
from mmerc.evaluation import Evaluation, evaluate
from mmerc.examples import Examples
from mmerc.optimization import choose_device

TINY = float(np.finfo(np.float32).tiny)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Member:
    """One checkpoint of a run: a seed, or one fold of a seed."""

    path: Path
    seed: int
    fold: int | None
    validation_share: float
    model: str
    trained_on: str  # name of the corpus
    modalities: tuple[str, ...]
    rows: Rows  # (N,) utterances of its test dialogues
    present: npt.NDArray[np.bool_]  # (N, M)
    gated: bool  # whether its context weight is 1 − ψ

    def dialogues(self, corpus: Corpus, part: str) -> npt.NDArray[np.int64]:
        """Return the dialogues of a split; in cross-validation those of `part` when its fold is the test set.

        Raises:
            CorpusError: the corpus has no such split or fold.
        """
        if self.fold is None:
            return corpus.split(part)
        return corpus.fold(self.fold, self.validation_share)[part]


@dataclass(frozen=True)
class FrozenRun:
    """The checkpoints of a run and their predictions, a row per seed and labelled utterance.

    `utterances` has the columns seed, row, dialogue, speaker, truth, predicted, correct, cross_entropy, psi
    (NaN where fewer than two modalities are present or the model has none) and `omega:<modality>` (NaN where
    absent), the last only if the model has contributions.
    """

    model: str
    corpus: Corpus
    split: str
    device: str
    evaluations: tuple[Evaluation, ...]
    members: tuple[Member, ...]
    utterances: pd.DataFrame

    @property
    def seeds(self) -> list[int]:
        """The seeds of the run, sorted."""
        return [evaluation.seed for evaluation in self.evaluations]

    @property
    def modalities(self) -> list[str]:
        """The modalities whose contributions the model tells, sorted."""
        return [name.removeprefix("omega:") for name in omega_columns(self.utterances)]

    @property
    def test_name(self) -> str:
        """What the predictions are of, in words."""
        return "the pooled test folds" if self.members[0].fold is not None else f"the split {self.split!r}"

    def load(self) -> Iterator[tuple[Member, Checkpoint, Examples]]:
        """Yield every member with its checkpoint on the device, one in memory at a time."""
        for member in self.members:
            checkpoint = load_checkpoint(member.path)
            yield member, checkpoint, _ready(checkpoint, self.corpus, self.device)

    @cached_property
    def hidden(self) -> list[tuple[Member, Hidden]]:
        """The hidden quantities of every member; empty for a model other than DF-ERC."""
        part = self.split if self.members[0].fold is None else "test"
        found = []
        for member, checkpoint, examples in self.load():
            inside = hidden(checkpoint.pipeline, examples, member.dialogues(self.corpus, part))
            if inside is not None:
                found.append((member, inside))
        return found

    def has_branch(self, name: str) -> bool:
        """Return whether the model is a DF-ERC with the branch `modality` or `utterance` of the DDM."""
        return bool(self.hidden) and name in self.hidden[0][1].vectors


def read_run(path: Path, corpus: Corpus, split: str = "test", device: str = "auto") -> FrozenRun:
    """Predict the test utterances with all checkpoints at or below `path`.

    Raises:
        CheckpointError, CorpusError, FeatureError: as `mmerc.evaluation.evaluate`.
    """
    evaluations = evaluate(path, corpus, split, device)
    members = tuple(_member(folder, corpus, split) for e in evaluations for folder in e.checkpoints)
    tables = [
        utterance_table(e, corpus, [m for m in members if m.path in e.checkpoints]) for e in evaluations
    ]
    utterances = pd.concat(tables, ignore_index=True)
    return FrozenRun(members[0].model, corpus, split, device, tuple(evaluations), members, utterances)


def _member(folder: Path, corpus: Corpus, split: str) -> Member:
    checkpoint = load_checkpoint(folder)
    info = checkpoint.info
    share = checkpoint.run.training.validation_share
    dialogues = corpus.split(split) if info.fold is None else corpus.fold(info.fold, share)["test"]
    rows = corpus.rows(dialogues)
    present = _ready(checkpoint, corpus, "cpu").present[rows].numpy()
    return Member(
        folder,
        info.seed,
        info.fold,
        share,
        checkpoint.run.model,
        info.corpus,
        tuple(sorted(info.modalities)),
        rows,
        present,
        checkpoint.pipeline.network.gated,
    )


def _ready(checkpoint: Checkpoint, corpus: Corpus, device: str) -> Examples:
    """Move a checkpoint to its device and return the corpus as it reads it."""
    pipeline = checkpoint.pipeline.to(choose_device(device))
    return Examples.from_corpus(corpus, sorted(checkpoint.info.modalities), pipeline.encoder)


def utterance_table(evaluation: Evaluation, corpus: Corpus, members: list[Member]) -> pd.DataFrame:
    """Return one seed's part of `FrozenRun.utterances`."""
    rows, probabilities = evaluation.rows, evaluation.probabilities
    truth = corpus.targets[rows]
    predicted = probabilities.argmax(axis=1)
    of_truth = np.take_along_axis(probabilities, truth.clip(min=0)[:, None], axis=1)[:, 0]
    columns = {
        "seed": np.full(len(rows), evaluation.seed),
        "row": rows,
        "dialogue": np.searchsorted(corpus.offsets, rows, side="right") - 1,
        "speaker": corpus.utterances["speaker"].to_numpy(dtype=object)[rows],
        "truth": truth,
        "predicted": predicted,
        "correct": predicted == truth,
        "cross_entropy": -np.log(np.maximum(of_truth, TINY)),
        "psi": np.full(len(rows), np.nan),
    }
    present = np.concatenate([m.present for m in members])[
        np.argsort(np.concatenate([m.rows for m in members]))
    ]
    if evaluation.context_weight is not None and members[0].gated:
        psi = 1 - evaluation.context_weight
        columns["psi"] = np.where(present.sum(axis=1) > 1, psi, np.nan)
    if evaluation.contributions is not None:
        for k, name in enumerate(members[0].modalities):
            columns[f"omega:{name}"] = np.where(present[:, k], evaluation.contributions[:, k], np.nan)
    table = pd.DataFrame(columns)
    labelled: pd.DataFrame = table.loc[truth != MISSING].reset_index(drop=True)
    return labelled
