"""Conversations that grow turn by turn: `LiveConversation(recognizer).append(utterance)`.

Each answer is what `Recognizer.predict` would say of the conversation so far. Of the text, only what the new
turn changes is read: the turn alone, or the last window of the dialogue, since windows are filled in order.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmerc.checkpoint import Checkpoint
from mmerc.conversation import Conversation, Emotion, Prediction, Utterance
from mmerc.errors import ConversationError, FeatureError
from mmerc.features.packing import Window
from mmerc.features.text import TextEncoder
from mmerc.models import find
from mmerc.pipeline import Pipeline
from mmerc.recognizer import Recognizer

NOTICEABLE = 0.01  # how far a probability must move for an earlier turn to count as changed


@dataclass(frozen=True, slots=True)
class Change:
    """An earlier turn, counted from 0, that is seen otherwise now; `before` is what was last said of it."""

    turn: int
    before: Emotion
    after: Emotion


@dataclass(frozen=True, slots=True)
class Update:
    """What a new turn brings: its emotion, and the earlier turns that it changes, none for a causal model.

    `turn` is its place among the utterances, from 0.
    """

    turn: int
    emotion: Emotion
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, in which turns count from 1, as everywhere in files and answers."""
        changes = [{**asdict(change), "turn": change.turn + 1} for change in self.changes]
        return {"turn": self.turn + 1, "emotion": asdict(self.emotion), "changes": changes}


def looks_ahead(checkpoint: Checkpoint) -> bool:
    """Return whether a later turn can change what the model says of an earlier one.

    It can unless the network is causal and its text vectors are of each utterance alone. What other features
    know of later utterances cannot be told from here.
    """
    if find(checkpoint.run.model).network.looks_ahead and not checkpoint.run.network.get("causal"):
        return True
    recipes = [modality.recipe for modality in checkpoint.info.modalities.values()]
    return any(r.get("kind") == "text-encoder" and r.get("scope", "dialogue") != "utterance" for r in recipes)


class LiveConversation:
    """A conversation as it goes on, and what a model says of it. Not for several threads at once.

    Args:
        recognizer: the model; several conversations may share it
        longest: how many turns it may have; each one takes memory and, if slightly, the next one time
        id: its name

    Attributes:
        looks_ahead: whether later turns change what is said of earlier ones.
    """

    def __init__(self, recognizer: Recognizer, *, longest: int = 200, id: str = "live") -> None:
        if longest < 1:
            raise ValueError("longest must be at least 1")
        self.looks_ahead = looks_ahead(recognizer.checkpoint)
        self.longest = longest
        self._id = id
        encoder = recognizer.text_encoder()
        self._text = None if encoder is None else _Text.empty(encoder)
        self._takes_vectors = recognizer.checkpoint.pipeline.encoder is None
        self._recognizer = recognizer if self._takes_vectors else _without_encoder(recognizer)
        self._spoken: tuple[Utterance, ...] = ()
        self._prediction: Prediction | None = None
        self._told: list[Emotion] = []

    def __len__(self) -> int:
        return len(self._spoken)

    @property
    def prediction(self) -> Prediction:
        """What is said of all turns so far.

        Raises:
            ConversationError: there are none yet.
        """
        if self._prediction is None:
            raise ConversationError(f"conversation {self._id!r} has no utterances yet")
        return self._prediction

    def append(self, utterance: Utterance) -> Update:
        """Add a turn and return its emotion, and which earlier ones it changed.

        An earlier turn counts as changed if it has another label, or a probability that is more than
        `NOTICEABLE` away from what was last said of it: who applies all updates is never further off.

        Raises:
            ConversationError: the conversation is full, its first turns have nothing that the model reads, or
                a turn brings a text vector after others were encoded here. It is as it was before.
            FeatureError: as `Recognizer.predict`. The conversation is as it was before.
        """
        if len(self) >= self.longest:
            raise ConversationError(f"conversation {self._id!r} is full: it has {self.longest} turns")
        spoken = (*self._spoken, utterance)
        text = None if self._text is None else self._text.plus(utterance.text)
        found = self._recognizer.predict_many([Conversation(self._ready(spoken, text), self._id)])[0]
        self._text, self._spoken = text, spoken
        self._prediction = replace(found, conversation=Conversation(spoken, self._id))
        changes = tuple(self._changes(found.emotions)) if self.looks_ahead else ()
        for change in changes:
            self._told[change.turn] = change.after
        self._told.append(found.emotions[-1])
        return Update(len(spoken) - 1, found.emotions[-1], changes)

    def _ready(self, spoken: tuple[Utterance, ...], text: "_Text | None") -> tuple[Utterance, ...]:
        """Put the text vectors into the utterances, unless these bring their own, as in `predict`."""
        if text is None:
            return spoken
        if self._takes_vectors and any("text" in u.features for u in spoken):
            if any(text.ids[:-1]) and not any("text" in u.features for u in self._spoken):
                raise ConversationError(
                    f"turn {len(self) + 1} of {self._id!r} brings a text vector, but the turns before were "
                    "encoded here: bring one with every turn, or with none"
                )
            return spoken
        return tuple(_with_vector(u, text.vector(turn)) for turn, u in enumerate(spoken))

    def _changes(self, emotions: Sequence[Emotion]) -> list[Change]:
        pairs = enumerate(zip(self._told, emotions, strict=False))
        return [Change(turn, before, after) for turn, (before, after) in pairs if _differ(before, after)]


