"""Linear maps of several modalities as one batched product."""

import math

import torch
from torch import Tensor, nn


class PerModalityLinear(nn.Module):
    """One linear map per modality, (M, N, d_in) → (M, N, d_out); no weights are shared.

    Equal to M `nn.Linear` layers, in one kernel. Weights: `weight` (M, d_in, d_out), `bias` (M, 1, d_out).
    """

    def __init__(self, modalities: int, width: int, out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(modalities, width, out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(modalities, 1, out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map x: (M, N, d_in) to (M, N, d_out)."""
        return torch.baddbmm(self.bias, x, self.weight)


class PerModalityMLP(nn.Sequential):
    """Drop → Linear → GELU for each modality (decision A8), (M, N, d_in) → (M, N, d_out)."""

    def __init__(self, modalities: int, width: int, out: int, dropout: float) -> None:
        super().__init__(nn.Dropout(dropout), PerModalityLinear(modalities, width, out), nn.GELU())
