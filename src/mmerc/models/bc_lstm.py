"""bc-LSTM: bidirectional contextual LSTMs in two levels (Poria et al., ACL 2017).

Paper: Context-Dependent Sentiment Analysis in User-Generated Videos, https://aclanthology.org/P17-1081. Its
hierarchical framework: level 1 is a contextual LSTM per modality (BiLSTM → dense layer → classifier) with a
loss of its own; the activations of the dense layers, concatenated, are the input of level 2, another
contextual LSTM, whose classifier has the last word. N utterances of a flat batch, M modalities, K emotions,
h = `hidden`, z = `dense_hidden`.

Deviations:
* The paper trains level 1, freezes it and trains level 2. Here both are trained at once: with `end_to_end`
  off, the loss of level 2 does not reach level 1, as there; with it on, it does.
* The dense layers have a ReLU. AdamW in place of Adadelta.
* A missing modality, of which the paper knows none, is a zero vector for both levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerc.batch import Batch, targets
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.layers.losses import cross_entropy
from mmerc.layers.recurrent import FlatLSTM
from mmerc.models.base import STEADY_TRAINING, Network, Output, Paper, Scalars

PAPER = Paper("bc-LSTM", "ACL", 2017, "https://aclanthology.org/P17-1081")


@dataclass(frozen=True)
class Config:
    """Settings of bc-LSTM; the defaults are those of preset `paper`."""

    hidden: int = 150  # LSTM units per direction, at both levels
    dense_hidden: int = 100  # width of the dense layer after each LSTM, the context-dependent features
    alpha_unimodal: float = 1.0  # weight of level 1's own losses, summed over the modalities; 0: none
    end_to_end: bool = False  # whether the loss of level 2 trains level 1 too
    dropout: float = 0.4  # between LSTM and dense layer and before the classifiers
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "dense_hidden"),
            not_negative=("alpha_unimodal",),
            shares=("dropout", "input_dropout"),
        )
        if not self.end_to_end and not self.alpha_unimodal:
            raise ConfigError(
                "network.alpha_unimodal = 0 leaves level 1 untrained; set network.end_to_end to true"
            )


class ContextualLSTM(nn.Module):
    """A bidirectional LSTM over each dialogue and the dense layer after it, (N, d) → (N, z)."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.lstm = FlatLSTM(width, config.hidden, causal=config.causal)
        self.dense = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(2 * config.hidden, config.dense_hidden), nn.ReLU()
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the context-dependent features of the utterances x (N, d)."""
        features: Tensor = self.dense(self.lstm(x, lengths))
        return features


class BcLSTM(Network):
    """A contextual LSTM per modality, and one over what they say."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config

        def classifier() -> nn.Module:
            return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(config.dense_hidden, num_classes))

        self.input_dropout = nn.Dropout(config.input_dropout)
        self.contexts = nn.ModuleDict({m: ContextualLSTM(config, widths[m]) for m in self.modalities})
        self.context = ContextualLSTM(config, len(widths) * config.dense_hidden)
        self.classifier = classifier()
        own = self.modalities if config.alpha_unimodal else []
        self.classifiers = nn.ModuleDict({m: classifier() for m in own})

    def forward(self, batch: Batch) -> Output:
        """Return the logits of level 2 and, with labels, those of level 1's own classifiers."""
        features = self.unimodal(batch)
        below = torch.cat(list(features.values()), dim=-1)
        if not self.config.end_to_end:
            below = below.detach()
        logits = self.classifier(self.context(below, batch.lengths))
        own = {}
        if batch.labels is not None:
            own = {name: classify(features[name]) for name, classify in self.classifiers.items()}
        return Output(logits, auxiliary=own)

    def losses(self, output: Output, batch: Batch) -> tuple[Scalars, Scalars]:
        """Return the losses `emotion` (level 2) and `unimodal` (level 1), and nothing for the log."""
        losses, log = super().losses(output, batch)
        if output.auxiliary:
            losses["unimodal"] = self.config.alpha_unimodal * self.unimodal_loss(output.auxiliary, batch)
        return losses, log

    def unimodal(self, batch: Batch) -> dict[str, Tensor]:
        """Return what level 1 makes of each modality, (N, z); zeros where it is absent."""
        features = {}
        for (name, context), there in zip(self.contexts.items(), batch.present.T[..., None], strict=True):
            x = self.input_dropout(batch.features[name]) * there
            features[name] = context(x, batch.lengths) * there
        return features

    def unimodal_loss(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the sum over modalities of the cross-entropy where the modality is present."""
        labels, known = targets(batch)
        there = dict(zip(self.modalities, batch.present.T, strict=True))
        return torch.stack(
            [cross_entropy(z, labels, known & there[m], self.class_weights) for m, z in logits.items()]
        ).sum()


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "dense_hidden": 128,
            "alpha_unimodal": 0.0,
            "end_to_end": True,
            "dropout": 0.4,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    # The paper does not print its sizes. They are those of the first version of the authors' TensorFlow code
    # (soujanyaporia/multimodal-sentiment-analysis, lstm_tf.py, commit 9949a83), whose cells are GRUs; its
    # model.py of today (974b294) has other cells and sizes. Their Keras code of the paper's year
    # (soujanyaporia/contextual-utterance-level-multimodal-sentiment-analysis, lstm.py, f1199e6) has 300
    # units per direction, dense layers of 100 and 500, and Adadelta.
    "paper": {
        "training": {
            "epochs": 100,
            "batch_size": 10,
            "learning_rate": 1e-3,
            "weight_decay": 0.0,
            "warmup_steps": 0,
            "clip_norm": 0.0,
        }
    },
}
