"""DialogueCRN: reasoning over the dialogue in several turns of recall and thought (ACL 2021).

Hu et al., https://aclanthology.org/2021.acl-long.547. N utterances of a flat batch, d = 2 · `context_hidden`.
Steps are named as in the paper: perception phase (section 3.3), cognition phase (3.4), classifier (3.5).
[C] is the authors' code (zerohd4869/DialogueCRN, commit 2c2070d, code/model.py).

Deviations:
* The input u_i is the concatenation of the modalities, each projected to `hidden` with tanh and zero where
  absent; the paper reads text.
* The loss is plain cross-entropy, as in the paper; [C] has a focal loss, whose γ is 0 by default.
* The paper is followed where [C] differs: there, a ReLU stands before the classifier, the states are
  retrieved as they are, without W_g, both kinds of reasoning share W_q, and the LSTM over a speaker's turns
  goes on over padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmerc.batch import Batch
from mmerc.config import require_ranges
from mmerc.layers.padding import Padding
from mmerc.layers.recurrent import FlatLSTM
from mmerc.layers.retrieval import retrieve
from mmerc.models.base import STEADY_TRAINING, InputProjection, Network, Output, Paper

PAPER = Paper("DialogueCRN", "ACL", 2021, "https://aclanthology.org/2021.acl-long.547")


@dataclass(frozen=True)
class Config:
    """Settings of DialogueCRN; the defaults are those of [C] for IEMOCAP (run_train_ie.py)."""

    hidden: int = 100  # width of the projected features of each modality
    context_hidden: int = 100  # LSTM units per direction, in the situation's and in the speaker's context
    context_layers: int = 2  # of both LSTMs
    situation_turns: int = 3  # T^s, turns of reasoning about the situation; 0: none
    speaker_turns: int = 4  # T^v, turns of reasoning about the speakers; 0: none
    dropout: float = 0.2  # of the projected features, between LSTM layers and before the classifier
    input_dropout: float = 0.0  # on the raw features
    causal: bool = False  # no look-ahead

    def __post_init__(self) -> None:
        require_ranges(
            self,
            "network",
            positive=("hidden", "context_hidden", "context_layers"),
            not_negative=("situation_turns", "speaker_turns"),
            shares=("dropout", "input_dropout"),
        )


class Reasoning(nn.Module):
    """The cognition phase for one kind of context: turns of conscious reasoning and intuitive retrieval.

    The LSTM keeps, from turn to turn, what an utterance has found so far; every turn is one more step.
    """

    def __init__(self, width: int, turns: int, causal: bool) -> None:
        super().__init__()
        self.turns = turns
        self.causal = causal
        self.memory = nn.Linear(width, width)
        self.start = nn.Linear(width, 2 * width)
        self.cell = nn.LSTMCell(2 * width, width)

    def forward(self, context: Tensor, padding: Padding) -> Tensor:
        """Return q^(T) of every utterance, (N, 2d).

        Args:
            context: (N, d) what was perceived, c_i
            padding: the layout of the batch
        """
        memory: Tensor = self.memory(context)  # g_i = W_g c_i + b_g
        query: Tensor = self.start(context)  # q^(0) = W_q c_i + b_q
        thought = cell = torch.zeros_like(memory)
        for _ in range(self.turns):
            thought, cell = self.cell(query, (thought, cell))  # q̃^(t) = LSTM(q^(t−1))
            found = retrieve(thought, memory, padding, self.causal)  # r = Σ_j softmax_j(q̃ · g_j) g_j
            query = torch.cat([thought, found], dim=-1)  # q^(t) = [q̃^(t) ; r^(t)]
        return query


class DialogueCRN(Network):
    """Situation and speaker context, each perceived by an LSTM and reasoned about; one classifier on both."""

    def __init__(
        self, config: Config, widths: Mapping[str, int], num_classes: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(widths, num_classes, class_weights)
        c = config
        self.projection = InputProjection(widths, c.hidden, c.dropout, c.input_dropout)
        self.situation, self.speaker = (
            FlatLSTM(len(widths) * c.hidden, c.context_hidden, c.context_layers, c.dropout, c.causal)
            for _ in range(2)
        )
        self.situation_reasoning, self.speaker_reasoning = (
            Reasoning(2 * c.context_hidden, turns, c.causal) for turns in (c.situation_turns, c.speaker_turns)
        )
        self.classifier = nn.Sequential(nn.Dropout(c.dropout), nn.Linear(8 * c.context_hidden, num_classes))

    def forward(self, batch: Batch) -> Output:
        """Return logits and, with labels, the loss `emotion`."""
        u = torch.cat([*self.projection(batch)], dim=-1)
        padding = Padding.of(batch.lengths, u.device)
        situation = self.situation(u, batch.lengths)
        speaker = self.speaker.by_speaker(u, batch.lengths, batch.speakers)
        o = [self.situation_reasoning(situation, padding), self.speaker_reasoning(speaker, padding)]
        logits = self.classifier(torch.cat(o, dim=-1))
        return Output(logits)


PRESETS: dict[str, dict[str, Any]] = {
    "refined": {
        "network": {
            "hidden": 128,
            "context_hidden": 128,
            "context_layers": 1,
            "situation_turns": 2,
            "speaker_turns": 2,
            "dropout": 0.4,
            "input_dropout": 0.4,
        },
        "training": STEADY_TRAINING,
    },
    # [C] for IEMOCAP (run_train_ie.py).
    "paper": {
        "training": {
            "epochs": 100,
            "patience": 20,
            "batch_size": 32,
            "learning_rate": 1e-4,
            "weight_decay": 2e-4,
            "warmup_steps": 0,
            "clip_norm": 0.0,
            "class_weights": 1.0,
        },
    },
}
