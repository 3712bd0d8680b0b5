"""DialogueGCN recomputed edge by edge; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor

from helpers import SUBSETS, make_batch, make_network
from loops import (
    State,
    concatenated,
    doubled,
    linear,
    recall,
    recurrence,
    rows_of_dialogues,
    seen,
    with_three_speakers,
)
from mmerc.batch import Batch
from mmerc.layers.padding import Padding
from mmerc.models.dialogue_gcn import neighbourhoods

LENGTHS = [3, 1, 6]


def relation(i: int, j: int, speakers: list[int]) -> int:
    """The number of the relation of i to its neighbour j."""
    return 2 * (j > i) + (speakers[i] != speakers[j])


def graph_layers(
    state: State, g: list[Tensor], speakers: list[int], window: int, causal: bool
) -> list[Tensor]:
    """Eqs. 1 to 3 over one dialogue."""
    count = 2 if causal else 4
    *w_r, w_0 = state["graph.relational.weight"].chunk(count + 1, dim=1)
    first, windows = [], []
    for i in range(len(g)):
        last = i if causal else i + window
        near = [j for j in range(len(g)) if i - window <= j <= last]
        scores = torch.stack([linear(state, "graph.edge", g[i]) @ g[j] for j in near])
        alpha = dict(zip(near, torch.softmax(scores, dim=0), strict=True))  # eq. 1
        h = alpha[i] * (w_0 @ g[i])
        for r in range(count):
            members = [j for j in near if j != i and relation(i, j, speakers) == r]
            for j in members:
                h = h + alpha[j] / len(members) * (w_r[r] @ g[j])
        first.append(h.clamp(min=0))  # eq. 2
        windows.append(near)
    second = []
    for i, near in enumerate(windows):
        h = linear(state, "graph.own", first[i])
        for j in near:
            h = h + (linear(state, "graph.neighbours", first[j]) if j != i else 0)
        second.append(h.clamp(min=0))  # eq. 3
    return second


def reference(state: State, batch: Batch, window: int, causal: bool) -> Tensor:
    """Eqs. 1 to 8, one dialogue after the other."""
    inputs, logits = concatenated(state, batch), []
    for rows in rows_of_dialogues(batch):
        g = recurrence(state, "context.rnn", [inputs[i] for i in rows])
        graph = graph_layers(state, g, [int(batch.speakers[i]) for i in rows], window, causal)
        h = [torch.cat(pair) for pair in zip(g, graph, strict=True)]  # eq. 4
        for k in range(len(rows)):
            attended = recall(linear(state, "match", h[k]), seen(h, k, causal))  # eqs. 5, 6
            hidden = linear(state, "hidden", attended).clamp(min=0)  # eq. 7
            logits.append(linear(state, "classifier.1", hidden))  # eq. 8
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [0, 2, 10])
def test_the_network_equals_plain_loops(subset: tuple[str, ...], causal: bool, window: int) -> None:
    network = make_network("dialogue-gcn", modalities=subset, seed=3, causal=causal, window=window).eval()
    batch = with_three_speakers(make_batch(LENGTHS, subset, missing=0.3))
    expected = reference(doubled(network), batch, window, causal)
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_every_pair_in_the_window_has_one_relation(causal: bool) -> None:
    speakers = with_three_speakers(make_batch(LENGTHS)).speakers
    padding = Padding.of(torch.tensor(LENGTHS), torch.device("cpu"))
    linked = neighbourhoods(padding, speakers, 2, causal)
    assert linked.shape == (3, 3 if causal else 5, 6, 6)
    start = 0
    for d, length in enumerate(LENGTHS):
        own = speakers[start : start + length].tolist()
        for i in range(6):
            for j in range(6):
                reached = i < length and j < length and i - 2 <= j <= (i if causal else i + 2)
                expected = [] if not reached else [-1 if i == j else relation(i, j, own)]
                assert linked[d, :, i, j].nonzero().flatten().tolist() == [
                    r % linked.shape[1] for r in expected
                ]
        start += length
