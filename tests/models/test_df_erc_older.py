"""Checkpoints of DF-ERC whose config names settings that are gone still load."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers import make_network, modalities_of
from mmerc.checkpoint import Checkpoint, load_checkpoint
from mmerc.config import RunConfig, read_yaml
from mmerc.corpus import Corpus
from mmerc.errors import CheckpointError, ConfigError
from mmerc.examples import Examples
from mmerc.models import resolve
from mmerc.storage import seal_text, sha256
from mmerc.training import train
from tiny import task

# The network of preset `paper` as commit a7a00a6 wrote it, and what the other presets had in its place.
WRITTEN = yaml.safe_load("""
hidden: 300
relation_width: 500
context_hidden: 300
context_layers: 1
speaker_hidden: 0
alpha_contrastive: 0.3
alpha_contribution: 0.8
alpha_similarity: 0.3
tau_modality: 0.5
tau_utterance: 0.3
beta: 0.1
dropout: 0.2
input_dropout: 0.0
head_dropout: null
layer_dropout: 0.0
output_dropout: 0.0
modality_branch: true
utterance_branch: true
fusion: contribution
refusion: agreement
contrastive_scope: batch
contrastive_times_tau: false
branch_merge: concat
branch_scale: 1.0
stacked_utterance_branch: false
teacher_gelu: false
normalise_contributions: false
unweighted_share: false
detach_target: true
prototypes: running
prototype_temperature: 0.1
active_hinge_mean: false
agreement_on: vectors
clamp_agreement: false
agreement_gradient: false
context_output: own
context_scale: 1.0
causal: false
""")
REFINED = yaml.safe_load("""
hidden: 256
relation_width: 128
context_hidden: 200
speaker_hidden: 100
dropout: 0.4
input_dropout: 0.4
head_dropout: 0.5
output_dropout: 0.3
prototypes: learned
agreement_on: emotions
agreement_gradient: true
""")
OFFICIAL = yaml.safe_load("""
context_hidden: 600
context_layers: 2
alpha_contrastive: 0.4
alpha_contribution: 1.0
alpha_similarity: 0.7
tau_modality: 1.0
tau_utterance: 1.0
layer_dropout: 0.3
contrastive_times_tau: true
branch_merge: sum
branch_scale: 0.4
stacked_utterance_branch: true
teacher_gelu: true
normalise_contributions: true
unweighted_share: true
detach_target: false
prototypes: batch
active_hinge_mean: true
context_output: neighbours
context_scale: 0.8
""")
OLDER: dict[str, dict[str, Any]] = {
    "refined": WRITTEN | REFINED,
    "paper": WRITTEN,
    "official": WRITTEN | OFFICIAL,
}
# The preset that an older version's is today, where it is one for each corpus now.
TODAY = {"refined": "refined", "paper": "paper-meld", "official": "official-iemocap"}
SIZES = {"hidden": 6, "relation_width": 5, "context_hidden": 4}


def small(preset: str) -> RunConfig:
    training = {"epochs": 1, "class_weights": None}  # the tiny corpus has other labels
    return resolve("df-erc", {"preset": TODAY[preset], "network": SIZES, "training": training})


def aged(folder: Path, preset: str, network: dict[str, Any]) -> None:
    """Let a checkpoint's config say what an older version would have written."""
    path = folder / "config.yaml"
    path.write_text(
        yaml.safe_dump(read_yaml(path) | {"preset": preset, "network": network}), encoding="utf-8"
    )
    info = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    info |= {"config_sha256": sha256(path), "sha256": ""}
    (folder / "checkpoint.json").write_text(seal_text(json.dumps(info)), encoding="utf-8")


def probabilities(checkpoint: Checkpoint, corpus: Corpus) -> np.ndarray:
    pipeline = checkpoint.pipeline
    return pipeline.infer(
        Examples.from_corpus(corpus, pipeline.network.modalities), corpus.split("test")
    ).probabilities


@pytest.mark.parametrize("preset", OLDER)
def test_a_config_of_an_older_version_is_that_of_the_preset(preset: str) -> None:
    today = resolve("df-erc", {"preset": TODAY[preset]})
    older = asdict(today) | {"preset": preset, "network": OLDER[preset]}
    assert resolve("df-erc", older) == replace(today, preset=preset)


@pytest.mark.parametrize("preset", OLDER)
def test_a_checkpoint_of_an_older_version_predicts_as_it_did(
    preset: str, corpus: Corpus, tmp_path: Path
) -> None:
    run = small(preset)
    train(task(corpus, run), tmp_path / "run", device="cpu")
    before = probabilities(load_checkpoint(tmp_path / "run"), corpus)
    aged(tmp_path / "run", preset, OLDER[preset] | SIZES)
    assert np.array_equal(probabilities(load_checkpoint(tmp_path / "run"), corpus), before)


@pytest.mark.parametrize(("preset", "layers"), [("paper-meld", 1), ("official-iemocap", 2)])
def test_weights_are_called_as_they_were(preset: str, layers: int) -> None:
    heads = ["cfm.student.1", "cfm.teacher.1", "classifier.1", "crm.relation.1"]
    branches = ["ddm.modality.1", "ddm.utterance.1"]
    projections = [f"projection.linear.{m}" for m in modalities_of("df-erc")]
    names = {f"{place}.{kind}" for place in heads + branches + projections for kind in ("weight", "bias")}
    names |= {"crm.running.means", "crm.running.counts"}
    names |= {
        f"crm.context.rnn.{kind}_{what}_l{layer}{way}"
        for kind in ("weight", "bias")
        for what in ("ih", "hh")
        for layer in range(layers)
        for way in ("", "_reverse")
    }
    assert set(make_network("df-erc", preset).state_dict()) == names


@pytest.mark.parametrize(
    ("preset", "setting", "value"),
    [
        ("refined", "prototypes", "running"),
        ("refined", "layer_dropout", 0.3),
        ("paper-meld", "prototypes", "learned"),
        ("paper-meld", "branch_merge", "sum"),
        ("paper-meld", "clamp_agreement", True),
        ("official-iemocap", "prototypes", "running"),
        ("official-iemocap", "branch_merge", "concat"),
    ],
)
def test_a_reading_that_is_gone_is_refused(preset: str, setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"network\.{setting} is no longer a setting: .* not {value!r}"):
        resolve("df-erc", {"preset": preset, "network": {setting: value}})


def test_a_checkpoint_of_a_reading_that_is_gone_says_so(corpus: Corpus, tmp_path: Path) -> None:
    train(task(corpus, small("paper")), tmp_path / "run", device="cpu")
    aged(tmp_path / "run", "paper", WRITTEN | SIZES | {"contrastive_scope": "dialogue"})
    with pytest.raises(CheckpointError, match=r"network\.contrastive_scope is no longer a setting"):
        load_checkpoint(tmp_path / "run")
