import re
from dataclasses import dataclass, fields
from typing import Literal

import pytest
import torch
import yaml

from helpers import make_batch, make_network, modalities_of
from mmerc.config import RunConfig, TextEncoderConfig, TrainingConfig
from mmerc.errors import ConfigError
from mmerc.models import MODELS, Entry, resolve
from mmerc.models.describe import MELD_WIDTHS, card, causal_mode, config_file, explanations, preset_note

ALL = [(model, preset) for model, entry in MODELS.items() for preset in (None, *entry.presets)]


@pytest.mark.parametrize(
    "cls", [*(entry.config for entry in MODELS.values()), RunConfig, TextEncoderConfig, TrainingConfig]
)
def test_every_setting_is_explained(cls: type) -> None:
    explained = {name for name, text in explanations(cls).items() if " " in text}  # α1 alone says nothing
    missing = {field.name for field in fields(cls)} - explained
    assert not missing, f"{cls.__module__}.{cls.__name__}: no comment behind {', '.join(sorted(missing))}"


@pytest.mark.parametrize(("model", "preset"), ALL)
def test_the_file_resolves_to_the_preset(model: str, preset: str | None) -> None:
    text = config_file(model, preset)
    assert resolve(model, yaml.safe_load(text)) == resolve(model, {"preset": preset} if preset else {})
    for line in text.split("\n\n", 1)[1].splitlines():
        assert re.fullmatch(r"(# )? *\w+:.*  # .+|# text_encoder:", line), line


def test_what_is_switched_off_can_be_switched_on() -> None:
    head, _, rest = config_file("df-erc").partition("text_encoder: null")
    rest = rest.partition("\n")[2]
    opened = head + re.sub("^# ", "", rest, flags=re.MULTILINE)
    assert resolve("df-erc", yaml.safe_load(opened)) == resolve("df-erc", {"text_encoder": "minilm"})


def test_the_file_says_where_the_model_is_from() -> None:
    assert "# DF-ERC, ACM MM 2023, https://doi.org/10.1145/3581783.3612053\n" in config_file(
        "df-erc", "paper-meld"
    )
    assert "\n# Of mmerc's own making.\n" in config_file("late-fusion")


def test_the_file_says_what_the_preset_is() -> None:
    head = config_file("mm-dfn", "official-meld").partition("\n\n")[0].replace("\n# ", " ")
    assert "Preset official-meld: what the authors' code does, for MELD (neutral, surprise, " in head
    assert "One point of the code's grid; which one was published is not stated." in head


@pytest.mark.parametrize(("model", "preset"), [(m, p) for m, p in ALL if p])
def test_every_preset_is_explained(model: str, preset: str) -> None:
    assert re.match(rf"{preset}: \w.*\.", preset_note(MODELS[model], preset))


def test_unknown_names_are_errors_that_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'df-erc'"):
        config_file("df-er")
    with pytest.raises(ConfigError, match="did you mean 'official-iemocap'"):
        config_file("df-erc", "oficial")


@dataclass(frozen=True)
class Base:
    inherited: int = 1  # from above
    overridden: int = 1  # replaced below


@dataclass(frozen=True)
class Awkward(Base):
    # A comment of its own is no explanation.
    bare: int = 1
    hash_in_text: str = "a # b"  # after a text with a hash
    instruction: int = 1  # pragma: no cover
    both: int = 1  # explained  # fmt: skip
    typed: int = 1  # type of the thing
    wrapped: tuple[int, ...] = (
        1,  # not this
        2,
    )  # the last comment; None: off  # fmt: skip
    choice: Literal[
        "left", "right"
    ] | None = None  # which side  # fmt: skip
    overridden: int = 2  # replaced

    def method(self) -> int:
        local: int = 1  # not a field
        return local


def test_comments_are_found_whatever_the_form() -> None:
    assert explanations(Awkward) == {
        "inherited": "from above",
        "overridden": "replaced",
        "hash_in_text": "after a text with a hash",
        "both": "explained",
        "typed": "type of the thing",
        "wrapped": "the last comment; null: off",
        "choice": "which side",
    }


def test_allowed_values_are_told() -> None:
    assert "  fusion: contribution  # weights ω, 1, or attention (contribution, uniform, attention)\n" in (
        config_file("df-erc")
    )


@pytest.mark.parametrize("model", MODELS)
def test_cards(model: str) -> None:
    found = card(model)
    assert found.parameters > 0
    assert found.title.endswith(".")
    assert found.presets == tuple(MODELS[model].presets)
    if found.paper:
        assert found.paper.url.startswith("https://")
    assert set(found.modalities or ()) <= set(MELD_WIDTHS)


def test_parameters_are_counted_at_melds_shape() -> None:
    run = resolve("text-only").network
    d, h = run["hidden"], run["context_hidden"]
    lstm = 2 * 4 * h * (d + h + 2)
    assert card("text-only").parameters == (1024 + 1) * d + lstm + (2 * h + 1) * 7


def test_causal_modes() -> None:
    class Still(MODELS["text-only"].network):
        looks_ahead = False

    @dataclass
    class NoSwitch:
        hidden: int = 1

    assert causal_mode(MODELS["text-only"]) == "yes"
    assert causal_mode(Entry(NoSwitch, MODELS["text-only"].network, {}, None)) == "no"
    assert causal_mode(Entry(NoSwitch, Still, {}, None)) == "always"


def logits_of_two_endings(model: str, **switch: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What a network says about a dialogue, and about one that differs from its fifth utterance on."""
    batch = make_batch([6], modalities_of(model))
    changed = batch._replace(features={m: torch.cat([x[:4], -x[4:]]) for m, x in batch.features.items()})
    networks = [make_network(model, seed=seed, **switch).eval() for seed in range(3)]
    pairs = [(network(batch).logits, network(changed).logits) for network in networks]
    assert any(not torch.allclose(before[4:], after[4:]) for before, after in pairs)  # some ReLUs are dead
    return pairs


@pytest.mark.parametrize(
    ("model", "switch"),
    [
        (model, {"causal": True} if mode == "yes" else {})
        for model, entry in MODELS.items()
        if (mode := causal_mode(entry)) != "no"
    ],
)
def test_a_model_said_to_be_causal_is(model: str, switch: dict[str, bool]) -> None:
    for before, after in logits_of_two_endings(model, **switch):
        torch.testing.assert_close(before[:4], after[:4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", [m for m, entry in MODELS.items() if entry.network.looks_ahead])
def test_a_model_said_to_look_ahead_does(model: str) -> None:
    pairs = logits_of_two_endings(model)
    assert any(not torch.allclose(before[:4], after[:4], rtol=0, atol=1e-6) for before, after in pairs)
