"""MFN: Memory Fusion Network (Zadeh et al., AAAI 2018).

Paper: Memory Fusion Network for Multi-view Sequential Learning, https://arxiv.org/abs/1802.00927. A System of
LSTMs, one per view, and a Delta-memory Attention Network (DMAN) on their memories c, whose findings a
Multi-view Gated Memory (MGM) keeps through time. A view is a modality. N utterances of a flat batch, V views,
h = `hidden`, K emotions; [C] is the authors' code (https://github.com/pliang279/MFN, commit 8ced02c).

Neither attention nor gates read the memory u, so that the recurrence over time is short: first the LSTMs, all
views in one product per step; then attention, proposals and gates of all steps at once; then u alone.

Deviations:
* Time runs over the utterances of a dialogue, not over the words of an utterance, and there is an output at
  every step in place of one after the last. It never looks ahead.
* All views have the same number of LSTM units.
* The gates read the attended memories, as the paper has them; those of [C] read u^{t−1} too.
* A view that is absent from an utterance keeps its state and its memory, and DMAN does not attend to it.
* `state_dropout` is not in the paper.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.layers.padding import to_device
from mmerc.layers.recurrent import packed_order
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("MFN", "AAAI", 2018, "https://arxiv.org/abs/1802.00927")


@dataclass(frozen=True)
class Config:
    """Settings of MFN; the defaults are those of the best accuracy in the authors' code (preset `paper`)."""

    hidden: int = 64  # LSTM units of each view
    attention_hidden: int = 128  # hidden units of the attention network D_a
    memory_hidden: int = 400  # width of the gated memory u
    gate_hidden: int = 128  # hidden units of D_u and of the networks of both gates
    output_hidden: int = 256  # hidden units of the classifier
    dropout: float = 0.5  # in every one of these networks, after its hidden layer
    state_dropout: float = 0.0  # on [h^t ; u^t], before the classifier
    input_dropout: float = 0.0  # on the raw features

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "attention_hidden", "memory_hidden", "gate_hidden", "output_hidden"),
            shares=("dropout", "state_dropout", "input_dropout"),
        )


class LSTMSystem(nn.Module):
    """System of LSTMs: one for each view, whose memories are open to view at every step."""

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        h = config.hidden
        self.gates = InputProjection(
            widths, 4 * h, input_dropout=config.input_dropout, activation=nn.Identity()
        )
        bound = 1 / math.sqrt(h)
        self.recurrent = nn.Parameter(torch.empty(len(widths), h, 4 * h).uniform_(-bound, bound))

    def forward(self, batch: Batch, order: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return h^t, c^{t−1} and c^t, each (N, V·h), rows in packed order.

        Args:
            batch: features and presence of the views
            order: (N,) the packed order, see `packed_order`
            sizes: dialogues that are still running at each step
        """
        x = self.gates(batch)[:, order]
        present = batch.present.T[:, order, None]
        state = memory = self.recurrent.new_zeros(len(x), sizes[0], self.recurrent.shape[1])
        steps = []
        for part, there in zip(torch.split(x, sizes, dim=1), torch.split(present, sizes, dim=1), strict=True):
            held, before = state[:, : part.shape[1]], memory[:, : part.shape[1]]
            *gates, proposal = torch.baddbmm(part, held, self.recurrent).chunk(4, dim=-1)
            keep, take, show = (gate.sigmoid() for gate in gates)
            now = keep * before + take * proposal.tanh()
            memory = torch.where(there, now, before)
            state = torch.where(there, show * now.tanh(), held)
            steps.append((state, before, memory))
        h, before, c = (
            torch.cat(parts, dim=1).transpose(0, 1).flatten(1) for parts in zip(*steps, strict=True)
        )
        return h, before, c


class DeltaMemoryAttention(nn.Module):
    """DMAN: ĉ = c ⊙ a, a = softmax(D_a(c)) over all entries of c = [c^{t−1} ; c^t]."""

    def __init__(self, config: Config, views: int) -> None:
        super().__init__()
        width = 2 * views * config.hidden
        self.score = network(width, config.attention_hidden, width, config.dropout)

    def forward(self, c: Tensor, present: Tensor) -> Tensor:
        """Return the attended memories ĉ (N, 2·V·h), zeros for a view that is absent.

        Args:
            c: (N, 2·V·h)
            present: (N, V) bool
        """
        share = c.shape[1] // (2 * present.shape[1])
        there = present.repeat_interleave(share, dim=1).repeat(1, 2)
        # The floor keeps an utterance without any view at zeros instead of NaN.
        attention = self.score(c).float().masked_fill(~there, -1e9).softmax(dim=-1)
        attended: Tensor = c * attention * there
        return attended


class GatedMemory(nn.Module):
    """MGM: u^t = γ1 ⊙ u^{t−1} + γ2 ⊙ tanh(û^t), with û, γ1 (retain) and γ2 (update) from ĉ."""

    def __init__(self, config: Config, views: int) -> None:
        super().__init__()
        width, c = 2 * views * config.hidden, config
        self.propose = network(width, c.gate_hidden, c.memory_hidden, c.dropout)
        self.retain = network(width, c.gate_hidden, c.memory_hidden, c.dropout)
        self.update = network(width, c.gate_hidden, c.memory_hidden, c.dropout)

    def forward(self, attended: Tensor, sizes: list[int]) -> Tensor:
        """Return the memory u after every utterance, (N, `memory_hidden`), from ĉ (N, 2·V·h), both packed."""
        kept = torch.split(self.retain(attended).sigmoid(), sizes)
        added = torch.split(self.update(attended).sigmoid() * self.propose(attended).tanh(), sizes)
        memories = [added[0]]  # u^0 = 0
        for retain, new in zip(kept[1:], added[1:], strict=True):
            memories.append(torch.addcmul(new, retain, memories[-1][: len(new)]))
        return torch.cat(memories)


def network(width: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    """Return a network with one hidden layer of ReLU units, (N, width) → (N, out)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


class MFN(Network):
    """System of LSTMs → DMAN → MGM → classifier on [h^t ; u^t]."""

    looks_ahead = False

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        views = len(widths)
        self.lstms = LSTMSystem(config, widths)
        self.attention = DeltaMemoryAttention(config, views)
        self.memory = GatedMemory(config, views)
        seen = views * config.hidden + config.memory_hidden
        self.state_dropout = nn.Dropout(config.state_dropout)
        self.classifier = network(seen, config.output_hidden, num_classes, config.dropout)

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        order, batch_sizes = packed_order(batch.lengths)
        order, sizes = to_device(order, batch.present.device), batch_sizes.tolist()
        h, before, c = self.lstms(batch, order, sizes)
        attended = self.attention(torch.cat([before, c], dim=-1), batch.present[order])
        u = self.memory(attended, sizes)
        packed = self.classifier(self.state_dropout(torch.cat([h, u], dim=-1)))
        logits = torch.empty_like(packed).index_copy(0, order, packed)
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 64,
            "attention_hidden": 128,
            "memory_hidden": 128,
            "gate_hidden": 128,
            "output_hidden": 256,
            "dropout": 0.4,
            "state_dropout": 0.5,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    # The paper does not print its sizes; [C] notes those of its best accuracy, with 64, 8 and 80 LSTM units.
    "paper": {
        "training": {
            "epochs": 100,
            "patience": 100,
            "batch_size": 128,
            "learning_rate": 5e-3,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "clip_norm": 0.0,
        }
    },
}
