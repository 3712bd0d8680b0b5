"""MM-DFN: multimodal dynamic fusion network (Hu et al., ICASSP 2022, https://arxiv.org/abs/2203.02385).

A graph over the modalities of every utterance of a dialogue, a deep spectral convolution on it, and a gated
memory that runs over the layers, not over time, and decides what each passes on (graph-based dynamic
fusion, GDF). Written from the official code (zerohd4869/MM-DFN, commit da97036), which made the published
numbers: names of quantities are those of docs/models.md, B1 to B12 its decisions. N utterances of a flat
batch, M modalities, d = `hidden`, F = `graph_hidden`.

Deviations: recurrences are packed, so neither padding nor absent speakers enter (B4, B5); the graph is a
batched product per dialogue (B8); every epoch has its own seed (B7) and is judged on validation; cosines
have an eps of 1e-8; an absent modality is a zero in the recurrences and no node in the graph; weight decay
is decoupled (AdamW) and features are standardised like those of every model here. Without a modality called
`text`, every encoder is linear.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmerc.batch import Batch, targets
from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.layers.graph import DialogueGraph, InitialResidualConvolution
from mmerc.layers.losses import masked_mean
from mmerc.layers.recurrent import FlatGRU
from mmerc.models.base import (
    IEMOCAP_CLASS_WEIGHTS,
    STEADY_TRAINING,
    InputProjection,
    Network,
    Output,
    Paper,
    Scalars,
)

PAPER = Paper("MM-DFN", "ICASSP", 2022, "https://arxiv.org/abs/2203.02385")


@dataclass(frozen=True)
class Config:
    """Settings of MM-DFN; the defaults are the official code's, but for what differs between the corpora."""

    hidden: int = 200  # width of a node's features; even, the GRUs have half of it per direction
    context_layers: int = 2  # of the GRU over the text and of the one over each speaker's turns
    graph_hidden: int = 100  # F: width of the graph convolutions and of the memory
    graph_layers: int = 16  # K_L: graph convolutions
    dropout: float = 0.4  # between GRU layers, on the nodes, after every convolution, before the classifier
    input_dropout: float = 0.0  # on the raw features
    speaker_weights: dict[str, float] = field(default_factory=dict)  # γ_m by modality (B6); unnamed: 1
    cross_weight: float = 1.0  # factor on the weights of edges between modalities
    residual_alpha: float = 0.2  # α: share of H_0 in every convolution
    residual_lambda: float = 0.5  # λ: θ_k = ln(λ/k + 1), the share of the k-th convolution's linear map
    dynamic_fusion: bool = True  # False: no memory over the layers, the ablation "without GDF"
    paper_order: bool = False  # B2: convolve first, then add the memory's output, as the paper is read
    focal_gamma: float = 0.5  # γ of the focal loss; 0: cross-entropy
    recompute: bool = True  # every layer in the backward pass: less memory, a little slower
    causal: bool = False  # no look-ahead: edges from earlier utterances only, GRUs forward only

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "context_layers", "graph_hidden", "residual_lambda"),
            not_negative=("graph_layers", "cross_weight", "focal_gamma"),
            shares=("dropout", "input_dropout", "residual_alpha"),
        )
        if self.hidden % 2:
            raise ConfigError(f"network.hidden must be even, half of it per direction, not {self.hidden}")


