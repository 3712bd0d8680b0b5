"""Configurations: YAML files and `key=value` overrides, checked against frozen dataclasses."""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from mmerc.errors import ConfigError

T = TypeVar("T")

# What 32 bits hold: of what is counted, and of what torch computes with.
LARGEST_COUNT, LARGEST_NUMBER = 2**31 - 1, 3.4e38


class _Loader(yaml.SafeLoader):
    """Plain values only: with aliases, a few lines can stand for more than any memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it uses an alias (*name): write the value out")
        return super().compose_node(parent, index)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = int(super().construct_yaml_int(node))
        if value.bit_length() > 1_000:  # Python would refuse to print it
            raise ValueError("a number has too many digits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def load_yaml(text: str | bytes) -> Any:
    """Read one YAML document of plain values.

    Raises:
        yaml.YAMLError: it is not YAML, uses aliases, nests without end, or holds a value that is none.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # of a date or number that is none
        raise yaml.YAMLError(str(error)) from None
    except RecursionError:
        raise yaml.YAMLError("it nests too deeply") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds no mapping.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # PyYAML's run over several lines
        raise ConfigError(f"{path} is not a readable YAML file: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold `key: value` pairs, not a {type(content).__name__}")
    return content


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn `training.epochs=3` into `{"training": {"epochs": 3}}`; values are read as YAML.

    Raises:
        ConfigError: an assignment without `=` or with a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"--set {assignment}: expected key=value, for example training.epochs=20")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {assignment}: {text!r} is not a value") from None
        # YAML 1.1 reads 1e-3 as text; a number is what everybody means.
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        *path, last = key.strip().split(".")
        node = result
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment}: {part!r} is already set to a value")
        node[last] = value
    return result


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; later layers win."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
                result[key] = merge(result[key], value)
            else:
                result[key] = value
    return result


