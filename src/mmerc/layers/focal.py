"""Focal losses: the emotions that a network is sure of count less."""

from torch import Tensor


def focal_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean of −(1 − p)^γ log p over the utterances in `mask`, p that of the label, a scalar.

    Lin et al., ICCV 2017, eq. 4. The arguments are those of `cross_entropy`; γ = 0 is that loss.
    """
    own = _surprise(logits).gather(1, labels.clamp(min=0)[:, None])[:, 0]
    missing = -(-own).expm1()  # 1 − p
    return _weighted_mean(missing.clamp(min=1e-8) ** gamma * own, labels, mask, class_weights)


def growing_focal_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Return the mean of −(1 − Y_c log p_c)^γ log p_c over utterances and classes, Y one-hot, a scalar.

    The loss that the official code of CFN-ESA calls focal: its factor grows with the error, and every class
    that is not the label adds −log p_c.
    """
    surprise = _surprise(logits)
    own = surprise.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    values = surprise.sum(dim=1) + ((1 + own) ** gamma - 1) * own
    return _weighted_mean(values / logits.shape[1], labels, mask, class_weights)


def _surprise(logits: Tensor) -> Tensor:
    """Return −log p, (N, K)."""
    return -logits.float().log_softmax(dim=-1)


def _weighted_mean(values: Tensor, labels: Tensor, mask: Tensor, class_weights: Tensor | None) -> Tensor:
    weight = mask.to(values.dtype)
    if class_weights is not None:
        weight = weight * class_weights[labels.clamp(min=0)]
    return (values * weight).sum() / weight.sum().clamp(min=1e-8)
