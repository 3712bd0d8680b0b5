"""Means over the utterances that count; the building blocks of every loss."""

from torch import Tensor
from torch.nn import functional as F


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of `values` where `mask` is true, a scalar; 0 where nothing counts.

    Args:
        values: (...)
        mask: (...) bool
    """
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)


def cross_entropy(
    logits: Tensor, labels: Tensor, mask: Tensor, class_weights: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy over the utterances in `mask`, weighted by class, a scalar.

    Args:
        logits: (N, K)
        labels: (N,) class index; anything where `mask` is false
        mask: (N,) bool
        class_weights: (K,); the mean is then over Σ weights, as in `torch.nn.CrossEntropyLoss`
        smoothing: share of the target spread evenly over all classes
    """
    target = labels.clamp(min=0)
    losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
    if class_weights is None:
        return masked_mean(losses, mask)
    weight = class_weights[target] * mask
    return (losses * weight).sum() / weight.sum().clamp(min=1e-8)
