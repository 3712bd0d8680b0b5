"""Measurements that were made before, in one SQLite file: killed at any moment, it keeps what it had."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mmerc.errors import FeatureError
from mmerc.features.recipe import Measured

_TABLE = "CREATE TABLE IF NOT EXISTS measured (key BLOB PRIMARY KEY, vector BLOB, reason TEXT) WITHOUT ROWID"
_AT_ONCE = 500  # keys per query; SQLite takes 999 at least


class Cache:
    """Measurements by key; without a path it lives in memory.

    The key of a measurement holds the content of the files it comes from, the time span and the recipe:
    nothing ever has to be thrown away, and a renamed file is still known.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", timeout=60)
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                self._connection.execute(_TABLE)
            except sqlite3.Error:
                self._connection.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from None

    def __enter__(self) -> "Cache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Measured]:
        """Return the measurements that are there.

        Raises:
            FeatureError: the file is broken.
        """
        found = {}
        try:
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._connection.execute(
                    f"SELECT key, vector, reason FROM measured WHERE key IN ({marks})", part
                )
                for key, vector, reason in rows:
                    values = None if vector is None else np.frombuffer(vector, dtype="<f4").astype(np.float32)
                    found[key] = Measured(values, reason)
        except sqlite3.Error as error:
            raise self._broken(error) from None
        return found

    def keep(self, measured: Iterable[tuple[bytes, Measured]]) -> None:
        """Write measurements; after this call they survive.

        Raises:
            FeatureError: the file cannot be written.
        """
        rows = [
            (key, None if m.values is None else m.values.astype("<f4").tobytes(), m.reason)
            for key, m in measured
        ]
        try:
            with self._connection:
                self._connection.executemany("INSERT OR REPLACE INTO measured VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> FeatureError:
        return FeatureError(
            f"the cache of features {self.path} cannot be used ({error}): choose another with --cache, "
            "or delete it, and what it held is computed again"
        )


def key(*parts: Any) -> bytes:
    """Return the key of a measurement: a hash of JSON-ready parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
