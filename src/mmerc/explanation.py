"""Because of what: how the prediction of an utterance changes when another turn is taken away (occlusion)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmerc.conversation import MOST, Conversation, Prediction
from mmerc.transcripts.writing import as_text

STRETCH = 100  # turns that are explained together; the work grows with its square


@dataclass(frozen=True, slots=True)
class Influence:
    """What a turn does to the probability of the emotion that was predicted for another.

    `turn` is its place among the utterances, from 0. `change` is the probability with the turn minus the
    probability without it, in [-1, 1]: above 0, the turn speaks for the emotion.
    """

    turn: int
    change: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A prediction, and for each utterance the turns that mattered most to it, strongest first.

    Printed, it is a table; in a notebook, a report.
    """

    prediction: Prediction
    influences: tuple[tuple[Influence, ...], ...]

    def __str__(self) -> str:
        return self._table()

    def __repr__(self) -> str:
        return self._table(MOST)

    def _repr_html_(self) -> str:
        from mmerc.report.notebook import in_notebook  # stands above: see Prediction

        return in_notebook(self)

    def _table(self, most: int | None = None) -> str:
        told = [", ".join(f"#{i.turn + 1} {i.change:+.0%}" for i in found) for found in self.influences]
        return as_text(self.prediction, most, {"because of": told})

    def to_dict(self) -> dict[str, Any]:
        """Return `Prediction.to_dict()` with a list `influences` in every utterance; turns count from 1."""
        document = self.prediction.to_dict()
        for row, influences in zip(document["utterances"], self.influences, strict=True):
            row["influences"] = [{"turn": i.turn + 1, "change": i.change} for i in influences]
        return document


def occlude(
    predict: Callable[[Sequence[Conversation]], list[Prediction]], prediction: Prediction, most: int = 5
) -> Explanation:
    """Take every turn away in turn, and note what that changes.

    The features of the turns that stay are as they were: what is removed is a turn of the network's input.
    Long conversations are explained in stretches of `STRETCH` turns, each as if it were a conversation.

    Args:
        predict: predicts conversations that bring all their features along
        prediction: what is to be explained; its conversation brings all its features along
        most: how many influences are kept for each utterance
    """
    utterances = prediction.conversation.utterances
    influences: list[tuple[Influence, ...]] = []
    for start in range(0, len(utterances), STRETCH):
        part = utterances[start : start + STRETCH]
        labels = [emotion.label for emotion in prediction.emotions[start : start + STRETCH]]
        influences += _stretch(predict, Conversation(part), labels, start, most)
    return Explanation(prediction, tuple(influences))


def _stretch(
    predict: Callable[[Sequence[Conversation]], list[Prediction]],
    whole: Conversation,
    labels: Sequence[str],
    start: int,
    most: int,
) -> list[tuple[Influence, ...]]:
    if len(whole) == 1:
        return [()]
    count = len(whole)
    spoken = whole.utterances
    without = [replace(whole, utterances=spoken[:turn] + spoken[turn + 1 :]) for turn in range(count)]
    full, *others = predict([whole, *without])
    found: list[tuple[Influence, ...]] = []
    for row, label in enumerate(labels):
        there = full.emotions[row].probabilities[label]
        changes = [
            Influence(start + turn, there - others[turn].emotions[row - (turn < row)].probabilities[label])
            for turn in range(count)
            if turn != row
        ]
        changes = [c for c in changes if c.change]  # a causal model does not see what comes later
        found.append(tuple(sorted(changes, key=lambda c: (-abs(c.change), c.turn))[:most]))
    return found
