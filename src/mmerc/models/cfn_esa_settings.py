"""Settings of CFN-ESA: every switch of the network in `cfn_esa.py`, and the presets.

E1 to E13 are the decisions on what the paper and its code leave open, listed there.
"""

from dataclasses import dataclass
from typing import Any, Literal

from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.models.base import IEMOCAP_CLASS_WEIGHTS, STEADY_TRAINING


@dataclass(frozen=True)
class Config:
    """Settings of CFN-ESA; the defaults are the official code's for MELD."""

    hidden: int = 384  # d: width of every stream
    heads: int = 8  # of every attention
    recurrent_layers: int = 2  # of RUME
    cross_layers: int = 3  # of ACME
    shift_hidden: int = 128  # units of LESM
    dropout: float = 0.3  # in ACME and after the fusion
    recurrent_dropout: float = 0.15  # in RUME
    shift_dropout: float = 0.05  # in LESM
    input_dropout: float = 0.0  # on the raw features
    shift_weight: float = 0.9  # λ of LESM's loss; 0: without LESM
    shift_share: float | None = None  # E4: ρ; None: counted on the training pairs
    include_diagonal: bool = True  # E5: LESM also pairs an utterance with itself
    emotion_loss: Literal["cross_entropy", "focal", "official"] = "cross_entropy"  # E3: its form
    focal_gamma: float = 2.5  # γ of the two other losses
    recurrence: Literal["shared", "separate", "none"] = (
        "shared"  # RUME: one for all modalities, or each its own
    )
    cross: Literal["text", "symmetric", "none"] = "text"  # ACME: who is primary; symmetric: everyone
    initial_weights: Literal["torch", "official"] = "official"  # E13: of attention and LESM
    recompute: bool = False  # what is inside the layers, in the backward pass: less memory, more time
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "heads", "recurrent_layers", "cross_layers", "shift_hidden", "shift_share"),
            not_negative=("shift_weight", "focal_gamma"),
            shares=("dropout", "recurrent_dropout", "shift_dropout", "input_dropout", "shift_share"),
        )
        if self.hidden % self.heads:
            raise ConfigError(
                f"network.hidden must be a multiple of network.heads ({self.heads}), not {self.hidden}"
            )


# What the official code has for both corpora, and for each of them (run_meld.py, run_iemocap.py).
TRAINING = {"weight_decay": 1e-5, "warmup_steps": 0, "clip_norm": 0.0}
MELD_TRAINING = {**TRAINING, "epochs": 60, "patience": 60, "batch_size": 64, "learning_rate": 1e-5}
IEMOCAP_TRAINING = {**TRAINING, "epochs": 80, "patience": 80, "batch_size": 32, "learning_rate": 2e-5}
IEMOCAP_NETWORK = {
    "hidden": 512,
    "cross_layers": 5,
    "dropout": 0.4,
    "recurrent_dropout": 0.2,
    "shift_weight": 1.0,
    "recompute": True,  # its long dialogues would need more than 3 GiB (docs/performance.md)
}

PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "cross_layers": 2,
            "dropout": 0.4,
            "input_dropout": 0.4,
            "recurrent_dropout": 0.4,
            "initial_weights": "torch",
        },
        "training": STEADY_TRAINING,
    },
    # The code's sizes and training, with cross-entropy, and the share of shifts counted (E3, E4).
    "paper-meld": {"training": MELD_TRAINING},
    # As paper-meld, with the code's sizes for IEMOCAP.
    "paper-iemocap": {"network": IEMOCAP_NETWORK, "training": IEMOCAP_TRAINING},
    # The code's own loss, which its paper does not have (E3), and its constant for the share of shifts (E4).
    "official-meld": {
        "network": {"emotion_loss": "official", "shift_share": 0.5047},
        "training": MELD_TRAINING,
    },
    # Cross-entropy with the code's class weights, and its constant for the share of shifts (E4).
    "official-iemocap": {
        "network": {**IEMOCAP_NETWORK, "shift_share": 0.4364},
        "training": {**IEMOCAP_TRAINING, "class_weights": IEMOCAP_CLASS_WEIGHTS},
    },
}
