"""All utterances that a run reads, from a corpus or from conversations, to be cut into batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mmerc.batch import Batch
from mmerc.conversation import Conversation
from mmerc.corpus import Corpus, intact_features, slice_rows
from mmerc.errors import ConversationError, FeatureError
from mmerc.feature_file import FeatureFile, Pages
from mmerc.features.text import TextEncoder

CHUNK = 16_384  # rows that a pass over a whole feature table holds in memory at a time


@dataclass(frozen=True)
class Examples:
    """All utterances that a run reads, ready to be cut into batches.

    `offsets` (D+1,) marks the dialogues; the other arrays have one row per utterance. `texts` holds
    token ids per utterance when the text encoder is trained with the network. Features may be larger than
    memory: they are read through `vectors`.
    """

    features: dict[str, Tensor]
    present: Tensor
    offsets: npt.NDArray[np.int64]
    speakers: Tensor
    labels: Tensor | None
    texts: list[list[int]] | None = None
    encoder: TextEncoder | None = None
    pages: Mapping[str, Pages] = field(default_factory=dict)  # of features that are mapped files

    @classmethod
    def from_corpus(
        cls, corpus: Corpus, modalities: Sequence[str], encoder: TextEncoder | None = None
    ) -> "Examples":
        """Take the given modalities of a corpus; with an `encoder`, `text` comes from the utterances' texts.

        Raises:
            CorpusError: a modality that the corpus does not have, or whose file is damaged.
            FeatureError: a vector that is marked present holds NaN or infinity.
        """
        names = sorted(modalities)
        texts = None
        tables = {m: intact_features(corpus, m) for m in names if not (encoder and m == "text")}
        for name, table in tables.items():
            bad = _not_finite(table) & table.present
            if bad.any():
                row = int(bad.nonzero()[0, 0])
                raise FeatureError(
                    f"{corpus.path}: modality {name!r} has {int(bad.sum())} rows with NaN or infinity, "
                    f"the first is row {row}: mark them missing (`mmerc corpus check` lists all)"
                )
        given = {m: table.present for m, table in tables.items()}
        if encoder and "text" in names:
            column = corpus.utterances["text"].fillna("").tolist()
            texts = encoder.tokenize(column)
            given["text"] = torch.tensor([bool(ids) for ids in texts])
        speakers, _ = pd.factorize(corpus.utterances["speaker"].fillna(""))  # numbers take less memory
        return cls(
            features={m: table.values for m, table in tables.items()},
            present=torch.stack([given[m] for m in names], dim=1),
            offsets=corpus.offsets,
            speakers=_local_speakers(speakers.tolist(), corpus.offsets),
            labels=torch.from_numpy(corpus.targets),
            texts=texts,
            encoder=encoder,
            pages={m: table.pages for m, table in tables.items()},
        )

    @classmethod
    def from_conversations(
        cls,
        conversations: Sequence[Conversation],
        widths: Mapping[str, int],
        encoder: TextEncoder | None = None,
    ) -> "Examples":
        """Take conversations that carry their own feature vectors (and texts, with an `encoder`).

        Raises:
            ConversationError: a conversation without utterances.
            FeatureError: a vector of another width than `widths` says, or one that is not finite.
        """
        names = sorted(widths)
        for conversation in conversations:
            if not len(conversation):
                raise ConversationError(f"conversation {conversation.id!r} has no utterances")
        utterances = [u for conversation in conversations for u in conversation]
        texts = encoder.tokenize([u.text for u in utterances]) if encoder and "text" in names else None
        features: dict[str, Tensor] = {}
        present = torch.zeros(len(utterances), len(names), dtype=torch.bool)
        for column, name in enumerate(names):
            if name == "text" and texts is not None:
                present[:, column] = torch.tensor([bool(ids) for ids in texts], dtype=torch.bool)
                continue
            table = np.zeros((len(utterances), widths[name]), dtype=np.float32)
            for row, utterance in enumerate(utterances):
                vector = utterance.features.get(name)
                if vector is not None:
                    table[row] = _checked_vector(vector, name, widths[name], row)
                    present[row, column] = True
            features[name] = torch.from_numpy(table)
        offsets = np.cumsum([0, *(len(c) for c in conversations)])
        speakers = _local_speakers([u.speaker for u in utterances], offsets)
        return cls(features, present, offsets, speakers, None, texts, encoder)

    def vectors(self, modality: str, rows: Tensor) -> Tensor:
        """Return the feature vectors of some utterances, (n, d); of a mapped file nothing stays in memory."""
        found = self.features[modality][rows]
        if modality in self.pages:
            self.pages[modality].give_back()
        return found

    def batch(self, dialogues: npt.NDArray[np.int64]) -> Batch:
        """Return the given dialogues, in the given order, as one flat batch."""
        starts, stops = self.offsets[dialogues], self.offsets[dialogues + 1]
        rows = torch.from_numpy(slice_rows(self.offsets, dialogues))
        tokens = None
        if self.texts is not None and self.encoder is not None:
            tokens = self.encoder.pack([self.texts[a:b] for a, b in zip(starts, stops, strict=True)])
        return Batch(
            features={m: self.vectors(m, rows) for m in self.features},
            present=self.present[rows],
            lengths=torch.from_numpy(stops - starts),
            speakers=self.speakers[rows],
            labels=None if self.labels is None else self.labels[rows],
            tokens=tokens,
        )


def _not_finite(table: FeatureFile) -> Tensor:
    """Return the rows (N,) with NaN or infinity."""
    found = []
    for values in torch.split(table.values, CHUNK):
        found.append(~torch.isfinite(values).all(dim=1))
        table.pages.give_back()
    return torch.cat(found)


def _local_speakers(names: Sequence[str] | Sequence[int], offsets: npt.NDArray[np.int64]) -> Tensor:
    numbers = np.zeros(len(names), dtype=np.int64)
    for start, stop in pairwise(offsets):
        seen: dict[str | int, int] = {}
        for row in range(start, stop):
            numbers[row] = seen.setdefault(names[row], len(seen))
    return torch.from_numpy(numbers)


def _checked_vector(
    vector: npt.NDArray[np.float32], name: str, width: int, row: int
) -> npt.NDArray[np.float32]:
    array = np.asarray(vector, dtype=np.float32)
    if array.shape != (width,):
        raise FeatureError(f"utterance {row}: {name!r} has shape {array.shape}, the model expects ({width},)")
    if not np.isfinite(array).all():
        raise FeatureError(f"utterance {row}: {name!r} holds NaN or infinity; leave the modality out instead")
    return array
