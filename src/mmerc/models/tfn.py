"""TFN: Tensor Fusion Network (Zadeh et al., EMNLP 2017).

Paper: Tensor Fusion Network for Multimodal Sentiment Analysis, https://aclanthology.org/D17-1115. Modality
embedding subnetworks (section 4.1) → tensor fusion layer (4.2) → sentiment inference subnetwork (4.3). Every
utterance is read by itself: the network knows no context, neither before nor after. N utterances of a flat
batch, M modalities, K emotions, z^m the embedding of modality m with d_m units.

Deviations:
* An utterance's text comes as one vector, so that its subnetwork is of the same kind as the others' and has
  no LSTM over words.
* Any set of modalities: the tensor has one axis for each that the network was built for. Where an utterance
  lacks one, z^m = 0 and its axis is [0; 1]: the tensor holds the interactions of the others, nothing else.
* Dropout on the fused tensor too; weight decay (of AdamW) in place of an L2 norm in the loss.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.models.base import STEADY_TRAINING, Network, Output, Paper

PAPER = Paper("TFN", "EMNLP", 2017, "https://aclanthology.org/D17-1115")
# Cells of the fused tensor: the paper's has 129·33·33 = 140 481, and one axis more would make millions.
MOST_CELLS = 2**18


@dataclass(frozen=True)
class Config:
    """Settings of TFN; the defaults are the paper's (preset `paper`)."""

    text_hidden: int = 128  # units of the text's subnetwork, width of z^l
    hidden: int = 32  # units of every other modality's subnetwork, width of z^v and z^a
    embedding_layers: int = 3  # of each modality's subnetwork
    inference_hidden: int = 128  # units of the inference subnetwork
    inference_layers: int = 2  # of the inference subnetwork, before the classifier
    dropout: float = 0.15  # after every hidden layer of the subnetworks
    fusion_dropout: float = 0.15  # on the fused tensor
    input_dropout: float = 0.0  # on the raw features

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("text_hidden", "hidden", "embedding_layers", "inference_hidden", "inference_layers"),
            shares=("dropout", "fusion_dropout", "input_dropout"),
        )


def dense(width: int, hidden: int, layers: int, dropout: float) -> nn.Sequential:
    """Return layers of ReLU units with dropout, (N, width) → (N, hidden)."""
    inputs = [width, *[hidden] * (layers - 1)]
    blocks = [nn.Sequential(nn.Linear(i, hidden), nn.ReLU(), nn.Dropout(dropout)) for i in inputs]
    return nn.Sequential(*blocks)


def fuse(embeddings: list[Tensor]) -> Tensor:
    """Return z^1;1 ⊗ … ⊗ z^M;1 flattened, the outer product with a 1 behind every vector (section 4.2).

    It holds every z^m, every product of two, of three, and so on, and a 1.

    Args:
        embeddings: M tensors (N, d_m)

    Returns:
        (N, Π (d_m + 1)), the last modality's axis fastest
    """
    tensor = embeddings[0].new_ones(embeddings[0].shape[0], 1)
    for z in embeddings:
        tensor = (tensor[:, :, None] * F.pad(z, (0, 1), value=1.0)[:, None, :]).flatten(1)
    return tensor


class TFN(Network):
    """Modality embedding subnetworks → tensor fusion layer → inference subnetwork → classifier."""

    looks_ahead = False

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        units = {m: config.text_hidden if m == "text" else config.hidden for m in self.modalities}
        cells = prod(d + 1 for d in units.values())
        if cells > MOST_CELLS:
            raise ConfigError(
                f"the fused tensor of {', '.join(self.modalities)} would have {cells} cells, more than "
                f"{MOST_CELLS}: make network.hidden or network.text_hidden smaller, or name fewer modalities"
            )
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.embeddings = nn.ModuleDict(
            {m: dense(widths[m], units[m], config.embedding_layers, config.dropout) for m in self.modalities}
        )
        self.fusion_dropout = nn.Dropout(config.fusion_dropout)
        self.inference = dense(cells, config.inference_hidden, config.inference_layers, config.dropout)
        self.classifier = nn.Linear(config.inference_hidden, num_classes)

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        z = [
            embed(self.input_dropout(batch.features[name])) * there
            for (name, embed), there in zip(self.embeddings.items(), batch.present.T[..., None], strict=True)
        ]
        logits = self.classifier(self.inference(self.fusion_dropout(fuse(z))))
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "text_hidden": 32,
            "hidden": 16,
            "embedding_layers": 2,
            "inference_hidden": 128,
            "dropout": 0.2,
            "fusion_dropout": 0.2,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    "paper": {
        "training": {
            "batch_utterances": 32,  # not in the paper
            "learning_rate": 5e-4,
            "weight_decay": 0.01,
            "warmup_steps": 0,
            "clip_norm": 0.0,
        }
    },
}
