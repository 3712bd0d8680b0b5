"""`load(checkpoint).predict(conversation)`: a trained model in the hands of a user."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from mmerc import forms
from mmerc.checkpoint import Checkpoint, load_checkpoint, share
from mmerc.conversation import Conversation, Coverage, Emotion, Prediction
from mmerc.errors import CheckpointError, ConversationError
from mmerc.evaluation import score_table
from mmerc.examples import Examples
from mmerc.explanation import Explanation, occlude
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_processes
from mmerc.extraction.extract import reasons, with_features
from mmerc.extraction.measuring import Meter
from mmerc.features.extractors import NO_FILES, Files, again
from mmerc.features.frozen import encode, encoder_for
from mmerc.features.text import TextEncoder
from mmerc.forms import Given, Several
from mmerc.metrics import Scores
from mmerc.optimization import choose_device
from mmerc.shipped import DEFAULT

# Kinds of recipes that no extractor follows, and why a recording lacks their features.
NOT_FROM_MEDIA = {
    "imported": "the model was trained on imported features: how they were made is not known",
    "scripted": "the model was trained on generated features",
}


def load(path: str | Path = DEFAULT, device: str = "auto", *, revision: str | None = None) -> "Recognizer":
    """Load a model for prediction.

    Args:
        path: a checkpoint folder, a model in the box, or a model on the Hugging Face Hub, `name/model`, which
            is downloaded unless it is in the Hub's cache. What is there goes first.
        device: auto, cpu, cuda, …
        revision: a branch, a tag or a commit of a model on the Hub

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format version.
    """
    return Recognizer(load_checkpoint(path, revision), device)


class Recognizer:
    """Predicts emotions of conversations with the checkpoint's own labels and feature recipes.

    Several threads may use one recognizer at once; each gets what it would get alone.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        self.checkpoint = checkpoint
        self._device = choose_device(device)
        self._pipeline = checkpoint.pipeline.to(self._device).eval()
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

    def __repr__(self) -> str:
        checkpoint = self.checkpoint
        model = " ".join(filter(None, (checkpoint.run.model, checkpoint.run.preset)))
        weights = sum(p.numel() for p in self._pipeline.parameters())
        return (
            f"<Recognizer {checkpoint.name}: {model}, trained on {checkpoint.info.corpus}; reads "
            f"{', '.join(self.modalities)}; tells {', '.join(self.labels)}; "
            f"{weights:,} parameters on {self._device}>"
        )

    def __call__(
        self, conversation: Given, *, transcript: "Given | None" = None, jobs: int = 1
    ) -> Prediction:
        """Return the emotion of every utterance of one conversation: `predict`."""
        return self.predict(conversation, transcript=transcript, jobs=jobs)

    def predict(self, conversation: Given, *, transcript: "Given | None" = None, jobs: int = 1) -> Prediction:
        """Return the emotion of every utterance of one conversation.

        Text vectors that the utterances do not bring along are computed from their texts; with a transcript,
        sound and pictures are measured in the recording (`predict_recording`).

        Args:
            conversation: a path, a text, a list of texts, of `(speaker, text)` pairs or of dicts, a pandas
                DataFrame, or a `Conversation`; with a transcript, the path of the recording
            transcript: who says what when in the recording, in any of these forms
            jobs: how many processes measure a recording

        Raises:
            ConversationError: none of these forms, no such file, no utterances, none of the model's
                modalities in any of them, several conversations or, with a recording, no times.
            FeatureError: a feature vector of the wrong width or not finite, or a recipe that cannot be
                followed.
            MediaError: the recording cannot be read.
        """
        if transcript is None:
            return self._predict_several([forms.conversation(conversation)])[0]
        if not isinstance(conversation, str | PathLike):
            raise ConversationError(
                "with a transcript, the path of its recording is expected, not "
                f"a value of type {type(conversation).__name__}"
            )
        with Cache(None) as cache:
            meter = Meter(in_processes(jobs), cache)
            return self.predict_recording(forms.conversation(transcript), Path(conversation), meter)

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
        prediction = self._predict_several([ready])[0]
        why = left_out | {name: reasons(found) for name, found in measured.items()}
        modalities = {m: replace(c, absent=why.get(m, "")) for m, c in prediction.modalities.items()}
        return replace(prediction, modalities=modalities)

    def predict_many(self, conversations: Several) -> list[Prediction]:
        """Return the predictions of several conversations, computed together; see `predict`.

        Args:
            conversations: a list of conversations, each in any form that `predict` takes; or a path or a
                DataFrame that holds several
        """
        return self._predict_several(forms.several(conversations))

    def _predict_several(self, conversations: Sequence[Conversation]) -> list[Prediction]:
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

    def explain(self, conversation: Given, most: int = 5) -> Explanation:
        """Predict, and say which other turns mattered most to each utterance; see `explanation.occlude`.

        Args:
            conversation: in any form that `predict` takes
            most: how many turns are kept for each utterance

        Raises:
            ConversationError, FeatureError: as `predict`.
        """
        (ready,) = self._with_text_vectors([forms.conversation(conversation)])
        prediction = self._predict_several([ready])[0]
        return occlude(self._predict, prediction, most)  # a turn may be the only one that says something

    def push_to_hub(self, name: str, *, license: str | None = None, private: bool = False) -> str:
        """Put the model on the Hugging Face Hub, where `mmerc.load(name)` finds it; return its address.

        The files of its checkpoint are uploaded as they are, its card with the scores on the test split if
        they lie beside it (`test.parquet`). `hf auth login` says who you are.

        Args:
            name: `name/model`; a repository that is not there is made
            license: the terms of the weights, as the Hub abbreviates them (`mit`, `cc-by-nc-4.0`), for the
                card; by default what the card says, which is "unknown" as mmerc writes it
            private: make a repository that only its owners see

        Raises:
            CheckpointError: the folder has changed since it was loaded, or the Hub does not take it.
        """
        return share(self.checkpoint, name, self._test_scores(), license, private)

    def _test_scores(self) -> Scores | None:
        """Return the scores of the predictions that a study has left beside the checkpoint."""
        table = self.checkpoint.path / "test.parquet"
        try:
            return score_table(pd.read_parquet(table), self.labels) if table.exists() else None
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{table} cannot be read ({reason}): delete it, or make it anew") from None

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
