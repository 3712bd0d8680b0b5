"""DF-ERC: disentanglement and fusion on modality and context (Li et al., ACM MM 2023).

Paper: https://doi.org/10.1145/3581783.3612053. Equation numbers are the paper's; A1 to A29 are the
decisions on its ambiguities, listed in docs/df-erc.md. N utterances of a flat batch, M modalities,
K emotions, d = `hidden`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch, labelled
from mmerc.distributed import distinct, total
from mmerc.layers.attention import AdditiveAttention
from mmerc.layers.contrastive import contrastive_loss
from mmerc.layers.losses import cross_entropy, masked_mean
from mmerc.layers.padding import to_device
from mmerc.layers.per_modality import PerModalityLinear, PerModalityMLP
from mmerc.layers.prototypes import (
    RunningPrototypes,
    agreement,
    class_sums,
    emotion_agreement,
    hinge_distance,
    masked_share,
)
from mmerc.layers.recurrent import FlatLSTM, dialogue_of_row, neighbour_sum
from mmerc.models.base import InputProjection, Network, Output, Paper
from mmerc.models.df_erc_settings import Config

PAPER = Paper("DF-ERC", "ACM MM", 2023, "https://doi.org/10.1145/3581783.3612053")


class Disentanglement(nn.Module):
    """DDM: m_i = [m̃_i ; m^m_i ; m^u_i] and the two contrastive losses (eqs. 2 to 9)."""

    def __init__(self, config: Config, modalities: int) -> None:
        super().__init__()
        self.config = config
        d, c = config.hidden, config
        self.modality = PerModalityMLP(modalities, d, d, c.dropout) if c.modality_branch else None
        self.utterance = PerModalityMLP(modalities, d, d, c.dropout) if c.utterance_branch else None
        branches = c.modality_branch + c.utterance_branch
        self.width = d * (1 + (branches if c.branch_merge == "concat" else bool(branches)))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return m (M, N, width) and the branches' vectors by name, each (M, N, d).

        Args:
            x: (M, N, d)
        """
        branches = {}
        if self.modality is not None:
            branches["modality"] = self.modality(x)  # eq. 2
        if self.utterance is not None:
            stacked = self.config.stacked_utterance_branch
            branches["utterance"] = self.utterance(branches.get("modality", x) if stacked else x)  # eq. 4
        if self.config.branch_merge == "sum" and branches:
            merged = self.config.branch_scale * torch.stack([*branches.values()]).sum(dim=0)
            return torch.cat([x, merged], dim=-1), branches
        return torch.cat([x, *branches.values()], dim=-1), branches  # eqs. 6 to 8

    def loss(self, branches: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return L_cl = L^m_cl + L^u_cl (eq. 9); 0 with fewer than two modalities (A26)."""
        modalities, rows = batch.present.T.shape
        device = batch.present.device
        tags = {
            "modality": torch.arange(modalities, device=device).repeat_interleave(rows),
            "utterance": distinct(torch.arange(rows, device=device)).repeat(modalities),
        }
        groups = None
        if self.config.contrastive_scope == "dialogue":
            groups = distinct(to_device(dialogue_of_row(batch.lengths), device)).repeat(modalities)
        tau = {"modality": self.config.tau_modality, "utterance": self.config.tau_utterance}
        total = batch.present.new_zeros((), dtype=torch.float32)
        if modalities < 2:
            return total
        mask = batch.present.T.flatten()
        for name, vectors in branches.items():  # eqs. 3, 5
            value = contrastive_loss(vectors.flatten(0, 1), tags[name], tau[name], mask, groups)
            total = total + value * (tau[name] if self.config.contrastive_times_tau else 1.0)
        return total


class ContributionFusion(nn.Module):
    """CFM: h^f_i = Σ_m ω^m_i m_i, ω a prediction of the true-class probability (eqs. 10 to 16)."""

    def __init__(self, config: Config, modalities: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.width = width * (1 + config.unweighted_share)
        if config.fusion == "contribution":
            rate = config.dropout if config.head_dropout is None else config.head_dropout
            self.teacher = nn.Sequential(nn.Dropout(rate), PerModalityLinear(modalities, width, num_classes))
            self.student = nn.Sequential(nn.Dropout(rate), PerModalityLinear(modalities, width, 1))
        elif config.fusion == "attention":
            self.attention = AdditiveAttention(width, config.hidden)

    def forward(self, m: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return h^f (N, width) and the contributions ω (M, N), 0 where absent.

        Args:
            m: (M, N, width)
            present: (M, N) bool
        """
        if self.config.fusion == "contribution":
            omega = torch.sigmoid(self.student(m).squeeze(-1)) * present  # eq. 12
        elif self.config.fusion == "attention":
            omega = self.attention(m, present)
        else:
            omega = present.to(m.dtype)
        weights = omega
        if self.config.normalise_contributions:
            weights = omega / omega.sum(dim=0).clamp(min=1e-8)
        fused = (weights[..., None] * m).sum(dim=0)  # eq. 16
        if self.config.unweighted_share:
            fused = torch.cat([0.9 * fused, (m * present[..., None]).sum(dim=0)], dim=-1)
        return fused, omega

    def teacher_logits(self, m: Tensor) -> Tensor:
        """Return the logits of each modality's own classifier (eq. 10), (M, N, K)."""
        logits: Tensor = self.teacher(m)
        return F.gelu(logits) if self.config.teacher_gelu else logits

    def loss(self, m: Tensor, omega: Tensor, batch: Batch, class_weights: Tensor | None) -> dict[str, Tensor]:
        """Return the parts of L_con (eqs. 13 to 15): teacher_ce and student_mse, summed over modalities."""
        assert batch.labels is not None
        logits = self.teacher_logits(m)
        target = batch.labels.clamp(min=0).expand(len(m), -1)[..., None]
        truth = logits.softmax(dim=-1).gather(-1, target).squeeze(-1)  # eq. 11: TCP (M, N)
        if self.config.detach_target:
            truth = truth.detach()
        mask = batch.present.T & labelled(batch)
        parts = [
            (cross_entropy(z, batch.labels, known, class_weights), masked_mean((w - t).square(), known))
            for z, w, t, known in zip(logits, omega, truth, mask, strict=True)
        ]
        ce, mse = zip(*parts, strict=True)
        return {"teacher_ce": torch.stack(ce).sum(), "student_mse": torch.stack(mse).sum()}


class ContextRefusion(nn.Module):
    """CRM: the less the modalities' relation vectors agree, the more context enters (eqs. 17 to 22)."""

    def __init__(
        self, config: Config, modalities: int, width: int, fused_width: int, num_classes: int
    ) -> None:
        super().__init__()
        self.config = config
        c = config
        self.context = FlatLSTM(fused_width, c.context_hidden, c.context_layers, c.layer_dropout, c.causal)
        self.speaker = FlatLSTM(fused_width, c.speaker_hidden, causal=c.causal) if c.speaker_hidden else None
        self.output_dropout = nn.Dropout(c.output_dropout)
        context_width = 2 * (c.context_hidden + c.speaker_hidden)
        self.width = fused_width + context_width
        if c.refusion == "agreement":
            self.relation = PerModalityMLP(modalities, width, c.relation_width, c.dropout)
            if c.prototypes == "learned":
                self.learned = nn.Parameter(torch.randn(num_classes, c.relation_width))
            else:
                self.running = RunningPrototypes(num_classes, c.relation_width)
        elif c.refusion == "attention":
            self.project = nn.Linear(fused_width, context_width)
            self.attention = AdditiveAttention(context_width, c.hidden)

    def forward(self, m: Tensor, fused: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return h^e (N, width), the context weight 1 − ψ (N,) and x^m (M, N, r) if the gate has them.

        Args:
            m: (M, N, width)
            fused: (N, fused_width) h^f
            batch: for its lengths and its `present` mask
        """
        context = self._context(fused, batch)
        if self.config.context_output == "neighbours":
            context = neighbour_sum(context, batch.lengths)
        x = None
        if self.config.refusion == "agreement":
            x = self.relation(m)  # eq. 17
            weight = 1.0 - self._agreement(x, batch.present.T)
        elif self.config.refusion == "attention":
            weight = self.attention(torch.stack([self.project(fused), context]))[1]
        else:
            weight = fused.new_full((len(fused),), float(self.config.refusion == "full"))
        weight = weight * self.config.context_scale
        return torch.cat([fused, weight[:, None] * context], dim=-1), weight, x  # eq. 22

    def _context(self, fused: Tensor, batch: Batch) -> Tensor:
        context = self.context(fused, batch.lengths)  # eq. 21
        if self.speaker is not None:
            own = self.speaker.by_speaker(fused, batch.lengths, batch.speakers)
            context = torch.cat([context, own], dim=-1)
        dropped: Tensor = self.output_dropout(context)
        return dropped

    def _agreement(self, x: Tensor, present: Tensor) -> Tensor:
        if self.config.agreement_on == "emotions":
            psi = emotion_agreement(self.emotion_logits(x).softmax(dim=-1), present)
        else:
            psi = agreement(x, present)  # eq. 20
        if self.config.clamp_agreement:
            psi = psi.clamp(0.0, 1.0)
        return psi if self.config.agreement_gradient else psi.detach()

    def emotion_logits(self, x: Tensor) -> Tensor:
        """Return cos(x^m, R^k)/τ, the logits of a modality's own guess from learned prototypes, (M, N, K)."""
        unit = F.normalize(x.float(), dim=-1, eps=1e-8)
        return unit @ F.normalize(self.learned.float(), dim=-1).T / self.config.prototype_temperature

    def loss(self, x: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_sim and the diagnostics: share of active hinge terms, mean norm of x (A18).

        Args:
            x: (M, N, r)
            batch: its labels choose the prototypes
        """
        assert batch.labels is not None
        labels = batch.labels.repeat(len(x))
        mask = (batch.present.T & labelled(batch)).flatten()
        flat = x.flatten(0, 1)
        norm = total(masked_mean(flat.detach().norm(dim=-1), mask))
        if self.config.prototypes == "learned":
            return cross_entropy(self.emotion_logits(x).flatten(0, 1), labels, mask), {"relation_norm": norm}
        if self.config.prototypes == "running":
            if self.training:
                self.running.update(flat, labels, mask)  # eq. 18
            means = self.running.means
        else:
            sums, counts = class_sums(flat, labels, mask, len(self.running.counts))
            means = sums / counts.clamp(min=1.0)[:, None]
        hinge = hinge_distance(flat, means[labels.clamp(min=0)], self.config.beta)  # eq. 19
        active = mask & (hinge.detach() > 0) if self.config.active_hinge_mean else mask
        share = total(masked_share(hinge.detach(), mask))
        return masked_mean(hinge, active), {"hinge_active": share, "relation_norm": norm}


@torch.no_grad()
def widen(module: nn.Module) -> None:
    """Turn the initial weight of a linear map from U(±√(1/d_in)) into Kaiming's U(±√(6/d_in)) (A29)."""
    if isinstance(module, nn.Linear | PerModalityLinear):
        module.weight.mul_(math.sqrt(6.0))


class DFERC(Network):
    """The whole network: projection → DDM → CFM → CRM → classifier."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        count = len(widths)
        self.gated = config.refusion == "agreement" and count > 1
        self.projection = InputProjection(widths, config.hidden, config.dropout, config.input_dropout)
        self.ddm = Disentanglement(config, count)
        self.cfm = ContributionFusion(config, count, self.ddm.width, num_classes)
        self.crm = ContextRefusion(config, count, self.ddm.width, self.cfm.width, num_classes)
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(self.crm.width, num_classes)
        )  # eq. 23
        if config.initial_weights == "kaiming":
            self.apply(widen)

    def start_epoch(self) -> None:
        """Reset the prototypes (A12)."""
        if isinstance(running := getattr(self.crm, "running", None), RunningPrototypes):
            running.reset()

    def forward(self, batch: Batch) -> Output:
        """Return logits, losses, contributions ω (eq. 12) and context weight 1 − ψ (eq. 22)."""
        present = batch.present.T
        m, branches = self.ddm(self.projection(batch))
        fused, omega = self.cfm(m, present)
        refused, context_weight, x = self.crm(m, fused, batch)
        logits = self.classifier(refused)
        losses = self.classification_loss(logits, batch)  # eq. 24
        diagnostics: dict[str, Tensor] = {}
        if losses:
            c = self.config
            if branches and c.alpha_contrastive:
                losses["contrastive"] = c.alpha_contrastive * self.ddm.loss(branches, batch)
            if c.fusion == "contribution":
                parts = self.cfm.loss(m, omega, batch, self.class_weights)
                losses |= {name: c.alpha_contribution * part for name, part in parts.items()}
            if x is not None:
                similarity, diagnostics = self.crm.loss(x, batch)
                losses["similarity"] = c.alpha_similarity * similarity
        return Output(logits, losses, omega.T, context_weight, diagnostics)  # Σ losses: eq. 25
