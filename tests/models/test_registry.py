from dataclasses import asdict, fields, is_dataclass
from typing import Any

import pytest
import torch
import yaml

from helpers import DFERC_PRESETS, WIDTHS
from mmerc.config import RunConfig, TextEncoderConfig, build
from mmerc.errors import ConfigError
from mmerc.models import MODELS, choose_modalities, find, resolve
from mmerc.pipeline import build_pipeline

PRESETS = [(model, preset) for model, entry in MODELS.items() for preset in [None, *entry.presets]]


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_a_frozen_config(model: str) -> None:
    config = find(model).config
    assert is_dataclass(config)
    assert config.__dataclass_params__.frozen
    assert resolve(model).network.keys() == {f.name for f in fields(config)}


@pytest.mark.parametrize(("model", "preset"), PRESETS)
def test_a_resolved_config_survives_yaml(model: str, preset: str | None) -> None:
    run = resolve(model, {"preset": preset, "modalities": ["text"], "text_encoder": "minilm"})
    assert build(RunConfig, yaml.safe_load(yaml.safe_dump(asdict(run)))) == run
    assert resolve(model, yaml.safe_load(yaml.safe_dump(asdict(run)))) == run


@pytest.mark.parametrize("preset", DFERC_PRESETS)
def test_a_preset_is_what_it_says(preset: str) -> None:
    run = resolve("df-erc", {"preset": preset})
    given = MODELS["df-erc"].presets[preset]
    assert run.preset == preset
    assert run.network.items() >= given.get("network", {}).items()
    for key, value in given.get("training", {}).items():
        assert getattr(run.training, key) == value


def test_a_preset_may_have_a_network_of_its_own() -> None:
    paper, official = find("df-erc", "paper-meld"), find("df-erc", "official-iemocap")
    assert issubclass(official.network, paper.network)
    assert official.network is not paper.network
    assert find("df-erc", "official").network is official.network
    run = resolve("df-erc", {"preset": "official-iemocap"})
    assert run.network.keys() == {f.name for f in fields(official.config)}
    assert type(build_pipeline(run, WIDTHS, 3).network) is official.network


def test_refined_is_the_default() -> None:
    for model in MODELS:
        assert resolve(model) == resolve(model, {"preset": "refined"})
    assert resolve("df-erc", {"preset": None}).preset is None


def test_later_layers_win_over_earlier_ones_and_over_the_preset() -> None:
    run = resolve(
        "df-erc",
        {"preset": "paper-meld", "network": {"hidden": 7, "beta": 0.2}},
        {"preset": "official-iemocap", "network": {"hidden": 8}},
        {"training": {"epochs": 3}},
    )
    assert (run.preset, run.network["hidden"], run.network["beta"]) == ("official-iemocap", 8, 0.2)
    assert (run.training.epochs, run.training.batch_size) == (3, 2)
    assert run.network["context_layers"] == 2


def test_resolving_leaves_the_presets_alone() -> None:
    before = yaml.safe_dump(MODELS["df-erc"].presets)
    resolve("df-erc", {"preset": "official-iemocap", "network": {"hidden": 1}, "training": {"epochs": 1}})
    assert yaml.safe_dump(MODELS["df-erc"].presets) == before


@pytest.mark.parametrize("name", ["official", "paper"])
def test_a_config_that_says_everything_keeps_a_preset_that_is_one_for_each_corpus_now(name: str) -> None:
    old = yaml.safe_load(yaml.safe_dump(asdict(resolve("mm-dfn", {"preset": "official-iemocap"}))))
    old["preset"], old["training"]["class_weights"] = name, 1.0
    assert asdict(resolve("mm-dfn", old)) | {"preset": None} == asdict(build(RunConfig, old)) | {
        "preset": None
    }
    assert resolve("mm-dfn", old, {"training": {"epochs": 1}}).training.epochs == 1
    del old["network"]["hidden"]  # a setting that is newer than the config has its default
    assert resolve("mm-dfn", old).network["hidden"] == 200
    del old["network"]["speaker_weights"]
    with pytest.raises(ConfigError, match=f"Take {name}-meld or {name}-iemocap"):
        resolve("mm-dfn", old)


def test_a_text_encoder_may_be_named_in_short() -> None:
    assert resolve("df-erc", {"text_encoder": "roberta-large"}).text_encoder == TextEncoderConfig(
        "roberta-large"
    )
    assert resolve("df-erc", {"text_encoder": {"window": 64}}).text_encoder == TextEncoderConfig(window=64)


