"""What one test says of many networks: what learns, where gradients go, who speaks, golden values, ranges.

What holds for all of them in evaluation mode is in test_invariances.py.
"""

from typing import Any

import pytest
import torch

from helpers import assert_same, fill_with_ramp, judge, make_batch, make_network, modalities_of, total
from loops import ramp_batch, rename_speakers, with_three_speakers
from mmerc.errors import ConfigError
from mmerc.models import MODELS, resolve

LENGTHS = [4, 1, 6]
WIDE = {
    "attention_hidden": 16,
    "gate_hidden": 16,
    "output_hidden": 16,
}  # of MFN, or some of its units are dead

LEARNING: list[tuple[str, str | None, dict[str, Any]]] = [
    ("text-only", None, {}),
    ("late-fusion", None, {}),
    ("bc-lstm", None, {"end_to_end": True, "alpha_unimodal": 0.0}),
    ("bc-lstm", None, {"end_to_end": True, "alpha_unimodal": 1.0}),
    ("mfn", None, WIDE),
    *(("mmgcn", preset, {}) for preset in ("refined", "paper")),
    *(("mm-dfn", preset, {}) for preset in MODELS["mm-dfn"].presets),
    *((f"dialogue-{kind}", None, {"causal": causal}) for kind in ("crn", "gcn") for causal in (False, True)),
    *(
        ("dialogue-rnn", None, {"causal": c, "listener": ears})
        for c in (False, True)
        for ears in (False, True)
    ),
]


@pytest.mark.parametrize(("model", "preset", "settings"), LEARNING)
def test_every_parameter_learns_also_in_bfloat16(
    model: str, preset: str | None, settings: dict[str, Any]
) -> None:
    network = make_network(model, preset, **settings)
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(judge(network, make_batch(LENGTHS, modalities_of(model))))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


WITHIN_A_DIALOGUE: list[tuple[str, str | None, dict[str, Any]]] = [
    ("mmgcn", "paper", {"graph_hidden": 16}),
    ("mm-dfn", "official-meld", {}),
    *((f"dialogue-{kind}", None, {"causal": c}) for kind in ("crn", "gcn", "rnn") for c in (False, True)),
]


@pytest.mark.parametrize(("model", "preset", "settings"), WITHIN_A_DIALOGUE)
def test_gradients_reach_the_dialogue_and_nothing_else(
    model: str, preset: str | None, settings: dict[str, Any]
) -> None:
    network = make_network(model, preset, **settings).eval()
    batch = make_batch(LENGTHS)
    features = {m: x.requires_grad_() for m, x in batch.features.items()}
    network(batch._replace(features=features)).logits[7].sum().backward()  # the third of the last dialogue
    reached = [5, 6, 7] if settings.get("causal") else [*range(5, 11)]
    for x in features.values():
        assert x.grad is not None
        assert x.grad.any(dim=1).nonzero().flatten().tolist() == reached


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("dialogue-crn", {}),
        ("dialogue-gcn", {}),
        ("dialogue-rnn", {"listener": False}),
        ("dialogue-rnn", {"listener": True}),
    ],
)
def test_it_matters_who_speaks_but_not_their_number(model: str, settings: dict[str, Any]) -> None:
    network = make_network(model, **settings).eval()
    batch = with_three_speakers(make_batch(LENGTHS))
    assert_same(network(batch), network(rename_speakers(batch)), tolerance=1e-6)
    alone = network(batch._replace(speakers=torch.zeros_like(batch.speakers)))
    assert (network(batch).logits - alone.logits).abs().max() > 1e-4


