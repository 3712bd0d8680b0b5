"""What a user hands in and gets back: conversations of utterances, and their predicted emotions."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

MOST = 60  # turns that the interpreter shows of a prediction; print() shows all
_COLUMNS = ["dialogue_id", "turn", "speaker", "text", "start_ms", "end_ms", "gold", "label", "confidence"]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of one speaker.

    `features` maps a modality to a ready-made vector of shape (d_m,); a modality that is not in it
    is missing for this utterance. `label` is the emotion's name, None where nobody annotated it.
    """

    text: str = ""
    speaker: str = ""
    label: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    features: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Utterances in the order in which they were spoken."""

    utterances: tuple[Utterance, ...]
    id: str = "conversation"

    def __len__(self) -> int:
        return len(self.utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self.utterances)


@dataclass(frozen=True, slots=True)
class Emotion:
    """The predicted emotion of one utterance, and what it rests on.

    `probabilities` runs over all labels in the model's order and sums to 1. `contributions` is the
    predicted reliability of each modality in [0, 1] (DF-ERC, eq. 12), None for a missing modality;
    `context_weight` is how much dialogue context entered (DF-ERC, 1 − ψ of eq. 22). Both are None
    as a whole for a model that has no such thing.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    contributions: dict[str, float | None] | None = None
    context_weight: float | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many utterances had a modality, and why others lack it where that is known: `no face (3)`."""

    present: int
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A conversation with one `Emotion` per utterance, in order.

    `modalities` says of everything that the model reads in how many utterances it was there. Printed, a
    prediction is a table; in a notebook, it is a report.
    """

    conversation: Conversation
    emotions: tuple[Emotion, ...]
    modalities: Mapping[str, Coverage] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.emotions)

    def __iter__(self) -> Iterator[tuple[Utterance, Emotion]]:
        return iter(zip(self.conversation.utterances, self.emotions, strict=True))

    # What shows a prediction to people stands above this module, and is called only when somebody looks: the
    # arrows that point up, named in the import contract of pyproject.toml.

    def __str__(self) -> str:
        from mmerc.transcripts.writing import as_text

        return as_text(self)

    def __repr__(self) -> str:
        from mmerc.transcripts.writing import as_text

        return as_text(self, most=MOST)

    def _repr_html_(self) -> str:
        from mmerc.report.notebook import in_notebook

        return in_notebook(self)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; turns count from 1, and the feature vectors stay out."""
        rows = []
        for turn, (utterance, emotion) in enumerate(self, start=1):
            spoken = {k: getattr(utterance, k) for k in ("speaker", "text", "start_ms", "end_ms", "label")}
            given = {k: v for k, v in spoken.items() if v is not None and k != "label"}
            gold = {} if utterance.label is None else {"gold": utterance.label}
            rows.append({"turn": turn, **given, **gold, **asdict(emotion)})
        used = {name: asdict(coverage) for name, coverage in self.modalities.items()}
        return {"conversation": self.conversation.id, "modalities": used, "utterances": rows}

    def to_json(self) -> str:
        """Return `to_dict()` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with a row per utterance; see `frame` for its columns."""
        return frame([self])


def frame(predictions: Iterable[Prediction]) -> "pd.DataFrame":
    """Return predictions as a table with a row per utterance.

    Its columns are `dialogue_id`, `turn` (from 1), `speaker`, `text`, `start_ms`, `end_ms`, `gold` (the label
    that the transcript has), `label` (the predicted one), `confidence`, `context_weight`, then
    `probability_…` for each label and `contribution_…` for each modality. What is not known is missing.
    """
    import pandas as pd  # takes a while, and only tables need it

    found = [prediction.to_dict() for prediction in predictions]
    rows = [{"dialogue_id": d["conversation"], **_flat(row)} for d in found for row in d["utterances"]]
    columns = dict.fromkeys([*_COLUMNS, "context_weight", *(name for row in rows for name in row)])
    table = pd.DataFrame(rows, columns=list(columns))
    return table.astype({"start_ms": "Int64", "end_ms": "Int64"})


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Spread the probabilities and contributions of one utterance over columns of their own."""
    nested = {"probabilities": "probability", "contributions": "contribution"}
    flat = {name: value for name, value in row.items() if name not in nested}
    for name, prefix in nested.items():
        flat |= {f"{prefix}_{key}": value for key, value in (row[name] or {}).items()}
    return flat
