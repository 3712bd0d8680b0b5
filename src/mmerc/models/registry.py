"""The networks by name, with their presets."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from torch import Tensor

from mmerc.config import RunConfig, build, merge
from mmerc.errors import ConfigError
from mmerc.models import (
    bc_lstm,
    cfn_esa,
    cfn_esa_settings,
    df_erc,
    df_erc_official,
    df_erc_older,
    df_erc_settings,
    dialogue_crn,
    dialogue_gcn,
    dialogue_rnn,
    late_fusion,
    m2fnet,
    mfn,
    mm_dfn,
    mmgcn,
    text_only,
    tfn,
)
from mmerc.models.base import Network, Paper

STANDARD = ("text", "audio", "visual")


class Entry(NamedTuple):
    """A network, its frozen config dataclass, its named presets (overrides of a run's config), its source."""

    config: type[Any]
    network: type[Any]  # a `Network`; its constructor takes the config first
    presets: dict[str, dict[str, Any]]
    paper: Paper | None  # None: of our own making
    modern: Callable[[Mapping[str, Any]], dict[str, Any]] = dict  # settings of older versions → today's
    own: Mapping[str, dict[str, Any]] = {}  # preset, up to a hyphen → what of the above is its own

    def of(self, preset: str | None) -> "Entry":
        """Return the entry with what the preset has of its own."""
        return self._replace(**self.own.get((preset or "").partition("-")[0], {}))

    def settings(self, network: Mapping[str, Any]) -> Any:
        """Build the network's config.

        Raises:
            ConfigError: a key is unknown, or a value is not allowed.
        """
        return build(self.config, self.modern(network), "network")


MODELS: dict[str, Entry] = {
    "df-erc": Entry(
        df_erc_settings.Config,
        df_erc.DFERC,
        df_erc_settings.PRESETS | df_erc_official.PRESETS,
        df_erc.PAPER,
        df_erc_older.modern,
        {
            "official": {
                "config": df_erc_official.Config,
                "network": df_erc_official.DFERC,
                "modern": df_erc_older.modern_official,
            }
        },
    ),
    "mm-dfn": Entry(mm_dfn.Config, mm_dfn.MMDFN, mm_dfn.PRESETS, mm_dfn.PAPER),
    "cfn-esa": Entry(cfn_esa_settings.Config, cfn_esa.CFNESA, cfn_esa_settings.PRESETS, cfn_esa.PAPER),
    "m2fnet": Entry(m2fnet.Config, m2fnet.M2FNet, m2fnet.PRESETS, m2fnet.PAPER),
    "mmgcn": Entry(mmgcn.Config, mmgcn.MMGCN, mmgcn.PRESETS, mmgcn.PAPER),
    "dialogue-crn": Entry(
        dialogue_crn.Config, dialogue_crn.DialogueCRN, dialogue_crn.PRESETS, dialogue_crn.PAPER
    ),
    "dialogue-gcn": Entry(
        dialogue_gcn.Config, dialogue_gcn.DialogueGCN, dialogue_gcn.PRESETS, dialogue_gcn.PAPER
    ),
    "dialogue-rnn": Entry(
        dialogue_rnn.Config, dialogue_rnn.DialogueRNN, dialogue_rnn.PRESETS, dialogue_rnn.PAPER
    ),
    "mfn": Entry(mfn.Config, mfn.MFN, mfn.PRESETS, mfn.PAPER),
    "tfn": Entry(tfn.Config, tfn.TFN, tfn.PRESETS, tfn.PAPER),
    "bc-lstm": Entry(bc_lstm.Config, bc_lstm.BcLSTM, bc_lstm.PRESETS, bc_lstm.PAPER),
    "late-fusion": Entry(late_fusion.Config, late_fusion.LateFusion, late_fusion.PRESETS, None),
    "text-only": Entry(text_only.Config, text_only.TextOnly, text_only.PRESETS, None),
}


def find(name: str, preset: str | None = None) -> Entry:
    """Return the model called `name`, as the preset has it.

    Raises:
        ConfigError: no model has this name; the message suggests the nearest one.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(str(name), MODELS, n=1)  # a key in YAML may be a number
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no model {name!r}; {hint}models are: {', '.join(MODELS)}")
    return MODELS[name].of(preset)


def resolve(model: str, *layers: Mapping[str, Any]) -> RunConfig:
    """Return the full config of a run: the model's defaults, its preset, then each of `layers`.

    The preset is what the last layer that names one says. A config that says all that its preset would, as a
    checkpoint's does, may bear the name of one that has become one for each corpus.

    Raises:
        ConfigError: an unknown model, preset or key, or a value that is not allowed.
    """
    entry = find(model)
    given = merge(*layers)
    if given.get("model", model) != model:
        raise ConfigError(f"the config is for {given['model']!r}, not for {model!r}")
    preset = given.get("preset", next(iter(entry.presets), None))
    _require_preset(model, preset, given)
    values = merge(entry.presets.get(preset, {}) if preset else {}, given, {"model": model, "preset": preset})
    if isinstance(values.get("text_encoder"), str):
        values["text_encoder"] = {"name": values["text_encoder"]}
    run = build(RunConfig, values)
    return replace(run, network=asdict(entry.of(preset).settings(run.network)))


def _require_preset(model: str, preset: Any, given: Mapping[str, Any]) -> None:
    entry = find(model)
    if preset is None or preset in list(entry.presets):
        return
    if by_corpus := [name for name in entry.presets if name.startswith(f"{preset}-")]:
        if all(_says_all_of(entry.presets[name], given) for name in by_corpus):
            return
        raise ConfigError(
            f"{model} has no preset {preset!r}: it depends on the corpus. Take {' or '.join(by_corpus)}"
        )
    near = difflib.get_close_matches(str(preset), entry.presets, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{model} has no preset {preset!r}; {hint}it has: {', '.join(entry.presets) or 'none'}")


def _says_all_of(preset: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return all(
        isinstance(given.get(section), Mapping) and given[section].keys() >= settings.keys()
        for section, settings in preset.items()
    )


def choose_modalities(run: RunConfig, available: Sequence[str]) -> tuple[str, ...]:
    """Return the modalities a run reads, sorted.

    Raises:
        ConfigError: the config names a modality that the corpus or the model does not have.
    """
    have = set(available) | ({"text"} if run.text_encoder else set())
    uses = find(run.model).network.uses
    wanted = run.modalities or [m for m in STANDARD if m in have and (uses is None or m in uses)]
    if not wanted:
        wanted = sorted(have) if uses is None else uses
    for name in wanted:
        if name not in have:
            hint = "; run `mmerc corpus encode-text` first" if name == "text" else ""
            raise ConfigError(
                f"the corpus has no modality {name!r}; it has: {', '.join(sorted(have)) or 'none'}{hint}"
            )
        if uses is not None and name not in uses:
            raise ConfigError(f"{run.model} reads {', '.join(uses)} only, not {name!r}")
    if not wanted:
        raise ConfigError("the corpus has no features; run `mmerc corpus encode-text` for text")
    return tuple(sorted(set(wanted)))


def build_network(
    run: RunConfig, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
) -> Network:
    """Build the untrained network of a resolved config; `widths` maps each modality to d_m.

    Raises:
        ConfigError: a setting is not allowed, or the sizes are beyond torch or the memory.
    """
    entry = find(run.model, run.preset)
    settings = entry.settings(run.network)
    try:
        network: Network = entry.network(settings, widths, num_classes, class_weights)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # Python and torch have all four
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{run.model} of these sizes cannot be built ({reason:.200})") from error
    return network
