"""DialogueRNN recomputed party by party; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor, nn

from helpers import SUBSETS, make_batch, make_network
from loops import (
    State,
    Weights,
    concatenated,
    doubled,
    gru_step,
    linear,
    recall,
    recurrence,
    rows_of_dialogues,
    seen,
    with_three_speakers,
)
from mmerc.batch import Batch
from mmerc.layers.padding import Padding
from mmerc.models.dialogue_rnn import GRUWeights, backwards

LENGTHS = [3, 1, 6]


def joined(state: State, name: str, cell: int, w_u: Tensor, b_u: Tensor) -> Weights:
    """The weights of a GRU over u ⊕ something, of which the network keeps the two parts apart."""
    inner, recurrent, bias = (state[f"{name}.{kind}"][cell] for kind in ("inner", "state", "bias"))
    return torch.cat([w_u, inner.T], dim=1), recurrent.T, b_u, bias[0]


def party_states(
    state: State, way: int, ways: int, u: list[Tensor], speakers: list[int], listener: bool
) -> list[Tensor]:
    """Eqs. 1 to 7 over one dialogue: the speaker's state after each utterance."""
    name = "parties"
    (w_p, w_g), (b_p, b_g) = (state[f"{name}.drive.{way}.{k}"].chunk(2) for k in ("weight", "bias"))
    party_gru = joined(state, f"{name}.cells", way, w_p, b_p)
    global_gru = joined(state, f"{name}.cells", ways + way, w_g, b_g)
    zero = torch.zeros(len(w_p) // 3, dtype=torch.float64)
    q, g, states = dict.fromkeys(speakers, zero), [], []
    for x, who in zip(u, speakers, strict=True):
        c = recall(linear(state, f"{name}.query.{way}", x), g) if g else zero  # eqs. 2 to 4
        g.append(gru_step(global_gru, torch.cat([x, q[who]]), g[-1] if g else zero))  # eq. 1
        new = gru_step(party_gru, torch.cat([x, c]), q[who])  # eq. 5
        if listener:
            kinds = (state[f"{name}.drive_listeners.{way}.{k}"] for k in ("weight", "bias"))
            weights = joined(state, f"{name}.listeners.weights", way, *kinds)
            q = {s: gru_step(weights, torch.cat([x, new]), h) for s, h in q.items()}  # eq. 7
        q = {**q, who: new}
        states.append(new)
    return states


def reference(state: State, batch: Batch, causal: bool, listener: bool) -> Tensor:
    """Eqs. 1 to 14, one dialogue after the other."""
    inputs, ways, logits = concatenated(state, batch), 1 if causal else 2, []
    for rows in rows_of_dialogues(batch):
        by_way = []
        for way in range(ways):
            order = rows[::-1] if way else rows
            speakers = [int(batch.speakers[i]) for i in order]
            q = party_states(state, way, ways, [inputs[i] for i in order], speakers, listener)
            e = recurrence(state, f"emotion.{way}", q)  # eq. 8
            by_way.append(e[::-1] if way else e)
        e = [torch.cat(parts) for parts in zip(*by_way, strict=True)]
        for k in range(len(rows)):
            attended = recall(linear(state, "match", e[k]), seen(e, k, causal))  # eqs. 13, 14
            hidden = linear(state, "hidden", attended).clamp(min=0)  # eq. 9
            logits.append(linear(state, "classifier", hidden))  # eq. 10
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("listener", [False, True])
def test_the_network_equals_plain_loops(subset: tuple[str, ...], causal: bool, listener: bool) -> None:
    network = make_network("dialogue-rnn", modalities=subset, seed=3, causal=causal, listener=listener).eval()
    batch = with_three_speakers(make_batch(LENGTHS, subset, missing=0.3))
    expected = reference(doubled(network), batch, causal, listener)
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


def test_the_cells_are_torch_gru_cells() -> None:
    torch.manual_seed(0)
    ours, theirs = GRUWeights(1, 4), nn.GRUCell(7, 4)
    with torch.no_grad():
        theirs.weight_ih[:, 3:] = ours.inner[0].T
        theirs.weight_hh.copy_(ours.state[0].T)
        theirs.bias_hh.copy_(ours.bias[0, 0])
    u, rest, h = torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 4)
    driven = u @ theirs.weight_ih[:, :3].T + theirs.bias_ih
    torch.testing.assert_close(
        ours(driven[None], rest[None], h[None])[0], theirs(torch.cat([u, rest], dim=-1), h)
    )


def test_the_backward_layout_reverses_dialogues_and_leaves_padding_behind() -> None:
    layout = backwards(Padding.of(torch.tensor([2, 1, 3]), torch.device("cpu")))
    rows = torch.arange(1, 7)
    assert layout.pad(rows).tolist() == [[2, 1, 0], [3, 0, 0], [6, 5, 4]]
    assert layout.flat(layout.pad(rows)).tolist() == rows.tolist()


def test_a_causal_network_has_the_same_width() -> None:
    both, forward = (make_network("dialogue-rnn", causal=causal) for causal in (False, True))
    assert both.match.weight.shape == forward.match.weight.shape
    assert both.hidden.weight.shape == forward.hidden.weight.shape
