import builtins
import collections
import copyreg
import functools
import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmerc.corpora.unpickling import load_pickle
from mmerc.errors import CorpusError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "float64": np.linspace(0, 1, 6),
    "float32": np.ones((2, 3), np.float32),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    "big_endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "text": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "objects": np.array([np.arange(2), [1, 2], "x", None], dtype=object),
    "no_rows": np.zeros((0, 3)),
    "no_dimensions": np.array(5),
}
VALUES: dict[str, Any] = {
    "numbers": [1, -1, 2**70, 1.5, float("inf"), True, None],
    "scalars": [np.float32(1.5), np.int64(3), np.str_("é"), np.str_(""), np.bytes_(b"x"), np.bool_(True)],
    "strings": ["", "é’", b"", b"\xff\0", "a\nb"],
    "sets": [{1, 2}, frozenset({"a"}), set()],
    "keys": {1: (), "a": (1,), b"b": (1, 2), (1, "a"): (1, 2, 3), np.int64(7): (1, 2, 3, 4)},
    "dicts": [collections.OrderedDict(a=1, b=2), collections.defaultdict(list, {1: [2]})],
}


def load(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "features.pkl"
    path.write_bytes(content)
    return load_pickle(path)


def refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(CorpusError) as caught:
        load(tmp_path, content)
    assert "features.pkl" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_load_as_pickle_loads_them(tmp_path: Path, name: str, protocol: int) -> None:
    content = pickle.dumps(ARRAYS[name], protocol)
    found, expected = load(tmp_path, content), pickle.loads(content)  # noqa: S301
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert all(np.array_equal(a, b) for a, b in zip(found.ravel(), expected.ravel(), strict=True))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_containers_and_scalars_load_as_they_are(tmp_path: Path, name: str, protocol: int) -> None:
    found = load(tmp_path, pickle.dumps(VALUES[name], protocol))
    assert found == VALUES[name]
    if name == "scalars":
        assert [type(x) for x in found] == [type(x) for x in VALUES[name]]
    if name == "dicts":
        assert {type(x) for x in found} == {dict}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_array_in_two_places_stays_one(tmp_path: Path, protocol: int) -> None:
    array = np.arange(3)
    first, second = load(tmp_path, pickle.dumps([array, array], protocol))
    assert first is second


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_arrays_of_numpy_1(tmp_path: Path, protocol: int) -> None:
    content = pickle.dumps([np.arange(3.0), np.float32(2)], protocol)
    if protocol == 4:  # lengths of names and of the frame are part of the bytes: write them without a frame
        content = b"\x80\x04" + content[11:].replace(
            b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
        )
    else:
        content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core" in content
    array, scalar = load(tmp_path, content)
    assert array.tolist() == [0, 1, 2]
    assert scalar == 2


def python_2_array(values: "np.ndarray[Any, Any]") -> bytes:
    """Return what `cPickle.dumps(values, 2)` of Python 2 writes: byte strings, dtype flags as 0 and 1."""
    raw, kind = values.tobytes(), values.dtype.str[1:].encode()
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        + b"(K\x01"
        + b"".join(b"K" + bytes([n]) for n in values.shape)
        + (b"\x85" if values.ndim == 1 else b"\x86")
        + b"cnumpy\ndtype\nq\x04U"
        + bytes([len(kind)])
        + kind
        + b"K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb."
    )


def test_arrays_and_strings_of_python_2(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [np.pi, 1e300]])
    assert np.array_equal(load(tmp_path, python_2_array(values)), values)
    assert load(tmp_path, b"S'it\\x92s'\np0\n.") == "it\x92s"  # Latin-1
    assert load(tmp_path, b"\x80\x02c__builtin__\nset\n]K\x01a\x85R.") == {1}
    text_mode = (
        b"cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'i2'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x00\\xff\\x00'\ntb."
    )
    assert load(tmp_path, text_mode).tolist() == [1, 255]


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Plain:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_code_is_refused_by_name_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    sentinel = tmp_path / "ran"
    command = f"touch {sentinel}"
    evil: dict[str, Any] = {
        f"{os.system.__module__}.system": Call(os.system, command),
        "eval": Call(eval, f"open({str(sentinel)!r}, 'w')"),
        "exec": np.array([Call(exec, f"open({str(sentinel)!r}, 'w')")], dtype=object),
        "getattr": {"a": [Call(builtins.getattr, Path(sentinel), "touch")]},
        "functools.partial": (functools.partial(os.system, command),),
        "Plain": {"key": Plain()},
        "complex": 1j,
        "Fraction": [Call(__import__("fractions").Fraction, 1, 2)],
    }
    for name, value in evil.items():
        assert name in refusal(tmp_path, pickle.dumps(value, protocol))
    assert not sentinel.exists()


