"""Between the flat batch (N, ·) and the padded one (B, T, ·), for layers that pair utterances."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Where the N rows of a flat batch stand in B padded dialogues of T steps."""

    mask: Tensor  # (B, T) bool: a real utterance
    position: Tensor  # (N,) index of each row in the B·T padded ones

    @classmethod
    def of(cls, lengths: Tensor, device: torch.device) -> "Padding":
        """Return the layout of dialogues with `lengths` (B,) utterances; T is the longest."""
        mask = running(lengths)
        return cls(to_device(mask, device), to_device(mask.flatten().nonzero().squeeze(1), device))

    def pad(self, x: Tensor) -> Tensor:
        """Return x (N, …) as (B, T, …), zeros where no utterance is."""
        padded = x.new_zeros(self.mask.numel(), *x.shape[1:]).index_copy(0, self.position, x)
        return padded.view(*self.mask.shape, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """Return x (B, T, …) as (N, …): what stands at the utterances."""
        return x.flatten(0, 1)[self.position]

    def pairs(self, causal: bool = False) -> Tensor:
        """Return (B, T, T) bool: i and j are utterances of it and, if `causal`, j is not after i."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return both.tril() if causal else both


def to_device(index: Tensor, device: torch.device) -> Tensor:
    """Return on `device` what was computed on the CPU, where `lengths` are; nobody waits for the copy."""
    return index.to(device, non_blocking=True)


def running(lengths: Tensor) -> Tensor:
    """Return whether a dialogue of `lengths` (B,) still goes on at each step, (B, T); T is the longest."""
    # It stays a tensor, so that an exported graph computes it anew for every batch.
    longest = cast(int, lengths.max())
    return torch.arange(longest) < lengths[:, None]
