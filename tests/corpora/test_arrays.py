import contextlib
import hashlib
import io
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmerc.corpora.arrays import read_features
from mmerc.errors import FeatureError

VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)
PRESENT = np.array([True, False, True, True])


def _npy(path, values):
    np.save(path, values)


def _npz(path, values):
    np.savez(path, values=values)


def _safetensors(path, values):
    save_file({"values": values}, path)


def _columns(path, values):
    pd.DataFrame(values, columns=[f"f{i}" for i in range(values.shape[1])]).to_parquet(path)


def _lists(path, values):
    pd.DataFrame({"values": list(values)}).to_parquet(path)


WRITERS = [
    ("a.npy", _npy),
    ("a.npz", _npz),
    ("a.safetensors", _safetensors),
    ("a.parquet", _columns),
    ("b.parquet", _lists),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_every_kind_of_file_gives_the_same_table(tmp_path, name, write):
    values = VALUES.copy()
    values[2] = np.nan
    write(tmp_path / name, values)
    features = read_features(tmp_path / name)
    np.testing.assert_array_equal(features.values, values)
    assert features.values.dtype == np.float32
    assert features.present.tolist() == [True, True, False, True]
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert features.recipe.items() >= {"kind": "imported", "file": name, "sha256": digest}.items()


@pytest.mark.parametrize(("name", "write"), WRITERS)
def test_a_number_that_is_not_finite_is_named_by_row_and_column(tmp_path, name, write):
    values = VALUES.copy()
    values[1, 2] = np.nan
    values[3, :2] = np.inf
    write(tmp_path / name, values)
    with pytest.raises(FeatureError, match=r"2 rows .*row 1: column 2; row 3: columns 0, 1"):
        read_features(tmp_path / name)


def test_present_is_read_beside_the_values(tmp_path):
    values = VALUES.copy()
    values[1, 0] = np.inf  # of no interest: the row is absent
    np.savez(tmp_path / "a.npz", feats=values, present=PRESENT)
    save_file({"feats": values, "present": PRESENT}, tmp_path / "a.safetensors")
    pd.DataFrame({"x": values[:, 0], "present": PRESENT}).to_parquet(tmp_path / "a.parquet")
    for name in ("a.npz", "a.safetensors", "a.parquet"):
        np.testing.assert_array_equal(read_features(tmp_path / name).present, PRESENT)


def test_a_key_chooses_among_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", one=VALUES, two=VALUES + 1, meta=np.array([{}], dtype=object))
    with pytest.raises(FeatureError, match="numpy archive of numbers"):
        read_features(tmp_path / "a.npz")
    features = read_features(tmp_path / "a.npz", "two")
    np.testing.assert_array_equal(features.values, VALUES + 1)
    assert features.recipe["key"] == "two"
    save_file({"one": VALUES, "two": VALUES}, tmp_path / "a.safetensors")
    with pytest.raises(FeatureError, match="which array holds the features"):
        read_features(tmp_path / "a.safetensors")
    with pytest.raises(FeatureError, match=r"no array 'tow' \(did you mean 'two'\?\)"):
        read_features(tmp_path / "a.safetensors", "tow")


def test_one_number_per_utterance_is_a_table_of_width_one(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(4))
    assert read_features(tmp_path / "a.npy").values.shape == (4, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 3, 2)), "reduce it to one vector"),
        (np.zeros((4, 0)), "shape"),
        (np.array(["a", "b"]), "expected numbers"),
        (np.zeros(3, dtype=complex), "expected numbers"),
        (np.full((2, 2), 1e300), "NaN or infinity"),
    ],
)
def test_arrays_that_are_no_feature_table_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FeatureError, match=message):
        read_features(tmp_path / "a.npy")


class _Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pkl", "a.safetensors", "a.parquet"])
def test_pickles_are_refused_under_any_name_and_never_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(_Trap()))
    with pytest.raises(FeatureError, match=name):
        read_features(tmp_path / name)


def test_arrays_of_objects_are_refused_and_never_run(tmp_path):
    trap = np.empty(1, dtype=object)
    trap[0] = _Trap()
    np.save(tmp_path / "a.npy", trap, allow_pickle=True)
    np.savez(tmp_path / "a.npz", trap)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(FeatureError, match="numbers"):
            read_features(tmp_path / name)


def test_parquet_with_columns_that_are_no_features_is_refused(tmp_path):
    pd.DataFrame({"utterance_index": [0], "x": [1.0]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"who": ["Ross"], "x": [1.0]}).to_parquet(tmp_path / "b.parquet")
    pd.DataFrame({"x": [[1.0, 2.0], [1.0]]}).to_parquet(tmp_path / "c.parquet")
    for name, message in (("a", "'utterance_index' is no feature"), ("b", "'who'"), ("c", "row 1 has 1")):
        with pytest.raises(FeatureError, match=message):
            read_features(tmp_path / f"{name}.parquet")


def _numpy_bytes():
    file = io.BytesIO()
    np.save(file, VALUES)
    return file.getvalue()


@settings(deadline=None)
@given(
    st.binary(max_size=120),
    st.sampled_from(
        [b"", b"\x93NUMPY\x01\x00", _numpy_bytes()[:60], _numpy_bytes()[:128], b"PK\x03\x04", b"PAR1"]
    ),
    st.sampled_from([".npy", ".npz", ".safetensors", ".parquet"]),
)
def test_random_bytes_end_in_a_feature_error(tmp_path_factory, content, start, suffix):
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.write_bytes(start + content)
    with contextlib.suppress(FeatureError):
        assert len(read_features(path).values)


# What unfolds, and headers that lie


def _zip(path, name, content, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(name, content)


def _array(shape, data):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


def test_an_archive_of_zeros_is_read(tmp_path):
    zeros = np.zeros((500, 2000), np.float32)  # a thousandth of it in the file
    np.savez_compressed(tmp_path / "a.npz", values=zeros)
    assert (tmp_path / "a.npz").stat().st_size * 500 < zeros.nbytes
    np.testing.assert_array_equal(read_features(tmp_path / "a.npz").values, zeros)


def test_what_unfolds_to_far_more_than_the_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mmerc.corpora.arrays.ANYWAY", 100_000)
    zeros = np.zeros((100, 1000), np.float32)
    np.savez_compressed(tmp_path / "a.npz", values=zeros)
    with pytest.raises(FeatureError, match=r"would unfold to 400128, .* 'values.npy' .*without compression"):
        read_features(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", values=zeros)  # the way out
    np.testing.assert_array_equal(read_features(tmp_path / "b.npz").values, zeros)
    pd.DataFrame({"a": np.zeros(100_000)}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(FeatureError, match=r"would unfold to 800000, .* 'a' \(100000 values\)"):
        read_features(tmp_path / "c.parquet")


@pytest.mark.parametrize("shape", [(10**12, 4), (2, 5), (1, 4), (2**62, 2**62)])
def test_a_header_that_lies_about_the_size_is_refused_before_anything_is_read(tmp_path, shape):
    content = _array(shape, bytes(32))
    (tmp_path / "a.npy").write_bytes(content)
    _zip(tmp_path / "a.npz", "values.npy", content)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(FeatureError, match=r"the header of .* speaks of float32 .* but 32 follow"):
            read_features(tmp_path / name)
