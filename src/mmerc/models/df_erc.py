"""DF-ERC: disentanglement and fusion on modality and context (Li et al., ACM MM 2023).

Paper: https://doi.org/10.1145/3581783.3612053. Equation numbers are the paper's; A1 to A29 are the
decisions on its ambiguities, listed in docs/df-erc.md. N utterances of a flat batch, M modalities,
K emotions, d = `hidden`. Lines marked `refined` are not in the paper: the presets `paper-…` have
none of them. Preset `official-iemocap`, which reads the paper as its authors' code does, is in
`df_erc_official.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmerc.batch import Batch, targets
from mmerc.layers.attention import AdditiveAttention
from mmerc.layers.contrastive import contrastive_loss
from mmerc.layers.losses import cross_entropy, masked_mean
from mmerc.layers.per_modality import PerModalityLinear, PerModalityMLP
from mmerc.layers.prototypes import (
    RunningPrototypes,
    agreement,
    emotion_agreement,
    hinge_distance,
    masked_share,
)
from mmerc.layers.recurrent import FlatLSTM
from mmerc.models.base import InputProjection, Network, Output, Paper, Scalars
from mmerc.models.df_erc_settings import Config

PAPER = Paper("DF-ERC", "ACM MM", 2023, "https://doi.org/10.1145/3581783.3612053")
TEMPERATURE = 0.1  # of the emotions that `refined` reads off the cosines to learned prototypes


class Disentanglement(nn.Module):
    """DDM: m_i = [m̃_i ; m^m_i ; m^u_i] and the two contrastive losses (eqs. 2 to 9)."""

    tags: Tensor

    def __init__(self, config: Config, modalities: Sequence[str]) -> None:
        super().__init__()
        self.config = c = config
        count, d = len(modalities), config.hidden
        self.modality = PerModalityMLP(count, d, d, c.dropout) if c.modality_branch else None
        self.utterance = PerModalityMLP(count, d, d, c.dropout) if c.utterance_branch else None
        self.width = d * (1 + c.modality_branch + c.utterance_branch)
        self.register_buffer("tags", torch.arange(count), persistent=False)  # of the modalities, for eq. 3

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return m (M, N, width) and the branches' vectors by name, each (M, N, d).

        Args:
            x: (M, N, d)
        """
        branches = {}
        if self.modality is not None:
            branches["modality"] = self.modality(x)  # eq. 2
        if self.utterance is not None:
            branches["utterance"] = self.utterance(x)  # eq. 4
        return torch.cat([x, *branches.values()], dim=-1), branches  # eqs. 6 to 8

    def loss(self, branches: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return L_cl = L^m_cl + L^u_cl (eq. 9); 0 with fewer than two modalities (A26)."""
        present, device = batch.present.T, batch.present.device
        modalities, rows = present.shape
        if modalities < 2:
            return present.new_zeros((), dtype=torch.float32)
        tags = {
            "modality": self.tags.repeat_interleave(rows),
            "utterance": torch.arange(rows, device=device).repeat(modalities),
        }
        tau = {"modality": self.config.tau_modality, "utterance": self.config.tau_utterance}
        levels = [
            contrastive_loss(branches[name].flatten(0, 1), tags[name], tau[name], present.flatten())
            for name in tags
            if name in branches  # eqs. 3, 5
        ]
        return torch.stack(levels).sum()


class ContributionFusion(nn.Module):
    """CFM: h^f_i = Σ_m ω^m_i m_i, ω a prediction of the true-class probability (eqs. 10 to 16)."""

    def __init__(self, config: Config, modalities: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.width = width
        if config.fusion == "contribution":
            rate = config.dropout if config.head_dropout is None else config.head_dropout
            self.teacher = nn.Sequential(nn.Dropout(rate), PerModalityLinear(modalities, width, num_classes))
            self.student = nn.Sequential(nn.Dropout(rate), PerModalityLinear(modalities, width, 1))
        elif config.fusion == "attention":
            self.attention = AdditiveAttention(width, config.hidden)

    def forward(self, m: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return h^f (N, width) and the contributions ω (M, N), 0 where absent.

        Args:
            m: (M, N, width of the DDM)
            present: (M, N) bool
        """
        omega = self.contributions(m, present)
        return (omega[..., None] * m).sum(dim=0), omega  # eq. 16

    def contributions(self, m: Tensor, present: Tensor) -> Tensor:
        """Return ω (M, N), or what an ablation has in its place."""
        if self.config.fusion == "contribution":
            return torch.sigmoid(self.student(m).squeeze(-1)) * present  # eq. 12
        return self.attention(m, present) if self.config.fusion == "attention" else present.to(m.dtype)

    def teacher_logits(self, m: Tensor) -> Tensor:
        """Return the logits of each modality's own classifier (eq. 10), (M, N, K)."""
        logits: Tensor = self.teacher(m)
        return logits

    def target(self, truth: Tensor) -> Tensor:
        """Return what ω is to predict, given the true-class probability (eq. 11); both (M, N)."""
        return truth.detach()  # A10: the teacher does not learn from the student's error

    def loss(
        self, logits: Tensor, omega: Tensor, batch: Batch, class_weights: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the parts of L_con (eqs. 13 to 15): teacher_ce and student_mse, summed over modalities."""
        labels, labelled = targets(batch)
        label = labels.clamp(min=0).expand(len(logits), -1)[..., None]
        target = self.target(logits.softmax(dim=-1).gather(-1, label).squeeze(-1))  # eq. 11
        mask = batch.present.T & labelled
        parts = [
            (cross_entropy(z, labels, known, class_weights), masked_mean((w - t).square(), known))
            for z, w, t, known in zip(logits, omega, target, mask, strict=True)
        ]
        ce, mse = zip(*parts, strict=True)
        return {"teacher_ce": torch.stack(ce).sum(), "student_mse": torch.stack(mse).sum()}


class ContextRefusion(nn.Module):
    """CRM: the less the modalities' relation vectors agree, the more context enters (eqs. 17 to 22)."""

    def __init__(
        self, config: Config, modalities: int, width: int, fused_width: int, num_classes: int
    ) -> None:
        super().__init__()
        self.config = c = config
        self.context = FlatLSTM(fused_width, c.context_hidden, c.context_layers, causal=c.causal)
        self.speaker = None
        if c.speaker_hidden:  # refined
            self.speaker = FlatLSTM(fused_width, c.speaker_hidden, causal=c.causal)
        self.output_dropout = nn.Dropout(c.output_dropout)
        context_width = 2 * (c.context_hidden + c.speaker_hidden)
        self.width = fused_width + context_width
        if c.refusion == "agreement":
            self.relation = PerModalityMLP(modalities, width, c.relation_width, c.dropout)
            if c.agreement_on == "emotions":  # refined
                self.learned = nn.Parameter(torch.randn(num_classes, c.relation_width))
            else:
                self.running = RunningPrototypes(num_classes, c.relation_width)
        elif c.refusion == "attention":
            self.project = nn.Linear(fused_width, context_width)
            self.attention = AdditiveAttention(context_width, c.hidden)

    def forward(self, m: Tensor, fused: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return h^e (N, width), the context weight 1 − ψ (N,) and x^m (M, N, r) if the gate has them.

        Args:
            m: (M, N, width of the DDM)
            fused: (N, fused_width) h^f
            batch: for its lengths, its speakers and its `present` mask
        """
        context, x = self.read(fused, batch), None
        if self.config.refusion == "agreement":
            x = self.relation(m)  # eq. 17
            weight = 1.0 - self.agreement(x, batch.present.T)
        elif self.config.refusion == "attention":
            weight = self.attention(torch.stack([self.project(fused), context]))[1]
        else:
            weight = fused.new_full((len(fused),), float(self.config.refusion == "full"))
        return torch.cat([fused, weight[:, None] * context], dim=-1), weight, x  # eq. 22

    def read(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the context of each utterance h^c, (N, 2·units)."""
        context = self.context(fused, batch.lengths)  # eq. 21
        if self.speaker is not None:  # refined
            own = self.speaker.by_speaker(fused, batch.lengths, batch.speakers)
            context = torch.cat([context, own], dim=-1)
        dropped: Tensor = self.output_dropout(context)
        return dropped

    def agreement(self, x: Tensor, present: Tensor) -> Tensor:
        """Return ψ (N,), which no gradient passes unless the config says so (A17)."""
        if self.config.agreement_on == "emotions":  # refined
            psi = emotion_agreement(self.emotion_logits(x).softmax(dim=-1), present)
        else:
            psi = agreement(x, present)  # eq. 20
        return psi if self.config.agreement_gradient else psi.detach()

    def emotion_logits(self, x: Tensor) -> Tensor:
        """Return cos(x^m, R^k)/τ, the logits of a modality's own guess from learned prototypes, (M, N, K)."""
        unit = F.normalize(x.float(), dim=-1, eps=1e-8)
        return unit @ F.normalize(self.learned.float(), dim=-1).T / TEMPERATURE

    def judged(self, x: Tensor) -> dict[str, Tensor]:
        """Return what `loss` reads: x (M, N, r) and, refined, each modality's own guess (M, N, K)."""
        if self.config.agreement_on == "emotions":  # refined
            return {"relation": x, "emotions": self.emotion_logits(x)}
        return {"relation": x}

    def loss(self, said: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Scalars]:
        """Return L_sim and, for the log, the share of active hinge terms and the mean norm of x (A18).

        Args:
            said: what `judged` returns
            batch: its labels choose the prototypes
        """
        x, (labels, labelled) = said["relation"], targets(batch)
        labels, mask = labels.expand(len(x), -1), batch.present.T & labelled  # (M, N)
        norm = masked_mean(x.detach().norm(dim=-1), mask)
        if "emotions" in said:  # refined
            logits = said["emotions"].flatten(0, 1)
            return cross_entropy(logits, labels.flatten(), mask.flatten()), {"relation_norm": norm}
        prototypes = self.prototypes(x, labels, mask)
        hinge = hinge_distance(x, prototypes[labels.clamp(min=0)], self.config.beta)
        share = masked_share(hinge.detach(), mask)
        return self.average(hinge, labels, mask), {"hinge_active": share, "relation_norm": norm}

    def prototypes(self, x: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the running mean R^k of each emotion, (K, r); in training x (M, N, r) enters it first."""
        if self.training:
            self.running.update(x.flatten(0, 1), labels.flatten(), mask.flatten())  # eq. 18
        return self.running.means

    def average(self, hinge: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return L_sim, given its terms (M, N) (eq. 19)."""
        return masked_mean(hinge, mask)


@torch.no_grad()
def widen(module: nn.Module) -> None:
    """Turn the initial weight of a linear map from U(±√(1/d_in)) into Kaiming's U(±√(6/d_in)) (A29)."""
    if isinstance(module, nn.Linear | PerModalityLinear):
        module.weight.mul_(math.sqrt(6.0))


class DFERC(Network):
    """The whole network: projection → DDM → CFM → CRM → classifier."""

    mechanisms: ClassVar[tuple[type[Disentanglement], type[ContributionFusion], type[ContextRefusion]]] = (
        Disentanglement,
        ContributionFusion,
        ContextRefusion,
    )

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        count = len(widths)
        self.gated = config.refusion == "agreement" and count > 1
        self.projection = InputProjection(widths, config.hidden, config.dropout, config.input_dropout)
        ddm, cfm, crm = self.mechanisms
        self.ddm = ddm(config, self.modalities)
        self.cfm = cfm(config, count, self.ddm.width, num_classes)
        self.crm = crm(config, count, self.ddm.width, self.cfm.width, num_classes)
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
        """Return logits, contributions ω (eq. 12) and context weight 1 − ψ (eq. 22)."""
        m, branches = self.ddm(self.projection(batch))
        fused, omega = self.cfm(m, batch.present.T)
        refused, context_weight, x = self.crm(m, fused, batch)
        logits = self.classifier(refused)
        said = {}
        if batch.labels is not None:
            said = branches
            if self.config.fusion == "contribution":
                said["teacher"] = self.cfm.teacher_logits(m)
            if x is not None:
                said |= self.crm.judged(x)
        return Output(logits, omega.T, context_weight, {name: z.transpose(0, 1) for name, z in said.items()})

    def losses(self, output: Output, batch: Batch) -> tuple[Scalars, Scalars]:
        """Return the losses, whose sum is the objective (eq. 25), and what the CRM has for the log."""
        c = self.config
        losses, log = super().losses(output, batch)  # eq. 24
        said = {name: z.transpose(0, 1) for name, z in output.auxiliary.items()}
        if c.alpha_contrastive and (c.modality_branch or c.utterance_branch):
            losses["contrastive"] = c.alpha_contrastive * self.ddm.loss(said, batch)
        if c.fusion == "contribution":
            assert output.contributions is not None
            parts = self.cfm.loss(said["teacher"], output.contributions.T, batch, self.class_weights)
            losses |= {name: c.alpha_contribution * part for name, part in parts.items()}
        if c.refusion == "agreement":
            similarity, log = self.crm.loss(said, batch)
            losses["similarity"] = c.alpha_similarity * similarity
        return losses, log
