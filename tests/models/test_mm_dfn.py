"""MM-DFN recomputed node by node from its equations, pinned numbers, and the checks of its description."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import SUBSETS, judge, make_batch, make_network, take, total
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import resolve
from mmerc.models.mm_dfn import detached_focal_loss
from plain_graph import plain_adjacency, plain_normalised

LENGTHS = [4, 1, 3]
State = dict[str, Tensor]
VARIANTS: dict[str, dict[str, Any]] = {
    "official": {},
    "gamma": {"speaker_weights": {"text": -0.5, "visual": 2.0}, "cross_weight": 0.4},
    "paper-order": {"paper_order": True},
    "without-gdf": {"dynamic_fusion": False},
    "no-layers": {"graph_layers": 0},
    "causal": {"causal": True},
    "deep": {"graph_layers": 5, "residual_alpha": 0.3, "residual_lambda": 0.8, "recompute": False},
}


def gru_direction(state: State, name: str, inputs: list[Tensor]) -> list[Tensor]:
    """One direction of one layer, gate by gate; `name` holds a place for the kind of weight."""
    w_x, w_h, b_x, b_h = (
        state[name.format(kind)] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden = torch.zeros(w_h.shape[1], dtype=torch.float64)
    states = []
    for x in inputs:
        r_x, z_x, n_x = (w_x @ x + b_x).chunk(3)
        r_h, z_h, n_h = (w_h @ hidden + b_h).chunk(3)
        r, z = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        hidden = (1 - z) * torch.tanh(n_x + r * n_h) + z * hidden
        states.append(hidden)
    return states


def gru(state: State, prefix: str, inputs: list[Tensor], layers: int = 2) -> list[Tensor]:
    """All layers, both ways unless the weights of the way back are missing."""
    for layer in range(layers):
        name = f"{prefix}.rnn.{{}}_l{layer}"
        forward = gru_direction(state, name, inputs)
        if f"{prefix}.rnn.weight_ih_l{layer}_reverse" in state:
            backward = gru_direction(state, name + "_reverse", inputs[::-1])[::-1]
            forward = [torch.cat(pair) for pair in zip(forward, backward, strict=True)]
        inputs = forward
    return inputs


def lstm_cell(state: State, x: Tensor, g: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    p = {k: state[f"fusion.cell.{k}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    u, f, candidate, o = (p["weight_ih"] @ x + p["bias_ih"] + p["weight_hh"] @ g + p["bias_hh"]).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(u) * torch.tanh(candidate)
    return torch.sigmoid(o) * torch.tanh(c), c


class Loops:
    """The forward pass of a network in evaluation mode, in double precision."""

    def __init__(self, network: torch.nn.Module, batch: Batch) -> None:
        self.state = {k: v.double() for k, v in network.state_dict().items()}
        self.config, self.batch, self.names = network.config, batch, sorted(batch.features)
        self.rows = len(batch.present)

    def node_features(self) -> Tensor:
        nodes = torch.zeros(len(self.names), self.rows, self.config.hidden, dtype=torch.float64)
        for column, name in enumerate(self.names):
            p = []
            for i in range(self.rows):
                weight, bias = (
                    self.state[f"encoder.projection.linear.{name}.{k}"] for k in ("weight", "bias")
                )
                x = weight @ self.batch.features[name][i].double() + bias
                p.append(x if self.batch.present[i, column] else torch.zeros_like(x))
            start = 0
            for length in self.batch.lengths.tolist():
                span = range(start, start + length)
                start += length
                c = {i: p[i] for i in span}
                if name == "text":
                    c = dict(zip(span, gru(self.state, "encoder.context", [p[i] for i in span]), strict=True))
                gamma = self.config.speaker_weights.get(name, 1.0)
                for speaker in {int(self.batch.speakers[i]) for i in span}:
                    own = [i for i in span if self.batch.speakers[i] == speaker]
                    s = gru(self.state, "encoder.speaker", [p[i] for i in own])
                    for i, turn in zip(own, s, strict=True):
                        if self.batch.present[i, column]:
                            nodes[column, i] = c[i] + gamma * turn
        return nodes

    def layers(self, nodes: Tensor) -> Tensor:
        config = self.config
        flat = nodes.flatten(0, 1)
        lengths = self.batch.lengths.tolist()
        p = plain_normalised(
            plain_adjacency(nodes, self.batch.present.T, lengths, config.cross_weight, config.causal)
        )
        w, b = self.state["fusion.input.weight"], self.state["fusion.input.bias"]
        initial = torch.stack([torch.relu(w @ x + b) for x in flat])
        z, g, c = initial, torch.zeros_like(initial), torch.zeros_like(initial)
        for k in range(1, config.graph_layers + 1):
            if config.dynamic_fusion:
                pairs = [lstm_cell(self.state, z[n], g[n], c[n]) for n in range(len(z))]
                g, c = (torch.stack(part) for part in zip(*pairs, strict=True))
            source = z if config.paper_order or not config.dynamic_fusion else g
            weight = self.state[f"fusion.convolutions.{k - 1}.weight"]
            theta = math.log(config.residual_lambda / k + 1)
            rows = []
            for n in range(len(z)):
                s = sum((p[n, m] * source[m] for m in range(len(z))), torch.zeros_like(z[n]))
                mixed = (1 - config.residual_alpha) * s + config.residual_alpha * initial[n]
                rows.append(theta * (torch.cat([s, initial[n]]) @ weight) + (1 - theta) * mixed)
            carried = g if config.paper_order else z
            z = torch.relu(torch.stack(rows)) + (carried if config.dynamic_fusion else 0.0)
        return z.view(len(self.names), self.rows, -1)

    def logits(self) -> Tensor:
        nodes = self.node_features()
        z = self.layers(nodes)
        weight, bias = self.state["classifier.2.weight"], self.state["classifier.2.bias"]
        result = []
        for i in range(self.rows):
            parts = []
            for column in range(len(self.names)):
                node = torch.cat([nodes[column, i], z[column, i]])
                parts.append(node if self.batch.present[i, column] else torch.zeros_like(node))
            result.append(weight @ torch.relu(torch.cat(parts)) + bias)
        return torch.stack(result)


@torch.no_grad()
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_equals_plain_loops(variant: str, missing: float) -> None:
    network = make_network("mm-dfn", "official-iemocap", **VARIANTS[variant]).eval()
    batch = make_batch(LENGTHS, missing=missing, seed=3)
    expected = Loops(network, batch).logits()
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("subset", [*SUBSETS, ("text",)], ids="-".join)
def test_any_modalities_will_do(subset: tuple[str, ...]) -> None:
    network = make_network("mm-dfn", "official-iemocap", subset).eval()
    batch = make_batch(LENGTHS, subset, missing=0.2)
    expected = Loops(network, batch).logits()
    torch.testing.assert_close(network(batch).logits, expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 5.0, 0.2])])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_loss_is_focal_and_not_normalised_by_the_weights(weights: Tensor | None, gamma: float) -> None:
    network = make_network("mm-dfn", "official-iemocap", class_weights=weights, focal_gamma=gamma)
    batch = make_batch(LENGTHS, unlabelled=0.3, seed=1)
    output = judge(network, batch)
    assert batch.labels is not None
    terms = []
    for z, label in zip(output.logits.tolist(), batch.labels.tolist(), strict=True):
        if label >= 0:
            p = math.exp(z[label]) / sum(math.exp(value) for value in z)
            alpha = 1.0 if weights is None else float(weights[label])
            terms.append(-alpha * (1 - p) ** gamma * math.log(p))
    assert output.losses["emotion"].item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert len(terms) < len(batch.labels)
    assert "class_weights" not in network.state_dict()


def test_the_modulating_factor_has_no_gradient() -> None:
    logits = torch.tensor([[0.3, -0.2, 1.0]], requires_grad=True)
    detached_focal_loss(logits, torch.tensor([0]), torch.tensor([True]), 0.5).backward()
    p = logits.detach().softmax(dim=-1)[0]
    expected = (1 - p[0]) ** 0.5 * (p - torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(logits.grad[0], expected)


def test_a_certain_prediction_has_finite_loss_and_gradient() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    loss = detached_focal_loss(logits, torch.tensor([0, 0]), torch.tensor([True, True]), 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(100.0)
    assert torch.isfinite(logits.grad).all()


@torch.no_grad()
def test_without_layers_it_is_a_linear_classifier_of_the_nodes() -> None:
    network = make_network("mm-dfn", "official-iemocap", graph_layers=0).eval()
    batch = make_batch(LENGTHS)
    x = network.encoder(batch)
    e = torch.cat([x, torch.relu(network.fusion.input(x))], dim=-1)
    rows = torch.cat([*e], dim=-1)
    torch.testing.assert_close(network(batch).logits, network.classifier[2](torch.relu(rows)))


@torch.no_grad()
def test_with_the_output_gate_shut_only_the_first_nodes_are_passed_on() -> None:
    network = make_network("mm-dfn", "official-iemocap").eval()
    width = network.config.graph_hidden
    network.fusion.cell.bias_ih[3 * width :] = -1e9
    batch = make_batch(LENGTHS)
    nodes = network.encoder(batch)
    w, b = network.fusion.input.weight, network.fusion.input.bias
    initial = torch.relu(nodes @ w.T + b)
    z = initial
    for k, layer in enumerate(network.fusion.convolutions, start=1):
        theta = math.log(0.5 / k + 1)
        read = torch.cat([torch.zeros_like(initial), initial], dim=-1)
        z = z + torch.relu(theta * read @ layer.weight + (1 - theta) * 0.2 * initial)
    rows = torch.cat([*torch.cat([nodes, z], dim=-1)], dim=-1)
    torch.testing.assert_close(network(batch).logits, network.classifier[2](torch.relu(rows)))


def test_recomputing_the_layers_changes_nothing_but_memory() -> None:
    batch = make_batch(LENGTHS, missing=0.2)
    results = []
    for recompute in (True, False):
        network = make_network("mm-dfn", "official-iemocap", recompute=recompute, dropout=0.4)
        torch.manual_seed(5)
        output = judge(network, batch)
        total(output).backward()
        results.append([output.logits, *(p.grad for p in network.parameters())])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right)


def test_long_dialogues_stay_apart_in_a_mixed_batch() -> None:
    network = make_network("mm-dfn").eval()
    batch = make_batch([1, 40, 2])
    alone = network(take(batch, [1])).logits
    torch.testing.assert_close(network(batch).logits[1:41], alone, rtol=0, atol=1e-5)


def test_hidden_must_be_even_and_numbers_in_range() -> None:
    for name, value in {"hidden": 7, "graph_layers": -1, "focal_gamma": -0.5, "residual_alpha": 1.0}.items():
        with pytest.raises(ConfigError, match=f"network.{name} must"):
            resolve("mm-dfn", {"network": {name: value}})


def test_speaker_weights_are_set_by_modality() -> None:
    layer = {"network": {"speaker_weights": {"text": 0.5}}}
    assert resolve("mm-dfn", layer).network["speaker_weights"] == {"text": 0.5}


def test_the_presets_differ_between_the_corpora_as_the_scripts_of_the_code_do() -> None:
    meld, iemocap = (resolve("mm-dfn", {"preset": f"official-{corpus}"}) for corpus in ("meld", "iemocap"))
    assert meld.network["speaker_weights"] == {"audio": 0.5, "text": 1.5, "visual": 0.5}
    assert iemocap.network["speaker_weights"] == {"audio": 3.0, "text": 1.0, "visual": 0.0}
    assert (meld.training.learning_rate, iemocap.training.learning_rate) == (5e-4, 3e-4)
    assert meld.training.class_weights is None
    assert iemocap.training.class_weights["happy"] == pytest.approx(5810 / 504, rel=1e-4)
    for corpus, official in (("meld", meld), ("iemocap", iemocap)):
        paper = resolve("mm-dfn", {"preset": f"paper-{corpus}"})
        assert paper.network == {**official.network, "paper_order": True, "focal_gamma": 0.0}
        assert paper.training == replace(official.training, class_weights=None)
