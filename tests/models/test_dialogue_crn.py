"""DialogueCRN recomputed turn by turn; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor

from helpers import SUBSETS, make_batch, make_network
from loops import (
    State,
    cell_weights,
    concatenated,
    doubled,
    linear,
    lstm_step,
    recall,
    recurrence,
    rows_of_dialogues,
    seen,
    with_three_speakers,
)
from mmerc.batch import Batch

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
def test_another_turn_of_reasoning_changes_the_outcome_but_not_the_weights() -> None:
    one, two = (make_network("dialogue-crn", situation_turns=turns).eval() for turns in (1, 2))
    two.load_state_dict(one.state_dict())
    batch = make_batch(LENGTHS)
    assert (one(batch).logits - two(batch).logits).abs().max() > 1e-4
