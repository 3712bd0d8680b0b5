"""Label maps: from the names that a source gives its emotions to the classes that are wanted.

`label_maps.yaml` has the named ones; a file of the same form, `{old: new or null}`, is a map of one's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mmerc.config import load_yaml
from mmerc.corpora import records
from mmerc.errors import CorpusError


@dataclass(frozen=True, slots=True)
class LabelMap:
    """What becomes of each label; None: the utterance goes without one."""

    name: str
    table: Mapping[str, str | None]

    @property
    def labels(self) -> tuple[str, ...]:
        """The new labels, in class order: that in which the map first names them."""
        return tuple(dict.fromkeys(new for new in self.table.values() if new is not None))


def read_label_map(name: str | Path) -> LabelMap:
    """Return the map of that name, or the one in the YAML file of that name.

    Raises:
        CorpusError: neither a named map nor a file, or a file that is no map of at least two labels.
    """
    named = _named()
    if str(name) in named:
        return LabelMap(str(name), named[str(name)])
    path = Path(name)
    if not path.is_file():
        near = records.nearest(str(name), named)
        raise CorpusError(
            f"{str(name)!r} is no file, and no label map has that name{near}; there are: {', '.join(named)}"
        )
    try:
        content = load_yaml(records.read_bytes(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return LabelMap(path.stem, _checked(content, path))


def apply_label_map(labels: "pd.Series[str]", label_map: LabelMap, where: Path | str) -> "pd.Series[str]":
    """Return the new label of every utterance; where the old ones come from is for the message.

    Raises:
        CorpusError: the map says nothing of a label.
    """
    for label in labels.dropna().unique():
        if label not in label_map.table:
            raise CorpusError(
                f"{where}: the label map {label_map.name!r} says nothing of {label!r}"
                f"{records.nearest(label, label_map.table)}; it maps: {', '.join(label_map.table)}. Add the "
                f"label to a map of your own (`{label}: null` leaves its utterances without a label)"
            )
    return labels.map(label_map.table, na_action="ignore").astype(object)


def map_note(labels: "pd.Series[str]", label_map: LabelMap) -> str:
    """Return in one sentence what a map does to these labels."""
    counts = labels.value_counts().to_dict()
    changes = [
        f"{old} → {new or 'no label'} ({counts[old]})"
        for old, new in label_map.table.items()
        if old in counts and new != old
    ]
    return f"label map {label_map.name}: {', '.join(changes) or 'no label changes'}"


@cache
def _named() -> dict[str, dict[str, str | None]]:
    text = resources.files("mmerc.corpora").joinpath("label_maps.yaml").read_text(encoding="utf-8")
    maps: dict[str, dict[str, str | None]] = yaml.safe_load(text)
    return maps


def _checked(content: Any, path: Path) -> dict[str, str | None]:
    if not isinstance(content, dict):
        raise CorpusError(f"{path}: expected lines `old: new`, found {type(content).__name__}")
    for old, new in content.items():
        for name in (old, new) if new is not None else (old,):
            if not isinstance(name, str) or not name.strip():
                raise CorpusError(f"{path}: {old!r}: {name!r} is no name of a label: write it in quotes")
    if len({new for new in content.values() if new is not None}) < 2:
        raise CorpusError(f"{path}: a label map must lead to at least two labels")
    return dict(content)
