"""Settings of DF-ERC as the paper has it and as `refined` has it, the network in `df_erc.py`; their presets.

A1 to A29 are the decisions on the paper's ambiguities, listed in docs/df-erc.md.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from mmerc.config import require_ranges
from mmerc.models.base import STEADY_TRAINING

ABOVE_ZERO = ("hidden", "relation_width", "context_hidden", "context_layers")


@dataclass(frozen=True)
class Config:
    """Settings of DF-ERC; the defaults are the paper's for MELD (preset `paper-meld`)."""

    hidden: int = 300  # d: width of projected features and of both branches
    relation_width: int = 500  # width of x^m, the vectors compared by the CRM (eq. 17)
    context_hidden: int = 300  # BiLSTM units per direction (eq. 21)
    context_layers: int = 1  # of the BiLSTM (A20)
    alpha_contrastive: float = 0.3  # α1: weight of the contrastive losses (eq. 25)
    alpha_contribution: float = 0.8  # α2: weight of the losses of teacher and student (eq. 25)
    alpha_similarity: float = 0.3  # α3: weight of the loss that gathers x^m at its prototype (eq. 25)
    tau_modality: float = 0.5  # τ of the modality-level loss
    tau_utterance: float = 0.3  # τ of the utterance-level loss
    beta: float = 0.1  # slack of the hinge (eq. 19)
    dropout: float = 0.2  # of the projected features and before every other linear map
    initial_weights: Literal["torch", "kaiming"] = "kaiming"  # A29: of linear maps, up to √(1/d) or √(6/d)
    # Ablations (Table 2, A25).
    modality_branch: bool = True  # modality-level disentanglement: its features and its loss
    utterance_branch: bool = True  # utterance-level disentanglement
    fusion: Literal["contribution", "uniform", "attention"] = "contribution"  # weights ω, 1, or attention
    refusion: Literal["agreement", "full", "zero", "attention"] = "agreement"  # weight of the context
    # What `refined` adds; the defaults leave it out.
    agreement_on: Literal["vectors", "emotions"] = "vectors"  # eq. 20; refined: the emotions x^m speaks for
    agreement_gradient: bool = False  # A17: gradient through ψ
    speaker_hidden: int = 0  # units per direction of a second BiLSTM, over each speaker's own turns; 0: none
    input_dropout: float = 0.0  # on the raw features
    head_dropout: float | None = None  # of teacher and student; None: as `dropout`
    output_dropout: float = 0.0  # on the context vectors
    causal: bool = False  # no look-ahead: the context of an utterance is what came before it

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self)]
        require_ranges(
            self,
            "network",
            positive=[n for n in names if n.startswith("tau_") or n in ABOVE_ZERO],
            not_negative=("speaker_hidden", "beta", *(n for n in names if n.startswith("alpha_"))),
            shares=[n for n in names if n.endswith("dropout")],
        )


PRESETS: dict[str, dict[str, Any]] = {
    # What works (docs/log.md): strong dropout, prototypes that tell emotions apart, a gate on the agreement
    # about emotions that is trained with the rest, and a context that knows who speaks.
    "refined": {
        "network": {
            "hidden": 256,
            "relation_width": 128,
            "context_hidden": 200,
            "speaker_hidden": 100,
            "dropout": 0.4,
            "input_dropout": 0.4,
            "head_dropout": 0.5,
            "output_dropout": 0.3,
            "agreement_on": "emotions",
            "agreement_gradient": True,
            "initial_weights": "torch",
        },
        "training": STEADY_TRAINING,
    },
    # Table 6, with the readings of docs/df-erc.md.
    "paper-meld": {"training": {"epochs": 10}},
    # Table 6, with the readings of docs/df-erc.md.
    "paper-iemocap": {
        "network": {"alpha_contrastive": 0.2, "alpha_contribution": 0.9, "alpha_similarity": 1.0},
        "training": {"epochs": 10, "batch_size": 4},
    },
}
