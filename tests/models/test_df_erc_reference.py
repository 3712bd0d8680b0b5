"""DF-ERC recomputed utterance by utterance from the equations (preset `paper-meld`), and pinned numbers."""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers import CLASSES, WIDTHS, assert_losses, fill_with_ramp, judge, make_batch, make_network, ramp
from mmerc.batch import Batch

LENGTHS = [3, 2]
M = len(WIDTHS)
State = dict[str, Tensor]


def lstm_direction(state: State, suffix: str, inputs: list[Tensor]) -> list[Tensor]:
    """One direction of eq. 21, gate by gate."""
    w_x, w_h = (
        state[f"crm.context.rnn.weight_ih_l0{suffix}"],
        state[f"crm.context.rnn.weight_hh_l0{suffix}"],
    )
    bias = state[f"crm.context.rnn.bias_ih_l0{suffix}"] + state[f"crm.context.rnn.bias_hh_l0{suffix}"]
    hidden = cell = torch.zeros(w_h.shape[1], dtype=torch.float64)
    states = []
    for x in inputs:
        i, f, g, o = (w_x @ x + w_h @ hidden + bias).chunk(4)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        states.append(hidden)
    return states


class Reference(NamedTuple):
    logits: Tensor
    contributions: Tensor
    context_weight: Tensor
    losses: dict[str, float]


def contrastive(items: list[tuple[Tensor, int]], tau: float) -> float:
    """Eqs. 3 and 5 on (vector, tag) pairs."""
    anchors = []
    for i, (vector, tag) in enumerate(items):
        others = [(h, t) for j, (h, t) in enumerate(items) if j != i]
        scores = [(float(F.cosine_similarity(vector, h, dim=0)) / tau, t) for h, t in others]
        log_sum = math.log(sum(math.exp(s) for s, _ in scores))
        attracted = [s - log_sum for s, t in scores if t == tag]
        if attracted:
            anchors.append(-sum(attracted) / len(attracted))
    return sum(anchors) / len(anchors)


def per_modality(state: State, prefix: str, column: int, x: Tensor) -> Tensor:
    return x @ state[f"{prefix}.1.weight"][column] + state[f"{prefix}.1.bias"][column, 0]


class Loops:
    """All equations of `paper-meld` in evaluation mode; `there[i]` lists the modalities of utterance i."""

    def __init__(self, state: State, batch: Batch) -> None:
        assert batch.labels is not None
        self.state, self.labels = state, batch.labels.tolist()
        self.there = [[c for c in range(M) if batch.present[i, c]] for i in range(len(self.labels))]
        self.projected, self.modality, self.utterance, self.m = {}, {}, {}, {}
        for i, there in enumerate(self.there):
            for c in there:
                name = sorted(WIDTHS)[c]
                raw = batch.features[name][i].double()
                weight, bias = (state[f"projection.linear.{name}.{k}"] for k in ("weight", "bias"))
                x = torch.tanh(weight @ raw + bias)
                self.modality[i, c] = F.gelu(per_modality(state, "ddm.modality", c, x))
                self.utterance[i, c] = F.gelu(per_modality(state, "ddm.utterance", c, x))
                self.m[i, c] = torch.cat([x, self.modality[i, c], self.utterance[i, c]])
        self.relation = {
            (i, c): F.gelu(per_modality(state, "crm.relation", c, m)) for (i, c), m in self.m.items()
        }
        self.omega = {
            key: torch.sigmoid(per_modality(state, "cfm.student", key[1], m))[0] for key, m in self.m.items()
        }

    def psi(self, i: int) -> float:
        pairs = [*itertools.combinations([self.relation[i, c] for c in self.there[i]], 2)]
        return sum(float(F.cosine_similarity(a, b, dim=0)) for a, b in pairs) / len(pairs) if pairs else 0.0

    def logits(self) -> Tensor:
        width = 3 * 4
        fused = []
        for i, there in enumerate(self.there):
            zero = torch.zeros(width, dtype=torch.float64)
            fused.append(sum((self.omega[i, c] * self.m[i, c] for c in there), zero))
        rows, start = [], 0
        for length in LENGTHS:
            part = fused[start : start + length]
            forward = lstm_direction(self.state, "", part)
            backward = lstm_direction(self.state, "_reverse", part[::-1])[::-1]
            for k in range(length):
                context = torch.cat([forward[k], backward[k]])
                refused = torch.cat([part[k], (1 - self.psi(start + k)) * context])
                rows.append(self.state["classifier.1.weight"] @ refused + self.state["classifier.1.bias"])
            start += length
        return torch.stack(rows)

    def losses(self, logits: Tensor) -> dict[str, float]:
        def surprise(z: Tensor, label: int) -> float:
            return -float(torch.log_softmax(z, dim=0)[label])

        known = [i for i, label in enumerate(self.labels) if label >= 0]
        teacher = student = 0.0
        for c in range(M):
            mine = [i for i in known if c in self.there[i]]
            z = {i: per_modality(self.state, "cfm.teacher", c, self.m[i, c]) for i in mine}
            teacher += sum(surprise(z[i], self.labels[i]) for i in mine) / len(mine)
            tcp = {i: float(torch.softmax(z[i], dim=0)[self.labels[i]]) for i in mine}
            student += sum((float(self.omega[i, c]) - tcp[i]) ** 2 for i in mine) / len(mine)
        hinges = []
        for i, c in self.relation:
            if i in known:
                gap = self.relation[i, c] - self.state["crm.running.means"][self.labels[i]]
                hinges.append(max(float((gap**2).mean()) - 0.1, 0.0))
        by_modality = [(h, c) for (_, c), h in self.modality.items()]
        by_utterance = [(h, i) for (i, _), h in self.utterance.items()]
        return {
            "emotion": sum(surprise(logits[i], self.labels[i]) for i in known) / len(known),
            "contrastive": 0.3 * (contrastive(by_modality, 0.5) + contrastive(by_utterance, 0.3)),
            "teacher_ce": 0.8 * teacher,
            "student_mse": 0.8 * student,
            "similarity": 0.3 * sum(hinges) / len(hinges),
        }


