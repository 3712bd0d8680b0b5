"""M2FNet: multi-modal fusion network (Chudasama et al., CVPR Workshops 2022).

Paper: https://arxiv.org/abs/2206.02187. Per modality a stack of transformer encoders over the dialogue, with
skip connections; then layers of attention fusion, in which the other modalities direct the attention that
mixes the text; then concatenation and a classifier. N utterances of a flat batch, d = `hidden`.

    F_m ← F_m + Tr_m(F_m)                                            `encoder_layers` times, each modality m
    A_m = MHA_m(Q = F_T, K = F_m, V = F_T);  F_T ← ReLU(W[F_T ; A_a ; A_v] + b)       `fusion_layers` times
    z = W_2 ReLU(W_1 [F_a ; F_T ; F_v] + b_1) + b_2

Deviations:
* No official code is known, and this is a reconstruction: the equations above are a reading of the paper's
  description, in which text is enhanced by the two others, and carry no numbers of it. `fusion_values` =
  `other` is the other reading, with values from where the keys are. The sizes of preset `paper` are ours.
* The paper's feature extractors (the double ResNet for faces, the adaptive-margin triplet loss) are out of
  scope: the network starts from ready vectors of the utterances, brought to d by a linear map so that all
  widths are divisible by the heads.
* No positional encoding: the order of utterances enters in causal mode alone.
* No dropout on the attention weights.
* Without text there is no fusion, only concatenation; where an utterance lacks a modality its stream is
  zero and nobody attends to it. Other numbers of modalities: W is over text and all others.
* `causal`: every attention sees no later utterance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.layers.attention import DialogueAttention, has_source
from mmerc.layers.padding import Padding
from mmerc.layers.transformer import EncoderLayer
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("M2FNet", "CVPR Workshops", 2022, "https://arxiv.org/abs/2206.02187")
PRIMARY = "text"


@dataclass(frozen=True)
class Config:
    """Settings of M2FNet."""

    hidden: int = 512  # d: width of every stream
    heads: int = 8  # of every attention
    encoder_layers: int = 5  # transformer encoders of each modality
    encoder_hidden: int = 1024  # inner width of their feed-forward nets
    fusion_layers: int = 5  # of attention fusion
    fusion_values: Literal["text", "other"] = (
        "text"  # what the fusion mixes: text, or where the keys are from
    )
    classifier_hidden: int = 512  # units between the concatenation and the logits
    dropout: float = 0.4  # in the encoders, after each fusion layer and in the classifier
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=(
                "hidden", "heads", "encoder_layers", "encoder_hidden", "fusion_layers", "classifier_hidden",
            ),
            shares=("dropout", "input_dropout"),
        )  # fmt: skip
        if self.hidden % self.heads:
            raise ConfigError(
                f"network.hidden must be a multiple of network.heads ({self.heads}), not {self.hidden}"
            )


class Encoder(nn.Module):
    """One modality over the dialogue: transformer encoders, a skip connection around each."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        c = config
        self.layers = nn.ModuleList(
            EncoderLayer(c.hidden, c.heads, c.encoder_hidden, c.dropout, c.causal)
            for _ in range(c.encoder_layers)
        )

    def forward(self, x: Tensor, padding: Padding, present: Tensor) -> Tensor:
        """Return F_m (N, d), zero where absent.

        Args:
            x: (N, d)
            padding: the layout of the batch
            present: (N,) bool
        """
        for layer in self.layers:
            x = x + layer(x, padding, present)  # F_m ← F_m + Tr_m(F_m)
        return x * present[:, None]


class FusionLayer(nn.Module):
    """F_T ← Drop(ReLU(W[F_T ; A_m …] + b)), A_m = MHA_m(F_T, F_m, F_T) for every other modality m."""

    def __init__(self, config: Config, others: Sequence[str]) -> None:
        super().__init__()
        d, heads, causal = config.hidden, config.heads, config.causal
        self.own_values = config.fusion_values == "text"
        self.attention = nn.ModuleDict({m: DialogueAttention(d, heads, causal) for m in others})
        self.merge = nn.Sequential(nn.Linear((1 + len(others)) * d, d), nn.ReLU(), nn.Dropout(config.dropout))

    def forward(
        self,
        text: Tensor,
        others: Mapping[str, Tensor],
        keys: Mapping[str, tuple[Tensor, Tensor]],
        padding: Padding,
    ) -> Tensor:
        """Return the text stream after this layer, (N, d).

        Args:
            text: (N, d)
            others: F_m (N, d) of each other modality
            keys: of each, (N,) bool twice: which of its rows can be attended to, and who has one in sight
            padding: the layout of the batch
        """
        values = text if self.own_values else None
        taken = [
            # Where there is nothing to attend to, not even the bias of the attention is taken.
            attention(text, others[m], padding, keys[m][0], values) * keys[m][1][:, None]
            for m, attention in self.attention.items()
        ]
        merged: Tensor = self.merge(torch.cat([text, *taken], dim=-1))
        return merged


class M2FNet(Network):
    """Projection → encoders → fusion of text with the others → concatenation → classifier."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        d, units = config.hidden, config.classifier_hidden
        self.projection = InputProjection(widths, d, 0.0, config.input_dropout, activation=nn.Identity())
        self.encoders = nn.ModuleDict({m: Encoder(config) for m in self.modalities})
        self.others = [m for m in self.modalities if m != PRIMARY]
        layers = config.fusion_layers if self.others and PRIMARY in self.modalities else 0
        self.fusion = nn.ModuleList(FusionLayer(config, self.others) for _ in range(layers))
        self.classifier = nn.Sequential(
            nn.Linear(len(widths) * d, units),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(units, num_classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        padding = Padding.of(batch.lengths, batch.present.device)
        present = dict(zip(self.modalities, batch.present.T, strict=True))
        projected = zip(self.modalities, self.projection(batch), strict=True)
        streams = {m: self.encoders[m](x, padding, present[m]) for m, x in projected}
        if self.fusion:
            streams[PRIMARY] = self._fuse(streams, present, padding)
        logits = self.classifier(torch.cat([streams[m] for m in self.modalities], dim=-1))
        return Output(logits)

    def _fuse(self, streams: Mapping[str, Tensor], present: Mapping[str, Tensor], padding: Padding) -> Tensor:
        """Return the text stream after all fusion layers, (N, d), zero where there is no text."""
        text = streams[PRIMARY]
        keys = {}
        for m in self.others:
            usable = present[m] & present[PRIMARY] if self.config.fusion_values == "text" else present[m]
            keys[m] = (usable, has_source(padding, usable, self.config.causal))
        for layer in self.fusion:
            text = layer(text, streams, keys, padding)
        return text * present[PRIMARY][:, None]


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "encoder_layers": 2,
            "encoder_hidden": 256,
            "fusion_layers": 2,
            "classifier_hidden": 128,
            "dropout": 0.4,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    "paper": {},
}
