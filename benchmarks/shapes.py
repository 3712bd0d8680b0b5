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
    """Numbers of a corpus, and how to draw the length of a dialogue."""

    labels: tuple[str, ...]
    widths: dict[str, int]
    speakers: int
    splits: dict[str, tuple[int, int]]  # dialogues and utterances; train comes first
    shortest: int
    longest: int
    draw: Callable[[np.random.Generator, int], Lengths]

    def lengths(self, split: str, rng: np.random.Generator) -> Lengths:
        """Return the lengths of a split's dialogues; one of them is the longest."""
        dialogues, utterances = self.splits[split]
        lengths = self.draw(rng, dialogues)
        lengths[0] = max(lengths[0], self.longest)
        while lengths.sum() != utterances:
            index = rng.integers(1, dialogues)
            step = int(np.sign(utterances - lengths.sum()))
            if self.shortest <= lengths[index] + step <= self.longest:
                lengths[index] += step
        return lengths


def _iemocap_lengths(rng: np.random.Generator, count: int) -> Lengths:
    return np.asarray(rng.normal(48, 18, count).clip(8, 110), dtype=np.int64)


SHAPES = {
    # 1 to 24 utterances, nearly uniform.
    "meld": Shape(
        labels=("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
        widths=MELD_WIDTHS,
        speakers=3,
        splits={"train": (1038, 9989), "validation": (114, 1109), "test": (280, 2610)},
        shortest=1,
        longest=24,
        draw=lambda rng, count: rng.integers(1, 20, count),
    ),
    # 48.4 utterances on average; the widths are those of the features that the field passes around. It has
    # no validation split, but the trainer wants one.
    "iemocap": Shape(
        labels=("happy", "sad", "neutral", "angry", "excited", "frustrated"),
        widths={"text": 1024, "audio": 1582, "visual": 342},
        speakers=2,
        splits={"train": (120, 5810), "validation": (12, 581), "test": (31, 1623)},
        shortest=8,
        longest=110,
        draw=_iemocap_lengths,
    ),
}


def write_noise(folder: Path, name: str) -> Corpus:
    """Write a corpus of noise in the shape `SHAPES[name]`, with its splits."""
    shape, rng = SHAPES[name], np.random.default_rng(0)
    lengths = [shape.lengths(split, rng) for split in shape.splits]
    splits = np.repeat(list(shape.splits), [len(part) for part in lengths])
    flat = np.concatenate(lengths)
    total = int(flat.sum())
    table = pd.DataFrame(
        {
            "dialogue_id": np.repeat([f"d{i}" for i in range(len(flat))], flat),
            "utterance_index": np.concatenate([np.arange(n) for n in flat]),
            "speaker": rng.choice([*"ABC"[: shape.speakers]], total),
            "text": "",
            "label": rng.choice(shape.labels, total),
            "split": np.repeat(splits, flat),
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


def clock(threads: int) -> Callable[[], float]:
    """Return the clock of a measurement: for one thread the processor's time, little disturbed."""
    return time.process_time if threads == 1 else time.perf_counter


def gemm_rate(now: Callable[[], float] = time.perf_counter) -> float:
    """Return the fp32 rate of a 4096³ matrix product, in 10⁹ operations a second; the better of two."""
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    times = []
    for _ in range(2):
        start = now()
        a @ b
        times.append(now() - start)
    return float(2 * 4096**3 / min(times) / 1e9)
