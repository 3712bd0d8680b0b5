"""A feature file of a corpus, read where it lies on the disk: it may be larger than memory.

The file is mapped. A page that was read would stay in the process's memory for as long as nothing else wants
the room; `Pages` gives the pages back. The system still has them, so that reading them again costs little.
"""

import json
import mmap
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmerc.errors import CorpusError
from mmerc.system import give_back, map_copy

SMALL = 64 * 2**20  # bytes of a file that may stay in memory as a whole
DTYPES = {"F32": torch.float32, "BOOL": torch.bool}


class Pages:
    """The pages of a mapped file that are in the process's memory."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._many = len(mapping) > SMALL

    def give_back(self) -> None:
        """Give them back to the system, unless they cannot be many: after every batch, and every chunk."""
        if self._many:
            give_back(self._mapping)


class FeatureFile(NamedTuple):
    """The tables of a feature file, which are mapped: what is written to them is not written to the file."""

    values: Tensor  # (N, d) float32
    present: Tensor  # (N,) bool
    pages: Pages


def open_features(path: Path, rows: int, width: int) -> FeatureFile:
    """Map a feature file that has so many rows and columns.

    Raises:
        CorpusError: it is missing, broken or of another shape.
    """
    expected = {"values": ("F32", [rows, width]), "present": ("BOOL", [rows])}
    try:
        with safe_open(path, framework="np"):  # refuses a header that does not fit the size of the file
            pass
        with path.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(size))
            mapping = map_copy(handle)
        found = {name: (header[name]["dtype"], header[name]["shape"]) for name in expected}
        starts = {name: 8 + size + header[name]["data_offsets"][0] for name in expected}
    except FileNotFoundError:
        raise CorpusError(f"{path} is missing: import the corpus again") from None
    except KeyError as error:
        raise CorpusError(f"{path} cannot be read (no table {error}): import the corpus again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CorpusError(f"{path} cannot be read ({error}): import the corpus again") from None
    if found != expected:
        raise CorpusError(
            f"{path}: {_told(found)}, but corpus.json and utterances.parquet say {_told(expected)}"
        )
    values, present = (_tensor(mapping, starts[name], *expected[name]) for name in expected)
    return FeatureFile(values, present, Pages(mapping))


def _told(tables: Mapping[str, tuple[str, list[int]]]) -> str:
    return ", ".join(f"{name} {dtype} {tuple(shape)}" for name, (dtype, shape) in tables.items())


def _tensor(mapping: mmap.mmap, start: int, dtype: str, shape: list[int]) -> Tensor:
    return torch.frombuffer(mapping, dtype=DTYPES[dtype], count=prod(shape), offset=start).reshape(shape)
