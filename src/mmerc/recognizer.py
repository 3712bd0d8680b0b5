"""`load(checkpoint).predict(conversation)`: a trained model in the hands of a user."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmerc.batch import Examples
from mmerc.checkpoint import Checkpoint, load_checkpoint
from mmerc.conversation import Conversation, Coverage, Emotion, Prediction
from mmerc.corpora.recording import PICTURES, SOUND
from mmerc.errors import ConversationError
from mmerc.explanation import Explanation, occlude
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_processes
from mmerc.extraction.extract import reasons, with_features
from mmerc.extraction.measuring import Meter
from mmerc.features.extractors import NO_FILES, Files, again
from mmerc.features.frozen import encode, encoder_for
from mmerc.features.text import TextEncoder
from mmerc.optimization import choose_device
from mmerc.shipped import DEFAULT
from mmerc.transcripts import read_transcript

# Kinds of recipes that no extractor follows, and why a recording lacks their features.
NOT_FROM_MEDIA = {
    "imported": "the model was trained on imported features: how they were made is not known",
    "scripted": "the model was trained on generated features",
}


def load(path: str | Path = DEFAULT, device: str = "auto") -> "Recognizer":
    """Load a checkpoint folder, or the shipped model of that name, for prediction.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format version.
    """
    return Recognizer(load_checkpoint(path), device)


def read_conversation(path: str | Path) -> Conversation:
    """Read a transcript of one conversation.

    Raises:
        ConversationError: as `read_transcript`, or it holds several.
    """
    refuse_recording(Path(path))
    found = read_transcript(path)
    if len(found) > 1:
        raise ConversationError(
            f"{path} holds {len(found)} conversations, expected one: predict_many takes all that "
            "read_transcript finds"
        )
    return found[0]


def refuse_recording(path: Path) -> None:
    """Refuse a recording where a transcript is expected.

    Raises:
        ConversationError: the name is that of an audio or video file.
    """
    if path.suffix.lower() in SOUND | PICTURES:
        raise ConversationError(
            f"{path} is a recording: hand in its transcript, too (--transcript FILE, or `transcript=`), such "
            "as SRT, WebVTT or WhisperX JSON, which says who says what when"
        )


class Recognizer:
    """Predicts emotions of conversations with the checkpoint's own labels and feature recipes.

    Several threads may use one recognizer at once; each gets what it would get alone.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self._pipeline = checkpoint.pipeline.to(choose_device(device)).eval()
        self._encoder: TextEncoder | None = None
        self._loading = threading.Lock()

    @property
    def labels(self) -> tuple[str, ...]:
        """The emotions it tells, in class order."""
        return self.checkpoint.info.labels

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it reads, sorted. An utterance may lack some, a conversation not all."""
        return tuple(sorted(self.checkpoint.info.modalities))

    def predict(
        self, conversation: Conversation | str | Path, *, transcript: str | Path | None = None, jobs: int = 1
    ) -> Prediction:
        """Return the emotion of every utterance of one conversation.

        Text vectors that the utterances do not bring along are computed from their texts; with a transcript,
        sound and pictures are measured in the recording (`predict_recording`).

        Args:
            conversation: the conversation, the path of its transcript, or that of its recording
            transcript: who says what when in the recording, see `read_transcript`
            jobs: how many processes measure a recording

        Raises:
            ConversationError: no utterances, none of the model's modalities in any of them, a transcript of
                several conversations or, with a recording, without times.
            FeatureError: a feature vector of the wrong width or not finite, or a recipe that cannot be
                followed.
            MediaError: the recording cannot be read.
        """
        if isinstance(conversation, Conversation):
            return self.predict_many([conversation])[0]
        if transcript is None:
            return self.predict_many([read_conversation(conversation)])[0]
        with Cache(None) as cache:
            meter = Meter(in_processes(jobs), cache)
            return self.predict_recording(read_conversation(transcript), Path(conversation), meter)

    def predict_recording(
        self,
        conversation: Conversation,
        recording: Path,
        meter: Meter,
        files: Files = NO_FILES,
    ) -> Prediction:
        """Return the emotion of every utterance of a recording, measured by the checkpoint's own recipes.

        What the recording has not, or what cannot be measured in it, is missing; `modalities` of the result
        says what was there, and why the rest was not.

        Args:
            conversation: who says what when in the recording
            recording: an audio or video file
            meter: who measures it
            files: files of the recipes that are not where the recipes say

        Raises:
            ConversationError, FeatureError, MediaError: as `predict`.
        """
        chosen, left_out = {}, {}
        for name, modality in self.checkpoint.info.modalities.items():
            kind = str(modality.recipe.get("kind"))
            if kind in NOT_FROM_MEDIA:
                left_out[name] = NOT_FROM_MEDIA[kind]
            elif kind != "text-encoder":
                chosen[name] = again(modality.recipe, files)
        ready, measured = with_features(conversation, recording, chosen, meter)
        prediction = self.predict_many([ready])[0]
        why = left_out | {name: reasons(found) for name, found in measured.items()}
        modalities = {m: replace(c, absent=why.get(m, "")) for m, c in prediction.modalities.items()}
        return replace(prediction, modalities=modalities)

    def predict_many(self, conversations: Sequence[Conversation]) -> list[Prediction]:
        """Return the predictions of several conversations, computed together; see `predict`."""
        predictions = self._predict(conversations)
        for conversation, prediction in zip(conversations, predictions, strict=True):
            if not any(coverage.present for coverage in prediction.modalities.values()):
                raise ConversationError(
                    f"conversation {conversation.id!r} has nothing that this model reads; "
                    f"it reads: {', '.join(self.modalities)}"
                )
        return predictions

    def _predict(self, conversations: Sequence[Conversation]) -> list[Prediction]:
        """Predict, also where there is nothing to go by: what is left then is how frequent an emotion is."""
        if not conversations:
            return []
        ready = self._with_text_vectors(conversations)
        widths = {m: x.width for m, x in self.checkpoint.info.modalities.items()}
        examples = Examples.from_conversations(ready, widths, self._pipeline.encoder)
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
        predictions = []
        for i, conversation in enumerate(conversations):
            rows = slice(int(examples.offsets[i]), int(examples.offsets[i + 1]))
            there = {m: Coverage(int(present[rows, k].sum())) for k, m in enumerate(self.modalities)}
            predictions.append(Prediction(conversation, tuple(emotions[rows]), there))
        return predictions

    def explain(self, conversation: Conversation | str | Path, most: int = 5) -> Explanation:
        """Predict, and say which other turns mattered most to each utterance; see `explanation.occlude`.

        Raises:
            ConversationError, FeatureError: as `predict`.
        """
        if not isinstance(conversation, Conversation):
            conversation = read_conversation(conversation)
        (ready,) = self._with_text_vectors([conversation])
        prediction = self.predict_many([ready])[0]
        return occlude(self._predict, prediction, most)  # a turn may be the only one that says something

    def text_encoder(self) -> TextEncoder | None:
        """Return what reads raw text: an encoder trained along, or the recipe's, loaded at the first call.

        None where nothing does: the model reads no text, or vectors that were made elsewhere.

        Raises:
            FeatureError: the encoder of the recipe cannot be loaded.
        """
        text = self.checkpoint.info.modalities.get("text")
        if text is None or self._pipeline.encoder is not None:
            return self._pipeline.encoder
        with self._loading:  # once, however many threads ask for it first
            if self._encoder is None and text.recipe.get("kind") == "text-encoder":
                self._encoder = encoder_for(text.recipe)
            return self._encoder

    def _with_text_vectors(self, conversations: Sequence[Conversation]) -> Sequence[Conversation]:
        """Add the text vectors that are missing, by the recipe of the checkpoint."""
        text = self.checkpoint.info.modalities.get("text")
        if text is None or self._pipeline.encoder is not None or text.recipe.get("kind") != "text-encoder":
            return conversations
        # A conversation that brings text vectors is taken as it is: half of each would be two recipes.
        bare = [i for i, c in enumerate(conversations) if not any("text" in u.features for u in c)]
        if not any(u.text.strip() for i in bare for u in conversations[i]):
            return conversations
        encoder = self.text_encoder()
        assert encoder is not None
        vectors = encode(encoder, [[u.text for u in conversations[i]] for i in bare])
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
