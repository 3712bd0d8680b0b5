"""DialogueRNN: an attentive recurrence over the states of a dialogue and of each party (AAAI 2019).

Majumder et al., https://arxiv.org/abs/1811.00405. Equation numbers are the paper's. This is its best
variant, BiDialogueRNN with emotion attention; with `causal` it is DialogueRNN with emotion attention, which
looks at the past only.

N utterances of a flat batch, B dialogues of at most T steps, S speakers, D directions (2, or 1 if causal),
h = `state_hidden`. [C] is the authors' code (declare-lab/conv-emotion, folder DialogueRNN, commit 6128ca2).

Deviations:
* The input u_t is the concatenation of the modalities, each projected to `hidden` with tanh and zero where
  absent; the paper concatenates the vectors as they are.
* Global and party states have one width, as in the authors' settings.
* The listener update (off by default, as in the paper's main variant) reads u_t and the new state of the
  speaker, as in [C] (model.py, DialogueRNNCell); eq. 7 reads the listener's face, which a corpus seldom has.
* The attention over emotions has no bias, as in eq. 13; that of [C] has one (model.py, "general2").
* The emotion state is dropped after its recurrence; [C] drops it at every step as well.

No deviation: the backward direction reverses the speakers along with the utterances. So does [C] since commit
9d48fcd (19 March 2019); its first version (f351ca8) did not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.layers.padding import Padding, to_device
from mmerc.layers.retrieval import retrieve
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("DialogueRNN", "AAAI", 2019, "https://arxiv.org/abs/1811.00405")


@dataclass(frozen=True)
class Config:
    """Settings of DialogueRNN; the defaults are those of [C] for IEMOCAP (train_IEMOCAP.py), commit 4f4ecbe.

    Today [C] has 300 units in the emotion GRU and 600 in the classifier, since c9dd79f of the same day, 30
    July 2020.
    """

    hidden: int = 100  # width of the projected features of each modality
    state_hidden: int = 500  # units of the global and of the party GRU, per direction
    emotion_hidden: int = 500  # units of the emotion GRU, per direction
    classifier_hidden: int = 1000  # width of l_t (eq. 9)
    listener: bool = False  # update the states of those who do not speak too (eq. 7)
    dropout: float = 0.1  # of the projected features, of the emotion states and before the classifier
    state_dropout: float = 0.1  # of the new global and party state, at every step
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "state_hidden", "emotion_hidden", "classifier_hidden"),
            shares=("dropout", "state_dropout", "input_dropout"),
        )


def gru(driven: Tensor, recalled: Tensor, state: Tensor) -> Tensor:
    """Return the next state of a GRU from the products of its input and of its state, (…, h).

    Args:
        driven: (…, 3h) W x + b for the gates r, z, n
        recalled: (…, 3h) U h + b'
        state: (…, h)
    """
    h = state.shape[-1]
    r, z = (driven[..., : 2 * h] + recalled[..., : 2 * h]).sigmoid().chunk(2, dim=-1)
    n = torch.addcmul(driven[..., 2 * h :], r, recalled[..., 2 * h :]).tanh()
    return torch.lerp(n, state, z)


def backwards(padding: Padding) -> Padding:
    """Return the layout in which every dialogue stands in reverse, its padding still behind it."""
    longest = padding.mask.shape[1]
    dialogue, step = padding.position // longest, padding.position % longest
    last = padding.mask.sum(dim=1) - 1
    return Padding(padding.mask, dialogue * longest + last[dialogue] - step)


class GRUWeights(nn.Module):
    """Weights of C GRU cells side by side, for the part of their input that a step computes and the state."""

    def __init__(self, cells: int, units: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(units)
        self.inner = nn.Parameter(torch.empty(cells, units, 3 * units).uniform_(-bound, bound))
        self.state = nn.Parameter(torch.empty(cells, units, 3 * units).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(cells, 1, 3 * units).uniform_(-bound, bound))

    def forward(self, driven: Tensor, inner: Tensor, state: Tensor) -> Tensor:
        """Return the next states, (C, B, h).

        Args:
            driven: (C, B, 3h) the product of the input that was known beforehand
            inner: (C, B, h) the rest of the input
            state: (C, B, h)
        """
        driven = torch.baddbmm(driven, inner, self.inner)
        return gru(driven, torch.baddbmm(self.bias, state, self.state), state)


class Listeners(nn.Module):
    """The update of everybody's state by what the speaker said (eq. 7)."""

    def __init__(self, directions: int, units: int) -> None:
        super().__init__()
        self.weights = GRUWeights(directions, units)

    def forward(self, driven: Tensor, own: Tensor, party: Tensor) -> Tensor:
        """Return the next states of all parties, (D, B, S, h).

        Args:
            driven: (D, B, 3h) the product of u_t
            own: (D, B, h) the speaker's new state
            party: (D, B, S, h)
        """
        w = self.weights
        driven = torch.baddbmm(driven, own, w.inner)[:, :, None]
        recalled = torch.baddbmm(w.bias, party.flatten(1, 2), w.state)
        return gru(driven, recalled.view(*party.shape[:3], -1), party)


