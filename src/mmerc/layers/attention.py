"""Additive attention over a few sources, as the ablations of DF-ERC use it (decision A25)."""

from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Weights a_s = softmax_s(w · tanh(W x_s)) over sources s, (S, N, d) → (S, N)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the weights, summing to 1 over the sources that are present; 0 for the others.

        Args:
            x: (S, N, d)
            present: (S, N) bool; None if all sources are there
        """
        scores: Tensor = self.score(x).squeeze(-1).float()  # the floor below is beyond half precision
        if present is None:
            return scores.softmax(dim=0)
        # The floor keeps an utterance without any source at weight 0 instead of NaN.
        weights = scores.masked_fill(~present, -1e9).softmax(dim=0)
        return weights * present
