"""Recurrence over time on the flat batch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mmerc.layers.padding import Padding, running, to_device

ROOM = 2  # times the utterances: what a padded block may have of rows


class FlatRecurrence(nn.Module):
    """A recurrence over each dialogue of a flat batch, (N, d_in) → (N, 2·hidden).

    It runs both ways, with `hidden` units each; a causal one runs forward only, with twice the units, so
    that the width is the same. A dialogue's result does not depend on its neighbours in the batch.

    The flat rows are permuted straight into the packed (time-major) order, without padding. On a CPU, where
    the gradient of each packed step is as large as the whole batch, and where one kernel computes all steps
    of an LSTM that is not packed, they stand in padded blocks, unless these would be large.

    On a CPU autocast does not apply: that kernel computes in bfloat16 on some processors only, and raises an
    error on the others.
    """

    cell: ClassVar[type[nn.LSTM] | type[nn.GRU]]

    def __init__(
        self, width: int, hidden: int, layers: int = 1, dropout: float = 0.0, causal: bool = False
    ) -> None:
        super().__init__()
        units = 2 * hidden if causal else hidden
        dropout = dropout if layers > 1 else 0.0
        self.rnn = self.cell(width, units, layers, bidirectional=not causal, dropout=dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the state at every utterance.

        Args:
            x: (N, d_in)
            lengths: (B,) utterances per dialogue, on the CPU
        """
        if torch.onnx.is_in_onnx_export():
            return self._padded(x, lengths)
        if x.device.type == "cpu":
            with torch.autocast("cpu", enabled=False):
                return self._on_cpu(x.to(self.rnn.all_weights[0][0].dtype), lengths)
        return self._packed(x, lengths)

    def _on_cpu(self, x: Tensor, lengths: Tensor) -> Tensor:
        if len(lengths) * int(lengths.max()) <= ROOM * len(x):
            return self._in_blocks(x, lengths)
        return self._packed(x, lengths)

    def _packed(self, x: Tensor, lengths: Tensor) -> Tensor:
        order, batch_sizes = packed_order(lengths)
        order = to_device(order, x.device)
        packed, _ = self.rnn(PackedSequence(x[order], batch_sizes))
        return torch.empty_like(packed.data).index_copy(0, order, packed.data)

    def _in_blocks(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what the packed order would give, from a padded block for each layer and direction.

        A block for the way back holds each dialogue from its end, so that what pads comes last in both.
        """
        dialogues, dialogue = len(lengths), dialogue_of_row(lengths)
        step = torch.arange(len(x)) - (lengths.cumsum(0) - lengths)[dialogue]
        rows = [step * dialogues + dialogue]
        if self.rnn.bidirectional:
            rows.append((lengths[dialogue] - 1 - step) * dialogues + dialogue)
        weights = iter(self.rnn.all_weights)
        for layer in range(self.rnn.num_layers):
            if layer:
                x = F.dropout(x, self.rnn.dropout, self.training)
            x = torch.cat([self._one_way(x, row, dialogues, next(weights)) for row in rows], dim=1)
        return x

    def _one_way(self, x: Tensor, row: Tensor, dialogues: int, weights: Sequence[Tensor]) -> Tensor:
        """Return the states (N, units) of a layer in one direction; x stands at `row` (N,) of a block."""
        steps = int(row.max()) // dialogues + 1
        block = x.new_zeros(steps * dialogues, x.shape[1]).index_copy(0, row, x)
        block = block.view(steps, dialogues, -1)
        start = x.new_zeros(1, dialogues, self.rnn.hidden_size)
        # What follows the weights: biases, layers, dropout, training, both ways, dialogues first.
        how = (tuple(weights), True, 1, 0.0, self.training, False, False)
        if isinstance(self.rnn, nn.GRU):
            states = torch.gru(block, start, *how)[0]
        else:
            states = torch.lstm(block, (start, start), *how)[0]
        return states.flatten(0, 1)[row]

    def _padded(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what `forward` does, by way of padding: ONNX knows no packed order."""
        padding = Padding.of(lengths, x.device)
        packed = pack_padded_sequence(padding.pad(x), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        return padding.flat(states)

    def by_speaker(self, x: Tensor, lengths: Tensor, speakers: Tensor) -> Tensor:
        """Return the state at every utterance of a recurrence over each speaker's own turns, (N, 2·hidden).

        Args:
            x: (N, d_in)
            lengths: (B,) utterances per dialogue, on the CPU
            speakers: (N,) number of the speaker within the dialogue, on the CPU
        """
        order, counts = speaker_order(lengths, speakers)
        order = to_device(order, x.device)
        own = self(x[order], counts)
        return torch.empty_like(own).index_copy(0, order, own)


class FlatLSTM(FlatRecurrence):
    """An LSTM over each dialogue of a flat batch."""

    cell = nn.LSTM


class FlatGRU(FlatRecurrence):
    """A GRU over each dialogue of a flat batch."""

    cell = nn.GRU


def speaker_order(lengths: Tensor, speakers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a flat batch, each speaker's turns of a dialogue in a row (N,), and how many (S,).

    With it, a recurrence over time runs over the turns of one person: `recurrence(x[order], counts)`.

    Args:
        lengths: (B,) on the CPU
        speakers: (N,) number of the speaker within the dialogue, on the CPU
    """
    person = dialogue_of_row(lengths) * (speakers.max() + 1) + speakers
    # No two are equal, so that no sort can change the order of one person's turns.
    order = torch.argsort(person * person.shape[0] + torch.arange(person.shape[0]))
    person = person[order]
    others = torch.cat([person[:1] - 1, person[:-1]])
    starts = (person != others).nonzero().squeeze(1)
    stops = torch.cat([starts[1:], torch.ones_like(person).sum(dim=0, keepdim=True)])
    return order, stops - starts


def packed_order(lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a flat batch in packed order (N,), and the batch size at each time step (T,).

    Args:
        lengths: (B,) on the CPU
    """
    longest_first = torch.sort(lengths, descending=True, stable=True).indices
    starts = lengths.cumsum(0) - lengths
    going = running(lengths[longest_first]).T  # (T, B)
    rows = starts[longest_first][None, :] + torch.arange(len(going))[:, None]
    return rows[going], going.sum(dim=1)


def dialogue_of_row(lengths: Tensor) -> Tensor:
    """Return the number of the dialogue that each row of a flat batch belongs to, (N,)."""
    return running(lengths).nonzero()[:, 0]


def neighbour_sum(x: Tensor, lengths: Tensor) -> Tensor:
    """Return x_{i−1} + x_{i+1} within each dialogue, zero beyond its ends, (N, d).

    Args:
        x: (N, d)
        lengths: (B,) on the CPU
    """
    dialogue = to_device(dialogue_of_row(lengths), x.device)
    linked = (dialogue[1:] == dialogue[:-1])[:, None]
    beyond = torch.zeros_like(x[:1])
    return torch.cat([beyond, x[:-1] * linked]) + torch.cat([x[1:] * linked, beyond])
