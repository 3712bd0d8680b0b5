"""Files that mean no good, by kind: (title, content). Used by hostile.py."""

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mmerc.media import media_table

FUNCTIONS = (
    "os.system", "posix.system", "nt.system", "subprocess.Popen", "subprocess.check_output", "builtins.eval",
    "builtins.exec", "builtins.getattr", "builtins.__import__", "builtins.compile", "builtins.open",
    "pickle.loads", "_pickle.loads", "numpy.load", "numpy.f2py.compile", "torch.load", "runpy.run_path",
    "importlib.import_module", "types.FunctionType", "functools.partial", "operator.attrgetter",
    "shutil.rmtree",
    "webbrowser.open", "ctypes.CDLL", "pty.spawn", "timeit.timeit", "cProfile.run", "code.interact",
    "multiprocessing.util.Popen", "numpy.testing._private.utils.runstring", "pandas.read_pickle",
    "joblib.load",
    "numpy.ndarray.__reduce__", "collections.OrderedDict.update", "numpy.dtype.newbyteorder",
)  # fmt: skip


def pickles(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Every way to call a function, for every function; bombs; honest pickles with a few bytes changed."""
    command = f"touch {canary}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    ways = {
        "reduce": b"c%s\n%s\n" + text + b"\x85R.",
        "reduce in a list": b"](K\x01c%s\n%s\n" + text + b"\x85Re.",
        "reduce as a key": b"}c%s\n%s\n" + text + b"\x85RK\x01s.",
        "reduce twice": b"c%s\n%s\n" + text + b"\x85R" + text + b"\x85R.",
        "inst": b"(" + text + b"i%s\n%s\n.",
        "obj": b"(c%s\n%s\n" + text + b"o.",
        "newobj": b"\x80\x02c%s\n%s\n" + text + b"\x85\x81.",
        "newobj_ex": b"\x80\x04c%s\n%s\n" + text + b"\x85}\x92.",
        "build": b"c%s\n%s\n}" + text + b"Nsb.",
        "memo": b"c%s\n%s\nq\x00" + b"h\x00" + text + b"\x85R.",
        "pop and go on": b"c%s\n%s\n" + text + b"\x85R0N.",
        "array": b"cnumpy.core.multiarray\n_reconstruct\n(c%s\n%s\n(K\x00tS'b'\ntR.",
        "state of an array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(K\x01(K\x01tcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\n](c%s\n%s\n" + text + b"\x85Retb.",
    }
    for way, stream in ways.items():
        for function in FUNCTIONS:
            module, _, name = function.rpartition(".")
            yield (
                f"{way}: {function}",
                stream.replace(b"%s", module.encode(), 1).replace(b"%s", name.encode(), 1),
            )
    for function in FUNCTIONS:
        parts = [p.encode() for p in (function.split(".")[0], ".".join(function.split(".")[1:]))]
        names = b"".join(b"\x8c" + bytes([len(p)]) + p for p in parts)
        yield f"stack_global: {function}", b"\x80\x04" + names + b"\x93" + text + b"\x85R."
    yield from {
        "persistent id": b"P" + command + b"\n.",
        "binary persistent id": text + b"Q.",
        "extension 1": b"\x80\x02\x82\x01.",
        "extension 4": b"\x80\x02\x84\x7f\xff\xff\xff.",
        "memo index of 4 billion": b"Nr\xff\xff\xff\xff.",
        "memo of 4 billion, read": b"j\xff\xff\xff\xff.",
        "long of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "bytes of 8 EiB": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"x.",
        "text of 16 EiB": b"\x80\x04\x8d" + struct.pack("<Q", 2**64 - 1) + b"x.",
        "frame of 8 EiB": b"\x80\x04\x95" + struct.pack("<Q", 2**63 - 1) + b".",
        "bytearray of 16 EiB": b"\x80\x05\x96" + struct.pack("<Q", 2**64 - 1) + b".",
        "marks": b"(" * 1_000_000 + b".",
        "deep list": b"]" * 500_000 + b"a" * 499_999 + b".",
        "deep tuple": b")" + b"\x85" * 500_000 + b".",
        "billion laughs": b"]q\x00"
        + b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(30)) + b".",
        "digits": b"I" + b"9" * 200_000 + b"\n.",
        "recursive list": b"]q\x00h\x00a.",
        "recursive key": b"}q\x00h\x00Ns.",
    }.items()  # fmt: skip
    honest = [pickle.dumps({"a": np.arange(9.0), "b": [{1: (2, "x")}, {"y"}]}, p) for p in range(6)]
    for number in range(each):
        yield f"changed {number}", changed(rng, rng.choice(honest))


def changed(rng: random.Random, content: bytes) -> bytes:
    """Change a few bytes, cut, double or insert."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data) or 1)
        action = rng.randrange(4)
        if action == 0:
            del data[place:]
        elif action == 1:
            data[place:place] = data[place : place + rng.randint(1, 40)]
        elif action == 2:
            data[place : place + 1] = rng.choice([b"\0", b"\xff" * 8, rng.randbytes(4)])
        else:
            data[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(data)


def safetensors(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Headers that lie about lengths, offsets, shapes and types."""

    def file(header: object, data: bytes = b"\0" * 80, length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + data

    def table(start: object, end: object, shape: object = (4, 5), kind: object = "F32") -> dict[str, object]:
        return {"values": {"dtype": kind, "shape": shape, "data_offsets": [start, end]}}

    for start, end in [
        (0, 81),
        (0, 2**63),
        (-1, 79),
        (80, 0),
        (2**64 - 1, 2**64),
        (0, -1),
        (0.5, 80),
        ("0", 80),
    ]:
        yield f"offsets {start}:{end}", file(table(start, end))
    shapes = [
        (2**32, 2**32),
        (-4, -5),
        (2**63, 0),
        (2**64,),
        (),
        (4, 5.0),
        ("4", 5),
        None,
        (1,) * 1000,
        (0, 5),
    ]
    for shape in shapes:
        yield f"shape {str(shape)[:30]}", file(table(0, 80, shape))
    for kind in ("F64", "BOOL", "F8_E5M2", "BF16", "X", 7, None, "U8"):
        yield f"type {kind}", file(table(0, 80, kind=kind))
    for length in (0, 1, 2**20, 2**31, 2**63, 2**64 - 1):
        yield f"header of {length}", file(table(0, 80), length=length)
    overlapping = {**table(0, 80), "present": {"dtype": "BOOL", "shape": [4], "data_offsets": [40, 44]}}
    gap = {**table(0, 80), "present": {"dtype": "BOOL", "shape": [4], "data_offsets": [90, 94]}}
    yield "overlapping", file(overlapping)
    yield "gap", file(gap, b"\0" * 94)
    yield "the same name twice", file(b'{"values":{},' + json.dumps(table(0, 80)).encode()[1:])
    yield "deep", file(b"[" * 200_000)
    yield "no JSON", file(b"\xff\xfe{}")
    yield (
        "many",
        file({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(50_000)}),
    )
    honest = file(table(0, 80))
    for number in range(each):
        yield f"changed {number}", changed(rng, honest)


def parquets(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Tables with other types than expected, nested, empty, huge on unpacking; changed bytes."""

    def file(columns: dict[str, Any], **options: Any) -> bytes:
        stream = io.BytesIO()
        pq.write_table(pa.table(columns), stream, **options)
        return stream.getvalue()

    base: dict[str, Any] = {str(k): v for k, v in utterances().to_dict("list").items()}
    values = {
        "numbers": [1] * 4, "texts": ["x"] * 4, "nulls": [None] * 4, "lists": [[1]] * 4,
        "structs": [{"a": 1}] * 4,
        "bytes": [b"\xff"] * 4, "reals": [0.5] * 4, "infinite": [float("inf")] * 4,
        "dates": [pd.Timestamp(0)] * 4,
        "huge": [2**62] * 4, "negative": [-(2**62)] * 4, "flags": [True] * 4,
        "paths": ["../../etc/passwd"] * 4,
    }  # fmt: skip
    for column in [*base, *media_table({"audio_file": ["a"]})]:
        for kind, cells in values.items():
            yield f"{column} of {kind}", file({**base, column: pa.array(cells)})
        if column in base:
            yield f"without {column}", file({k: v for k, v in base.items() if k != column})
    yield "no rows", file({k: pa.array([], pa.string()) for k in base})
    yield "no columns", file({})
    yield (
        "many rows, few bytes",
        file({k: pa.array([v[0]]).take(pa.array([0] * 2**16)) for k, v in base.items()}),
    )
    honest = [file(base), file(base, compression="gzip"), file(base, use_dictionary=False)]
    for number in range(each):
        yield f"changed {number}", changed(rng, rng.choice(honest))


def archives(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """npz: bombs, names that point elsewhere, arrays of objects, headers that lie."""

    def npy(header: str, data: bytes = b"\0" * 32) -> bytes:
        text = header.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data

    def zipped(members: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", kind) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return stream.getvalue()

    def header(shape: str, kind: str = "'<f4'") -> str:
        return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {canary}",)

    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    objects, plain = stream.getvalue(), npy(header("(2, 4)"))
    for name in (
        "../values.npy",
        "/etc/values.npy",
        "C:\\values.npy",
        "a/../../values.npy",
        "values.npy\0",
        ".",
    ):
        yield f"name {name!r}", zipped({name: plain})
    yield "objects", zipped({"values.npy": objects})
    yield "objects beside values", zipped({"values.npy": plain, "present.npy": objects})
    yield "a pickle", zipped({"values.npy": pickle.dumps(Evil())})
    bomb = npy(header("(8, 100000000)"), b"\0" * (64 << 20))
    yield "a bomb", zipped({"values.npy": bomb})
    yield "a bomb that is what it says", zipped({"values.npy": npy(header("(4, 67108864)"), bytes(1 << 30))})
    yield "an archive in an archive", zipped({"values.npy": zipped({"values.npy": bomb})})
    shapes = [
        "(2**9,)",
        "(-1, 4)",
        "(10**18, 4)",
        "(2, 4.0)",
        "'x'",
        "(2,4)" * 9,
        "(" * 300,
        "__import__('os')",
        "()",
    ]
    for shape in shapes:
        yield f"shape {shape[:20]}", zipped({"values.npy": npy(header(shape))})
    for kind in (
        "'O'",
        "'V1000000000'",
        "[('a', 'O')]",
        "'U99999999'",
        "'m8'",
        "'>f8'",
        "7",
        "'|O8'",
        "object",
    ):
        yield f"type {kind}", zipped({"values.npy": npy(header("(2, 4)", kind))})
    honest = zipped({"values.npy": plain, "present.npy": npy(header("(2,)", "'?'"), b"\1\1")})
    for number in range(each):
        yield f"changed {number}", changed(rng, honest)


def yamls(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Tags that call, aliases that multiply, nesting, numbers and dates that are none; random values."""
    for tag in ("python/object/apply:os.system", "python/object/new:os.system", "python/name:os.system"):
        yield tag, f"a: !!{tag} ['touch {canary}']".encode()
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    yield "billion laughs", "\n".join(lines).encode()
    maps = ["b0: &b0 {x: 1}"] + [f"b{i}: &b{i} {{x: *b{i - 1}, y: *b{i - 1}}}" for i in range(1, 40)]
    yield "billion laughs of mappings", "\n".join(maps).encode()
    yield "inside a section", ("\n".join(lines) + "\nmodel: df-erc\nnetwork: *a11\ntraining: *a11").encode()
    yield "itself", b"a: &a {b: *a}"
    yield "merged", b"a: &a {<<: *a}"
    for opening in (b"[", b"{a: ", b"- ", b"? "):
        yield f"deep {opening!r}", opening * 20_000
    texts = (
        "2001-99-99", "0b2", "1:99:99", "!!int x", "!!float x", "!!binary ?", "!!timestamp x", "1e999",
        ".nan",
        "0x" + "f" * 5_000, "9" * 5_000, "!!set {a}", "!!omap [a]", "!!pairs [a]", "{[1]: 2}", "{{}: 2}",
    )  # fmt: skip
    for text in texts:
        yield f"value {text[:20]}", f"a: {text}\nmodel: df-erc\ntraining: {{epochs: {text}}}".encode()
    yield "bytes", b"\xff\xfe\0"
    keys = [
        "model",
        "preset",
        "modalities",
        "text_encoder",
        "network",
        "training",
        "epochs",
        "betas",
        "hidden",
        "*",
    ]

    def value(depth: int) -> Any:
        pick = rng.randrange(8 if depth else 6)
        if pick < 6:
            return rng.choice(
                [None, True, -1, 0, 1, 2**70, 1e300, float("nan"), "x", "df-erc", "text-only", ""]
            )
        if pick == 6:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {rng.choice(keys): value(depth - 1) for _ in range(rng.randrange(5))}

    for number in range(each):
        yield f"random {number}", json.dumps({rng.choice(keys): value(3) for _ in range(4)}).encode()
        yield f"changed {number}", changed(rng, b"model: df-erc\ntraining: {epochs: 3, betas: [0.9, 0.99]}\n")


def manifests(rng: random.Random, each: int, canary: Path) -> Iterator[tuple[str, bytes]]:
    """JSON: nesting, numbers, names that point elsewhere, changed bytes."""
    base = {"format": 1, "name": "x", "labels": ["a", "b"], "modalities": {}, "provenance": {}}
    width: dict[str, object] = {"width": 2, "recipe": {}}
    for name in ("../../etc/passwd", "/etc/passwd", "text\0", "", "a" * 10_000):
        yield f"modality {name[:20]!r}", json.dumps(base | {"modalities": {name: width}}).encode()
        yield f"file {name[:20]!r}", json.dumps(base | {"files": {name: "0"}, "sha256": ""}).encode()
    odd: tuple[Any, ...] = (None, [], {}, -1, 2**70, "x", 1.5, True)
    for value in odd:
        for key in (*base, "files", "sha256"):
            yield f"{key} of {value!r}", json.dumps(base | {key: value}).encode()
    yield "deep", b"[" * 100_000
    yield "deep provenance", json.dumps(base).encode()[:-2] + b'{"a":' * 5_000 + b"1" + b"}" * 5_001
    for number in range(each):
        yield f"changed {number}", changed(rng, json.dumps(base).encode())


def utterances() -> pd.DataFrame:
    """Four rows of a sound corpus."""
    return pd.DataFrame(
        {
            "dialogue_id": list("aabb"), "utterance_index": [0, 1, 0, 1], "speaker": list("ABAB"),
            "text": ["t"] * 4,
            "start_ms": [0, 1, 2, 3], "end_ms": [1, 2, 3, 4], "label": list("abab"),
            "split": ["train", "train", "validation", "validation"],
            "fold": [0, 0, 1, 1], "media": ["m"] * 4,
        }
    )  # fmt: skip


MAKERS: dict[str, Callable[[random.Random, int, Path], Iterator[tuple[str, bytes]]]] = {
    "pickles": pickles, "safetensors": safetensors, "Parquet": parquets, "npz": archives, "YAML": yamls,
    "corpus.json": manifests,
}  # fmt: skip
