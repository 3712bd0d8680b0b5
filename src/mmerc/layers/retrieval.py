"""Retrieval: what an utterance takes from the vectors of its dialogue by their plain dot product."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmerc.layers.padding import Padding


def retrieve(query: Tensor, memory: Tensor, padding: Padding, causal: bool = False) -> Tensor:
    """Return Σ_j softmax_j(q_i · m_j) m_j over the utterances j of i's dialogue, (N, d).

    Args:
        query: (N, d)
        memory: (N, d)
        padding: the layout of the batch
        causal: only j that are not after i
    """
    allowed = padding.mask[:, None, :]
    if causal:
        # Every step, real or not, looks back on the first one at least: no softmax over nothing.
        longest = padding.mask.shape[1]
        allowed = allowed & torch.ones(longest, longest, dtype=torch.bool, device=allowed.device).tril()
    m = padding.pad(memory)
    return padding.flat(
        F.scaled_dot_product_attention(padding.pad(query), m, m, attn_mask=allowed, scale=1.0)
    )