def ragged_batch(seed: int, missing: bool) -> Batch:
    batch = make_batch(LENGTHS, seed=seed)
    if not missing:
        return batch
    assert batch.labels is not None
    present, labels = batch.present.clone(), batch.labels.clone()
    present[0, 0] = present[1, 1] = present[1, 2] = present[4] = False
    labels[2] = -1
    return batch._replace(present=present, labels=labels)


@torch.no_grad()
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_paper_equals_plain_loops(seed: int, missing: bool) -> None:
    network = make_network("df-erc", "paper-meld", seed=seed).eval()
    network.crm.running.means.copy_(ramp(CLASSES, 5, scale=2.0, start=seed))
    batch = ragged_batch(seed, missing)
    output = judge(network, batch)
    loops = Loops({k: v.double() for k, v in network.state_dict().items()}, batch)
    logits = loops.logits()
    torch.testing.assert_close(output.logits, logits.float(), rtol=0, atol=1e-5)
    for i in range(sum(LENGTHS)):
        assert output.context_weight[i].item() == pytest.approx(1 - loops.psi(i), abs=1e-5)
        for c in range(M):
            expected = float(loops.omega[i, c]) if c in loops.there[i] else 0.0
            assert output.contributions[i, c].item() == pytest.approx(expected, abs=1e-5)
    expected_losses = loops.losses(logits)
    assert expected_losses["similarity"] > 0
    assert_losses(output.losses, expected_losses)


def ramp_batch() -> Batch:
    rows = sum(LENGTHS)
    return Batch(
        features={m: ramp(rows, width, scale=3.0, start=7 * width) for m, width in WIDTHS.items()},
        present=torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]], dtype=torch.bool),
        lengths=torch.tensor(LENGTHS),
        speakers=torch.zeros(rows, dtype=torch.int64),
        labels=torch.tensor([0, 1, 2, 2, 0]),
    )


GOLDEN: dict[str, dict[str, Any]] = {
    "paper-meld": {
        "logits": [
            [-0.453909, 0.104423, 0.319214],
            [-0.360333, 0.277251, 0.271556],
            [-0.665934, 0.411746, 0.053487],
            [-1.062627, 0.624394, 0.283685],
            [-0.340558, 0.020214, 0.119344],
        ],
        "context_weight": [1.329837, 0.244355, 1.190822, 0.794398, 1.351867],
        "losses": {
            "emotion": 1.191982,
            "contrastive": 1.970423,
            "teacher_ce": 2.736086,
            "student_mse": 0.076856,
            "similarity": 0.18113,
        },
    },
    "official-iemocap": {
        "logits": [
            [-0.377526, 0.632755, 0.228536],
            [0.11965, 0.484857, -0.028532],
            [-0.22329, 1.314926, 0.822936],
            [0.214263, 0.642384, -0.141985],
            [-0.258896, 0.001917, -0.414027],
        ],
        "context_weight": [1.174417, 0.880939, 1.64409, 0.487264, 0.631914],
        "losses": {
            "emotion": 1.264382,
            "contrastive": 2.165829,
            "teacher_ce": 3.452002,
            "student_mse": 0.170832,
            "similarity": 0.009724,
        },
    },
}


@torch.no_grad()
@pytest.mark.parametrize("preset", GOLDEN)
def test_golden_values(preset: str) -> None:
    network = make_network("df-erc", preset).eval()
    fill_with_ramp(network)
    if "crm.running.means" in network.state_dict():
        network.crm.running.means.copy_(ramp(CLASSES, 5, scale=2.0))
    output = judge(network, ramp_batch())
    expected = GOLDEN[preset]
    torch.testing.assert_close(output.logits, torch.tensor(expected["logits"]), rtol=0, atol=1e-5)
    assert output.context_weight.tolist() == pytest.approx(expected["context_weight"], abs=1e-5)
    assert_losses(output.losses, expected["losses"])
