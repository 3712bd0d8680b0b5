from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmerc.config import (
    RunConfig,
    TextEncoderConfig,
    TrainingConfig,
    build,
    merge,
    parse_overrides,
    read_yaml,
)
from mmerc.errors import ConfigError
from mmerc.models import resolve
from mmerc.pipeline import build_pipeline

TREES = st.recursive(
    st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("0.5", 0.5),
        ("20", 20),
        ("true", True),
        ("null", None),
        ("", None),
        ("[text, audio]", ["text", "audio"]),
        ("{joy: 2.0}", {"joy": 2.0}),
        ("minilm", "minilm"),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_yaml(text: str, value: object) -> None:
    result = parse_overrides([f"key={text}"])["key"]
    assert result == value
    assert type(result) is type(value)


def test_dots_nest_and_later_assignments_win() -> None:
    given_ = ["training.epochs=3", "training.betas=[0.9, 0.8]", " preset =paper", "training.epochs=4"]
    assert parse_overrides(given_) == {"training": {"epochs": 4, "betas": [0.9, 0.8]}, "preset": "paper"}
    assert parse_overrides([]) == {}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["training.epochs"], "--set training.epochs: expected key=value"),
        (["=3"], "--set =3: expected key=value"),
        (["a=[1"], r"'\[1' is not a value"),
        (["training=3", "training.epochs=4"], "'training' is already set to a value"),
    ],
)
def test_bad_assignments_are_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_overrides(assignments)


@given(a=MAPPINGS, b=MAPPINGS)
def test_the_later_layer_wins(a: dict, b: dict) -> None:
    assert merge(a, a) == a
    assert merge(a, {}) == merge({}, a) == a
    merged = merge(a, b)
    assert merged.keys() == a.keys() | b.keys()
    for key, value in b.items():
        if not isinstance(value, dict):
            assert merged[key] == value


def test_merging_leaves_its_layers_alone() -> None:
    low, high = {"training": {"epochs": 1, "eps": 2}}, {"training": {"epochs": 3}}
    assert merge(low, high) == {"training": {"epochs": 3, "eps": 2}}
    assert low == {"training": {"epochs": 1, "eps": 2}}
    assert high == {"training": {"epochs": 3}}


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("training: {epochs: 3}\n", encoding="utf-8")
    assert read_yaml(path) == {"training": {"epochs": 3}}
    path.write_text("", encoding="utf-8")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"- 1\n- 2\n", "must hold `key: value` pairs, not a list"),
        (b"a: [1", "is not a readable YAML file"),
        (b"\xff\xfe\xfa", "is not a readable YAML file"),
    ],
)
def test_broken_yaml_files_are_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_a_folder_is_not_a_yaml_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a readable YAML file"):
        read_yaml(tmp_path)


def test_build_checks_nested_keys_and_types() -> None:
    run = build(RunConfig, {"model": "df-erc", "modalities": ["text"], "training": {"betas": [0.9, 0.84]}})
    assert run == RunConfig("df-erc", modalities=("text",), training=TrainingConfig(betas=(0.9, 0.84)))
    with pytest.raises(ConfigError, match="run: unknown key 'modell'; did you mean 'model'"):
        build(RunConfig, {"modell": "x"}, "run")
    with pytest.raises(
        ConfigError, match="training: unknown key 'learning_rat'; did you mean 'learning_rate'"
    ):
        build(RunConfig, {"model": "x", "training": {"learning_rat": 1}})
    with pytest.raises(ConfigError, match="unknown key 'q'; keys are: name, window"):
        build(TextEncoderConfig, {"q": 1})
    with pytest.raises(ConfigError, match=r"training\.epochs = 'many'"):
        build(RunConfig, {"model": "x", "training": {"epochs": "many"}})
    with pytest.raises(ConfigError, match="model"):
        build(RunConfig, {})


@pytest.mark.parametrize("value", [0.5, {"joy": 2.0}, None])
def test_class_weights_are_an_exponent_or_by_label(value: object) -> None:
    assert build(TrainingConfig, {"class_weights": value}).class_weights == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, bad) for key in ("epochs", "patience", "batch_size") for bad in (0, -1)),
        *((k, bad) for k in ("learning_rate", "eps", "feature_clip") for bad in (0.0, -1.0, float("nan"))),
        *((key, bad) for key in ("modality_dropout", "ema_decay") for bad in (-0.1, 1.0, float("nan"))),
        *(("validation_share", bad) for bad in (0.0, 1.0, -1.0)),
        *(("batch_utterances", bad) for bad in (0, -1)),
        *((key, -1) for key in ("encoder_learning_rate", "weight_decay", "warmup_steps", "clip_norm")),
        *((key, float("inf")) for key in ("learning_rate", "weight_decay", "clip_norm", "eps")),
        *(("betas", bad) for bad in ([2.0, 0.9], [0.9, 1.0], [0.9, float("nan")])),
        *(("class_weights", bad) for bad in (-1.0, {"joy": -1.0, "anger": 1.0}, {"joy": 0.0, "anger": 0.0})),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key}(\.\d)? must"):
        build(RunConfig, {"model": "df-erc", "training": {key: value}})


def test_numbers_that_are_not_finite_are_refused_wherever_they_stand() -> None:
    for value in (float("nan"), float("inf"), "nan"):
        with pytest.raises(ConfigError, match=r"training\.class_weights\.joy must be a finite number"):
            build(RunConfig, {"model": "x", "training": {"class_weights": {"joy": value, "anger": 1}}})
    with pytest.raises(ConfigError, match=r"network\.beta must be a finite number"):
        resolve("df-erc", {"network": {"beta": float("nan")}})


@pytest.mark.parametrize("value", [2**31, -(2**70), 10**300, 3.5e38, 10**400])
def test_numbers_beyond_32_bits_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match=r"network\.(hidden|beta) must be (a finite number, of|above 0)"):
        resolve("df-erc", {"network": {"hidden" if isinstance(value, int) else "beta": value}})


def test_sizes_beyond_torch_are_refused() -> None:
    run = resolve("text-only", {"network": {"context_hidden": 2**31 - 1}})  # whose square is beyond 64 bits
    with pytest.raises(ConfigError, match=r"text-only of these sizes cannot be built \("):
        build_pipeline(run, {"text": 5}, 3)


def test_no_modality_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="modalities is empty"):
        build(RunConfig, {"model": "x", "modalities": []})
    assert build(RunConfig, {"model": "x", "modalities": None}).modalities is None
