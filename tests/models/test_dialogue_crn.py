"""DialogueCRN recomputed turn by turn; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor

from helpers import SUBSETS, assert_same, fill_with_ramp, make_batch, make_network, total
from loops import (
    State,
    cell_weights,
    concatenated,
    doubled,
    linear,
    lstm_step,
    ramp_batch,
    recall,
    recurrence,
    rename_speakers,
    rows_of_dialogues,
    seen,
    with_three_speakers,
)
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import resolve

LENGTHS = [3, 1, 6]


def reason(state: State, name: str, context: list[Tensor], turns: int, causal: bool) -> list[Tensor]:
    """The cognition phase over one dialogue."""
    memory = [linear(state, f"{name}.memory", c) for c in context]
    results = []
    for k, c in enumerate(context):
        q = linear(state, f"{name}.start", c)
        h = cell = torch.zeros_like(c)
        for _ in range(turns):
            h, cell = lstm_step(cell_weights(state, f"{name}.cell"), q, h, cell)
            q = torch.cat([h, recall(h, seen(memory, k, causal))])
        results.append(q)
    return results


def reference(state: State, batch: Batch, turns: tuple[int, int], causal: bool) -> Tensor:
    """Perception, cognition and classifier, one dialogue after the other."""
    inputs, logits = concatenated(state, batch), []
    for rows in rows_of_dialogues(batch):
        situation = recurrence(state, "situation.rnn", [inputs[i] for i in rows])
        own: dict[int, Tensor] = {}
        for speaker in range(3):
            turns_of = [i for i in rows if batch.speakers[i] == speaker]
            own |= zip(turns_of, recurrence(state, "speaker.rnn", [inputs[i] for i in turns_of]), strict=True)
        o_s = reason(state, "situation_reasoning", situation, turns[0], causal)
        o_v = reason(state, "speaker_reasoning", [own[i] for i in rows], turns[1], causal)
        logits += [linear(state, "classifier.1", torch.cat(pair)) for pair in zip(o_s, o_v, strict=True)]
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("turns", [(2, 3), (1, 0)], ids=str)
def test_the_network_equals_plain_loops(
    subset: tuple[str, ...], causal: bool, turns: tuple[int, int]
) -> None:
    sizes = {"situation_turns": turns[0], "speaker_turns": turns[1]}
    network = make_network("dialogue-crn", modalities=subset, seed=3, causal=causal, **sizes).eval()
    batch = with_three_speakers(make_batch(LENGTHS, subset, missing=0.3))
    expected = reference(doubled(network), batch, turns, causal)
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


@torch.no_grad()
def test_it_matters_who_speaks_but_not_their_number() -> None:
    network = make_network("dialogue-crn").eval()
    batch = with_three_speakers(make_batch(LENGTHS))
    assert_same(network(batch), network(rename_speakers(batch)), tolerance=1e-6)
    alone = network(batch._replace(speakers=torch.zeros_like(batch.speakers)))
    assert (network(batch).logits - alone.logits).abs().max() > 1e-4


@torch.no_grad()
def test_another_turn_of_reasoning_changes_the_outcome_but_not_the_weights() -> None:
    one, two = (make_network("dialogue-crn", situation_turns=turns).eval() for turns in (1, 2))
    two.load_state_dict(one.state_dict())
    batch = make_batch(LENGTHS)
    assert (one(batch).logits - two(batch).logits).abs().max() > 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_reach_the_dialogue_and_nothing_else(causal: bool) -> None:
    network = make_network("dialogue-crn", causal=causal).eval()
    batch = make_batch(LENGTHS)
    features = {m: x.requires_grad_() for m, x in batch.features.items()}
    network(batch._replace(features=features)).logits[6].sum().backward()
    reached = [*range(4, 7)] if causal else [*range(4, 10)]
    for x in features.values():
        assert x.grad is not None
        assert x.grad.abs().sum(dim=1).nonzero().flatten().tolist() == reached


@pytest.mark.parametrize("causal", [False, True])
def test_every_parameter_learns_also_in_bfloat16(causal: bool) -> None:
    network = make_network("dialogue-crn", causal=causal)
    with torch.autocast("cpu", torch.bfloat16):
        loss = total(network(make_batch(LENGTHS)))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


GOLDEN = [
    [-0.862226, -0.481595, 0.277994],
    [-0.865881, -0.482214, 0.279436],
    [-0.869516, -0.48283, 0.278606],
    [-0.892179, -0.47197, 0.268783],
]


@torch.no_grad()
def test_golden_values() -> None:
    network = make_network("dialogue-crn").eval()
    fill_with_ramp(network)
    torch.testing.assert_close(network(ramp_batch()).logits, torch.tensor(GOLDEN), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((n, v) for n in ("hidden", "context_hidden", "context_layers") for v in (0, -4)),
        ("situation_turns", -1),
        ("speaker_turns", -1),
        ("dropout", 2.0),
        ("input_dropout", -1.0),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"network.{name} must"):
        resolve("dialogue-crn", {"network": {name: value}})