NAMES = {  # what hand-made streams ask for → the name that the message has to hold
    "inst": (b"(S'touch SENTINEL'\nios\nsystem\n.", "os.system"),
    "inst of an admitted class": (b"(ibuiltins\nset\n.", "builtins.set"),
    "obj": (b"(cos\nsystem\nU\x05touch" + b"o.", "os.system"),
    "obj of an admitted class": (b"(cbuiltins\nset\no.", "builtins.set"),
    "newobj": (b"\x80\x02csubprocess\nPopen\nU\x02ls\x85\x81.", "subprocess.Popen"),
    "newobj of an admitted class": (b"\x80\x02cnumpy\nndarray\n)\x81.", "numpy.ndarray"),
    "newobj_ex": (b"\x80\x04cnumpy\nndarray\n)}\x92.", "numpy.ndarray"),
    "nested name": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "numpy.ndarray.__init__"),
    "stack global": (b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.", "builtins.getattr"),
    "numpy's own loader": (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
    "state of a list": (b"]}S'append'\nNsb.", "list"),
    "state of a constructor": (b"cbuiltins\nset\n}b.", "builtins.set"),
    "a call of a number": (b"K\x01)R.", "int"),
    "persistent id": (b"Pos.system\n.", "persistent"),
    "binary persistent id": (b"K\x01Q.", "persistent"),
    "extension 1": (b"\x80\x02\x82\x11.", "extension code 17"),
    "extension 2": (b"\x80\x02\x83\x11\x00.", "extension code 17"),
    "extension 4": (b"\x80\x02\x84\x11\x00\x00\x00.", "extension code 17"),
    "codec": (b"c_codecs\nencode\n(Vabc\nVrot13\ntR.", "rot13"),
    "codec by default": (b"c_codecs\nencode\n(S'x'\nK\x01tR.", "_codecs.encode"),
    "array of another class": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nset\n(K\x00tS'b'\ntR.",
        "builtins.set",
    ),
    "huge array": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1000000000000L\ntS'b'\ntR.",
        "_reconstruct",
    ),
    "huge array, directly": (b"cnumpy\nndarray\n((L1000000000000L\nttR.", "numpy.ndarray"),
    "structured dtype": (b"cnumpy\ndtype\n(S'V8'\nI0\nI1\ntR.", "numpy.dtype(V8)"),
    "dtype of an object": (b"cnumpy\ndtype\n(cbuiltins\nset\nI0\nI1\ntR.", "numpy.dtype"),
    "dtype of fields": (
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\nt}I8\nI1\nI63\ntb.",
        "numpy.dtype",
    ),
    "object out of memory": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.",
        "numpy.dtype(O)",
    ),
    "object array out of a buffer": (
        b"cnumpy._core.numeric\n_frombuffer\n(C\x0812345678cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I1\ntS'C'\ntR.",
        "numpy.dtype(O)",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_hand_made_streams_are_refused_by_name(tmp_path: Path, case: str) -> None:
    stream, name = NAMES[case]
    sentinel = tmp_path / "ran"
    message = refusal(tmp_path, stream.replace(b"SENTINEL", str(sentinel).encode()))
    assert name in message
    assert "is refused" in message
    assert not sentinel.exists()


def test_a_registered_extension_is_refused_too(tmp_path: Path) -> None:
    copyreg.add_extension("os", "system", 17)
    try:
        assert "extension code 17" in refusal(tmp_path, b"\x80\x02\x82\x11U\x02ls\x85R.")
    finally:
        copyreg.remove_extension("os", "system", 17)


DTYPE = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    "stream",
    [
        ARRAY + b"(I1\n(L1000000000000L\nt" + DTYPE % b"f8" + b"I00\nS'12345678'\ntb.",
        ARRAY + b"(I1\n(I-1\nt" + DTYPE % b"f8" + b"I00\nS'12345678'\ntb.",
        ARRAY + b"(I1\n(I0\nL1000000000000000000000000L\nt" + DTYPE % b"f8" + b"I00\nS''\ntb.",
        ARRAY + b"(I1\n(I9\nt" + DTYPE % b"O8" + b"I00\n(I1\nltb.",  # numpy would read past the list
        ARRAY + b"(I1\n(I1\nt" + DTYPE % b"O8" + b"I00\nS'12345678'\ntb.",
        ARRAY + b"(I1\n(I1\nt" + b"NI00\nS'12345678'\ntb.",
        ARRAY + b"Nb.",
        DTYPE % b"f8" + b"Nb.",
        DTYPE % b"S9999999999" + b".",
        b"B\xff\xff\xff\xffabc.",  # bytes that are said to be long
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**64 - 1) + b"abc.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"abc.",
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"I" + b"9" * 5000 + b"\n.",
        b"}](I1\nes.",
        b"}(]I1\nu.",  # a list as key
        b"(" * 100_000 + b".",
        b"0",
        b"",
        b"\x80\x09N.",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_lying_and_damaged_streams_are_refused(tmp_path: Path, stream: bytes) -> None:
    refusal(tmp_path, stream)


def peak_of_refusal(tmp_path: Path, content: bytes) -> int:
    tracemalloc.start()
    try:
        refusal(tmp_path, content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_stays_in_proportion_to_the_file(tmp_path: Path) -> None:
    # One tenth of a megabyte of text, turned into bytes again and again.
    text = b"x" * 100_000
    head = (
        b"c_codecs\nencode\nq\x00(X" + struct.pack("<I", len(text)) + text + b"X\x06\x00\x00\x00latin1tq\x01"
    )
    assert "memory bomb" in refusal(tmp_path, head + b"h\x00h\x01R" * 10_000 + b".")
    assert peak_of_refusal(tmp_path, head + b"h\x00h\x01R" * 10_000 + b".") < 20_000_000
    assert peak_of_refusal(tmp_path, b"Nr\xff\xff\xff\xff") < 1_000_000  # a memo of four billion places


def test_deep_nesting_does_no_harm(tmp_path: Path) -> None:
    deep = load(tmp_path, b"]" * 50_000 + b"a" * 49_999 + b".")
    assert len(deep) == 1
    nested = b"K\x01" + b"2\x86" * 100  # a tuple whose hash would take 2 ** 100 steps
    refusal(tmp_path, b"}" + nested + b"Ns.")
    refusal(tmp_path, b"\x80\x04\x8f(" + nested + b"\x90.")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist"):
        load_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(CorpusError, match="cannot be read"):
        load_pickle(tmp_path)


VALID = [pickle.dumps([ARRAYS, VALUES], protocol) for protocol in PROTOCOLS] + [python_2_array(np.eye(3))]
PATIENT = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def load_or_refuse(tmp_path: Path, content: bytes) -> None:
    try:
        load(tmp_path, content)
    except CorpusError as error:
        assert "features.pkl" in str(error)  # noqa: PT017 -- loading may succeed


@PATIENT
@given(content=st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_a_clear_error(tmp_path: Path, content: bytes) -> None:
    load_or_refuse(tmp_path, content)


OPCODES = [v for k, v in vars(pickle).items() if k.isupper() and isinstance(v, bytes) and len(v) == 1]
PIECES = [
    *OPCODES,
    b"os\nsystem\n",
    b"numpy\ndtype\n",
    b"numpy\nndarray\n",
    b"builtins\nset\n",
    b"1\n",
    b"'f8'\n",
]


@PATIENT
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=60))
def test_random_opcodes_end_in_a_value_or_a_clear_error(tmp_path: Path, pieces: list[bytes]) -> None:
    load_or_refuse(tmp_path, b"".join(pieces) + b".")


@PATIENT
@given(
    content=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    cut=st.floats(0, 1),
)
def test_damaged_pickles_end_in_a_value_or_a_clear_error(
    tmp_path: Path, content: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(content)
    for place, byte in changes:
        damaged[int(place * len(damaged))] = byte
    load_or_refuse(tmp_path, bytes(damaged))
    load_or_refuse(tmp_path, bytes(damaged[: int(cut * len(damaged))]))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for content in VALID[::2]:
        for length in range(0, len(content), 7):
            refusal(tmp_path, content[:length])


def test_protocol_5_buffers_outside_of_the_file_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    pickle.Pickler(stream, protocol=5, buffer_callback=lambda buffer: False).dump(np.arange(3))
    refusal(tmp_path, stream.getvalue())
