"""Attention: additive over a few sources, and multi-head over the utterances of a dialogue."""

from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.layers.padding import Padding


class AdditiveAttention(nn.Module):
    """Weights a_s = softmax_s(w · tanh(W x_s)) over sources s, (S, N, d) → (S, N).

    As the ablations of DF-ERC use it (decision A25).
    """

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


class DialogueAttention(nn.Module):
    """Multi-head attention from every utterance to the utterances of its own dialogue, (N, d) → (N, d).

    As `torch.nn.MultiheadAttention` without dropout on the weights (Vaswani et al. 2017, eq. 1 and section
    3.2.2). A query that may look at no key gets zeros before the output map. A causal one looks at no
    later utterance.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        query: Tensor,
        source: Tensor,
        padding: Padding,
        present: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor:
        """Return what each utterance takes from the `source` of its dialogue.

        Args:
            query: (N, d)
            source: (N, d) where keys and values come from
            padding: the layout of the batch
            present: (N,) bool, the rows of `source` that count; None: all of them
            values: (N, d) where values come from instead
        """
        values = source if values is None else values
        q, k, v = (
            self._heads(padding.pad(linear(x)))
            for linear, x in ((self.query, query), (self.key, source), (self.value, values))
        )
        allowed = padding.pairs(self.causal)
        if present is not None:
            allowed = allowed & padding.pad(present)[:, None, :]
        some = allowed.any(dim=-1, keepdim=True)
        # Whoever may look at nothing looks at everything, and what it sees is dropped: no NaN on the way.
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(allowed | ~some)[:, None])
        mixed = mixed.transpose(1, 2).flatten(2) * some
        result: Tensor = self.out(padding.flat(mixed))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        """Split x (B, T, d) into (B, heads, T, d / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


def has_source(padding: Padding, present: Tensor, causal: bool = False) -> Tensor:
    """Return which utterances have a source to attend to in their dialogue, (N,) bool.

    Args:
        padding: the layout of the batch
        present: (N,) bool, the rows of the source that count
        causal: look at no later utterance
    """
    return padding.flat((padding.pairs(causal) & padding.pad(present)[:, None, :]).any(dim=-1))
