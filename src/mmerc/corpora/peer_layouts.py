"""The seven layouts of the field's feature pickles: which field is which, and what it holds per dialogue.

All are one tuple of dictionaries from dialogue id to one entry per utterance, followed by collections of
ids. The fields have no names, so a layout is recognised by the number of fields and the kind of each:

* numbers: whole numbers (labels, sentiments, sometimes utterance ids or speakers);
* strings: text (sentences, utterance ids, speakers as letters);
* vectors: a vector per utterance (features, speakers as one-hot);
* ids: a collection outside of a dictionary (dialogue ids of a split).

Widths play no part. What tells text, audio and visual vectors apart is how many fields of vectors stand
between the labels and the sentences: three are text, audio, visual; four are text 1-4; six are text 1-4,
audio, visual. The two layouts of ten fields differ in the third, labels or vectors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from mmerc.corpora.unpickling import load_pickle
from mmerc.errors import CorpusError

Id = int | str  # MELD numbers its dialogues, IEMOCAP names them

LABELS = {
    "iemocap": ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
    "meld": ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
}
TEXTS = ("text_1", "text_2", "text_3", "text_4")
_KINDS: Mapping[str, tuple[str, ...]] = {
    "utterance_ids": ("strings", "numbers"),
    "speakers": ("strings", "numbers", "vectors"),
    "labels": ("numbers",),
    "sentiments": ("numbers", "strings"),
    **dict.fromkeys((*TEXTS, "audio", "visual"), ("vectors",)),
    "sentences": ("strings",),
    **dict.fromkeys(("train", "test", "validation"), ("ids",)),
}
_SPLITS = ("train", "validation", "test")
_UNREAD = ("sentiments", "unused")


@dataclass(frozen=True)
class Layout:
    """One of the known orders of fields, and the corpus it is used for."""

    name: str
    file: str
    corpus: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({len(self.fields)} fields, as in {self.file})"

    def fits(self, kinds: Sequence[str]) -> bool:
        """Whether fields of these kinds can be the fields of this layout."""
        return len(kinds) == len(self.fields) and all(
            kind in _KINDS.get(field, (kind,)) for field, kind in zip(self.fields, kinds, strict=True)
        )


def _layout(name: str, file: str, fields: str) -> Layout:
    expanded = fields.replace("texts", " ".join(TEXTS)).split()
    return Layout(name, file, name.partition("-")[0], tuple(expanded))


LAYOUTS = (
    _layout(
        "iemocap-mmgcn",
        "IEMOCAP_features.pkl of MMGCN, MM-DFN, M3NET, DialogueRNN",
        "utterance_ids speakers labels text_1 audio visual sentences train test",
    ),
    _layout(
        "meld-mmgcn",
        "MELD_features_raw1.pkl of MMGCN, MM-DFN, M3NET",
        "utterance_ids speakers labels text_1 audio visual sentences train test unused",
    ),
    _layout(
        "iemocap-sdt",
        "iemocap_multimodal_features.pkl of SDT, MultiEMO, CFN-ESA",
        "utterance_ids speakers labels texts audio visual sentences train test",
    ),
    _layout(
        "meld-sdt",
        "meld_multimodal_features.pkl of SDT",
        "utterance_ids speakers labels texts audio visual sentences train test unused",
    ),
    _layout(
        "meld-cfn-esa",
        "the meld file of CFN-ESA",
        "utterance_ids speakers labels sentiments texts audio visual sentences train test unused",
    ),
    _layout(
        "iemocap-cosmic",
        "iemocap_features_roberta.pkl of COSMIC, M3NET",
        "speakers labels texts sentences train test validation",
    ),
    _layout(
        "meld-cosmic",
        "meld_features_roberta.pkl of COSMIC, M3NET",
        "speakers labels sentiments texts sentences train test validation",
    ),
)


@dataclass(frozen=True)
class PeerFile:
    """A feature pickle whose layout was recognised; values are checked when they are asked for.

    `tables` maps a field to its value per dialogue, `listed` a split to the dialogues that the file lists.
    """

    path: Path
    layout: Layout
    tables: dict[str, dict[Id, Any]]
    listed: dict[str, frozenset[Id]]

    @property
    def texts(self) -> tuple[str, ...]:
        """Names of the text features that the file has."""
        return tuple(name for name in TEXTS if name in self.tables)

    def lengths(self, dialogues: Iterable[Id]) -> dict[Id, int]:
        """Return the number of utterances of each dialogue.

        Raises:
            CorpusError: a field lacks a dialogue, or has another number of utterances than the labels.
        """
        return {dialogue: self._length(dialogue) for dialogue in dialogues}

    def labels(self, dialogue: Id) -> list[str]:
        """Return the label names of a dialogue.

        Raises:
            CorpusError: a number that is no class of the corpus.
        """
        names = LABELS[self.layout.corpus]
        numbers = _numbers(self.tables["labels"][dialogue])
        if numbers is None:
            raise self._error(dialogue, "labels", "expected whole numbers")
        for row, number in enumerate(numbers):
            if not 0 <= number < len(names):
                raise self._error(
                    dialogue,
                    "labels",
                    f"utterance {row} has class {number}; {self.layout.corpus} has 0-{len(names) - 1}",
                )
        return [names[number] for number in numbers]

    def speakers(self, dialogue: Id) -> list[str | None]:
        """Return the speakers as the file names them, or `speaker_3` for a number or a one-hot vector.

        Raises:
            CorpusError: a vector with something else than one 1 (or zeros: nobody).
        """
        value = list(self.tables["speakers"][dialogue])
        kind = _kind_of_entry(value[0])
        if kind == "strings":
            return [name or None for name in self._strings(dialogue, "speakers")]
        if kind == "numbers":
            numbers = _numbers(value)
            if numbers is None:
                raise self._error(dialogue, "speakers", "expected letters, whole numbers or one-hot vectors")
            return [f"speaker_{number}" for number in numbers]
        one_hot = self._matrix(dialogue, "speakers")
        if not (np.isin(one_hot, (0, 1)).all() and (one_hot.sum(axis=1) <= 1).all()):
            raise self._error(dialogue, "speakers", "a vector is not one-hot")
        return [f"speaker_{row.argmax()}" if row.any() else None for row in one_hot]

    def sentences(self, dialogue: Id) -> list[str]:
        """Return the sentences, with bytes and wrongly decoded characters repaired.

        Raises:
            CorpusError: something else than text.
        """
        return self._strings(dialogue, "sentences")

    def media(self, dialogue: Id) -> list[str | None]:
        """Return the ids of the utterances where they are names: IEMOCAP's are the names of its clips."""
        value = self.tables.get("utterance_ids", {}).get(dialogue)
        if value is None or _kind_of_entry(value[0]) != "strings":
            return [None] * self._length(dialogue)
        return [name or None for name in self._strings(dialogue, "utterance_ids")]

    def features(
        self, field: str, dialogues: Sequence[Id]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Return the vectors (N, d) of a field, and which of them are present (N,): not NaN throughout.

        Raises:
            CorpusError: vectors of different widths, something else than numbers, or a vector with some
                NaN or infinity.
        """
        blocks: list[npt.NDArray[np.float32]] = []
        for dialogue in dialogues:
            block = self._matrix(dialogue, field)
            if blocks and block.shape[1] != blocks[0].shape[1]:
                width = (
                    f"{block.shape[1]} numbers, those of dialogue {dialogues[0]} have {blocks[0].shape[1]}"
                )
                raise self._error(dialogue, field, f"its vectors have {width}")
            broken = ~np.isfinite(block).all(axis=1) & ~np.isnan(block).all(axis=1)
            if broken.any():
                row = int(np.flatnonzero(broken)[0])
                raise self._error(dialogue, field, f"utterance {row} has NaN or infinity among its numbers")
            blocks.append(block)
        values = np.concatenate(blocks)
        return values, np.logical_not(np.isnan(values).all(axis=1))

    def _length(self, dialogue: Id) -> int:
        count = None
        for field in ("labels", *self.tables):
            if dialogue not in self.tables[field]:
                raise self._error(
                    dialogue, field, "the dialogue is missing, but a split of the file lists it"
                )
            value = self.tables[field][dialogue]
            if not _is_sequence(value):
                raise self._error(dialogue, field, f"expected one entry per utterance, not {_type(value)}")
            count = len(value) if count is None else count
            if len(value) != count:
                raise self._error(dialogue, field, f"{len(value)} utterances, but {count} labels")
        return count or 0

    def _strings(self, dialogue: Id, field: str) -> list[str]:
        value = list(self.tables[field][dialogue])
        for row, entry in enumerate(value):
            if _kind_of_entry(entry) != "strings":
                raise self._error(dialogue, field, f"utterance {row} is not text but {_type(entry)}")
        return [_text(entry).strip() for entry in value]

    def _matrix(self, dialogue: Id, field: str) -> npt.NDArray[np.float32]:
        value = self.tables[field][dialogue]
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiub":
            matrix = value
        else:
            rows = [_vector(entry) for entry in value]
            for row, vector in enumerate(rows):
                if vector is None:
                    raise self._error(dialogue, field, f"utterance {row} is not a vector of numbers")
            widths = sorted({len(vector) for vector in rows if vector is not None})
            if len(widths) > 1:
                found = " and ".join(map(str, widths))
                raise self._error(dialogue, field, f"its vectors have different widths: {found}")
            matrix = np.stack([vector for vector in rows if vector is not None])
        if not matrix.shape[1]:
            raise self._error(dialogue, field, "its vectors are empty")
        with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused
            return matrix.astype(np.float32)

    def _error(self, dialogue: Id, field: str, problem: str) -> CorpusError:
        return CorpusError(f"{self.path}: dialogue {dialogue}: {field}: {problem}")


def read_peer_file(path: Path) -> PeerFile:
    """Read a feature pickle and recognise its layout.

    Raises:
        CorpusError: the file is refused or damaged (`load_pickle`), or is none of the seven layouts.
    """
    content = load_pickle(path)
    if not isinstance(content, tuple | list):
        raise CorpusError(f"{path} holds {_type(content)}, not the tuple of dictionaries of a feature pickle")
    kinds = [_kind(field) for field in content]
    layout = next((known for known in LAYOUTS if known.fits(kinds)), None)
    if layout is None:
        raise _unknown(path, f"{len(kinds)} fields: {', '.join(kinds)}")
    named = dict(zip(layout.fields, content, strict=True))
    tables = {
        name: _keyed(path, name, field) for name, field in named.items() if name not in (*_SPLITS, *_UNREAD)
    }
    corpus = _corpus(path, tables["labels"])
    if corpus != layout.corpus:
        raise _unknown(path, f"the fields of {layout.name}, but dialogue ids like those of {corpus}")
    listed = {split: _ids(path, split, named[split]) for split in _SPLITS if split in named}
    return PeerFile(path, layout, tables, listed)


def _unknown(path: Path, found: str) -> CorpusError:
    known = "; ".join(map(str, LAYOUTS))
    return CorpusError(f"{path} is in none of the known layouts. It has {found}. Known are: {known}")


def _corpus(path: Path, labels: Mapping[Id, Any]) -> str:
    numbered = {isinstance(dialogue, int) for dialogue in labels}
    if len(numbered) != 1:
        raise CorpusError(f"{path}: dialogue ids are both numbers (MELD) and names (IEMOCAP)")
    return "meld" if numbered.pop() else "iemocap"


def _kind(field: object) -> str:
    if not isinstance(field, dict):
        flat = isinstance(field, np.ndarray) and field.ndim == 1
        return "ids" if flat or isinstance(field, list | tuple | set | frozenset) else _type(field)
    first = next((v[0] for v in field.values() if _is_sequence(v) and len(v)), None)
    return "nothing" if first is None else _kind_of_entry(first)


def _kind_of_entry(entry: object) -> str:
    if isinstance(entry, str | bytes):
        return "strings"
    if _is_sequence(entry):
        return "vectors"
    number = isinstance(entry, int | float | np.number) or (isinstance(entry, np.ndarray) and not entry.ndim)
    return "numbers" if number else _type(entry)


def _is_sequence(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _type(value: object) -> str:
    return type(value).__name__


def _keyed(path: Path, field: str, table: dict[object, Any]) -> dict[Id, Any]:
    keyed = {_id(path, field, key): value for key, value in table.items()}
    if len(keyed) != len(table):
        raise CorpusError(f"{path}: {field}: a dialogue is there twice")
    return keyed


def _ids(path: Path, field: str, collection: Iterable[object]) -> frozenset[Id]:
    return frozenset(_id(path, field, entry) for entry in collection)


def _id(path: Path, field: str, key: object) -> Id:
    if isinstance(key, str | bytes):
        name = _text(key).strip()
        return int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else name
    number = _numbers([key])
    if number is None:
        raise CorpusError(f"{path}: {field}: {_type(key)} is no dialogue id")
    return number[0]


def _numbers(value: Sequence[object]) -> list[int] | None:
    """Return whole numbers as such; None if there is anything else."""
    array = _vector(value)
    if (
        array is None
        or array.dtype.kind == "b"
        or not (np.isfinite(array) & (array == np.trunc(array))).all()
    ):
        return None
    return [int(number) for number in array.tolist()]


def _vector(entry: object) -> npt.NDArray[Any] | None:
    """Return a sequence of numbers as an array (d,); None if it is anything else."""
    if isinstance(entry, np.ndarray) and entry.dtype.kind == "O":
        entry = list(entry) if entry.ndim == 1 else None
    # Looking at the first entry keeps numpy from unfolding lists that hold each other many times over.
    if not _is_sequence(entry) or (len(entry) and _kind_of_entry(entry[0]) != "numbers"):
        return None
    try:
        array = np.asarray(entry)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if array.ndim == 1 and array.dtype.kind in "fiub" else None


def _text(value: str | bytes) -> str:
    """Undo what Python 2 and a wrong encoding did: UTF-8 or Windows-1252 bytes that were read as Latin-1."""
    try:
        raw = value if isinstance(value, bytes) else value.encode("latin-1")
    except UnicodeEncodeError:  # text with characters that no Latin-1 reading can have made
        return str(value).encode("utf-8", "replace").decode("utf-8")  # parquet refuses lone surrogates
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")
