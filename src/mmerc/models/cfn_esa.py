"""CFN-ESA: cross-modal fusion with emotion-shift awareness (Li et al., IEEE TAFFC 2024).

Paper: https://doi.org/10.1109/TAFFC.2024.3389453. Text is the primary modality; the others reach each other
only through it. RUME (recurrent encoder, shared by the modalities) → ACME (attention, self and across) →
fusion → classifier; LESM adds a task on pairs of utterances. [C] is the official code
(lijfrank-open/CFN-ESA, commit 9ad11f8). N utterances of a flat batch, d = `hidden`.

Decisions: E1 absent keys and other dialogues are masked by a boolean mask ([C] adds its mask to the scores);
E2 the GRU is packed; E3 the emotion loss is a masked cross-entropy, `focal` and `official` are options; E4 ρ
is counted on the training pairs as they come, `shift_share` fixes it; E5 pairs i = j count,
`include_diagonal` drops them; E6 h' is a second pass in training and h in evaluation; E7, E8 every dropout
and every layer is its own; E9 no speakers; E10 one process; E11 one text vector; E12 all pairs; E13 attention
and LESM start as in [C].
Deviations:
* The loss `official` has no counterpart of the padded positions that [C] counts as class 0: a flat batch has
  none; class weights, if there are any, weigh its utterances.
* AdamW without amsgrad. [C] seeds every pass anew; here the epoch does.
* Without text the other modalities keep self-attention only; where an utterance lacks a modality its stream
  is zero and nobody attends to it. Other numbers of modalities: W_cat is over all that text attends to.
* `causal`: the GRUs (twice the units, forward only) and the attention see no later utterance. LESM pairs
  utterances with later ones in training all the same: it changes no output.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmerc.batch import Batch, targets
from mmerc.layers.attention import DialogueAttention, has_source
from mmerc.layers.focal import focal_loss, growing_focal_loss
from mmerc.layers.losses import cross_entropy
from mmerc.layers.padding import Padding, to_device
from mmerc.layers.recurrent import FlatGRU
from mmerc.layers.shift import ShiftBalance, ShiftPairs, dialogue_pairs
from mmerc.layers.transformer import FeedForward, SelfAttention
from mmerc.models.base import InputProjection, Network, Output, Paper, Scalars
from mmerc.models.cfn_esa_settings import Config

PAPER = Paper("CFN-ESA", "IEEE TAFFC", 2024, "https://doi.org/10.1109/TAFFC.2024.3389453")
PRIMARY = "text"
PAIRS_AT_ONCE = 1 << 14  # of LESM; with the inside of layers forgotten, no more are in memory


def run(layer: nn.Module, *inputs: Any, forget: bool) -> Any:
    """Call a layer; with `forget`, what it computes inside is computed once more in the backward pass."""
    return checkpoint(layer, *inputs, use_reentrant=False) if forget else layer(*inputs)


class RecurrentLayer(nn.Module):
    """A layer of RUME, (N, d) → (N, d)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.hidden
        self.gru = FlatGRU(d, d, causal=config.causal)
        self.out = nn.Linear(2 * d, d)
        self.dropout = nn.Dropout(config.recurrent_dropout)
        self.feed_forward = FeedForward(d, 2 * d, config.recurrent_dropout)
        self.gru_norm, self.output_norm = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode the utterances x (N, d) of dialogues with `lengths` (B,)."""
        r = self.dropout(self.out(self.gru(x, lengths)))  # Drop(W[BiGRU(x)] + b)
        z = self.gru_norm(x + r)  # x' = LN(x + r)
        encoded: Tensor = self.output_norm(x + z + self.feed_forward(z))  # LN(x + x' + q)
        return encoded


class RecurrentEncoder(nn.Module):
    """RUME: all modalities through the same layers, which draws their distributions together, (M, N, d)."""

    def __init__(self, config: Config, modalities: int) -> None:
        super().__init__()
        copies = {"shared": 1, "separate": modalities, "none": 0}[config.recurrence]
        self.copies = nn.ModuleList(
            nn.ModuleList(RecurrentLayer(config) for _ in range(config.recurrent_layers))
            for _ in range(copies)
        )
        self.forget = config.recompute

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Encode every modality of x (M, N, d)."""
        if not self.copies:
            return x
        # One copy reads the modalities as if they were further dialogues.
        parts = x.view(len(self.copies), -1, x.shape[-1])
        lengths = lengths.repeat(len(x) // len(self.copies))
        encoded = []
        for layers, part in zip(self.copies, parts, strict=True):
            for layer in layers.children():
                part = run(layer, part, lengths, forget=self.forget)
            encoded.append(part)
        return torch.stack(encoded).view_as(x)


class Scene(NamedTuple):
    """Who can attend to whom: the layout, and per modality (N,) which rows are there and which see one."""

    padding: Padding
    present: dict[str, Tensor]
    seen: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, causal: bool) -> "Scene":
        """Return what the batch's lengths and its `present` mask say."""
        padding = Padding.of(batch.lengths, batch.present.device)
        present = dict(zip(sorted(batch.features), batch.present.T, strict=True))
        return cls(padding, present, {m: has_source(padding, p, causal) for m, p in present.items()})


