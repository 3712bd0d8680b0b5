"""DialogueGCN: a graph of utterances with relations by speaker and by time (EMNLP 2019).

Ghosal et al., https://aclanthology.org/D19-1015. Equation numbers are the paper's. N utterances of a flat
batch, B dialogues of at most T utterances, R relations, g = 2 · `context_hidden`. [C] is the authors' code
(declare-lab/conv-emotion, folder DialogueGCN, commit 6128ca2).

Deviations:
* The input u_i is the concatenation of the modalities, each projected to `hidden` with tanh and zero where
  absent; the paper reads text.
* Relations are (same or other speaker) × (past or future), four in all, instead of 2·S² for S speakers:
  numbers of speakers are arbitrary, and nothing learned about one pair would hold for another. Renaming
  speakers changes nothing.
* σ of eqs. 2 and 3, which the paper leaves open, is ReLU; c_{i,r} is |N_i^r| and not learned.
* Utterance i itself has no relation: it enters by W_0 alone.
* The paper is followed where [C] differs. There, the context is an LSTM unless a GRU is asked for
  (train_IEMOCAP.py); the weight of an edge comes from the neighbour and the place of the utterance in the
  dialogue, softmax over the whole dialogue, then as a share of the window (model.py, MaskedEdgeAttention);
  every utterance has an edge to itself, with the relation of its speaker's past turns (edge_perms,
  batch_graphify); nothing stands for σ (GraphNetwork).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.layers.padding import Padding, to_device
from mmerc.layers.recurrent import FlatGRU
from mmerc.layers.retrieval import retrieve
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("DialogueGCN", "EMNLP", 2019, "https://aclanthology.org/D19-1015")


@dataclass(frozen=True)
class Config:
    """Settings of DialogueGCN; the sizes are those of [C] for IEMOCAP (train_IEMOCAP.py)."""

    hidden: int = 100  # width of the projected features of each modality
    context_hidden: int = 100  # GRU units per direction
    context_layers: int = 2  # of the GRU
    graph_hidden: int = 100  # width of both graph layers and of l_i (eq. 7)
    window: int = 10  # utterances before, and as many after, that an utterance has edges with
    dropout: float = 0.5  # of the projected features, between GRU layers and before the classifier
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "context_hidden", "context_layers", "graph_hidden"),
            not_negative=("window",),
            shares=("dropout", "input_dropout"),
        )


def neighbourhoods(padding: Padding, speakers: Tensor, window: int, causal: bool) -> Tensor:
    """Return which j are neighbours of i, by relation, (B, R, T, T) bool.

    Relations are, in this order: same speaker, past; other speaker, past; the same two in the future (not
    if `causal`); i itself. No pair has two of them.

    Args:
        padding: the layout of the batch
        speakers: (N,)
        window: utterances on each side
        causal: no future
    """
    longest = padding.mask.shape[1]
    step = torch.arange(longest, device=speakers.device)
    distance = step[:, None] - step[None, :]  # (T, T), above 0: j is before i
    sides = [(distance > 0) & (distance <= window)]
    if not causal:
        sides.append((distance < 0) & (distance >= -window))
    who = padding.pad(speakers)
    same = who[:, :, None] == who[:, None, :]
    relations = [side & pair for side in sides for pair in (same, ~same)]
    relations.append((distance == 0).expand_as(same))
    return torch.stack(relations, dim=1) & padding.pairs()[:, None]


class SpeakerGraph(nn.Module):
    """The speaker-level context encoder: a relational and a plain graph convolution (eqs. 1 to 3)."""

    def __init__(self, width: int, hidden: int, window: int, causal: bool) -> None:
        super().__init__()
        self.window = window
        self.causal = causal
        relations = 3 if causal else 5
        self.edge = nn.Linear(width, width, bias=False)  # W_e
        self.relational = nn.Linear(relations * width, hidden, bias=False)  # [W_r … ; W_0] of layer 1
        self.neighbours = nn.Linear(hidden, hidden, bias=False)  # W of layer 2
        self.own = nn.Linear(hidden, hidden, bias=False)  # W_0 of layer 2

    def forward(self, g: Tensor, speakers: Tensor, padding: Padding) -> Tensor:
        """Return h^(2) of every utterance, (N, hidden).

        Args:
            g: (N, width)
            speakers: (N,)
            padding: the layout of the batch
        """
        linked = neighbourhoods(padding, speakers, self.window, self.causal)
        alpha = self._edge_weights(g, linked.any(dim=1), padding)
        weights = alpha[:, None] * linked / linked.sum(dim=-1, keepdim=True).clamp(min=1)  # α_ij / c_{i,r}
        gathered = weights.flatten(1, 2) @ padding.pad(g).to(weights.dtype)  # (B, R·T, width)
        by_relation = gathered.view(*linked.shape[:3], -1).transpose(1, 2).flatten(2)
        first = F.relu(self.relational(padding.flat(by_relation)))  # eq. 2
        around = linked[:, :-1].any(dim=1).to(first.dtype) @ padding.pad(first)
        return F.relu(self.neighbours(padding.flat(around)) + self.own(first))  # eq. 3

    def _edge_weights(self, g: Tensor, near: Tensor, padding: Padding) -> Tensor:
        """Return α_ij = softmax over j in i's window of g_i · W_e g_j (eq. 1), (B, T, T)."""
        scores = (padding.pad(self.edge(g)) @ padding.pad(g).transpose(1, 2)).float()
        # Finite, so that a row of padding, which has no neighbours, is no NaN; nobody reads it.
        return scores.masked_fill(~near, torch.finfo(scores.dtype).min).softmax(dim=-1)


class DialogueGCN(Network):
    """Sequential context → graph of speakers → attention over [g ; h] → classifier."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        c = self.config = config
        self.projection = InputProjection(widths, c.hidden, c.dropout, c.input_dropout)
        self.context = FlatGRU(
            len(widths) * c.hidden, c.context_hidden, c.context_layers, c.dropout, c.causal
        )
        self.graph = SpeakerGraph(2 * c.context_hidden, c.graph_hidden, c.window, c.causal)
        width = 2 * c.context_hidden + c.graph_hidden
        self.match = nn.Linear(width, width, bias=False)  # W_β
        self.hidden = nn.Linear(width, c.graph_hidden)
        self.classifier = nn.Sequential(nn.Dropout(c.dropout), nn.Linear(c.graph_hidden, num_classes))

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        u = torch.cat([*self.projection(batch)], dim=-1)
        padding = Padding.of(batch.lengths, u.device)
        g = self.context(u, batch.lengths)
        h = torch.cat([g, self.graph(g, to_device(batch.speakers, g.device), padding)], dim=-1)  # eq. 4
        attended = retrieve(self.match(h), h, padding, self.config.causal)  # eqs. 5, 6
        logits = self.classifier(F.relu(self.hidden(attended)))  # eqs. 7, 8
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "context_hidden": 128,
            "context_layers": 1,
            "graph_hidden": 128,
            "dropout": 0.4,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    # [C] for IEMOCAP (train_IEMOCAP.py).
    "paper": {
        "training": {
            "epochs": 60,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "weight_decay": 1e-5,
            "warmup_steps": 0,
            "clip_norm": 0.0,
            "class_weights": 1.0,
        },
    },
}