class NodeEncoder(nn.Module):
    """h^m_i = c^m_i + γ_m s^m_i: an utterance in its dialogue, and among its speaker's own turns."""

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.projection = InputProjection(
            widths, config.hidden, input_dropout=config.input_dropout, activation=nn.Identity()
        )
        shape = (config.hidden, config.hidden // 2, config.context_layers, config.dropout, config.causal)
        self.context = FlatGRU(*shape) if "text" in widths else None
        self.speaker = FlatGRU(*shape)  # one for all speakers and modalities
        self.text = sorted(widths).index("text") if "text" in widths else None
        weights = [config.speaker_weights.get(m, 1.0) for m in sorted(widths)]
        self.register_buffer("speaker_weights", torch.tensor(weights)[:, None, None], persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return the node features h (M, N, d), zero where absent."""
        projected = self.projection(batch)  # p^m
        context = list(projected)  # c^m = p^m, but for text
        if self.context is not None and self.text is not None:
            context[self.text] = self.context(context[self.text], batch.lengths)
        count = len(projected)
        turns = self.speaker.by_speaker(
            projected.flatten(0, 1), batch.lengths.repeat(count), batch.speakers.repeat(count)
        )
        nodes = torch.stack(context) + self.get_buffer("speaker_weights") * turns.view_as(projected)
        here: Tensor = nodes * batch.present.T[..., None]
        return here


class DynamicFusion(nn.Module):
    """GDF: K_L graph convolutions Z_1, Z_2, … and one LSTM cell that runs over them at every node (B3)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.graph_hidden
        self.input = nn.Linear(config.hidden, width)
        self.cell = nn.LSTMCell(width, width) if config.dynamic_fusion and config.graph_layers else None
        self.convolutions = nn.ModuleList(
            InitialResidualConvolution(width, k, config.residual_alpha, config.residual_lambda, variant=True)
            for k in range(1, config.graph_layers + 1)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, graph: DialogueGraph) -> Tensor:
        """Return Z_{K_L}, (M, N, F).

        Args:
            x: (M, N, d) X̃
            graph: P̃
        """
        initial = torch.relu(self.input(x))  # H_0
        z: Tensor = self.dropout(initial)  # Z_0
        g = c = torch.zeros_like(z)  # g_0, C_0
        for convolution in self.convolutions:
            inputs = (convolution, graph, initial, z, g, c)
            if self.config.recompute and torch.is_grad_enabled():
                z, g, c = checkpoint(self.layer, *inputs, use_reentrant=False)
            else:
                z, g, c = self.layer(*inputs)
        return z

    def layer(
        self, convolution: nn.Module, graph: DialogueGraph, initial: Tensor, z: Tensor, g: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return Z_k, g_k and C_k of the layer with the given convolution, each (M, N, F)."""
        source, carried = z, torch.zeros((), device=z.device)
        if self.cell is not None:
            state = self.cell(z.flatten(0, 1), (g.flatten(0, 1), c.flatten(0, 1)))
            g, c = state[0].view_as(z), state[1].view_as(z)
            source, carried = (z, g) if self.config.paper_order else (g, z)  # B2
        convolved = convolution(graph.propagate(source), initial)  # G_k, S_k = P̃ g_k
        return carried + self.dropout(torch.relu(convolved)), g, c


class MMDFN(Network):
    """The whole network: node encoder → graph → dynamic fusion → classifier on an utterance's nodes."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        self.recomputes = config.recompute
        self.encoder = NodeEncoder(config, widths)
        self.dropout = nn.Dropout(config.dropout)
        self.fusion = DynamicFusion(config)
        width = len(widths) * (config.hidden + config.graph_hidden)
        self.classifier = nn.Sequential(nn.Dropout(config.dropout), nn.ReLU(), nn.Linear(width, num_classes))

    def forward(self, batch: Batch) -> Output:
        """Return the logits."""
        nodes = self.encoder(batch)
        present = batch.present.T
        graph = DialogueGraph.angular(
            nodes, present, batch.lengths, self.config.cross_weight, self.config.causal
        )
        x = self.dropout(nodes)  # X̃
        z = self.fusion(x, graph.normalised())
        e = torch.cat([x, z], dim=-1) * present[..., None]  # [X̃ ; Z_{K_L}]
        return Output(self.classifier(e.transpose(0, 1).flatten(1)))  # on e_i = [node_1 ; …; node_M]

    def losses(self, output: Output, batch: Batch) -> tuple[Scalars, Scalars]:
        """Return the loss `emotion` (B10, B12)."""
        labels, known = targets(batch)
        gamma = self.config.focal_gamma
        return {"emotion": detached_focal_loss(output.logits, labels, known, gamma, self.class_weights)}, {}


def detached_focal_loss(
    logits: Tensor, labels: Tensor, mask: Tensor, gamma: float, class_weights: Tensor | None = None
) -> Tensor:
    """Return −(1/N) Σ_i α_{y_i} (1 − sg(p_i))^γ log p_i, p_i the probability of y_i, a scalar (B10, B12).

    Args:
        logits: (N, K)
        labels: (N,) class index; anything where `mask` is false
        mask: (N,) bool, whose sum is the N of the mean
        gamma: γ
        class_weights: (K,) α, not normalised; None: 1
    """
    target = labels.clamp(min=0)
    log_p = -F.cross_entropy(logits.float(), target, reduction="none")
    factor = (1.0 - log_p.detach().exp()).clamp(min=0.0) ** gamma
    if class_weights is not None:
        factor = factor * class_weights[target]
    return masked_mean(-factor * log_p, mask)


# What the scripts of the official code say (script/run_train_me.sh, run_train_ie.sh). Both try a grid, and
# which point of it was published is not stated: here the code's defaults, as far as they lie in the grid.
TRAINING = {
    "epochs": 30,
    "patience": 5,
    "batch_size": 32,
    "weight_decay": 1e-4,
    "warmup_steps": 0,
    "clip_norm": 0.0,
}
MELD: dict[str, Any] = {
    "network": {"speaker_weights": {"audio": 0.5, "text": 1.5, "visual": 0.5}},
    "training": {**TRAINING, "learning_rate": 5e-4},
}
IEMOCAP: dict[str, Any] = {
    "network": {"speaker_weights": {"audio": 3.0, "text": 1.0, "visual": 0.0}},
    "training": {**TRAINING, "learning_rate": 3e-4},
}
PAPER_NETWORK = {"paper_order": True, "focal_gamma": 0.0}

PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "graph_hidden": 128,
            "graph_layers": 8,
            "input_dropout": 0.4,
            "focal_gamma": 0.0,
            "recompute": False,
        },
        "training": STEADY_TRAINING,
    },
    # Cross-entropy without class weights, and convolution before memory, as the paper's text is said to have
    # them; everything else is the code's for this corpus.
    "paper-meld": {**MELD, "network": MELD["network"] | PAPER_NETWORK},
    # As paper-meld, with what the code has for IEMOCAP.
    "paper-iemocap": {**IEMOCAP, "network": IEMOCAP["network"] | PAPER_NETWORK},
    # One point of the code's grid; which one was published is not stated. Its others: 32 and 64 layers,
    # learning rate 1e-3, weight decay 5e-4, dropout 0.2, focal_gamma 1.
    "official-meld": MELD,
    # One point of the code's grid; which one was published is not stated. Its others: 32 layers, learning
    # rate 1e-4, weight decay 2e-4, dropout 0.2, focal_gamma 1.
    "official-iemocap": {
        **IEMOCAP,
        "training": IEMOCAP["training"] | {"class_weights": IEMOCAP_CLASS_WEIGHTS},
    },
}
