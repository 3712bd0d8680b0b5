"""From media to a corpus with features, and from a recording to a conversation with features."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mmerc.conversation import Conversation
from mmerc.corpus import Corpus, Features, add_table
from mmerc.errors import ConversationError, CorpusError, FeatureError
from mmerc.extraction.measuring import Meter
from mmerc.features.extractors import Chosen
from mmerc.features.recipe import Measured
from mmerc.media import Source, read_sources
from mmerc.storage import exclusive

ABSENT = "absent.csv"  # in the corpus folder: which utterances have no features, and why


def extract(corpus: Corpus, chosen: Mapping[str, Chosen], meter: Meter, root: Path | None = None) -> Corpus:
    """Add feature tables to a corpus that says where its media are.

    What cannot be measured is `present = False`; `absent.csv` in the corpus folder lists it with the reasons.
    A modality of which nothing can be measured is not added.

    Args:
        corpus: a corpus with a `media.parquet`
        chosen: modality → its extractor
        meter: who measures
        root: where the media files are, if not where they were

    Raises:
        CorpusError: the corpus does not say where its media are, the folder is missing, or another process
            writes to the corpus.
        FeatureError: nothing could be measured at all, with the most frequent reasons.
    """
    with exclusive(corpus.path, CorpusError):
        return _extract(corpus, chosen, meter, root)


def _extract(corpus: Corpus, chosen: Mapping[str, Chosen], meter: Meter, root: Path | None) -> Corpus:
    sound, pictures = read_sources(corpus, "audio", root), read_sources(corpus, "visual", root)
    found = {name: _measure(one, sound, pictures, meter) for name, one in chosen.items()}
    absent = [
        _absent(corpus, name, rows, sound if chosen[name].medium == "audio" else pictures)
        for name, rows in found.items()
    ]
    corpus = add_table(corpus, Path(ABSENT).stem, pd.concat(absent))
    some = {name: rows for name, rows in found.items() if any(m.values is not None for m in rows)}
    if not some:
        raise FeatureError(f"nothing could be measured: {reasons([m for r in found.values() for m in r])}")
    for name, rows in some.items():
        corpus = corpus.add_modality(name, _features(rows, chosen[name]))
    return corpus


def with_features(
    conversation: Conversation, recording: Path, chosen: Mapping[str, Chosen], meter: Meter
) -> tuple[Conversation, dict[str, list[Measured]]]:
    """Return a conversation with the features of its recording, and what was measured.

    Raises:
        MediaError: the recording cannot be read.
        ConversationError: an utterance has no times, so that its place in the recording is unknown, or all
            are after its end.
    """
    from mmerc.features.decoding import probe  # loads PyAV, which a chat does not need

    for number, utterance in enumerate(conversation, start=1):
        if utterance.start_ms is None or utterance.end_ms is None:
            raise ConversationError(
                f"utterance {number} of {conversation.id!r} has no start and end, without which it cannot be "
                "found in the recording: take a transcript with times (SRT, WebVTT, WhisperX JSON, ELAN, …)"
            )
    length_ms = probe(recording).length_ms
    if length_ms is not None and all((u.start_ms or 0) >= length_ms for u in conversation):
        raise ConversationError(
            f"{conversation.id!r} begins at {conversation.utterances[0].start_ms} ms, {recording} ends at "
            f"{length_ms} ms: do the transcript and the recording belong together?"
        )
    sources = [Source(recording, u.start_ms or 0, u.end_ms) for u in conversation]
    found = {name: _measure(one, sources, sources, meter) for name, one in chosen.items()}
    utterances = []
    for row, utterance in enumerate(conversation):
        vectors = {name: rows[row].values for name, rows in found.items()}
        present = {name: values for name, values in vectors.items() if values is not None}
        utterances.append(replace(utterance, features={**utterance.features, **present}))
    return replace(conversation, utterances=tuple(utterances)), found


def reasons(measured: Sequence[Measured]) -> str:
    """Return why utterances were not measured, most frequent reasons first: `no face (12), silence (3)`."""
    counts = Counter(m.reason for m in measured if m.values is None)
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common(5))


def _measure(
    chosen: Chosen, sound: Sequence[Source | None], pictures: Sequence[Source | None], meter: Meter
) -> list[Measured]:
    if chosen.medium == "audio":
        return meter.sound(sound, chosen)
    return meter.pictures(pictures, sound, chosen)


def _absent(
    corpus: Corpus, modality: str, measured: Sequence[Measured], sources: Sequence[Source | None]
) -> pd.DataFrame:
    table = corpus.utterances[["dialogue_id", "utterance_index"]].assign(
        modality=modality,
        file=["" if source is None else str(source.file) for source in sources],
        reason=[m.reason for m in measured],
    )
    return table[[m.values is None for m in measured]]


def _features(measured: Sequence[Measured], chosen: Chosen) -> Features:
    values = np.zeros((len(measured), chosen.extractor.width), dtype=np.float32)
    present = np.array([m.values is not None for m in measured], dtype=np.bool_)
    for row, m in enumerate(measured):
        if m.values is not None:
            values[row] = m.values
    return Features(values, present, chosen.extractor.recipe)
