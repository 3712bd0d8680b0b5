"""The contrastive loss of DF-ERC's Dual-level Disentanglement Mechanism (eqs. 3 and 5)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmerc.layers.losses import masked_mean


def contrastive_loss(vectors: Tensor, tags: Tensor, temperature: float, mask: Tensor) -> Tensor:
    """Pull vectors of one tag together and push all others away (eqs. 3, 5; decisions A1, A2, A7).

    With s_ij = cos(h_i, h_j)/τ, P_i the other vectors with i's tag and I the i with P_i ≠ ∅:
    L = 1/|I| Σ_{i∈I} −1/|P_i| Σ_{k∈P_i} [s_ik − log Σ_{j≠i} exp s_ij]. Returns a scalar, 0 if I is empty.
    The lists are those of the whole batch (A6).

    Args:
        vectors: (L, d)
        tags: (L,) the modality or the utterance that a vector belongs to
        temperature: τ
        mask: (L,) bool; vectors outside it are in no list
    """
    unit = F.normalize(vectors.float(), dim=-1)
    place = torch.arange(len(unit), device=vectors.device)
    meets = mask[:, None] & mask & (place[:, None] != place)
    positive = meets & (tags[:, None] == tags)

    with torch.autocast(unit.device.type, enabled=False):  # else the product falls back to half precision
        similarity = unit @ unit.T / temperature
    normaliser = similarity.masked_fill(~meets, torch.finfo(similarity.dtype).min).logsumexp(dim=1)
    count = positive.sum(dim=1)
    attraction = (similarity * positive).sum(dim=1) / count.clamp(min=1)
    return masked_mean(normaliser - attraction, count > 0)