GOLDEN: list[tuple[str, str | None, dict[str, Any], list[list[float]]]] = [
    (
        "text-only",
        None,
        {},
        [
            [-0.521957, -0.145766, 0.228299],
            [-0.639777, -0.165627, 0.189979],
            [-0.71093, -0.165381, 0.179193],
            [-0.614926, -0.122325, 0.192859],
        ],
    ),
    (
        "late-fusion",
        None,
        {},
        [
            [-0.16587, -0.100532, -0.006327],
            [0.062186, -0.145899, -0.175457],
            [-0.101613, -0.107354, -0.0455],
            [-0.131428, -0.115626, -0.056218],
        ],
    ),
    (
        "tfn",
        None,
        {},
        [
            [-0.608178, 0.027482, 0.092256],
            [-0.613687, 0.01906, 0.08338],
            [-0.645278, 0.012159, 0.042217],
            [-0.640931, 0.019345, 0.051346],
        ],
    ),
    (
        "mfn",
        None,
        WIDE,
        [
            [0.133057, -0.791198, -0.472249],
            [0.018952, -0.947529, -0.321365],
            [0.018663, -0.9407, -0.447969],
            [0.109771, -0.789181, -0.456067],
        ],
    ),
    (
        "m2fnet",
        None,
        {},
        [
            [-0.205118, 0.292039, 0.428717],
            [-0.590445, 0.28217, 0.074697],
            [-0.374124, 0.039631, 0.3324],
            [-0.554591, 0.236435, 0.122703],
        ],
    ),
    (
        "mmgcn",
        "paper",
        {},
        [
            [0.222009, -0.602511, -0.07191],
            [0.221881, -0.548165, -0.064977],
            [0.177161, -0.546452, -0.103677],
            [0.176496, -0.54562, -0.104149],
        ],
    ),
    (
        "mm-dfn",
        "refined",
        {},
        [
            [-0.273434, 0.940872, 0.242387],
            [-0.4083, 0.239944, 0.049062],
            [-0.202132, 0.262706, -0.084163],
            [-0.522543, 0.802338, 0.358368],
        ],
    ),
    (
        "mm-dfn",
        "paper-iemocap",
        {},
        [
            [-0.273395, 1.090388, 0.419008],
            [-0.84155, 0.262103, 0.594733],
            [0.104316, 0.310449, -0.040181],
            [-0.720288, 0.960605, 0.66421],
        ],
    ),
    (
        "mm-dfn",
        "official-iemocap",
        {},
        [
            [-0.106653, 1.095029, 0.086242],
            [-0.449284, 0.223662, 0.109588],
            [0.193856, 0.304274, -0.377804],
            [-0.295449, 0.856888, 0.247981],
        ],
    ),
    (
        "dialogue-crn",
        None,
        {},
        [
            [-0.862226, -0.481595, 0.277994],
            [-0.865881, -0.482214, 0.279436],
            [-0.869516, -0.48283, 0.278606],
            [-0.892179, -0.47197, 0.268783],
        ],
    ),
    (
        "dialogue-gcn",
        None,
        {},
        [
            [-0.452425, -0.157985, 0.27778],
            [-0.452262, -0.158081, 0.27791],
            [-0.452181, -0.158129, 0.277974],
            [-0.43129, -0.170418, 0.294564],
        ],
    ),
    (
        "dialogue-rnn",
        None,
        {"listener": True},
        [
            [-0.527634, 0.035107, 0.18366],
            [-0.527564, 0.035043, 0.18375],
            [-0.5271, 0.034625, 0.184345],
            [-0.521848, 0.035158, 0.1903],
        ],
    ),
]


@torch.no_grad()
@pytest.mark.parametrize(("model", "preset", "settings", "expected"), GOLDEN)
def test_golden_values(
    model: str, preset: str | None, settings: dict[str, Any], expected: list[list[float]]
) -> None:
    network = make_network(model, preset, **settings).eval()
    fill_with_ramp(network)
    batch = ramp_batch(modalities_of(model))
    torch.testing.assert_close(network(batch).logits, torch.tensor(expected), rtol=0, atol=1e-5)


RANGES: dict[str, dict[str, list[float]]] = {
    "text-only": {"hidden": [0, -4], "context_hidden": [0, -4], "dropout": [2.0], "input_dropout": [-1.0]},
    "late-fusion": {"hidden": [0, -4], "context_hidden": [0, -4], "dropout": [2.0], "input_dropout": [-1.0]},
    "bc-lstm": {"hidden": [0], "dense_hidden": [-1], "alpha_unimodal": [-0.5], "dropout": [1.0]},
    "tfn": {
        "hidden": [0],
        "text_hidden": [-1],
        "embedding_layers": [0],
        "inference_layers": [0],
        "fusion_dropout": [1],
    },
    "mfn": {
        "hidden": [0],
        "attention_hidden": [-1],
        "memory_hidden": [0],
        "gate_hidden": [0],
        "dropout": [1.0],
    },
    "dialogue-crn": {
        "hidden": [0, -4],
        "context_hidden": [0, -4],
        "context_layers": [0, -4],
        "situation_turns": [-1],
        "speaker_turns": [-1],
        "dropout": [2.0],
        "input_dropout": [-1.0],
    },
    "dialogue-gcn": {
        "hidden": [0, -4],
        "context_hidden": [0, -4],
        "context_layers": [0, -4],
        "graph_hidden": [0, -4],
        "window": [-1],
        "dropout": [2.0],
        "input_dropout": [-1.0],
    },
    "dialogue-rnn": {
        "hidden": [0, -4],
        "state_hidden": [0, -4],
        "emotion_hidden": [0, -4],
        "classifier_hidden": [0, -4],
        "dropout": [1.0],
        "state_dropout": [1.0],
        "input_dropout": [1.0],
    },
}


@pytest.mark.parametrize("model", RANGES)
def test_settings_out_of_range_are_refused(model: str) -> None:
    for name, values in RANGES[model].items():
        for value in values:
            with pytest.raises(ConfigError, match=f"network.{name} must"):
                resolve(model, {"network": {name: value}})
