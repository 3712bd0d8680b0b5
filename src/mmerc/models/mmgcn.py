"""MMGCN: multimodal fused graph convolutional network (Hu et al., ACL 2021).

Paper: https://aclanthology.org/2021.acl-long.440; comments name its sections. The nodes of a graph are the
modalities of every utterance, linked within a modality to the whole dialogue and across modalities to the
same utterance, by angular similarity; a deep convolution (GCNII, https://arxiv.org/abs/2007.02133, eq. 5)
runs on it. N utterances of a flat batch, M modalities, d = `hidden`, F = `graph_hidden`.

Deviations: a linear map stands before the text's BiLSTM, as before the graph in the other modalities and as
in [C]; the speaker embedding is added to the features of every modality; speakers are numbered by first
appearance in the dialogue, and those beyond the last known number share its embedding; recurrences are
packed; cosines have an eps of 1e-8; an absent modality is a zero in the BiLSTM and no node in the graph;
weight decay is decoupled (AdamW). Without a modality called `text`, every encoder is linear.

[C], the official code (hujingwen6666/MMGCN, commit 85732d9), is another network than that of the paper, which
is followed here. There, 64 convolutions of GCNII* stand in place of 4 of GCNII, two BiLSTM layers in place of
one, and a ReLU and one linear map classify (model.py, DialogueGCNModel); there is no γ, and the speaker
embedding, off by default, is added to the text alone (model_mm.py, MM_GCN).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.layers.graph import DialogueGraph, InitialResidualConvolution
from mmerc.layers.padding import to_device
from mmerc.layers.recurrent import FlatLSTM
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("MMGCN", "ACL", 2021, "https://aclanthology.org/2021.acl-long.440")


@dataclass(frozen=True)
class Config:
    """Settings of MMGCN."""

    hidden: int = 200  # width of a node's features; even, the BiLSTM has half of it per direction
    context_layers: int = 1  # of the BiLSTM over the text
    graph_hidden: int = 100  # F: width of the graph convolutions
    graph_layers: int = 4  # graph convolutions
    dropout: float = 0.4  # between LSTM layers, on the nodes, around every convolution, before the classifier
    input_dropout: float = 0.0  # on the raw features
    speakers: int = 9  # speakers of a dialogue that are told apart; 0: no speaker embedding
    cross_weight: float = 0.7  # γ: factor on the weights of edges between modalities
    residual_alpha: float = 0.1  # α: share of H^(0) in every convolution
    residual_lambda: float = 0.5  # λ: β_l = ln(λ/l + 1), the share of the l-th convolution's linear map
    causal: bool = False  # no look-ahead: edges from earlier utterances only, LSTM forward only

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "context_layers", "graph_hidden", "residual_lambda"),
            not_negative=("graph_layers", "speakers", "cross_weight"),
            shares=("dropout", "input_dropout", "residual_alpha"),
        )
        if self.hidden % 2:
            raise ConfigError(f"network.hidden must be even, half of it per direction, not {self.hidden}")


class NodeEncoder(nn.Module):
    """Node features: an utterance in each modality, and who speaks ("Modality Encoder")."""

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        width = config.hidden
        self.projection = InputProjection(
            widths, width, input_dropout=config.input_dropout, activation=nn.Identity()
        )
        self.text = sorted(widths).index("text") if "text" in widths else None
        if self.text is not None:
            layers, dropout = config.context_layers, config.dropout
            self.context = FlatLSTM(width, width // 2, layers, dropout, config.causal)
        self.speaker = nn.Embedding(config.speakers, width) if config.speakers else None

    def forward(self, batch: Batch) -> Tensor:
        """Return the node features (M, N, d), zero where absent."""
        features = list(self.projection(batch))
        if self.text is not None:
            features[self.text] = self.context(features[self.text], batch.lengths)
        nodes = torch.stack(features)
        if self.speaker is not None:
            known = batch.speakers.clamp(max=self.speaker.num_embeddings - 1)
            nodes = nodes + self.speaker(to_device(known, nodes.device))
        return nodes * batch.present.T[..., None]


class DeepGCN(nn.Module):
    """GCNII: H^(l+1) = ReLU(((1 − α) P̃ H^(l) + α H^(0)) ((1 − β_l) I + β_l W^(l)))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.graph_hidden
        self.input = nn.Linear(config.hidden, width)
        self.convolutions = nn.ModuleList(
            InitialResidualConvolution(width, k, config.residual_alpha, config.residual_lambda)
            for k in range(1, config.graph_layers + 1)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, graph: DialogueGraph) -> Tensor:
        """Return the last layer's nodes, (M, N, F).

        Args:
            x: (M, N, d)
            graph: P̃
        """
        initial = torch.relu(self.input(self.dropout(x)))  # H^(0)
        h: Tensor = self.dropout(initial)
        for convolution in self.convolutions:
            h = self.dropout(torch.relu(convolution(graph.propagate(h), initial)))
        return h


class MMGCN(Network):
    """The whole network: node encoder → graph → deep convolution → classifier on features and nodes."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        self.encoder = NodeEncoder(config, widths)
        self.gcn = DeepGCN(config)
        width = len(widths) * (config.hidden + config.graph_hidden)
        self.classifier = nn.Sequential(  # "Emotion Classifier"
            nn.Dropout(config.dropout),
            nn.Linear(width, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, num_classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Return the logits and, with labels, the loss `emotion`."""
        nodes = self.encoder(batch)
        present = batch.present.T
        graph = DialogueGraph.angular(  # "Graph construction"
            nodes, present, batch.lengths, self.config.cross_weight, self.config.causal
        )
        convolved = self.gcn(nodes, graph.normalised())
        e = torch.cat([nodes, convolved], dim=-1) * present[..., None]  # [features ; convolved]
        logits = self.classifier(e.transpose(0, 1).flatten(1))
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {"hidden": 128, "graph_hidden": 128, "input_dropout": 0.4},
        "training": STEADY_TRAINING,
    },
    # Its batch size and number of epochs are the defaults of [C] (train.py).
    "paper": {
        "training": {
            "epochs": 60,
            "batch_size": 32,
            "learning_rate": 3e-4,
            "weight_decay": 3e-5,
            "warmup_steps": 0,
            "clip_norm": 0.0,
        }
    },
}
