"""DF-ERC as its authors' code reads the paper (github.com/WHULACC/DFERC, commit 8a92a9d).

Preset `official-iemocap`. What differs from `df_erc.py` is here; numbers A… are those of docs/df-erc.md,
which also says what of the code is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch
from mmerc.errors import ConfigError
from mmerc.layers.prototypes import class_sums
from mmerc.layers.recurrent import neighbour_sum
from mmerc.models import df_erc as paper
from mmerc.models import df_erc_settings

BRANCHES, WEIGHTED, CONTEXT = 0.4, 0.9, 0.8  # factors on what is added up; the paper has none


@dataclass(frozen=True)
class Config(df_erc_settings.Config):
    """Settings of the authors' code: the paper's, and one more."""

    layer_dropout: float = 0.3  # on what each layer of the BiLSTM reads (A32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal:
            raise ConfigError(
                "network.causal: preset official-iemocap reads the next utterance as context (A20)"
            )


class Disentanglement(paper.Disentanglement):
    """DDM: m_i = [m̃_i ; 0.4 (m^m_i + m^u_i)] (A4), m^u_i made of m^m_i (A5).

    Text and audio are one class of the modality-level loss (A30).
    """

    def __init__(self, config: df_erc_settings.Config, modalities: Sequence[str]) -> None:
        super().__init__(config, modalities)
        self.width = config.hidden * (1 + (config.modality_branch or config.utterance_branch))
        classes = ["audio" if name == "text" else name for name in modalities]
        self.tags = torch.tensor([classes.index(name) for name in classes])

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return m (M, N, width) and the branches' vectors by name, each (M, N, d)."""
        branches = {}
        if self.modality is not None:
            branches["modality"] = self.modality(x)
        if self.utterance is not None:
            branches["utterance"] = self.utterance(branches.get("modality", x))
        if not branches:
            return x, branches
        return torch.cat([x, BRANCHES * torch.stack([*branches.values()]).sum(dim=0)], dim=-1), branches


class ContributionFusion(paper.ContributionFusion):
    """CFM: h^f_i = [0.9 Σ_m ω^m_i m_i / Σ_m ω^m_i ; Σ_m m_i] (A9)."""

    def __init__(self, config: df_erc_settings.Config, modalities: int, width: int, num_classes: int) -> None:
        super().__init__(config, modalities, width, num_classes)
        self.width = 2 * width

    def forward(self, m: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return h^f (N, width) and the contributions ω (M, N), 0 where absent."""
        omega = self.contributions(m, present)
        shares = omega / omega.sum(dim=0).clamp(min=1e-8)
        weighted, plain = ((w[..., None] * m).sum(dim=0) for w in (shares, present))
        return torch.cat([WEIGHTED * weighted, plain], dim=-1), omega

    def teacher_logits(self, m: Tensor) -> Tensor:
        """Return the logits of each modality's own classifier, (M, N, K), after a GELU (A8)."""
        return F.gelu(super().teacher_logits(m))

    def target(self, truth: Tensor) -> Tensor:
        """Return what ω is to predict, (M, N): the teacher learns from the error, too (A10)."""
        return truth


class ContextRefusion(paper.ContextRefusion):
    """CRM: context is what the neighbours' states say (A20); prototypes are those of the batch (A12, A13)."""

    def __init__(
        self, config: Config, modalities: int, width: int, fused_width: int, num_classes: int
    ) -> None:
        super().__init__(config, modalities, width, fused_width, num_classes)
        self.context.rnn.dropout = config.layer_dropout  # between the layers
        self.context_dropout = nn.Dropout(config.layer_dropout)

    def read(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the context of each utterance, (N, 2·units)."""
        states = super().read(self.context_dropout(fused), batch)
        return CONTEXT * neighbour_sum(states, batch.lengths)

    def prototypes(self, x: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of each emotion's vectors in the batch, (K, r): in evaluation, too."""
        sums, counts = class_sums(x.flatten(0, 1), labels.flatten(), mask.flatten(), len(self.running.counts))
        return sums / counts.clamp(min=1.0)[:, None]

    def average(self, hinge: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return L_sim, given its terms (M, N), averaged over the active ones of an emotion and a modality.

        Emotions and modalities that are there have then the same weight (A19).
        """
        members = F.one_hot(labels.clamp(min=0), len(self.running.counts)) * mask[..., None]  # (M, N, K)
        active = (members * (hinge > 0)[..., None]).sum(dim=1)  # (M, K)
        there = members.sum(dim=1) > 0
        means = (members * hinge[..., None]).sum(dim=1) / active.clamp(min=1)
        return means.sum() / there.sum().clamp(min=1)


class DFERC(paper.DFERC):
    """The network of the authors' code."""

    mechanisms = (Disentanglement, ContributionFusion, ContextRefusion)

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(config, widths, num_classes, class_weights)
        self.classifier[0] = nn.Identity()  # A32: no dropout there


PRESETS: dict[str, dict[str, Any]] = {
    # Commit 8a92a9d, as far as docs/df-erc.md says. The code has no settings for MELD.
    "official-iemocap": {
        "network": {
            "alpha_contrastive": 0.4,
            "alpha_contribution": 1.0,
            "alpha_similarity": 0.7,
            "tau_modality": 1.0,
            "tau_utterance": 1.0,
            "context_hidden": 600,
            "context_layers": 2,
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
