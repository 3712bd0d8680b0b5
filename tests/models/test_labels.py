"""A preset for one corpus is refused on the labels of the other, before any work."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tiny
from mmerc.corpora.peer_layouts import LABELS
from mmerc.corpus import Corpus, Features
from mmerc.errors import ConfigError
from mmerc.experiments.benchmark import plan_benchmark
from mmerc.models import MODELS, resolve
from mmerc.models.labels import corpus_of, require_fitting_labels
from mmerc.training import Trainer, torch


def corpus(path: Path, name: str, labels: tuple[str, ...] = ()) -> Corpus:
    """Two dialogues whose utterances have each label once."""
    labels = labels or LABELS[name]
    rows = [
        {
            "dialogue_id": split,
            "utterance_index": i,
            "speaker": "Ann",
            "text": "",
            "label": label,
            "split": split,
        }
        for split in ("train", "validation")
        for i, label in enumerate(labels)
    ]
    values = np.random.default_rng(0).normal(size=(len(rows), 4)).astype(np.float32)
    features = {"text": Features(values, np.ones(len(rows), dtype=bool), {"kind": "made-up"})}
    return tiny.write(path, pd.DataFrame(rows), features, labels, name)


def trainer(on: Corpus, model: str, preset: str, **training: Any) -> Trainer:
    layer = {"preset": preset, "network": tiny.SMALL[model], "training": training}
    return Trainer(tiny.task(on, resolve(model, layer)), torch.device("cpu"))


OF_A_CORPUS = [(model, p) for model, entry in MODELS.items() for p in entry.presets if corpus_of(p)]


@pytest.mark.parametrize(("model", "preset"), OF_A_CORPUS)
def test_a_preset_fits_its_corpus_and_not_the_other(tmp_path: Path, model: str, preset: str) -> None:
    run = resolve(model, {"preset": preset})
    for name in LABELS:
        on = corpus(tmp_path / name, name)
        if name == corpus_of(preset):
            require_fitting_labels(run, on)
        else:
            with pytest.raises(ConfigError, match=f"preset {preset} of {model} is for the labels of"):
                require_fitting_labels(run, on)


@pytest.mark.parametrize("model", ["mm-dfn", "cfn-esa"])
def test_training_names_the_labels_and_the_preset_to_take(tmp_path: Path, model: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(corpus(tmp_path / "c", "meld"), model, "official-iemocap")
    assert str(caught.value) == (
        f"preset official-iemocap of {model} is for the labels of IEMOCAP (happy, sad, neutral, angry, "
        "excited, frustrated); meld has those of MELD: take official-meld"
    )


def test_the_order_of_the_labels_does_not_matter(tmp_path: Path) -> None:
    found = trainer(corpus(tmp_path / "c", "iemocap", LABELS["iemocap"][::-1]), "mm-dfn", "official-iemocap")
    assert found.class_weights is not None
    assert found.class_weights.tolist() == pytest.approx(
        [3.9578, 7.8302, 6.2272, 4.3882, 6.9249, 11.5278], 1e-4
    )


def test_on_labels_of_its_own_a_corpus_takes_any_preset_that_weighs_none(tmp_path: Path) -> None:
    own = corpus(tmp_path / "c", "own", ("negative", "positive"))
    assert trainer(own, "mm-dfn", "official-meld").class_weights is None
    with pytest.raises(
        ConfigError, match="which it weighs; own has negative, positive: take refined, or set"
    ):
        trainer(own, "mm-dfn", "official-iemocap")
    assert trainer(own, "mm-dfn", "official-iemocap", class_weights=None).class_weights is None


def test_a_benchmark_is_refused_before_it_begins(tmp_path: Path) -> None:
    corpora = [corpus(tmp_path / name, name) for name in ("meld", "iemocap")]
    with pytest.raises(ConfigError, match=r"mm-dfn:paper-meld on iemocap: .*take paper-iemocap"):
        plan_benchmark(["mm-dfn:paper-meld"], corpora, tmp_path / "out", [0], False, {})
