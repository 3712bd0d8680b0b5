"""MFN recomputed step by step for every view; what holds for every network is in test_invariances.py."""

import pytest
import torch
from torch import Tensor

from helpers import (
    SUBSETS,
    WIDTHS,
    assert_losses,
    assert_same,
    judge,
    make_batch,
    make_network,
    take,
)
from loops import State, doubled, linear, rows_of_dialogues
from mmerc.batch import Batch
from mmerc.models.base import Network

LENGTHS = [3, 1, 4]
# Of four ReLU units all may be dead, the more so as a softmax over all memories makes ĉ small.
WIDE = {"attention_hidden": 16, "gate_hidden": 16, "output_hidden": 16}


def dense(state: State, prefix: str, x: Tensor) -> Tensor:
    """One hidden layer of ReLU units."""
    return linear(state, f"{prefix}.3", linear(state, f"{prefix}.0", x).clamp(min=0.0))


def attend(state: State, c: Tensor, there: list[bool], hidden: int) -> Tensor:
    """DMAN: a softmax over the entries of the views that are there, both of t − 1 and of t."""
    scores = dense(state, "attention.score", c)
    open_to = [k for k in range(len(c)) if there[(k // hidden) % len(there)]]
    attended = torch.zeros_like(c)
    for k in open_to:
        attended[k] = c[k] * torch.exp(scores[k]) / sum(torch.exp(scores[j]) for j in open_to)
    return attended


def dialogue_logits(state: State, batch: Batch, rows: list[int]) -> list[Tensor]:
    names = list(batch.features)
    hidden = state["lstms.recurrent"].shape[1]
    zero = torch.zeros(hidden, dtype=torch.float64)
    h, c = dict.fromkeys(names, zero), dict.fromkeys(names, zero)
    u = torch.zeros(state["memory.retain.3.bias"].shape[0], dtype=torch.float64)
    logits = []
    for i in rows:
        there = [bool(flag) for flag in batch.present[i]]
        before = dict(c)
        for view, name in enumerate(names):
            if not there[view]:
                continue
            x = linear(state, f"lstms.gates.linear.{name}", batch.features[name][i].double())
            gates = x + h[name] @ state["lstms.recurrent"][view]
            f, k, o, m = gates.split(hidden)
            c[name] = torch.sigmoid(f) * c[name] + torch.sigmoid(k) * torch.tanh(m)
            h[name] = torch.sigmoid(o) * torch.tanh(c[name])
        window = torch.cat([*(before[m] for m in names), *(c[m] for m in names)])
        attended = attend(state, window, there, hidden)
        proposal = torch.tanh(dense(state, "memory.propose", attended))
        retain = torch.sigmoid(dense(state, "memory.retain", attended))
        update = torch.sigmoid(dense(state, "memory.update", attended))
        u = retain * u + update * proposal
        logits.append(dense(state, "classifier", torch.cat([*(h[m] for m in names), u])))
    return logits


@torch.no_grad()
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
def test_mfn_equals_plain_loops(subset: tuple[str, ...], seed: int) -> None:
    network = make_network("mfn", modalities=subset, seed=seed, memory_hidden=3, **WIDE).eval()
    batch = make_batch(LENGTHS, subset, missing=0.3, unlabelled=0.2, seed=seed)
    state = doubled(network)
    rows = [row for dialogue in rows_of_dialogues(batch) for row in dialogue_logits(state, batch, dialogue)]
    expected = torch.stack(rows)
    output = judge(network, batch)
    torch.testing.assert_close(output.logits, expected.float(), rtol=0, atol=1e-5)
    assert batch.labels is not None
    known = [i for i, label in enumerate(batch.labels.tolist()) if label >= 0]
    surprise = [-float(expected[i].log_softmax(dim=0)[batch.labels[i]]) for i in known]
    assert_losses(output.losses, {"emotion": sum(surprise) / len(surprise)})


@torch.no_grad()
def test_a_view_is_an_lstm() -> None:
    network = make_network("mfn", modalities=("text",)).eval()
    linear, recurrent = network.lstms.gates.linear["text"], network.lstms.recurrent[0]
    lstm = torch.nn.LSTM(WIDTHS["text"], len(recurrent), batch_first=True)
    turn = torch.tensor([1, 0, 3, 2])  # torch's gates are i, f, g, o; these are f, i, o, g

    def turned(x: Tensor) -> Tensor:
        return torch.stack(x.chunk(4))[turn].flatten(0, 1)

    lstm.weight_ih_l0.copy_(turned(linear.weight))
    lstm.weight_hh_l0.copy_(turned(recurrent.T))
    lstm.bias_ih_l0.copy_(turned(linear.bias))
    lstm.bias_hh_l0.zero_()
    batch = make_batch([5], ("text",))
    states, before, memories = network.lstms(batch, torch.arange(5), [1] * 5)
    expected, (_, last) = lstm(batch.features["text"][None])
    torch.testing.assert_close(states, expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(memories[-1:], last[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(before[1:], memories[:-1], rtol=0, atol=0)


def reached(network: Network, batch: Batch, row: int) -> dict[str, list[bool]]:
    features = {m: x.clone().requires_grad_() for m, x in batch.features.items()}
    logits = network(batch._replace(features=features)).logits[row].sum()
    gradients = torch.autograd.grad(logits, list(features.values()))
    return {m: g.any(dim=1).tolist() for m, g in zip(features, gradients, strict=True)}


def test_an_utterance_sees_itself_and_what_came_before_in_its_dialogue() -> None:
    seen = reached(make_network("mfn", **WIDE), make_batch([2, 4]), 4)
    for flags in seen.values():
        assert flags == [False, False, True, True, True, False]


def test_what_a_view_said_outlasts_its_absence() -> None:
    batch = make_batch([3])
    present = batch.present.clone()
    present[1:, sorted(WIDTHS).index("text")] = False
    seen = reached(make_network("mfn", **WIDE), batch._replace(present=present), 2)
    assert seen["text"] == [True, False, False]
    assert seen["audio"] == [True, True, True]


@torch.no_grad()
def test_the_future_may_be_cut_off() -> None:
    network, batch = make_network("mfn").eval(), make_batch([4, 2, 4], missing=0.2)
    early = Batch(
        features={m: x[[0, 1, 4, 5, 6, 7]] for m, x in batch.features.items()},
        present=batch.present[[0, 1, 4, 5, 6, 7]],
        lengths=torch.tensor([2, 2, 2]),
        speakers=batch.speakers[[0, 1, 4, 5, 6, 7]],
    )
    assert_same(network(batch), network(early), torch.tensor([0, 1, 4, 5, 6, 7]), 1e-6)
    assert_same(network(take(batch, [1])), network(take(early, [1])), tolerance=0)


@torch.no_grad()
def test_a_modality_that_is_absent_everywhere_might_as_well_not_exist() -> None:
    large, small = make_network("mfn").eval(), make_network("mfn", modalities=("audio", "visual")).eval()
    state, h = large.state_dict(), large.lstms.recurrent.shape[1]
    views = torch.cat([torch.arange(h), torch.arange(2 * h, 3 * h)])
    window = torch.cat([views, views + 3 * h])
    state["lstms.recurrent"] = state["lstms.recurrent"][[0, 2]]
    for name in ("attention.score", "memory.propose", "memory.retain", "memory.update"):
        state[f"{name}.0.weight"] = state[f"{name}.0.weight"][:, window]
    for name in ("weight", "bias"):
        state[f"attention.score.3.{name}"] = state[f"attention.score.3.{name}"][window]
    memory = torch.arange(3 * h, state["classifier.0.weight"].shape[1])
    state["classifier.0.weight"] = state["classifier.0.weight"][:, torch.cat([views, memory])]
    small.load_state_dict({k: state[k] for k in small.state_dict()})
    batch = make_batch(LENGTHS)
    whole = batch._replace(present=torch.tensor([True, False, True]).expand(sum(LENGTHS), 3))
    features = {m: x for m, x in batch.features.items() if m != "text"}
    part = batch._replace(features=features, present=torch.ones(sum(LENGTHS), 2, dtype=torch.bool))
    assert_same(large(whole), small(part))
