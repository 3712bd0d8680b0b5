"""A baseline: a bidirectional LSTM over the utterances' texts, without audio and video.

The context model of bc-LSTM (Poria et al., ACL 2017, https://aclanthology.org/P17-1081) on one modality.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.layers.recurrent import FlatLSTM
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output


@dataclass(frozen=True)
class Config:
    """Settings of the text-only baseline."""

    hidden: int = 300  # width of the projected text
    context_hidden: int = 300  # LSTM units per direction
    dropout: float = 0.2  # of the projected text and before the classifier
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self, "network", positive=("hidden", "context_hidden"), shares=("dropout", "input_dropout")
        )


class TextOnly(Network):
    """Projection → BiLSTM → classifier on `text`, the one modality of its batches."""

    uses = ("text",)

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        if list(widths) != ["text"]:
            raise ConfigError(f"text-only reads the modality 'text' alone, not {', '.join(widths) or 'none'}")
        super().__init__(widths, num_classes, class_weights)
        self.projection = InputProjection(widths, config.hidden, config.dropout, config.input_dropout)
        self.context = FlatLSTM(config.hidden, config.context_hidden, causal=config.causal)
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(2 * config.context_hidden, num_classes)
        )

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        logits = self.classifier(self.context(self.projection(batch)[0], batch.lengths))
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {"hidden": 128, "context_hidden": 128, "dropout": 0.4, "input_dropout": 0.4},
        "training": STEADY_TRAINING,
    },
    "plain": {},
}
