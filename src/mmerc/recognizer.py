"""`load(checkpoint).predict(conversation)`: a trained model in the hands of a user."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmerc.batch import Examples
from mmerc.checkpoint import Checkpoint, load_checkpoint
from mmerc.conversation import Conversation, Emotion, Prediction
from mmerc.errors import ConversationError
from mmerc.features.frozen import encode, encoder_for
from mmerc.features.text import TextEncoder
from mmerc.optimization import choose_device


def load(path: str | Path, device: str = "auto") -> "Recognizer":
    """Load a checkpoint folder for prediction.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format version.
    """
    return Recognizer(load_checkpoint(path), device)


class Recognizer:
    """Predicts emotions of conversations with the checkpoint's own labels and feature recipes."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self._pipeline = checkpoint.pipeline.to(choose_device(device)).eval()
        self._encoder: TextEncoder | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions it tells, in class order."""
        return self.checkpoint.info.labels

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it reads, sorted. An utterance may lack some, a conversation not all."""
        return tuple(sorted(self.checkpoint.info.modalities))

    def predict(self, conversation: Conversation) -> Prediction:
        """Return the emotion of every utterance of one conversation.

        Text vectors that the utterances do not bring along are computed from their texts.

        Raises:
            ConversationError: no utterances, or none of the model's modalities in any of them.
            FeatureError: a feature vector of the wrong width, or not finite.
        """
        return self.predict_many([conversation])[0]

    def predict_many(self, conversations: Sequence[Conversation]) -> list[Prediction]:
        """Return the predictions of several conversations, computed together; see `predict`."""
        if not conversations:
            return []
        ready = self._with_text_vectors(conversations)
        widths = {m: x.width for m, x in self.checkpoint.info.modalities.items()}
        examples = Examples.from_conversations(ready, widths, self._pipeline.encoder)
        for number, conversation in enumerate(conversations):
            rows = slice(int(examples.offsets[number]), int(examples.offsets[number + 1]))
            if not examples.present[rows].any():
                raise ConversationError(
                    f"conversation {conversation.id!r} has nothing that this model reads; "
                    f"it reads: {', '.join(self.modalities)}"
                )
        found = self._pipeline.infer(examples, np.arange(len(conversations)))
        present = examples.present.numpy()
        emotions = []
        for row, probabilities in enumerate(found.probabilities):
            best = int(probabilities.argmax())
            shares = None
            if found.contributions is not None:
                shares = {
                    m: float(found.contributions[row, k]) if present[row, k] else None
                    for k, m in enumerate(self.modalities)
                }
            emotions.append(
                Emotion(
                    label=self.labels[best],
                    confidence=float(probabilities[best]),
                    probabilities=dict(zip(self.labels, map(float, probabilities), strict=True)),
                    contributions=shares,
                    context_weight=None if found.context_weight is None else float(found.context_weight[row]),
                )
            )
        bounds = examples.offsets
        return [
            Prediction(conversation, tuple(emotions[bounds[i] : bounds[i + 1]]))
            for i, conversation in enumerate(conversations)
        ]

    def _with_text_vectors(self, conversations: Sequence[Conversation]) -> Sequence[Conversation]:
        """Add the text vectors that are missing, by the recipe of the checkpoint."""
        text = self.checkpoint.info.modalities.get("text")
        if text is None or self._pipeline.encoder is not None or text.recipe.get("kind") != "text-encoder":
            return conversations
        # A conversation that brings text vectors is taken as it is: half of each would be two recipes.
        bare = [i for i, c in enumerate(conversations) if not any("text" in u.features for u in c)]
        if not any(u.text.strip() for i in bare for u in conversations[i]):
            return conversations
        if self._encoder is None:
            self._encoder = encoder_for(text.recipe)
        vectors = encode(self._encoder, [[u.text for u in conversations[i]] for i in bare])
        filled = list(conversations)
        row = 0
        for i in bare:
            utterances = []
            for utterance in conversations[i]:
                if vectors.present[row]:
                    utterance = replace(
                        utterance, features={**utterance.features, "text": vectors.values[row]}
                    )
                utterances.append(utterance)
                row += 1
            filled[i] = replace(conversations[i], utterances=tuple(utterances))
        return filled