class CrossAttention(nn.Module):
    """What a layer of ACME does to one modality after its self-attention: attend to `sources`, feed forward.

    A primary stream merges what it takes from its sources by W_cat; another one has one source or none.
    """

    def __init__(self, config: Config, sources: Sequence[str], primary: bool) -> None:
        super().__init__()
        d = config.hidden
        self.attention = nn.ModuleDict(
            {m: DialogueAttention(d, config.heads, config.causal) for m in sources}
        )
        self.merge = nn.Linear(len(sources) * d, d) if primary and sources else None  # W_cat
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(d, 2 * d, config.dropout)
        self.attention_norm, self.output_norm = nn.LayerNorm(d), nn.LayerNorm(d)

    def forward(self, x: Tensor, own: Tensor, s: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """Return the stream after this layer, (N, d).

        Args:
            x: (N, d) the stream before it
            own: (N, d) the stream after its self-attention
            s: the same of every modality
            scene: who can attend to whom
        """
        # A source of which nothing is there adds nothing, not even the bias of its attention.
        taken = [
            self.dropout(attention(own, s[m], scene.padding, scene.present[m])) * scene.seen[m][:, None]
            for m, attention in self.attention.items()
        ]
        z = x + own
        if self.merge is not None:
            z = z + self.dropout(F.relu(self.merge(torch.cat(taken, dim=-1)), inplace=True))  # c_t
        elif taken:
            z = z + taken[0]  # c_v, c_a
        z = self.attention_norm(z)  # z = LN(x + s + c)
        out: Tensor = self.output_norm(x + z + self.feed_forward(z))
        return out


class CrossLayer(nn.Module):
    """A layer of ACME: text attends to all others and they to text; if symmetric, everyone to all others."""

    def __init__(self, config: Config, modalities: Sequence[str]) -> None:
        super().__init__()
        self.forget = config.recompute
        self.own, self.cross = nn.ModuleDict(), nn.ModuleDict()
        for name in modalities:
            primary = config.cross == "symmetric" or name == PRIMARY
            sources = [m for m in modalities if m != name and (primary or m == PRIMARY)]
            self.own[name] = SelfAttention(config.hidden, config.heads, config.dropout, config.causal)
            self.cross[name] = CrossAttention(config, sources, primary)

    def forward(self, x: Mapping[str, Tensor], scene: Scene) -> dict[str, Tensor]:
        """Return every stream after this layer, each (N, d), zero where its modality is absent."""
        # One modality at a time, so that little is recomputed at once.
        s = {
            m: run(own, x[m], scene.padding, scene.present[m], forget=self.forget)
            for m, own in self.own.items()
        }
        return {
            m: run(cross, x[m], s[m], s, scene, forget=self.forget) * scene.present[m][:, None]
            for m, cross in self.cross.items()
        }


@torch.no_grad()
def start_as_official(module: nn.Module) -> None:
    """Scale the initial weights of attention and LESM to those of [C] (E13)."""
    if isinstance(module, DialogueAttention):
        # As nn.MultiheadAttention: Xavier on query, key and value as one (3d, d) matrix, √(6/4d) for √(1/d).
        for linear in (module.query, module.key, module.value):
            linear.weight.mul_(math.sqrt(1.5))
            linear.bias.zero_()
        module.out.bias.zero_()
    elif isinstance(module, ShiftPairs):  # W_1 is one map of 2d inputs
        for half in (module.first.weight, module.first.bias, module.second.weight):
            half.mul_(math.sqrt(0.5))


class CFNESA(Network):
    """The whole network: projection → RUME → ACME → fusion → classifier, and LESM beside it."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        self.config = config
        self.recomputes = config.recompute
        d = config.hidden
        self.projection = InputProjection(widths, d, 0.0, config.input_dropout, activation=nn.Identity())
        self.recurrent = RecurrentEncoder(config, len(widths))
        layers = 0 if config.cross == "none" else config.cross_layers
        self.cross = nn.ModuleList(CrossLayer(config, self.modalities) for _ in range(layers))
        self.fusion = nn.Sequential(
            nn.Linear(len(widths) * d, d), nn.ReLU(inplace=True), nn.Dropout(config.dropout)
        )
        self.classifier = nn.Linear(d, num_classes)
        self.shift = ShiftPairs(d, config.shift_hidden, config.shift_dropout)
        self.balance = ShiftBalance(config.shift_share)
        if config.initial_weights == "official":
            self.apply(start_as_official)

    def forward(self, batch: Batch) -> Output:
        """Return the logits and, with labels, those of LESM for each pair of utterances."""
        x = self.recurrent(self.projection(batch), batch.lengths) * batch.present.T[..., None]
        streams = dict(zip(self.modalities, x, strict=True))
        scene = Scene.of(batch, self.config.causal)
        h = self.fuse(streams, scene)
        logits = self.classifier(h)
        if batch.labels is None or not self.config.shift_weight:
            return Output(logits)
        view = self.fuse(streams, scene) if self.training else h  # E6: it differs by dropout alone
        return Output(logits, auxiliary={"shift": self.shifts(h, view, batch.lengths)})

    def losses(self, output: Output, batch: Batch) -> tuple[Scalars, Scalars]:
        """Return the losses `emotion` and `shift`, and for the log the share of shifts."""
        labels, mask = targets(batch)
        losses, log = {"emotion": self.emotion_loss(output.logits, labels, mask)}, {}
        if "shift" in output.auxiliary:
            shift = self.shift_loss(output.auxiliary["shift"], labels, mask, batch.lengths)
            losses["shift"] = self.config.shift_weight * shift
            log["shift_share"] = self.balance.rho()
        return losses, log

    def fuse(self, streams: dict[str, Tensor], scene: Scene) -> Tensor:
        """Return h = Drop(ReLU(W_f [streams after ACME] + b)), (N, d)."""
        for layer in self.cross:
            streams = layer(streams, scene)
        fused: Tensor = self.fusion(torch.cat([streams[m] for m in self.modalities], dim=-1))
        return fused

    def emotion_loss(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the configured loss (E3), a scalar.

        Args:
            logits: (N, K)
            labels: (N,)
            mask: (N,) bool, the utterances with a label
        """
        if self.config.emotion_loss == "cross_entropy":
            return cross_entropy(logits, labels, mask, self.class_weights)
        loss = focal_loss if self.config.emotion_loss == "focal" else growing_focal_loss
        return loss(logits, labels, mask, self.config.focal_gamma, self.class_weights)

    def shifts(self, h: Tensor, view: Tensor, lengths: Tensor) -> Tensor:
        """Return LESM's logits of "same" and "shift" for every pair of utterances of a dialogue, (P, 2)."""
        i, j = (to_device(index, h.device) for index in dialogue_pairs(lengths))
        parts = zip(torch.split(i, PAIRS_AT_ONCE), torch.split(j, PAIRS_AT_ONCE), strict=True)
        return torch.cat([run(self.shift, h, view, a, b, forget=self.recomputes) for a, b in parts])

    def shift_loss(self, logits: Tensor, labels: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
        """Return L_shift, the cross-entropy over pairs, weighted by (1/(2(1 − ρ)), 1/(2ρ)), a scalar."""
        i, j = (to_device(index, logits.device) for index in dialogue_pairs(lengths))
        known = mask[i] & mask[j]
        if not self.config.include_diagonal:
            known = known & (i != j)
        shifted = (labels[i] != labels[j]).long()  # y^s
        if self.training:
            self.balance.update(shifted, known)
        return cross_entropy(logits, shifted, known, self.balance())