def build(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Build the dataclass `cls` from a mapping, its types checked.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a wrong type, or too large a number.
    """
    _check_keys(cls, values, where)
    try:
        built: T = _checker(cls).validate_python(dict(values))  # type: ignore[arg-type]  # types are hashable
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}: {path} = {first['input']!r}: {first['msg']}") from None
    for path, number in _numbers(vars(built)):
        largest = LARGEST_COUNT if isinstance(number, int) else LARGEST_NUMBER
        if not -largest <= number <= largest:  # nor is NaN
            raise ConfigError(f"{where}: {path} must be a finite number, of {largest} at most")
    return built


@cache
def _checker(cls: type[Any]) -> TypeAdapter[Any]:
    """Return what checks the values of a dataclass; making it takes milliseconds, asking it microseconds."""
    return TypeAdapter(cls)


def require_ranges(
    settings: object,
    section: str,
    *,
    positive: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    shares: Iterable[str] = (),
) -> None:
    """Check the ranges of the named fields of a config dataclass; None is always allowed.

    Args:
        settings: the dataclass
        section: where it stands in a run's config, for the message
        positive: fields above 0
        not_negative: fields of at least 0
        shares: fields in [0, 1)

    Raises:
        ConfigError: a field is out of its range.
    """
    rules: tuple[tuple[Iterable[str], str, Callable[[float], bool]], ...] = (
        (positive, "be above 0", lambda x: x > 0),
        (not_negative, "be at least 0", lambda x: x >= 0),
        (shares, "lie in [0, 1)", lambda x: 0 <= x < 1),
    )
    for names, text, holds in rules:
        for name in names:
            value = getattr(settings, name)
            if value is not None and not holds(value):
                raise ConfigError(f"{section}.{name} must {text}, not {value}")


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in nested mappings, sequences and dataclasses with its dotted path."""
    if isinstance(value, int | float):
        yield path, value
    elif is_dataclass(value):
        yield from _numbers(vars(value), path)
    elif isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in pairs:
            yield from _numbers(inner, f"{path}.{key}" if path else str(key))


def _check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Refuse unknown keys, those of nested dataclasses too: pydantic would drop them without a word."""
    types = get_type_hints(cls)
    for key, value in values.items():
        if key not in types:
            near = difflib.get_close_matches(str(key), types, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"keys are: {', '.join(types)}"
            raise ConfigError(f"{where}: unknown key {key!r}; {hint}")
        nested = [t for t in (types[key], *get_args(types[key])) if is_dataclass(t) and isinstance(t, type)]
        if nested and isinstance(value, Mapping):
            _check_keys(nested[0], value, key)


@dataclass(frozen=True)
class TextEncoderConfig:
    """A language model that is trained with the network, in place of frozen text vectors."""

    name: str = "minilm"  # `minilm`, a folder, or a name on the Hugging Face hub
    window: int | None = None  # tokens per window; None: the encoder's limit
    utterance_limit: int = 256  # tokens of an utterance that are read
    layers: tuple[int, ...] | None = None  # hidden states to concatenate; None: the last one
    scope: Literal["dialogue", "utterance", "both"] = "dialogue"  # how an utterance is read
    gradient_checkpointing: bool = False  # less memory, a third more time


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; the defaults are those of the DF-ERC paper where it states them."""

    epochs: int = 40  # at most
    patience: int = 10  # epochs without a better validation score before the run stops
    batch_size: int = 8  # dialogues at a time
    batch_utterances: int | None = None  # about so many utterances instead, whatever the dialogues' lengths
    learning_rate: float = 1e-3  # of the network, after warm-up
    encoder_learning_rate: float = 1e-5  # of the text encoder, when it is trained along
    weight_decay: float = 0.01  # of AdamW: a step shrinks the weights by learning rate times this
    decay_biases: bool = True  # weight decay on biases and norms too
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW: memory of the gradient's mean, of its square's
    eps: float = 1e-8  # of AdamW: keeps its division from 0
    warmup_steps: int = 100  # over which the learning rates rise from 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # after warm-up; the others fall to 0
    clip_norm: float = 1.0  # largest norm of the gradient; 0: no clipping
    class_weights: float | dict[str, float] | None = None  # an exponent p: weight ∝ count^−p; or by label
    modality_dropout: float = 0.0  # chance that a modality of an utterance is hidden in training
    standardize: bool = True  # features to mean 0, sd 1, with training statistics
    feature_clip: float = 5.0  # largest absolute standardised value
    ema_decay: float = 0.0  # average the weights over steps with this decay; 0: off
    validation_share: float = 0.2  # of the training folds' dialogues, in cross-validation
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # auto: bf16 on CUDA, fp32 on the CPU

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "training",
            positive=(
                "epochs", "patience", "batch_size", "batch_utterances", "learning_rate", "eps",
                "feature_clip", "validation_share",
            ),
            not_negative=("encoder_learning_rate", "weight_decay", "warmup_steps", "clip_norm"),
            shares=("modality_dropout", "ema_decay", "validation_share"),
        )  # fmt: skip
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"training.betas must lie in [0, 1), not {self.betas}")
        weights = self.class_weights
        if any(number < 0 for _, number in _numbers(weights)):
            raise ConfigError(f"training.class_weights must not be below 0, not {weights}")
        if isinstance(weights, dict) and not any(weights.values()):
            raise ConfigError(f"training.class_weights must not all be 0: {weights}")


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run beside the corpus and the seed; saved as `config.yaml`."""

    model: str  # its name, as `mmerc models` lists it
    preset: str | None = None  # named settings, for the keys that are not given here, and their network
    modalities: tuple[str, ...] | None = None  # None: text, audio and visual, as far as the corpus has them
    text_encoder: TextEncoderConfig | None = None  # None: frozen vectors from the corpus
    network: dict[str, Any] = field(default_factory=dict)  # the model's own settings
    training: TrainingConfig = field(default_factory=TrainingConfig)  # how it is trained

    def __post_init__(self) -> None:
        if self.modalities == ():
            raise ConfigError("modalities is empty: name one at least, or leave it out to read all")
