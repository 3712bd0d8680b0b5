"""Emotion shift: a task on pairs of utterances, do these two have different emotions? (CFN-ESA's LESM)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.layers.recurrent import dialogue_of_row


def dialogue_pairs(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ordered pairs (i, j) of utterances of one dialogue, i = j among them: two tensors (P,).

    Args:
        lengths: (B,) on the CPU; P = Σ n²
    """
    of_row = dialogue_of_row(lengths)
    partners = lengths[of_row]
    starts = lengths.cumsum(0) - lengths
    first = torch.repeat_interleave(torch.arange(len(of_row)), partners)
    place = torch.arange(len(first)) - torch.repeat_interleave(partners.cumsum(0) - partners, partners)
    return first, starts[of_row[first]] + place


class ShiftPairs(nn.Module):
    """o_ij = W_2 Drop(ReLU(W_1 [h_i ; h'_j])) of pairs of utterances, (N, d) twice → (P, 2).

    W_1 [h_i ; h'_j] = U h_i + V h'_j, so that no pair of vectors of width 2d is ever built.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden)  # U and the bias of W_1
        self.second = nn.Linear(width, hidden, bias=False)  # V
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, 2)  # W_2

    def forward(self, h: Tensor, other: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Return the logits of "same" and "shift" of each pair, (P, 2).

        Args:
            h: (N, d)
            other: (N, d) h', the second view of the utterances
            i: (P,) rows of `h`
            j: (P,) rows of `other`
        """
        hidden = F.relu(self.first(h)[i] + self.second(other)[j], inplace=True)
        logits: Tensor = self.out(self.dropout(hidden))
        return logits


class ShiftBalance(nn.Module):
    """Weights (1/(2(1 − ρ)), 1/(2ρ)) of "same" and "shift", ρ the share of shifts among the pairs seen.

    After one epoch ρ is that of the training split. The counts are integers: an average of the weights over
    the steps copies them, and a resumed run goes on with them. `share` fixes ρ instead.
    """

    counts: Tensor

    def __init__(self, share: float | None = None) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))

    def update(self, shifted: Tensor, mask: Tensor) -> None:
        """Count the pairs in `mask` (P,) bool; `shifted` (P,) is 1 where the emotions differ, else 0."""
        self.counts += torch.stack([(mask & (shifted == kind)).sum() for kind in (0, 1)])

    def rho(self) -> Tensor:
        """Return ρ, a scalar; 1/2 before any pair was counted."""
        if self.share is not None:
            return torch.full((), self.share, device=self.counts.device)
        same, shift = self.counts.float()
        return torch.where(same + shift > 0, shift / (same + shift).clamp(min=1.0), 0.5)

    def forward(self) -> Tensor:
        """Return the two weights, (2,)."""
        share = torch.stack([1.0 - self.rho(), self.rho()])
        return 0.5 / share.clamp(min=1e-6)  # a kind that no pair is of never meets its weight
