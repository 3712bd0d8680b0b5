"""A graph over the modalities of each utterance of a dialogue, and deep spectral convolutions on it.

The graph of MMGCN (Hu et al., ACL 2021, https://aclanthology.org/2021.acl-long.440), which MM-DFN shares; the
convolution of GCNII (Chen et al., ICML 2020, https://arxiv.org/abs/2007.02133).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.layers.padding import Padding


def angular_weight(cosine: Tensor) -> Tensor:
    """Return 1 − arccos(0.99999·cos)/π, in (0, 1); the factor keeps the slope of arccos finite."""
    return 1.0 - torch.acos(0.99999 * cosine) / math.pi


@dataclass(frozen=True)
class DialogueGraph:
    """Weights between the M·N nodes (modality, utterance) of a flat batch; none between dialogues.

    Within a modality an utterance is linked to all of its dialogue, across modalities to itself alone. The
    matrix over the whole batch is therefore never built: (M·N)² weights become M·Σ T² and N·M².
    """

    layout: Padding  # of M·B dialogues: those of the first modality, those of the second, …
    within: Tensor  # (M·B, T, T) from column to row; self-loops on the diagonal
    across: Tensor  # (N, M, M) from column to row; zero diagonal

    @classmethod
    def angular(
        cls, nodes: Tensor, present: Tensor, lengths: Tensor, cross_weight: float = 1.0, causal: bool = False
    ) -> "DialogueGraph":
        """Return the adjacency A of nodes linked by their angular similarity.

        Args:
            nodes: (M, N, d)
            present: (M, N) bool; what is absent is no node
            lengths: (B,) utterances per dialogue, on the CPU
            cross_weight: factor on the weights between modalities
            causal: whether an utterance gets edges from itself and earlier ones only
        """
        count = len(nodes)
        layout = Padding.of(lengths.repeat(count), nodes.device)
        unit = F.normalize(nodes.float(), dim=-1, eps=1e-8)
        with torch.autocast(nodes.device.type, enabled=False):  # arccos is steep where cosines are near 1
            padded = layout.pad(unit.flatten(0, 1))
            within = angular_weight(padded @ padded.transpose(1, 2))
            across = cross_weight * angular_weight(torch.einsum("and,bnd->nab", unit, unit))
        there = layout.pad(present.flatten())
        linked = layout.pairs(causal) & there[:, :, None] & there[:, None, :]
        both = present.T[:, :, None] & present.T[:, None, :]
        others = ~torch.eye(count, dtype=torch.bool, device=nodes.device)
        return cls(layout, within * linked, across * (both & others))

    def normalised(self) -> "DialogueGraph":
        """Return P̃ = D^{-1/2} A D^{-1/2}, D_ii = Σ_j A_ij; with causal edges, D sees no later utterance."""
        degree = self.layout.flat(self.within.sum(dim=-1)).view(self.across.shape[1], -1)
        degree = degree + self.across.sum(dim=-1).T
        scale = degree.clamp(min=1e-8).rsqrt()  # a node has its self-loop; 0 is what is absent
        padded = self.layout.pad(scale.flatten())
        within = padded[:, :, None] * self.within * padded[:, None, :]
        across = scale.T[:, :, None] * self.across * scale.T[:, None, :]
        return DialogueGraph(self.layout, within, across)

    def propagate(self, x: Tensor) -> Tensor:
        """Return the sum of every node's neighbours by weight.

        Args:
            x: (M, N, d)
        """
        same = self.layout.flat(self.within @ self.layout.pad(x.flatten(0, 1))).view_as(x)
        return same + torch.einsum("nab,bnd->and", self.across, x)


class InitialResidualConvolution(nn.Module):
    """A layer of GCNII at depth k: θ·Y W + (1 − θ)·R, R = (1 − α) S + α H_0, θ = ln(λ/k + 1).

    Y is R, or, for the `variant` of GCNII (its section 3 calls it GCNII*), [S ; H_0]. No bias; the weight is
    drawn from U(−1/√d, 1/√d).
    """

    def __init__(self, width: int, depth: int, alpha: float, lam: float, variant: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.theta = math.log(lam / depth + 1.0)
        self.variant = variant
        bound = 1 / math.sqrt(width)
        rows = 2 * width if variant else width
        self.weight = nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))

    def forward(self, aggregated: Tensor, initial: Tensor) -> Tensor:
        """Return the convolved nodes, before any activation, (…, d).

        Args:
            aggregated: (…, d) S = P̃ H, what came over the edges
            initial: (…, d) H_0
        """
        # The identity is merged into the weights: no nodes are kept but what came over the edges.
        identity = (1.0 - self.theta) * torch.eye(self.weight.shape[1], device=self.weight.device)
        if self.variant:
            top, bottom = (self.theta * self.weight).chunk(2)
            return aggregated @ (top + (1.0 - self.alpha) * identity) + initial @ (
                bottom + self.alpha * identity
            )
        mixed = self.theta * self.weight + identity
        return ((1.0 - self.alpha) * aggregated + self.alpha * initial) @ mixed
