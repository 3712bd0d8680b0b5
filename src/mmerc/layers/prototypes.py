"""Emotion prototypes for DF-ERC's Context Refusion Mechanism (eqs. 18 to 20)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.layers.losses import masked_mean


class RunningPrototypes(nn.Module):
    """Per class, the plain mean of all vectors seen since the last `reset` (eq. 18, decision A12).

    Buffers: `means` (K, d), `counts` (K,). No gradient flows through them (A13).
    """

    means: Tensor
    counts: Tensor

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_classes, width))
        self.register_buffer("counts", torch.zeros(num_classes))

    def reset(self) -> None:
        """Forget everything: the start of a training epoch."""
        self.means.zero_()
        self.counts.zero_()

    @torch.no_grad()
    def update(self, vectors: Tensor, labels: Tensor, mask: Tensor) -> None:
        """Take in vectors (L, d) with class index (L,) where `mask` (L,) is true."""
        sums, counts = class_sums(vectors.detach().float(), labels, mask, len(self.counts))
        total = self.counts + counts
        self.means.mul_(self.counts[:, None]).add_(sums).div_(total.clamp(min=1.0)[:, None])
        self.counts.copy_(total)


def class_sums(vectors: Tensor, labels: Tensor, mask: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return per class the sum of its vectors (K, d) and their number (K,).

    Args:
        vectors: (L, d)
        labels: (L,) class index; anything where `mask` is false
        mask: (L,) bool
        num_classes: K
    """
    members = F.one_hot(labels.clamp(min=0), num_classes).float() * mask[:, None]
    with torch.autocast(vectors.device.type, enabled=False):  # half precision is too coarse for long sums
        return members.T @ vectors.float(), members.sum(dim=0)


def hinge_distance(vectors: Tensor, prototypes: Tensor, beta: float) -> Tensor:
    """Return max(mean_d (x − R)² − β, 0) per vector (eq. 19), (L,).

    Args:
        vectors: (L, d)
        prototypes: (L, d) the prototype of each vector's class
        beta: the slack β
    """
    return F.relu((vectors - prototypes).square().mean(dim=-1) - beta)


def agreement(vectors: Tensor, present: Tensor) -> Tensor:
    """Return ψ (N,): the mean cosine over the pairs of modalities that are present (eq. 20, A26).

    0 where fewer than two modalities are present; otherwise in [−1/2, 1] for three modalities.

    Args:
        vectors: (M, N, d)
        present: (M, N) bool
    """
    unit = F.normalize(vectors.float(), dim=-1, eps=1e-8) * present[..., None]
    # |Σ_m u_m|² = Σ_m |u_m|² + 2 Σ_pairs cos, so no pair has to be walked.
    pair_sum = (unit.sum(dim=0).square().sum(dim=-1) - unit.square().sum(dim=(0, 2))) / 2
    k = present.sum(dim=0)
    return pair_sum / (k * (k - 1) / 2).clamp(min=1.0)


def emotion_agreement(probabilities: Tensor, present: Tensor) -> Tensor:
    """Return ψ (N,): the cosine between the emotion distributions of the two modalities that agree least.

    In [0, 1]. A contradiction is one modality against the others: its mark is the worst pair, which a mean
    over the pairs (eq. 20) dilutes. 0 where fewer than two modalities are present.

    Args:
        probabilities: (M, N, K) each modality's own distribution over emotions
        present: (M, N) bool
    """
    unit = F.normalize(probabilities.float(), dim=-1)
    cosines = torch.einsum("ank,bnk->nab", unit, unit)
    both = present.T[:, :, None] & present.T[:, None, :]
    # A modality with itself counts as 1, and so does a pair that is not there: neither can be the least.
    compared = both & ~torch.eye(len(present), dtype=torch.bool, device=present.device)
    least = cosines.masked_fill(~compared, 1.0).amin(dim=(1, 2))
    return least * compared.any(dim=(1, 2))


def masked_share(values: Tensor, mask: Tensor) -> Tensor:
    """Return the share of positive `values` (L,) among those in `mask` (L,), a scalar."""
    return masked_mean((values > 0).float(), mask)
