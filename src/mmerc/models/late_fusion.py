"""A baseline: one recurrent classifier per modality, their logits averaged over the modalities present."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.layers.recurrent import FlatLSTM
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output


@dataclass(frozen=True)
class Config:
    """Settings of the late-fusion baseline."""

    hidden: int = 300  # width of the projected features
    context_hidden: int = 300  # LSTM units per direction, in each modality
    dropout: float = 0.2  # of the projected features and before the classifiers
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self, "network", positive=("hidden", "context_hidden"), shares=("dropout", "input_dropout")
        )


class LateFusion(Network):
    """Projection → BiLSTM → classifier per modality; every modality present has the same weight."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.projection = InputProjection(widths, config.hidden, config.dropout, config.input_dropout)
        self.contexts = nn.ModuleList(
            FlatLSTM(config.hidden, config.context_hidden, causal=config.causal) for _ in widths
        )
        self.classifiers = nn.ModuleList(
            nn.Sequential(nn.Dropout(config.dropout), nn.Linear(2 * config.context_hidden, num_classes))
            for _ in widths
        )

    def forward(self, batch: Batch) -> Output:
        """Return the averaged logits, the equal contributions and, with labels, the loss `emotion`."""
        streams = zip(self.projection(batch), self.contexts, self.classifiers, strict=True)
        votes = torch.stack([classify(context(x, batch.lengths)) for x, context, classify in streams])
        share = batch.present.T.float()
        share = share / share.sum(dim=0).clamp(min=1.0)
        logits = (share[..., None] * votes).sum(dim=0)
        return Output(logits, contributions=share.T)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {"hidden": 128, "context_hidden": 128, "dropout": 0.4, "input_dropout": 0.4},
        "training": STEADY_TRAINING,
    },
    "plain": {},
}
