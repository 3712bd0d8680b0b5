import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mmerc.errors import FeatureError
from mmerc.extraction.cache import Cache, key
from mmerc.features.recipe import Measured

VECTORS = st.none() | arrays(np.float32, st.integers(0, 5), elements=st.floats(width=32))


@given(VECTORS, st.text(max_size=5))
def test_what_is_kept_is_found(values: np.ndarray | None, reason: str) -> None:
    with Cache(None) as cache:
        cache.keep([(b"a", Measured(values, reason))])
        found = cache.find([b"a", b"b"])
    assert list(found) == [b"a"]
    assert found[b"a"].reason == reason
    if values is None:
        assert found[b"a"].values is None
    else:
        np.testing.assert_array_equal(found[b"a"].values, values, strict=True)


def test_it_survives(tmp_path: Path) -> None:
    path = tmp_path / "below" / "features.sqlite"
    keys = [key(n) for n in range(1200)]  # more than a query takes
    with Cache(path) as cache:
        cache.keep((k, Measured(np.full(2, n, np.float32))) for n, k in enumerate(keys))
        with Cache(path) as other:  # two processes at once
            other.keep([(b"else", Measured(None, "silence"))])
    with Cache(path) as cache:
        found = cache.find([*keys, b"else"])
    assert [found[k].values[0] for k in keys] == list(range(1200))
    assert found[b"else"] == Measured(None, "silence")


def test_the_key_tells_apart() -> None:
    parts = [
        ("sha", 0, None, "", "{}"),
        ("sha", 0, 1000, "", "{}"),
        ("sha", 0, None, "left", "{}"),
        ("sha", 0, None, "", "{1}"),
        ("other", 0, None, "", "{}"),
    ]
    assert len({key(*p) for p in parts}) == len(parts)
    assert key(["a", 1], "b") == key(["a", 1], "b") != key("a", [1, "b"])


@pytest.mark.parametrize("content", [b"this is no database at all, but longer than a header" * 20, None])
def test_a_file_that_is_no_cache(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "features.sqlite"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(FeatureError, match=r"features\.sqlite cannot be used .*--cache"):
        Cache(path).__enter__().find([b"a"])


def test_a_cache_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "features.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE measured (something INTEGER)")
    connection.close()
    with Cache(path) as cache, pytest.raises(FeatureError, match="cannot be used"):
        cache.find([b"a"])
