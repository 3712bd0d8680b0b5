"""Feature files that others computed: one row per utterance, as .npy, .npz, .safetensors or Parquet."""

import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file

from mmerc.corpora.records import nearest, sha256
from mmerc.corpus import SCHEMA, Features
from mmerc.errors import FeatureError
from mmerc.system import file_name

# What numpy raises on bytes that are no array of its own: a broken header is parsed as Python text.
_NUMPY_ERRORS = (
    ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, MemoryError, OverflowError,
    NotImplementedError, RuntimeError, TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
SHOWN = 5
# What an archive may unfold to: zeros shrink a thousandfold, so that a small file may stand for much, and
# much for little only where little is meant. 1 GiB is 10 000 utterances with 26 000 numbers each.
ANYWAY, TIMES = 1 << 30, 100


def read_features(path: Path, key: str | None = None) -> Features:
    """Read a feature table (N, d) and, where the file has one, the array `present` (N,).

    A row that is NaN throughout counts as absent. In a file with several arrays (Parquet: list columns)
    `key` names the one to take; by default that is `values`, or the only one beside `present`.

    Raises:
        FeatureError: the file is missing, broken, a pickle, not numeric, not a table, or a row that is
            present holds NaN or infinity (the first rows and columns are listed).
    """
    if not path.is_file():
        raise FeatureError(f"{path} does not exist, or is not a file")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        hint = "; feature pickles: `mmerc corpus import pickle`" if suffix in (".pkl", ".pickle") else ""
        raise FeatureError(
            f"{path}: unknown kind of file {suffix!r}; features are read from {', '.join(_READERS)}{hint}"
        )
    arrays = _READERS[suffix](path, key)
    marked = arrays.pop("present", None)
    name = _chosen(path, arrays, key)
    values = _table(path, arrays[name])
    present = np.logical_not(np.isnan(values).all(axis=1))
    if marked is not None:
        present &= _flags(path, marked, len(values))
    _require_finite(path, values, present)
    recipe: dict[str, Any] = {"kind": "imported", "file": path.name, "sha256": sha256(path)}
    return Features(values, present, recipe | ({} if name == "" else {"key": name}))


def require_modality_name(modality: str) -> None:
    """Refuse a name that cannot be that of a file.

    Raises:
        FeatureError: it holds more than letters, digits, '-' and '_', or is a device of Windows.
    """
    if not re.fullmatch(r"\w[\w-]*", modality):
        raise FeatureError(f"modality {modality!r}: a name may hold letters, digits, '-' and '_' only")
    if file_name(modality) != modality:
        raise FeatureError(f"modality {modality!r}: Windows has no files of that name; choose another")


def _read_npy(path: Path, key: str | None) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            _require_true_header(file, path.stat().st_size, "the file")
            file.seek(0)
            array = np.lib.format.read_array(file, allow_pickle=False)
    except _NUMPY_ERRORS as error:
        raise FeatureError(f"{path} is not a numpy array of numbers: {error}") from None
    if key is not None:
        raise FeatureError(f"{path} holds a single array without a name: leave the key {key!r} out")
    return {"": array}


def _read_npz(path: Path, key: str | None) -> dict[str, npt.NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # np.load would also take a single array under this name
                raise ValueError("it is no zip file")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                wanted = [n for n in file.files if n in (key, "present")] if key in file.files else file.files
                _require_true_members(path, file.zip, wanted)
                return {name: file[name] for name in wanted}
    except _NUMPY_ERRORS as error:
        raise FeatureError(f"{path} is not a numpy archive of numbers: {error}") from None


def _require_true_members(path: Path, archive: zipfile.ZipFile, names: Sequence[str]) -> None:
    """Refuse members that unfold to too much, and such as are not the arrays that they say they are."""
    known = set(archive.namelist())
    members = [archive.getinfo(name if name in known else f"{name}.npy") for name in names]
    if members:
        largest = max(members, key=lambda member: member.file_size)
        what = f"{largest.filename!r} ({largest.compress_size} bytes, unfolded {largest.file_size})"
        _require_modest(path, sum(member.file_size for member in members), what, "numpy.savez")
    for member in members:
        with archive.open(member) as stream:
            _require_true_header(stream, member.file_size, repr(member.filename))


def _require_modest(path: Path, unfolded: int, largest: str, way_out: str) -> None:
    """Refuse what would unfold to far more than the file: it would fill the memory.

    Raises:
        FeatureError: it is more than `ANYWAY`, and more than `TIMES` the file.
    """
    size = path.stat().st_size
    if unfolded > max(ANYWAY, TIMES * size):
        raise FeatureError(
            f"{path} has {size} bytes and would unfold to {unfolded}, more than {TIMES} times as many, "
            f"above all {largest}: if it is meant so, store it without compression ({way_out})"
        )


def _require_true_header(stream: IO[bytes], size: int, where: str) -> None:
    """Refuse an array whose header speaks of more or fewer bytes than the `size` of its file leaves."""
    version = np.lib.format.read_magic(stream)
    if version > (2, 0):  # these are for names of fields
        raise ValueError(f"{where} holds no plain numbers")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = read(stream)
    said, held = math.prod(shape) * kind.itemsize, size - stream.tell()
    if said != held and not kind.hasobject:  # objects are refused by numpy
        raise ValueError(f"the header of {where} speaks of {kind} {shape}, {said} bytes, but {held} follow")


def _read_safetensors(path: Path, key: str | None) -> dict[str, npt.NDArray[Any]]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        # Also bfloat16 and float8, which have no numpy type.
        raise FeatureError(f"{path} is not a safetensors file that numpy can hold: {error}") from None


def _read_parquet(path: Path, key: str | None) -> dict[str, npt.NDArray[Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _require_modest_columns(path, file.metadata)
            frame = file.read().to_pandas().reset_index(drop=True)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise FeatureError(f"{path} is not a Parquet file: {error}") from None
    frame.columns = frame.columns.map(str)
    present = {"present": frame.pop("present").to_numpy()} if "present" in frame else {}
    nested = {name: c for name, c in frame.items() if c.map(np.ndim).eq(1).any()} if len(frame) else {}
    if nested:
        return {str(name): _stacked(path, str(name), column) for name, column in nested.items()} | present
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) or name in SCHEMA.names:
            raise FeatureError(f"{path}: column {name!r} is no feature: leave only numeric features in it")
    if key is not None:
        raise FeatureError(f"{path} has one column per feature, no list columns: leave the key {key!r} out")
    return {"": frame.to_numpy(dtype=np.float64, na_value=np.nan), **present}


def _require_modest_columns(path: Path, parquet: pq.FileMetaData) -> None:
    """Refuse columns that repeat a few values billions of times."""
    chunks = [
        parquet.row_group(group).column(column)
        for group in range(parquet.num_row_groups)
        for column in range(parquet.num_columns)
    ]
    if chunks:
        largest = max(chunks, key=lambda chunk: chunk.num_values)
        what = f"{largest.path_in_schema!r} ({largest.num_values} values)"
        _require_modest(path, 8 * sum(chunk.num_values for chunk in chunks), what, "as .npy")


def _stacked(path: Path, name: str, column: "pd.Series[Any]") -> npt.NDArray[Any]:
    lengths = column.map(np.size, na_action="ignore").dropna()
    width = int(lengths.iloc[0])
    wrong = np.flatnonzero((lengths != width).to_numpy())
    if len(wrong):
        row = lengths.index[wrong[0]]
        raise FeatureError(f"{path}: {name!r}: row {row} has {int(lengths[row])} numbers, others {width}")
    empty = np.full(width, np.nan)
    try:
        return np.stack([empty if v is None else np.asarray(v, dtype=np.float64) for v in column])
    except (ValueError, TypeError) as error:
        raise FeatureError(f"{path}: column {name!r} is not numeric: {error}") from None


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".parquet": _read_parquet,
}


def _chosen(path: Path, arrays: dict[str, npt.NDArray[Any]], key: str | None) -> str:
    if key is not None:
        if key not in arrays:
            have = ", ".join(arrays)
            raise FeatureError(f"{path} has no array {key!r}{nearest(key, arrays)}; it has: {have}")
        return key
    if "values" in arrays:
        return "values"
    if len(arrays) != 1:
        have = ", ".join(arrays) or "none"
        raise FeatureError(f"{path}: which array holds the features? It has: {have}. Name it (--key)")
    return next(iter(arrays))


def _table(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype.kind not in "fiub":
        raise FeatureError(f"{path} holds {array.dtype}, expected numbers")
    if array.ndim == 1:
        array = array[:, None]  # a single feature per utterance
    if array.ndim != 2 or 0 in array.shape:
        hint = "; reduce it to one vector per utterance first" if array.ndim > 2 else ""
        raise FeatureError(f"{path} has shape {array.shape}, expected (utterances, features){hint}")
    with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which is refused by row and column
        return np.ascontiguousarray(array, dtype=np.float32)


def _flags(path: Path, flags: npt.NDArray[Any], count: int) -> npt.NDArray[np.bool_]:
    if flags.shape != (count,) or not (flags.dtype.kind in "biu" and np.isin(flags, (0, 1)).all()):
        raise FeatureError(f"{path}: `present` must hold one true or false for each of {count} rows")
    return flags.astype(bool)


def _require_finite(path: Path, values: npt.NDArray[np.float32], present: npt.NDArray[np.bool_]) -> None:
    bad = ~np.isfinite(values) & present[:, None]
    rows = np.flatnonzero(bad.any(axis=1))
    if not len(rows):
        return
    first = "; ".join(f"row {row}: {_listed(np.flatnonzero(bad[row]))}" for row in rows[:SHOWN])
    more = f"; and {len(rows) - SHOWN} more rows" if len(rows) > SHOWN else ""
    raise FeatureError(
        f"{path}: {len(rows)} rows (counted from 0) hold NaN or infinity among numbers: {first}{more}. "
        "Compute them again, or make the whole row NaN where the modality is missing"
    )


def _listed(columns: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(str(c) for c in columns[:SHOWN])
    more = f" and {len(columns) - SHOWN} more" if len(columns) > SHOWN else ""
    return f"{'column' if len(columns) == 1 else 'columns'} {shown}{more}"
