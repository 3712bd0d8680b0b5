"""Parts of a transformer over the utterances of a dialogue (Vaswani et al. 2017, section 3)."""

from torch import Tensor, nn

from mmerc.layers.attention import DialogueAttention
from mmerc.layers.padding import Padding


class SelfAttention(nn.Module):
    """LN(x + Drop(MHA(x, x, x))) without dropout on the attention weights, (N, d) → (N, d)."""

    def __init__(self, width: int, heads: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.attention = DialogueAttention(width, heads, causal)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, padding: Padding, present: Tensor | None = None) -> Tensor:
        """Return what each utterance is in the light of its dialogue, (N, d).

        Args:
            x: (N, d)
            padding: the layout of the batch
            present: (N,) bool, the rows that can be attended to; None: all of them
        """
        attended: Tensor = self.norm(x + self.dropout(self.attention(x, x, padding, present)))
        return attended


class FeedForward(nn.Sequential):
    """Drop(W_2 Drop(ReLU(W_1 x + b_1)) + b_2), (N, d) → (N, d)."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, inner),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(inner, width),
            nn.Dropout(dropout),
        )


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward net, a residual around each and a norm behind it, (N, d) → (N, d)."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout, causal)
        self.feed_forward = FeedForward(width, inner, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, padding: Padding, present: Tensor | None = None) -> Tensor:
        """Return the encoded utterances, (N, d); the arguments are those of `SelfAttention`."""
        x = self.attention(x, padding, present)
        encoded: Tensor = self.norm(x + self.feed_forward(x))
        return encoded
