"""Settings of DF-ERC: every switch of the network in `df_erc.py`, and the presets.

A1 to A29 are the decisions on the paper's ambiguities, listed in docs/df-erc.md.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from mmerc.config import require_ranges
from mmerc.errors import ConfigError
from mmerc.models.base import STEADY_TRAINING

ABOVE_ZERO = ("hidden", "relation_width", "context_hidden", "context_layers", "prototype_temperature")


@dataclass(frozen=True)
class Config:
    """Settings of DF-ERC; the defaults are the paper's for MELD (preset `paper-meld`)."""

    hidden: int = 300  # d: width of projected features and of both branches
    relation_width: int = 500  # width of x^m, the vectors compared by the CRM (eq. 17)
    context_hidden: int = 300  # BiLSTM units per direction (eq. 21)
    context_layers: int = 1  # of the BiLSTM
    speaker_hidden: int = 0  # units per direction of a second BiLSTM, over each speaker's own turns; 0: none
    alpha_contrastive: float = 0.3  # α1: weight of the contrastive losses (eq. 25)
    alpha_contribution: float = 0.8  # α2: weight of the losses of teacher and student (eq. 25)
    alpha_similarity: float = 0.3  # α3: weight of the loss that gathers x^m at its prototype (eq. 25)
    tau_modality: float = 0.5  # τ of the modality-level loss
    tau_utterance: float = 0.3  # τ of the utterance-level loss
    beta: float = 0.1  # slack of the hinge (eq. 19)
    dropout: float = 0.2  # of the projected features and before every other linear map
    input_dropout: float = 0.0  # on the raw features
    head_dropout: float | None = None  # of teacher and student; None: as `dropout`
    layer_dropout: float = 0.0  # between BiLSTM layers
    output_dropout: float = 0.0  # on the context vectors
    # Ablations (Table 2, A25).
    modality_branch: bool = True  # modality-level disentanglement: its features and its loss
    utterance_branch: bool = True  # utterance-level disentanglement
    fusion: Literal["contribution", "uniform", "attention"] = "contribution"  # weights ω, 1, or attention
    refusion: Literal["agreement", "full", "zero", "attention"] = "agreement"  # weight of the context
    # Readings of the paper (A4 to A20).
    contrastive_scope: Literal["batch", "dialogue"] = "batch"  # A6: whose vectors meet in a list
    contrastive_times_tau: bool = False  # A7: the losses times τ
    branch_merge: Literal["concat", "sum"] = "concat"  # A4: how the branches join the features
    branch_scale: float = 1.0  # A4: factor on the sum of the branches
    stacked_utterance_branch: bool = False  # A5: the utterance branch reads the modality branch
    teacher_gelu: bool = False  # A8: GELU on the teacher's logits
    normalise_contributions: bool = False  # A9: ω / Σ ω
    unweighted_share: bool = False  # A9: h^f = [0.9 Σ ω m ; Σ m]
    detach_target: bool = True  # A10: no gradient through the student's target
    prototypes: Literal["running", "batch", "learned"] = "running"  # A12, A13: only `running` has no gradient
    prototype_temperature: float = 0.1  # of the class distribution over cosines, for `learned`
    active_hinge_mean: bool = False  # A19: average over the active terms only
    agreement_on: Literal["vectors", "emotions"] = "vectors"  # eq. 20, or the emotions that x^m speaks for
    clamp_agreement: bool = False  # A16: ψ into [0, 1]
    agreement_gradient: bool = False  # A17: gradient through ψ
    context_output: Literal["own", "neighbours"] = "own"  # A20: which states are an utterance's context
    context_scale: float = 1.0  # factor on 1 − ψ
    initial_weights: Literal["torch", "kaiming"] = "kaiming"  # A29: of linear maps, up to √(1/d) or √(6/d)
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
        if self.causal and self.context_output == "neighbours":
            raise ConfigError("network.context_output = neighbours looks at the next utterance: not causal")
        if self.agreement_on == "emotions" and self.prototypes != "learned":
            raise ConfigError("network.agreement_on = emotions needs network.prototypes = learned")


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
            "prototypes": "learned",
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
    # Commit 8a92a9d, as far as docs/df-erc.md says. The code has no settings for MELD.
    "official-iemocap": {
        "network": {
            "alpha_contrastive": 0.4,
            "alpha_contribution": 1.0,
            "alpha_similarity": 0.7,
            "tau_modality": 1.0,
            "tau_utterance": 1.0,
            "contrastive_times_tau": True,
            "branch_merge": "sum",
            "branch_scale": 0.4,
            "stacked_utterance_branch": True,
            "teacher_gelu": True,
            "normalise_contributions": True,
            "unweighted_share": True,
            "detach_target": False,
            "prototypes": "batch",
            "active_hinge_mean": True,
            "context_hidden": 600,
            "context_layers": 2,
            "layer_dropout": 0.3,
            "context_output": "neighbours",
            "context_scale": 0.8,
        },
        "training": {
            "epochs": 20,
            "patience": 10,
            "batch_size": 2,
            "learning_rate": 5e-4,
            "encoder_learning_rate": 2e-5,
            "betas": (0.9, 0.84),
            "eps": 1e-7,
            "decay_biases": False,
            "schedule": "linear",
            "class_weights": {
                "happy": 1.0,
                "sad": 1.3,
                "neutral": 1.3,
                "angry": 1.3,
                "excited": 1.3,
                "frustrated": 1.3,
            },
        },
    },
}
