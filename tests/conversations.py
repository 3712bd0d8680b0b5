"""Made-up explanations of any size."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from mmerc.conversation import Conversation, Coverage, Emotion, Prediction, Utterance
from mmerc.explanation import Explanation, Influence

WHEN = datetime(2026, 1, 2, 3, 4, 5)
MELD = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MODALITIES = ("audio", "text", "visual")


def made_up(
    turns: int = 8,
    *,
    labels: Sequence[str] = MELD,
    speakers: Sequence[str] = ("Ann", "Ben"),
    texts: Sequence[str] = ("oh no, the train is late",),
    modalities: Sequence[str] = MODALITIES,
    timed: bool = True,
    influences: int = 3,
    name: str = "chat",
) -> Explanation:
    """Return an explanation of made-up numbers; every fifth turn lacks the last modality."""
    generator = np.random.default_rng(turns)
    spoken, emotions, moved = [], [], []
    for k in range(turns):
        start = 3000 * k if timed else None
        speaker = speakers[k % len(speakers)] if speakers else ""
        text = texts[k % len(texts)]
        spoken.append(Utterance(text, speaker, None, start, None if start is None else start + 2500))
        shares = generator.dirichlet(np.full(len(labels), 0.4))
        counts = {m: float(generator.random()) for m in modalities}
        missing = {modalities[-1]: None} if modalities and k % 5 == 4 else {}
        best = int(shares.argmax())
        emotions.append(
            Emotion(
                labels[best],
                float(shares[best]),
                dict(zip(labels, map(float, shares), strict=True)),
                counts | missing if modalities else None,
                float(generator.random()) if modalities else None,
            )
        )
        others = [i for i in range(max(0, k - 4), min(turns, k + 5)) if i != k][:influences]
        moved.append(tuple(Influence(i, float(generator.normal(0, 0.1))) for i in others))
    absent = "no face" if turns >= 5 else ""
    used = {m: Coverage(turns, "") for m in modalities[:-1]}
    used |= {m: Coverage(turns - turns // 5, absent) for m in modalities[-1:]}
    return Explanation(Prediction(Conversation(tuple(spoken), name), tuple(emotions), used), tuple(moved))
