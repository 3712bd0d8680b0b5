"""bc-LSTM recomputed utterance by utterance; what holds for every network is in test_invariances.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from helpers import (
    SUBSETS,
    WIDTHS,
    assert_losses,
    assert_same,
    fill_with_ramp,
    judge,
    make_batch,
    make_network,
    ramp,
)
from loops import State, doubled, linear, recurrence, rows_of_dialogues
from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.models import resolve

LENGTHS = [3, 1, 4]


def contextual(state: State, name: str, inputs: list[Tensor]) -> list[Tensor]:
    """BiLSTM and dense layer over one dialogue."""
    states = recurrence(state, f"{name}.lstm.rnn", inputs)
    return [linear(state, f"{name}.dense.1", h).clamp(min=0.0) for h in states]


def levels(state: State, batch: Batch) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """The logits of level 2, and by modality those of level 1."""
    logits, votes = [], {m: [] for m in batch.features}
    for rows in rows_of_dialogues(batch):
        below: list[list[Tensor]] = [[] for _ in rows]
        for column, (name, values) in enumerate(batch.features.items()):
            there = [bool(batch.present[i, column]) for i in rows]
            x = [values[i].double() * batch.present[i, column] for i in rows]
            for k, z in enumerate(contextual(state, f"contexts.{name}", x)):
                z = z if there[k] else torch.zeros_like(z)
                below[k].append(z)
                if f"classifiers.{name}.1.weight" in state:
                    votes[name].append(linear(state, f"classifiers.{name}.1", z))
        for z in contextual(state, "context", [torch.cat(parts) for parts in below]):
            logits.append(linear(state, "classifier.1", z))
    return torch.stack(logits), votes


@torch.no_grad()
@pytest.mark.parametrize("preset", ["refined", "paper"])
@pytest.mark.parametrize("subset", SUBSETS, ids=len)
def test_bc_lstm_equals_plain_loops(subset: tuple[str, ...], preset: str) -> None:
    network = make_network("bc-lstm", preset, subset, alpha_unimodal=0.7).eval()
    batch = make_batch(LENGTHS, subset, missing=0.3, unlabelled=0.2, seed=1)
    assert batch.labels is not None
    logits, votes = levels(doubled(network), batch)
    output = judge(network, batch)
    torch.testing.assert_close(output.logits, logits.float(), rtol=0, atol=1e-5)

    def surprise(rows: list[int], z: Any) -> float:
        assert batch.labels is not None
        return sum(-float(z[i].log_softmax(dim=0)[batch.labels[i]]) for i in rows) / len(rows)

    known = [i for i, label in enumerate(batch.labels.tolist()) if label >= 0]
    unimodal = 0.0
    for column, name in enumerate(subset):
        unimodal += surprise([i for i in known if batch.present[i, column]], votes[name])
    assert_losses(output.losses, {"emotion": surprise(known, logits), "unimodal": 0.7 * unimodal})


@pytest.mark.parametrize("end_to_end", [False, True])
@pytest.mark.parametrize("loss", ["emotion", "unimodal"])
def test_which_loss_trains_which_level(loss: str, end_to_end: bool) -> None:
    network = make_network("bc-lstm", end_to_end=end_to_end, alpha_unimodal=1.0)
    judge(network, make_batch(LENGTHS)).losses[loss].backward()
    reached = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    of_emotion = {"context", "classifier"} | ({"contexts"} if end_to_end else set())
    assert reached == (of_emotion if loss == "emotion" else {"contexts", "classifiers"})


@torch.no_grad()
def test_a_modality_that_is_absent_everywhere_might_as_well_not_exist() -> None:
    large, small = (
        make_network("bc-lstm").eval(),
        make_network("bc-lstm", modalities=("audio", "visual")).eval(),
    )
    state = large.state_dict()
    width = state["classifier.1.weight"].shape[1]
    kept = torch.cat([torch.arange(width), torch.arange(2 * width, 3 * width)])
    for name in ("weight_ih_l0", "weight_ih_l0_reverse"):
        state[f"context.lstm.rnn.{name}"] = state[f"context.lstm.rnn.{name}"][:, kept]
    small.load_state_dict({k: state[k] for k in small.state_dict()})
    batch = make_batch(LENGTHS)
    whole = batch._replace(present=torch.tensor([True, False, True]).expand(sum(LENGTHS), 3))
    features = {m: x for m, x in batch.features.items() if m != "text"}
    part = batch._replace(features=features, present=torch.ones(sum(LENGTHS), 2, dtype=torch.bool))
    assert_same(large(whole), small(part))
    assert_losses(judge(small, part).losses, judge(large, whole).losses)


@torch.no_grad()
def test_golden_values() -> None:
    network = make_network("bc-lstm", "paper").eval()
    fill_with_ramp(network)
    batch = Batch(
        features={m: ramp(3, WIDTHS[m], scale=3.0, start=7 * WIDTHS[m]) for m in sorted(WIDTHS)},
        present=torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1]], dtype=torch.bool),
        lengths=torch.tensor([2, 1]),
        speakers=torch.zeros(3, dtype=torch.int64),
        labels=torch.tensor([0, 1, 2]),
    )
    output = judge(network, batch)
    expected = [
        [-0.599972, -0.146851, 0.062455],
        [-0.595885, -0.164906, 0.078502],
        [-0.609953, -0.154334, 0.07064],
    ]
    torch.testing.assert_close(output.logits, torch.tensor(expected), rtol=0, atol=1e-5)
    assert_losses(output.losses, {"emotion": 1.138456, "unimodal": 3.4568})


def test_a_first_level_that_nothing_trains_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"alpha_unimodal = 0 leaves level 1 untrained.*end_to_end"):
        resolve("bc-lstm", {"preset": "paper", "network": {"alpha_unimodal": 0}})
