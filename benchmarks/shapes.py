"""What the benchmarks share: corpora of noise in the shape of real ones, and the machine's speed."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.models.describe import MELD_WIDTHS

Lengths = npt.NDArray[np.int64]


class Shape(NamedTuple):
    """Numbers of a corpus's training dialogues, and how to draw the length of one."""

    labels: tuple[str, ...]
    widths: dict[str, int]
    speakers: int
    dialogues: int
    utterances: int
    shortest: int
    longest: int
    validation: int  # further dialogues
    draw: Callable[[np.random.Generator, int], Lengths]

    def lengths(self, rng: np.random.Generator) -> Lengths:
        """Return the lengths of the training dialogues, then of the validation dialogues."""
        lengths = self.draw(rng, self.dialogues)
        lengths[0] = max(lengths[0], self.longest)
        while lengths.sum() != self.utterances:
            index = rng.integers(1, self.dialogues)
            step = int(np.sign(self.utterances - lengths.sum()))
            if self.shortest <= lengths[index] + step <= self.longest:
                lengths[index] += step
        return np.concatenate([lengths, self.draw(rng, self.validation)])


def _iemocap_lengths(rng: np.random.Generator, count: int) -> Lengths:
    return np.asarray(rng.normal(48, 18, count).clip(8, 110), dtype=np.int64)


SHAPES = {
    # 1 to 24 utterances, nearly uniform.
    "meld": Shape(
        labels=("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
        widths=MELD_WIDTHS,
        speakers=3,
        dialogues=1038,
        utterances=9989,
        shortest=1,
        longest=24,
        validation=114,
        draw=lambda rng, count: rng.integers(1, 20, count),
    ),
    # 48.4 utterances on average; the widths are those of the features that the field passes around.
    "iemocap": Shape(
        labels=("happy", "sad", "neutral", "angry", "excited", "frustrated"),
        widths={"text": 1024, "audio": 1582, "visual": 342},
        speakers=2,
        dialogues=120,
        utterances=5810,
        shortest=8,
        longest=110,
        validation=12,
        draw=_iemocap_lengths,
    ),
}


def write_noise(folder: Path, name: str) -> Corpus:
    """Write a corpus of noise in the shape `SHAPES[name]`, with the splits train and validation."""
    shape, rng = SHAPES[name], np.random.default_rng(0)
    lengths = shape.lengths(rng)
    total = int(lengths.sum())
    table = pd.DataFrame(
        {
            "dialogue_id": np.repeat([f"d{i}" for i in range(len(lengths))], lengths),
            "utterance_index": np.concatenate([np.arange(n) for n in lengths]),
            "speaker": rng.choice([*"ABC"[: shape.speakers]], total),
            "text": "",
            "label": rng.choice(shape.labels, total),
            "split": np.repeat(["train"] * shape.dialogues + ["validation"] * shape.validation, lengths),
        }
    )
    features = {
        m: Features(
            rng.standard_normal((total, d), dtype=np.float32), np.ones(total, dtype=bool), {"kind": "noise"}
        )
        for m, d in shape.widths.items()
    }
    return write_corpus(
        folder,
        name=f"{name}-shaped",
        labels=shape.labels,
        utterances=table,
        features=features,
        provenance={},
    )


def gemm_rate() -> float:
    """Return the fp32 rate of a 2048³ matrix product, in 10⁹ operations a second."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return float(2 * 2048**3 / min(times) / 1e9)
