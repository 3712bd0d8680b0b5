"""What networks have in common, written as plain loops in double precision: references for the tests."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers import WIDTHS, ramp
from mmerc.batch import Batch

State = dict[str, Tensor]
Weights = Sequence[Tensor]  # of a recurrent cell: of the input, of the state, and both biases


def doubled(network: nn.Module) -> State:
    """The weights of a network in double precision, by name."""
    return {k: v.double() for k, v in network.state_dict().items()}


def linear(state: State, name: str, x: Tensor) -> Tensor:
    """W x + b, or W x where there is no b."""
    return state[f"{name}.weight"] @ x + state.get(f"{name}.bias", torch.zeros(()))


def rows_of_dialogues(batch: Batch) -> list[list[int]]:
    """The rows of each dialogue, in order."""
    rows, start = [], 0
    for length in batch.lengths.tolist():
        rows.append([*range(start, start + length)])
        start += length
    return rows


def concatenated(state: State, batch: Batch) -> list[Tensor]:
    """Per utterance, tanh of each modality's projection in a row, zeros for an absent one."""
    inputs = []
    for i in range(len(batch.present)):
        parts = []
        for column, (name, values) in enumerate(batch.features.items()):
            x = torch.tanh(linear(state, f"projection.linear.{name}", values[i].double()))
            parts.append(x if batch.present[i, column] else torch.zeros_like(x))
        inputs.append(torch.cat(parts))
    return inputs


def gru_step(weights: Weights, x: Tensor, h: Tensor) -> Tensor:
    """One step of a GRU, gate by gate."""
    w_x, w_h, b_x, b_h = weights
    x_r, x_z, x_n = (w_x @ x + b_x).chunk(3)
    h_r, h_z, h_n = (w_h @ h + b_h).chunk(3)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * h


def lstm_step(weights: Weights, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, gate by gate."""
    w_x, w_h, b_x, b_h = weights
    i, f, g, o = (w_x @ x + b_x + w_h @ h + b_h).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def cell_weights(state: State, name: str, suffix: str = "") -> Weights:
    """The weights of one cell, as torch names them."""
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [state[f"{name}.{kind}{suffix}"] for kind in kinds]


def _one_way(weights: Weights, inputs: list[Tensor]) -> list[Tensor]:
    """A GRU or, by the number of its gates, an LSTM."""
    h = c = torch.zeros(weights[1].shape[1], dtype=torch.float64)
    states = []
    for x in inputs:
        if len(weights[1]) == 3 * len(h):
            h = gru_step(weights, x, h)
        else:
            h, c = lstm_step(weights, x, h, c)
        states.append(h)
    return states


def recurrence(state: State, name: str, inputs: list[Tensor]) -> list[Tensor]:
    """All layers of a GRU or LSTM over one dialogue, both ways if it has the weights for it."""
    layer = 0
    while f"{name}.weight_ih_l{layer}" in state:
        states = _one_way(cell_weights(state, name, f"_l{layer}"), inputs)
        if f"{name}.weight_ih_l{layer}_reverse" in state:
            backward = _one_way(cell_weights(state, name, f"_l{layer}_reverse"), inputs[::-1])[::-1]
            states = [torch.cat(pair) for pair in zip(states, backward, strict=True)]
        inputs, layer = states, layer + 1
    return inputs


def recall(query: Tensor, memory: list[Tensor]) -> Tensor:
    """Σ_j softmax_j(q · m_j) m_j."""
    scores = [float(query @ m) for m in memory]
    exps = [torch.tensor(s - max(scores), dtype=torch.float64).exp() for s in scores]
    return sum((e * m for e, m in zip(exps, memory, strict=True)), torch.zeros_like(query)) / sum(exps)


def seen(items: list[Tensor], k: int, causal: bool) -> list[Tensor]:
    """What utterance k of a dialogue may look at."""
    return items[: k + 1] if causal else items


def ramp_batch(names: Sequence[str] = tuple(WIDTHS)) -> Batch:
    """A dialogue of three utterances by two speakers and one of a single utterance, by a fixed rule."""
    present = torch.ones(4, len(names), dtype=torch.bool)
    present[1, 0] = False
    return Batch(
        features={m: ramp(4, WIDTHS[m], scale=3.0, start=7 * WIDTHS[m]) for m in sorted(names)},
        present=present,
        lengths=torch.tensor([3, 1]),
        speakers=torch.tensor([0, 1, 0, 0]),
    )


def rename_speakers(batch: Batch) -> Batch:
    """The same batch with other numbers for the speakers, of which there are three at most."""
    return batch._replace(speakers=torch.tensor([2, 0, 1])[batch.speakers])


def with_three_speakers(batch: Batch, seed: int = 0) -> Batch:
    """The same batch with speakers 0 to 2, drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    return batch._replace(speakers=torch.randint(3, batch.speakers.shape, generator=generator))