@pytest.mark.parametrize(
    ("model", "layer", "words"),
    [
        ("df-er", {}, ["'df-er'", "did you mean 'df-erc'", "late-fusion"]),
        ("bert", {}, ["'bert'", "models are: df-erc, ", ", late-fusion, text-only"]),
        ("df-erc", {"preset": "oficial"}, ["'oficial'", "did you mean 'official-iemocap'", "paper-meld"]),
        ("df-erc", {"preset": ["paper"]}, ["['paper']"]),
        ("text-only", {"preset": "paper"}, ["text-only has no preset 'paper'", "refined, plain"]),
        ("mm-dfn", {"preset": "official"}, ["depends on the corpus", "official-meld or official-iemocap"]),
        ("cfn-esa", {"preset": "paper"}, ["depends on the corpus", "paper-meld or paper-iemocap"]),
        ("df-erc", {"model": "text-only"}, ["'text-only'", "not for 'df-erc'"]),
        ("df-erc", {"trainig": {}}, ["'trainig'", "did you mean 'training'"]),
        ("df-erc", {"zzz": 1}, ["'zzz'", "keys are: model, preset"]),
        ("df-erc", {"network": {"hiden": 3}}, ["network", "'hiden'", "did you mean 'hidden'"]),
        ("df-erc", {"training": {"epoch": 3}}, ["training", "'epoch'", "did you mean 'epochs'"]),
        ("df-erc", {"text_encoder": {"nam": "x"}}, ["text_encoder", "'nam'", "did you mean 'name'"]),
        ("df-erc", {"network": {"hidden": "wide"}}, ["network", "hidden = 'wide'", "integer"]),
        ("df-erc", {"network": {"fusion": "mean"}}, ["fusion = 'mean'", "'contribution', 'uniform'"]),
        ("df-erc", {"network": 3}, ["network = 3", "dictionary"]),
        ("df-erc", {"training": None}, ["training = None"]),
        ("df-erc", {"training": {"precision": "fp8"}}, ["training.precision = 'fp8'", "bf16"]),
        ("df-erc", {"training": {"betas": [0.9]}}, ["training.betas.1"]),
        ("df-erc", {"modalities": "text"}, ["modalities = 'text'"]),
        ("df-erc", {"training": {"epochs": 0}}, ["training.epochs", "above 0"]),
    ],
)
def test_mistakes_are_named(model: str, layer: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(model, layer)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("model", "layer", "available", "chosen"),
    [
        ("df-erc", {}, ["visual", "text", "audio"], ("audio", "text", "visual")),
        ("df-erc", {}, ["text", "gaze", "audio"], ("audio", "text")),
        ("df-erc", {}, ["gaze", "eeg"], ("eeg", "gaze")),
        ("df-erc", {"modalities": ["visual", "audio"]}, ["text", "audio", "visual"], ("audio", "visual")),
        ("df-erc", {"modalities": ["gaze", "gaze"]}, ["text", "gaze"], ("gaze",)),
        ("df-erc", {"text_encoder": "minilm"}, ["audio"], ("audio", "text")),
        ("df-erc", {"text_encoder": "minilm"}, [], ("text",)),
        ("text-only", {}, ["text", "audio", "visual"], ("text",)),
    ],
)
def test_modalities_are_chosen(
    model: str, layer: dict[str, Any], available: list[str], chosen: tuple[str, ...]
) -> None:
    assert choose_modalities(resolve(model, layer), available) == chosen


@pytest.mark.parametrize(
    ("model", "layer", "available", "message"),
    [
        ("df-erc", {"modalities": ["gaze"]}, ["text"], "no modality 'gaze'; it has: text"),
        ("df-erc", {"modalities": ["text"]}, ["audio"], "no modality 'text'.*encode-text"),
        ("df-erc", {}, [], "no features.*encode-text"),
        ("text-only", {"modalities": ["text", "audio"]}, ["text", "audio"], "text only, not 'audio'"),
        ("text-only", {}, ["audio"], "no modality 'text'; it has: audio; run `mmerc corpus encode-text`"),
    ],
)
def test_impossible_modalities_are_refused(
    model: str, layer: dict[str, Any], available: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_modalities(resolve(model, layer), available)


def test_a_pipeline_is_built_as_configured() -> None:
    layer = {"network": {"hidden": 4, "relation_width": 5, "context_hidden": 3}}
    weights = torch.tensor([1.0, 2.0])
    pipeline = build_pipeline(resolve("df-erc", layer), WIDTHS, 2, class_weights=weights)
    assert pipeline.standardizer is not None
    assert pipeline.standardizer.clip == 4.0
    assert torch.equal(pipeline.network.class_weights, weights)
    raw = build_pipeline(resolve("df-erc", layer, {"training": {"standardize": False}}), WIDTHS, 2)
    assert raw.standardizer is None
