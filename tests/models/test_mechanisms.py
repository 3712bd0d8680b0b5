"""Do DF-ERC's mechanisms, trained, follow the truth of `scripted`?"""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmerc.corpora.scripted import generate
from mmerc.corpus import Corpus
from mmerc.evaluation import evaluate
from mmerc.features.frozen import encode, frozen_encoder
from mmerc.models import resolve
from mmerc.task import Task
from mmerc.training import train

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from mechanisms import mechanisms


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    corpus = generate(tmp_path_factory.mktemp("scripted") / "corpus", seed=3, dialogues=120)
    return corpus.add_modality("text", encode(frozen_encoder("minilm"), corpus.texts))


def trained(corpus: Corpus, preset: str, out: Path, **network: str) -> dict[str, float]:
    layer = {"preset": preset, "training": {"epochs": 15}, "network": network}
    splits = corpus.split("train"), corpus.split("validation")
    train(Task(corpus, resolve("df-erc", layer), *splits, seed=0), out)
    return mechanisms(corpus, evaluate(out, corpus)[0])


@pytest.mark.slow
def test_refined_gate_and_contributions_follow_the_truth(scripted: Corpus, tmp_path: Path) -> None:
    found = trained(scripted, "refined", tmp_path / "run")
    assert found["1 − ψ, spread"] > 0.1
    assert found["AUC, contradictory : reliable"] >= 0.75
    assert found["AUC, contradictory : all others"] >= 0.75
    assert found["Spearman, pooled"] >= 0.4


@pytest.mark.slow
def test_the_gate_of_the_paper_moves_but_not_with_the_truth(scripted: Corpus, tmp_path: Path) -> None:
    found = trained(scripted, "paper-meld", tmp_path / "run")
    assert found["1 − ψ, spread"] > 0.05
    assert found["1 − ψ, mean"] < 0.8
    assert found["AUC, contradictory : reliable"] < 0.5


@pytest.mark.slow
def test_with_small_initial_weights_the_gate_of_the_paper_is_constant(
    scripted: Corpus, tmp_path: Path
) -> None:
    found = trained(scripted, "paper-meld", tmp_path / "run", initial_weights="torch")
    assert found["1 − ψ, spread"] < 0.05
    assert np.isclose(found["1 − ψ, mean"], 1.0, atol=0.05)
