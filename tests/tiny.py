"""Corpora, configs and encoders so small that training on them takes milliseconds."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mmerc.config import RunConfig
from mmerc.corpus import Corpus, Features, write_corpus
from mmerc.models import MODELS, resolve
from mmerc.task import Task

torch.set_num_threads(1)

LABELS = ("joy", "sadness", "anger")
WIDTHS = {"audio": 4, "text": 5}
RECIPES = {"audio": {"kind": "made-up", "of": "audio"}, "text": {"kind": "made-up", "of": "text"}}
PHRASES = ("great, the train is here!", "oh no, the train is late", "late again, is it not fine!")
SIZES = {"relation_width": 5, "context_hidden": 4, "heads": 2, "window": 2}


def _small(model: str) -> dict[str, Any]:
    """Few units and two layers, whatever the model."""
    names = [f.name for f in fields(MODELS[model].config)]
    if model == "df-erc":  # its presets tell these two apart
        names = [name for name in names if name not in ("context_layers", "speaker_hidden")]
    small: dict[str, Any] = {name: 6 for name in names if name.endswith("hidden")}
    small |= {name: 2 for name in names if name.endswith("layers")}
    small |= {name: False for name in names if name == "recompute"}  # saves memory and takes time
    return small | {name: SIZES[name] for name in names if name in SIZES}


SMALL = {model: _small(model) for model in MODELS}
ALWAYS = ("text-only", "late-fusion", "df-erc", "mm-dfn", "cfn-esa", "dialogue-rnn")


def every_model() -> list[Any]:
    """All models to parametrise a test with, that of most by the slow run alone, which CI makes, too."""
    return [m if m in ALWAYS else pytest.param(m, marks=pytest.mark.slow) for m in MODELS]


def tables(dialogues: int = 15, seed: int = 0) -> tuple[pd.DataFrame, dict[str, Features]]:
    """Utterances whose text phrase and features follow their label, and the features.

    Of five dialogues in a row three are for training, one validates, one tests; folds are 0, 1, 2 in turn.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for d in range(dialogues):
        for i in range(int(generator.integers(2, 6))):
            label = int(generator.integers(3))
            rows.append(
                {
                    "dialogue_id": f"d{d:02}",
                    "utterance_index": i,
                    "speaker": ("Ann", "Ben")[i % 2],
                    "text": PHRASES[label],
                    "label": LABELS[label],
                    "split": ("train", "train", "validation", "train", "test")[d % 5],
                    "fold": d % 3,
                }
            )
    frame = pd.DataFrame(rows)
    kind = frame["label"].map(LABELS.index).to_numpy()
    features = {}
    for name, width in WIDTHS.items():
        values = generator.normal(size=(3, width))[kind] + generator.normal(size=(len(frame), width))
        present = generator.random(len(frame)) > 0.1
        features[name] = Features(values.astype(np.float32), present, RECIPES[name])
    return frame, features


def write(
    path: Path,
    frame: pd.DataFrame | None = None,
    features: Mapping[str, Features] | None = None,
    labels: tuple[str, ...] = LABELS,
    name: str = "tiny",
) -> Corpus:
    """Write a corpus of `tables()`, or of what is given in place of them."""
    own_frame, own_features = tables()
    return write_corpus(
        path,
        name=name,
        labels=labels,
        utterances=own_frame if frame is None else frame,
        features=own_features if features is None else features,
        provenance={"source": "tests"},
    )


def config(
    model: str = "text-only", *, text_encoder: dict[str, Any] | None = None, **training: Any
) -> RunConfig:
    """A config of a small network with plain training; keywords are those of `TrainingConfig`."""
    training = {"epochs": 3, "batch_size": 4, "warmup_steps": 2, "learning_rate": 0.02, **training}
    preset = next(name for name in ("plain", "paper", "paper-meld") if name in MODELS[model].presets)
    layer = {"preset": preset, "network": SMALL[model], "training": training, "text_encoder": text_encoder}
    return resolve(model, layer)


def task(corpus: Corpus, run: RunConfig | None = None, seed: int = 0) -> Task:
    """The run of a config on the splits of a corpus."""
    return Task(corpus, run or config(), corpus.split("train"), corpus.split("validation"), seed)


def written(out: Path) -> dict[str, Any]:
    """All that a run leaves, in a form that can be compared; tensors bit for bit."""
    state = torch.load(out / "state.pt", weights_only=True)
    info = json.loads((out / "checkpoint.json").read_text(encoding="utf-8"))
    info["git_commit"] = info["sha256"] = None  # says what mmerc was, not what the run did; is over that
    return {
        "weights": {k: v.numpy().tobytes() for k, v in load_file(out / "model.safetensors").items()},
        "last": {k: v.numpy().tobytes() for k, v in state["pipeline"].items()},
        "log": (out / "log.jsonl").read_text(encoding="utf-8"),
        "config": (out / "config.yaml").read_text(encoding="utf-8"),
        "identity": state["identity"],
        "info": info,
    }


def in_this_process(
    work: Callable[[Any], Any], jobs: Sequence[Any], processes: int
) -> Iterator[tuple[Any, Any]]:
    """Stands in for `side_by_side` of `mmerc.experiments.cells`: starting a process takes seconds."""
    for job in jobs:
        try:
            yield job, work(job)
        except Exception as error:
            yield job, error


def make_bert(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of two layers with random weights, and its tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = [
        "the",
        "train",
        "is",
        "late",
        "again",
        "oh",
        "no",
        "fine",
        "great",
        "here",
        "it",
        "not",
        "!",
        ",",
    ]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=48,
        initializer_range=0.5,
    )
    torch.manual_seed(seed)
    BertModel(shape).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return folder