class PartyStates(nn.Module):
    """Global and party GRU over all dialogues and in all directions at once (eqs. 1 to 7).

    Both cells read u_t and one vector more, the global one q_{s,t−1} and the party's c_t: two cells in D
    directions are 2D cells of one product, in the order party, global.
    """

    def __init__(self, width: int, units: int, directions: int, dropout: float, listener: bool) -> None:
        super().__init__()
        self.directions = directions
        self.units = units
        self.drive = nn.ModuleList(nn.Linear(width, 6 * units) for _ in range(directions))
        self.query = nn.ModuleList(nn.Linear(width, units, bias=False) for _ in range(directions))
        self.cells = GRUWeights(2 * directions, units)
        self.dropout = nn.Dropout(dropout)
        self.listeners: Listeners | None = None
        if listener:
            self.listeners = Listeners(directions, units)
            self.drive_listeners = nn.ModuleList(nn.Linear(width, 3 * units) for _ in range(directions))

    def forward(self, u: Tensor, speakers: Tensor, layouts: list[Padding]) -> Tensor:
        """Return the state of whoever speaks, after every step, (D, B, T, h).

        Args:
            u: (N, width)
            speakers: (N,), on the CPU
            layouts: where the utterances stand, in each direction
        """
        d, b, h = self.directions, len(layouts[0].mask), self.units
        drive = self._all_ways(self.drive, u, layouts).view(d, b, -1, 2, 3 * h)
        drives = drive.permute(2, 3, 0, 1, 4).flatten(1, 2).unbind(0)  # T of (2D, B, 3h)
        queries = self._all_ways(self.query, u, layouts)[..., None, :].unbind(2)  # T of (D, B, 1, h)
        heard = self._all_ways(self.drive_listeners, u, layouts).unbind(2) if self.listeners else None
        parties = int(speakers.max()) + 1
        speakers = to_device(speakers, u.device)
        who = torch.stack([layout.pad(speakers) for layout in layouts])  # (D, B, T)
        turns = who[..., None, None].expand(*who.shape, 1, h).unbind(2)  # T of (D, B, 1, h)
        party = u.new_zeros(d, b, parties, h)
        past = u.new_zeros(d, b, 0, h)
        common = context = u.new_zeros(d, b, h)
        states = []
        for t, turn in enumerate(turns):
            own = party.gather(2, turn).squeeze(2)  # q_{s,t−1}
            if t:
                context = self._context(queries[t], past)
            new = self.cells(drives[t], torch.cat([context, own]), torch.cat([own, common]))  # eqs. 1, 5
            own, common = self.dropout(new).chunk(2)
            if heard is not None and self.listeners is not None:
                party = self.dropout(self.listeners(heard[t], own, party))  # eq. 7
            party = party.scatter(2, turn, own[:, :, None])  # eq. 6 for those who do not speak
            past = torch.cat([past, common[:, :, None]], dim=2)
            states.append(own)
        return torch.stack(states, dim=2)

    @staticmethod
    def _context(query: Tensor, past: Tensor) -> Tensor:
        """Return c_t = Σ_j softmax_j(u_t · W_α g_j) g_j over the past global states (eqs. 2 to 4), (D, B, h).

        Args:
            query: (D, B, 1, h)
            past: (D, B, t, h)
        """
        weights = (query @ past.transpose(-1, -2)).softmax(dim=-1)
        return (weights @ past).squeeze(2)

    @staticmethod
    def _all_ways(linears: nn.ModuleList, u: Tensor, layouts: list[Padding]) -> Tensor:
        """Return the products of u in each direction, (D, B, T, …): none is left for the loop."""
        return torch.stack([layout.pad(f(u)) for f, layout in zip(linears, layouts, strict=True)])


class DialogueRNN(Network):
    """BiDialogueRNN+Att: party states → emotion GRU → attention over the emotion states → classifier."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        c = self.config = config
        directions, share = (1, 2) if c.causal else (2, 1)  # one direction has twice the units
        units, emotion = share * c.state_hidden, share * c.emotion_hidden
        self.projection = InputProjection(widths, c.hidden, c.dropout, c.input_dropout)
        self.parties = PartyStates(len(widths) * c.hidden, units, directions, c.state_dropout, c.listener)
        self.emotion = nn.ModuleList(nn.GRU(units, emotion, batch_first=True) for _ in range(directions))
        self.dropout = nn.Dropout(c.dropout)
        width = 2 * c.emotion_hidden
        self.match = nn.Linear(width, width, bias=False)
        self.hidden = nn.Linear(width, c.classifier_hidden)
        self.classifier = nn.Linear(c.classifier_hidden, num_classes)

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        u = torch.cat([*self.projection(batch)], dim=-1)
        padding = Padding.of(batch.lengths, u.device)
        layouts = [padding] if self.config.causal else [padding, backwards(padding)]
        with torch.autocast(u.device.type, enabled=False):  # a long recurrence wants full precision
            states = self.parties(u.float(), batch.speakers, layouts)
            ways = zip(layouts, self.emotion, states, strict=True)
            e = torch.cat([layout.flat(cell(q)[0]) for layout, cell, q in ways], dim=-1)  # eq. 8
        e = self.dropout(e)
        attended = retrieve(self.match(e), e, padding, self.config.causal)  # eqs. 13, 14
        logits = self.classifier(self.dropout(F.relu(self.hidden(attended))))  # eqs. 9, 10
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "state_hidden": 128,
            "emotion_hidden": 100,
            "classifier_hidden": 128,
            "dropout": 0.4,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    # [C] for IEMOCAP (train_IEMOCAP.py).
    "paper": {
        "training": {
            "epochs": 60,
            "batch_size": 30,
            "learning_rate": 1e-4,
            "weight_decay": 1e-5,
            "warmup_steps": 0,
            "clip_norm": 0.0,
            "class_weights": 1.0,
        },
    },
}