@dataclass(frozen=True)
class _Text:
    """The text of a conversation so far: tokens and vectors of N turns."""

    encoder: TextEncoder
    ids: list[list[int]]
    vectors: npt.NDArray[np.float32]  # (N, scopes, width of one scope), zeros for a turn without tokens

    @classmethod
    def empty(cls, encoder: TextEncoder) -> "_Text":
        return cls(encoder, [], np.zeros((0, len(encoder.scopes), encoder.part), dtype=np.float32))

    @torch.inference_mode()
    def plus(self, text: str) -> "_Text":
        """Return the same with one turn more.

        Raises:
            FeatureError: the encoder gives NaN or infinity.
        """
        newest = len(self.ids)
        ids = [*self.ids, *self.encoder.tokenize([text])]
        blank = np.zeros((1, *self.vectors.shape[1:]), dtype=np.float32)
        vectors = np.concatenate([self.vectors, blank])
        for part, scope in enumerate(self.encoder.scopes):
            # Windows are filled in order, so that the others are as they were.
            for window in self.encoder.windows([ids], scope):
                if newest in window.rows:
                    vectors[window.rows, part] = self._read(window)
        if not np.isfinite(vectors[newest:]).all():
            raise FeatureError(f"text encoder {self.encoder.recipe['encoder']!r} gives NaN or infinity")
        return _Text(self.encoder, ids, vectors)

    def vector(self, turn: int) -> npt.NDArray[np.float32] | None:
        """Return the vector of a turn, None without tokens."""
        return self.vectors[turn].ravel() if self.ids[turn] else None

    def _read(self, window: Window) -> npt.NDArray[np.float32]:
        count = len(window.rows)
        device = next(self.encoder.parameters()).device
        block = self.encoder.collate([window._replace(rows=range(count))]).to(device)
        pooled = self.encoder.pooled([block], count)
        return pooled.cpu().numpy()


def _with_vector(utterance: Utterance, vector: npt.NDArray[np.float32] | None) -> Utterance:
    others = {name: x for name, x in utterance.features.items() if name != "text"}
    return replace(utterance, features=others if vector is None else {**others, "text": vector})


def _differ(before: Emotion, after: Emotion) -> bool:
    moved = (abs(p - after.probabilities[name]) for name, p in before.probabilities.items())
    return before.label != after.label or max(moved) > NOTICEABLE


def _without_encoder(recognizer: Recognizer) -> Recognizer:
    """Return the same model for text vectors in place of text, with the same weights, not copied."""
    whole = recognizer.checkpoint.pipeline
    widths = {name: modality.width for name, modality in recognizer.checkpoint.info.modalities.items()}
    rest = Pipeline(whole.network, widths, None, None)
    rest.standardizer = whole.standardizer
    device = next(whole.parameters()).device
    return Recognizer(replace(recognizer.checkpoint, pipeline=rest), str(device))
