"""MMGCN recomputed node by node from its equations, and pinned numbers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import SUBSETS, judge, make_batch, make_network
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import resolve
from plain_graph import plain_adjacency, plain_normalised

LENGTHS = [4, 1, 3]
State = dict[str, Tensor]
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "one-speaker": {"speakers": 1},
    "no-speakers": {"speakers": 0},
    "no-layers": {"graph_layers": 0},
    "no-cross-edges": {"cross_weight": 0.0},
    "causal": {"causal": True},
    "deep": {"graph_layers": 6, "residual_alpha": 0.3, "residual_lambda": 0.8},
}


def lstm(state: State, name: str, inputs: list[Tensor]) -> list[Tensor]:
    """One direction of one layer, gate by gate."""
    w_x, w_h, b_x, b_h = (
        state[name.format(kind)] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = cell = torch.zeros(w_h.shape[1], dtype=torch.float64)
    states = []
    for x in inputs:
        i, f, g, o = (w_x @ x + b_x + w_h @ hidden + b_h).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    return states


def context(state: State, inputs: list[Tensor], layers: int) -> list[Tensor]:
    for layer in range(layers):
        name = f"encoder.context.rnn.{{}}_l{layer}"
        forward = lstm(state, name, inputs)
        if f"encoder.context.rnn.weight_ih_l{layer}_reverse" in state:
            backward = lstm(state, name + "_reverse", inputs[::-1])[::-1]
            forward = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
        inputs = forward
    return inputs


def node_features(network: torch.nn.Module, state: State, batch: Batch) -> Tensor:
    names, config = sorted(batch.features), network.config
    rows = []
    for column, name in enumerate(names):
        weight, bias = (state[f"encoder.projection.linear.{name}.{k}"] for k in ("weight", "bias"))
        features = []
        for x, there in zip(batch.features[name].double(), batch.present[:, column], strict=True):
            features.append((weight @ x + bias) * there)
        if name == "text":
            start, contexts = 0, []
            for length in batch.lengths.tolist():
                contexts += context(state, features[start : start + length], config.context_layers)
                start += length
            features = contexts
        for i, speaker in enumerate(batch.speakers.tolist()):
            if config.speakers:
                embedding = state["encoder.speaker.weight"][min(speaker, config.speakers - 1)]
                features[i] = features[i] + embedding
            features[i] = features[i] * batch.present[i, column]
        rows.append(torch.stack(features))
    return torch.stack(rows)


def reference(network: torch.nn.Module, batch: Batch) -> Tensor:
    """The logits in evaluation mode, in double precision."""
    state, config = {k: v.double() for k, v in network.state_dict().items()}, network.config
    nodes = node_features(network, state, batch)
    adjacency = plain_adjacency(
        nodes, batch.present.T, batch.lengths.tolist(), config.cross_weight, config.causal
    )
    p = plain_normalised(adjacency)
    initial = torch.relu(nodes.flatten(0, 1) @ state["gcn.input.weight"].T + state["gcn.input.bias"])
    h = initial
    identity = torch.eye(config.graph_hidden, dtype=torch.float64)
    for depth in range(1, config.graph_layers + 1):
        beta = math.log(config.residual_lambda / depth + 1)
        weight = state[f"gcn.convolutions.{depth - 1}.weight"]
        mixed = (1 - config.residual_alpha) * p @ h + config.residual_alpha * initial
        h = torch.relu(mixed @ ((1 - beta) * identity + beta * weight))
    h = h.view(len(nodes), -1, config.graph_hidden)
    logits = []
    for i in range(nodes.shape[1]):
        parts = [torch.cat([nodes[m, i], h[m, i]]) * batch.present[i, m] for m in range(len(nodes))]
        hidden = state["classifier.1.weight"] @ torch.cat(parts) + state["classifier.1.bias"]
        logits.append(state["classifier.3.weight"] @ torch.relu(hidden) + state["classifier.3.bias"])
    return torch.stack(logits)


@torch.no_grad()
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_equals_plain_loops(variant: str, missing: float) -> None:
    network = make_network("mmgcn", "paper", **VARIANTS[variant]).eval()
    batch = make_batch(LENGTHS, missing=missing, seed=3)
    expected = reference(network, batch)
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("subset", [*SUBSETS, ("text",)], ids="-".join)
def test_any_modalities_will_do(subset: tuple[str, ...]) -> None:
    network = make_network("mmgcn", "paper", subset).eval()
    batch = make_batch(LENGTHS, subset, missing=0.2)
    torch.testing.assert_close(network(batch).logits, reference(network, batch).float(), rtol=0, atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_what_is_labelled() -> None:
    network = make_network("mmgcn", "paper")
    batch = make_batch(LENGTHS, unlabelled=0.3, seed=1)
    assert batch.labels is not None
    output = judge(network, batch)
    expected = F.cross_entropy(output.logits, batch.labels, ignore_index=-1)
    torch.testing.assert_close(output.losses["emotion"], expected)


@torch.no_grad()
def test_speakers_beyond_the_last_known_share_its_embedding() -> None:
    network = make_network("mmgcn", "paper", speakers=2).eval()
    batch = make_batch([4])

    def logits(*speakers: int) -> Tensor:
        return network(batch._replace(speakers=torch.tensor(speakers))).logits

    torch.testing.assert_close(logits(0, 1, 2, 7), logits(0, 1, 1, 1), rtol=0, atol=0)
    assert not torch.allclose(logits(0, 1, 2, 7), logits(0, 1, 0, 0))


def test_hidden_must_be_even_and_numbers_in_range() -> None:
    for name, value in {"hidden": 7, "graph_layers": -1, "speakers": -1, "dropout": 1.0}.items():
        with pytest.raises(ConfigError, match=f"network.{name} must"):
            resolve("mmgcn", {"network": {name: value}})
