"""What every network of the zoo takes and returns."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from mmerc.batch import Batch, targets
from mmerc.layers.losses import cross_entropy

# Training settings that hold up on small and large corpora, with short and long dialogues: the `refined`
# preset of every model, so that a comparison of models is not one of optimizers.
STEADY_TRAINING: dict[str, Any] = {
    "epochs": 40,
    "patience": 10,
    "batch_utterances": 160,
    "learning_rate": 1e-3,
    "encoder_learning_rate": 5e-5,
    "weight_decay": 0.05,
    "decay_biases": False,
    "warmup_steps": 20,
    "ema_decay": 0.98,
    "feature_clip": 4.0,
}

# One over the shares of the labels among IEMOCAP's 5,810 utterances for training, as the codes of MM-DFN
# (run_train_erc.py) and CFN-ESA (run_iemocap.py) have them.
IEMOCAP_CLASS_WEIGHTS = {
    "happy": 1 / 0.086747,
    "sad": 1 / 0.144406,
    "neutral": 1 / 0.227883,
    "angry": 1 / 0.160585,
    "excited": 1 / 0.127711,
    "frustrated": 1 / 0.252668,
}


class Output(NamedTuple):
    """What a network says about a batch; None where a model has no such thing."""

    logits: Tensor  # (N, K)
    contributions: Tensor | None = None  # (N, M) reliability of each modality, 0 where absent
    context_weight: Tensor | None = None  # (N,) how much dialogue context entered
    auxiliary: Mapping[str, Tensor] = {}  # with labels: what else the losses read, dialogue after dialogue


Scalars = dict[str, Tensor]


class Network(nn.Module):
    """Base of all networks.

    A network is built as `Network(config, widths, num_classes, class_weights)`. `widths` maps each
    modality to d_m; modalities are walked in sorted order everywhere, so their order in a config or
    a batch changes nothing.
    """

    uses: ClassVar[tuple[str, ...] | None] = None  # the modalities it can read; None: any
    looks_ahead: ClassVar[bool] = True  # reads later utterances, unless a switch `causal` forbids it
    gated: bool = False  # whether `context_weight` is meant to vary between utterances
    recomputes: bool = False  # whether it does work twice to save memory
    class_weights: Tensor | None

    def __init__(
        self, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.modalities = sorted(widths)
        self.num_classes = num_classes
        self.register_buffer("class_weights", class_weights, persistent=False)  # only training needs them

    def start_epoch(self) -> None:
        """Forget what a network keeps for one training epoch only; most keep nothing."""

    def forward(self, batch: Batch) -> Output:
        """Return what the network says of every utterance."""
        raise NotImplementedError

    def losses(self, output: Output, batch: Batch) -> tuple[Scalars, Scalars]:
        """Judge what the network said: return the losses by name, and detached scalars for the log.

        The losses are weighted already: their sum is the objective. Here: the class-weighted cross-entropy,
        `emotion`. No parameter takes part, so that the rows of several processes can be judged as one batch.

        Args:
            output: of `forward`
            batch: its labels, its `present` mask and its lengths; features are not looked at
        """
        return {"emotion": cross_entropy(output.logits, *targets(batch), self.class_weights)}, {}


class Paper(NamedTuple):
    """Where a model was published."""

    name: str  # of the model, as its authors write it
    venue: str
    year: int
    url: str


class InputProjection(nn.Module):
    """t̃ = Drop(f(W t + b)) for each modality: d_m → d, stacked to (M, N, d); f is tanh (decision A3).

    An absent modality becomes a zero vector.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        hidden: int,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.linear = nn.ModuleDict({m: nn.Linear(widths[m], hidden) for m in sorted(widths)})
        self.dropout = nn.Dropout(dropout)
        self.input_dropout = nn.Dropout(input_dropout)

    def forward(self, batch: Batch) -> Tensor:
        """Return the projected features of the batch, (M, N, d)."""
        projected = [
            self.activation(layer(self.input_dropout(batch.features[m]))) for m, layer in self.linear.items()
        ]
        stacked: Tensor = self.dropout(torch.stack(projected))
        return stacked * batch.present.T[..., None]
