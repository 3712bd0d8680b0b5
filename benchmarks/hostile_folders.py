"""Files of corpora and checkpoints that keep to the form, and mean no good. Used by hostile.py.

What is around them is honest, and their checksums are right: a reader gets to what lies behind the form.
"""

import copy
import io
import json
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from onnx import TensorProto, helper
from safetensors.torch import load, save

from hostile_files import changed, utterances
from mmerc.corpus import SCHEMA

ODD: tuple[Any, ...] = (
    None,
    [],
    {},
    -1,
    0,
    2**31,
    2**62,
    2**70,
    1.5,
    float("nan"),
    "x",
    "",
    True,
    [None],
    {"x": 1},
)
NAMES = ("../../../../../../dev/zero", "/dev/zero", "/etc/passwd", "text\0", "", ".", "..", "a" * 5_000)

Files = Iterator[tuple[str, bytes]]


def feature_tables(rng: random.Random, each: int) -> Files:
    """`values` (4, 5) and `present` (4,); one lies about offsets, shape or type, or holds odd bytes."""

    def file(values: dict[str, Any], present: dict[str, Any], data: bytes = bytes(80) + b"\1" * 4) -> bytes:
        text = json.dumps({"values": values, "present": present}).encode()
        return struct.pack("<Q", len(text)) + text + data

    honest: tuple[dict[str, Any], dict[str, Any]] = (
        {"dtype": "F32", "shape": [4, 5], "data_offsets": [0, 80]},
        {"dtype": "BOOL", "shape": [4], "data_offsets": [80, 84]},
    )
    offsets = [
        (0, 80),
        (80, 84),
        (0, 84),
        (0, 2**63),
        (-1, 79),
        (84, 0),
        (2**64 - 1, 2**64),
        (4, 84),
        (0.5, 80),
        (84, 84),
    ]
    shapes: list[Any] = [
        [4, 5],
        [4],
        [5, 4],
        [2**32, 2**32],
        [-4, -5],
        [2**63, 0],
        [2**64],
        [],
        None,
        [1] * 1000,
        [0],
        [80],
    ]
    lies = {
        "dtype": ("F64", "BOOL", "U8", "BF16", "F8_E5M2", "I32", "X", 7, None),
        "shape": shapes,
        "data_offsets": offsets,
    }
    for place, name in enumerate(("values", "present")):
        for key, odd in lies.items():
            for lie in odd:
                tables = copy.deepcopy(honest)
                tables[place][key] = lie
                yield f"{name}: {key} {str(lie)[:30]}", file(*tables)
    for title, bits in {
        "NaN": 0x7FC00000,
        "infinite": 0x7F800000,
        "largest": 0x7F7FFFFF,
        "smallest": 1,
    }.items():
        yield f"values {title}", file(*honest, struct.pack("<I", bits) * 20 + b"\1" * 4)
    yield "flags of 255", file(*honest, bytes(80) + b"\xff" * 4)
    yield "all absent", file(*honest, b"\1" * 80 + bytes(4))
    for number in range(each):
        yield f"changed {number}", changed(rng, file(*honest))


def conversations(rng: random.Random, each: int) -> Files:
    """Utterances with the very columns and types of a corpus, and mad values in them."""

    def file(columns: dict[str, Any], **options: Any) -> bytes:
        arrays = [
            c if isinstance(c, pa.Array) else pa.array(c, f.type)
            for f, c in zip(SCHEMA, columns.values(), strict=True)
        ]
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), stream, **options)
        return stream.getvalue()

    def no_text(cell: bytes) -> pa.Array:
        ends = struct.pack("<5i", *(len(cell) * row for row in range(5)))
        return pa.Array.from_buffers(pa.string(), 4, [None, pa.py_buffer(ends), pa.py_buffer(cell * 4)])

    base: dict[str, Any] = {str(name): column for name, column in utterances().to_dict("list").items()}
    numbers = {
        "negative": [-1, -5, -9, -2],
        "least": [-(2**63)] * 4,
        "most": [2**63 - 1] * 4,
        "backwards": [9, 5, 3, 1],
        "the same": [7] * 4,
        "both ends": [-(2**63), 2**63 - 1] * 2,
        "none": [None] * 4,
        "some": [None, 1, None, 2],
    }
    texts = {
        "NUL": ["a\0b"] * 4,
        "empty": [""] * 4,
        "none": [None] * 4,
        "huge": ["x" * 2**22] * 4,
        "controls": ["\x1b[2J\r\n\t\x7f"] * 4,
        "other way": ["\u202eabc\u2066"] * 4,
        "scattered": list("abab"),
        "all one": ["a"] * 4,
        "path": ["../../../etc/passwd"] * 4,
        "last of Unicode": ["\U0010ffff\ufffe\ufdd0"] * 4,
        "many marks": ["e" + "\u0301" * 50_000] * 4,
        "a surrogate": no_text(b"\xed\xa0\x80"),
        "no UTF-8": no_text(b"\xff\xfe"),
        "cut UTF-8": no_text(b"\xf0\x9f\x98"),
    }
    for field in SCHEMA:
        for title, cells in (numbers if field.type == pa.int64() else texts).items():
            if field.nullable or title not in ("none", "some"):
                yield f"{field.name}: {title}", file({**base, field.name: cells})
    twice = {**base, "dialogue_id": list("aaaa"), "utterance_index": [0, 0, 0, 0]}
    yield "every index twice", file(twice)
    yield "times of the ends", file({**base, "start_ms": [2**63 - 1] * 4, "end_ms": [-(2**63)] * 4})
    repeated = {
        name: pa.array([column[0]], f.type).take(pa.array([0] * 2**16))
        for f, (name, column) in zip(SCHEMA, base.items(), strict=True)
    }
    yield "many rows, few bytes", file(repeated)
    for number in range(each):
        mad = dict(base)
        for field in rng.sample(list(SCHEMA), 3):
            kinds = numbers if field.type == pa.int64() else texts
            mad[field.name] = kinds[rng.choice([t for t in kinds if t not in ("none", "some", "huge")])]
        yield f"several {number}", file(mad)
        packed = file(base, compression=rng.choice(["none", "snappy", "zstd"]))
        yield f"changed {number}", changed(rng, packed)


def _odd_values(base: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `base` with each of its values, however deep, in turn replaced by odd ones and left out."""
    items = list(
        base.items() if isinstance(base, dict) else enumerate(base) if isinstance(base, list) else ()
    )
    for key, value in items:
        for odd in ODD:
            changed_one = copy.copy(base)
            changed_one[key] = odd
            yield f"{path}{key} of {str(odd)[:20]!r}", changed_one
        without = copy.copy(base)
        del without[key]
        yield f"without {path}{key}", without
        for title, inner in _odd_values(value, f"{path}{key}."):
            changed_one = copy.copy(base)
            changed_one[key] = inner
            yield title, changed_one


def _sample(rng: random.Random, files: Iterator[tuple[str, Any]], count: int) -> list[tuple[str, Any]]:
    everything = list(files)
    return everything if len(everything) <= count else rng.sample(everything, count)


def checkpoint_infos(rng: random.Random, each: int, honest: bytes) -> Files:
    """`checkpoint.json` with any value replaced, files elsewhere, widths and labels beyond memory."""
    base = json.loads(honest) | {"sha256": ""}
    width: dict[str, object] = {"width": 5, "recipe": {}}
    for name in NAMES:
        yield f"encoder file {name[:20]!r}", json.dumps(base | {"encoder_sha256": {name: "0"}}).encode()
        yield f"modality {name[:20]!r}", json.dumps(base | {"modalities": {name: width}}).encode()
    for number in (2**20, 2**31, 2**40, 2**62):
        yield (
            f"width {number}",
            json.dumps(base | {"modalities": {"text": width | {"width": number}}}).encode(),
        )
    yield "many labels", json.dumps(base | {"labels": [str(i) for i in range(200_000)]}).encode()
    yield "the same labels", json.dumps(base | {"labels": ["a", "a"]}).encode()
    yield "labels with controls", json.dumps(base | {"labels": ["\x1b[2J", "[bold]x[/]"]}).encode()
    for title, value in _sample(rng, _odd_values(base), 4 * each):
        yield title, json.dumps(value).encode()
    for number in range(each):
        yield f"changed {number}", changed(rng, json.dumps(base).encode())


def configs(rng: random.Random, each: int, honest: bytes) -> Files:
    """`config.yaml` of a checkpoint with any value replaced."""
    base = yaml.safe_load(honest)
    for title, value in _sample(rng, _odd_values(base), 6 * each):
        yield title, yaml.safe_dump(value).encode()
    for number in range(each):
        yield f"changed {number}", changed(rng, honest)


def weights(rng: random.Random, each: int, honest: bytes) -> Files:
    """`model.safetensors` with tensors missing, too many, of other shapes and types, or without numbers."""
    base = load(honest)
    for name, tensor in base.items():
        flat = tensor.reshape(-1)
        others = {
            "transposed": tensor.T.contiguous() if tensor.ndim == 2 else tensor[None],
            "empty": flat[:0],
            "doubled": torch.stack([tensor, tensor]),
            "NaN": torch.full_like(tensor, float("nan")),
            "infinite": torch.full_like(tensor, float("-inf")),
            "largest": torch.full_like(tensor, 3.4e38),
        }
        for kind in (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
            others[str(kind)] = tensor.to(kind)
        for title, other in others.items():
            yield f"{name}: {title}", save({**base, name: other})
        yield f"without {name}", save({key: value for key, value in base.items() if key != name})
    for name in NAMES[:3]:
        yield f"besides {name}", save({**base, name: torch.zeros(2)})
    yield "nothing", save({})
    for number in range(each):
        yield f"changed {number}", changed(rng, honest)


class Evil:
    """Makes the canary when a pickle of it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def states(rng: random.Random, each: int, honest: bytes, canary: Path) -> Files:
    """`state.pt` with objects, odd values, another progress, tensors of other shapes and types."""

    def file(value: Any, new: bool = True) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, _use_new_zipfile_serialization=new)
        return stream.getvalue()

    base = torch.load(io.BytesIO(honest), weights_only=True)
    yield "honest", file(base)
    for new in (True, False):
        yield f"evil, zip {new}", file(Evil(canary), new)
        for key in base:
            yield f"evil {key}, zip {new}", file(base | {key: Evil(canary)}, new)
    yield "a tensor", file(torch.zeros(3))
    for title, value in _sample(rng, _odd_values(base), 4 * each):
        yield title, file(value)
    for title, value in _sample(rng, _odd_values(json.loads(base["progress"])), 2 * each):
        yield f"progress: {title}", file(base | {"progress": json.dumps(value)})
    for text in ("", "[]", "[" * 100_000, '{"epoch": 1}', "1e999", "9" * 5_000):
        yield f"progress {text[:20]!r}", file(base | {"progress": text})
    memories = base["optimizer"]["state"]
    for name, tensor in base["pipeline"].items():
        others = {
            "empty": tensor.reshape(-1)[:0],
            "flags": tensor.bool(),
            "complex": tensor.to(torch.complex64),
            "NaN": torch.full_like(tensor, float("nan")),
            "expanded": tensor.reshape(-1)[:1].expand(tensor.numel()).reshape(tensor.shape),
            "nowhere": tensor.to("meta"),
            "sparse": tensor.to_sparse(),
        }
        for title, other in others.items():
            for part in ("pipeline", "best"):
                yield f"{part}: {name}: {title}", file(base | {part: base[part] | {name: other}})
            memory = {"state": memories | {0: memories[0] | {"exp_avg": other}}}
            yield f"memory: {name}: {title}", file(base | {"optimizer": base["optimizer"] | memory})


def onnx_models(rng: random.Random, each: int) -> Files:
    """Weights elsewhere, sizes beyond memory, cycles, unknown operators, depth; changed bytes."""
    floats = TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, floats, [1, 3]) for name in "xy")

    def model(
        nodes: list[Any], *tensors: Any, inputs: Any = (x,), outputs: Any = (y,), **options: Any
    ) -> bytes:
        graph = helper.make_graph(nodes, "g", list(inputs), list(outputs), list(tensors))
        options = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8} | options
        text: bytes = helper.make_model(graph, **options).SerializeToString()
        return text

    add = helper.make_node("Add", ["x", "w"], ["y"])
    plain = helper.make_tensor("w", floats, [1, 3], [1.0, 2.0, 3.0])
    honest = model([add], plain)
    yield "honest", honest
    for name in (*NAMES[:6], "file:///etc/passwd", "\\\\host\\share", "missing.bin", "hostile.onnx"):
        for extra in (
            {},
            {"offset": "-1", "length": "12"},
            {"offset": str(2**62), "length": "12"},
            {"length": str(2**62)},
        ):
            tensor = TensorProto(name="w", data_type=floats, dims=[1, 3], data_location=TensorProto.EXTERNAL)
            for key, value in {"location": name, **extra}.items():
                tensor.external_data.add(key=key, value=value)
            yield f"weights of {name[:20]!r} {extra}", model([add], tensor)
    for dims in ([2**40], [2**31, 2**31], [-1, 3], [0], [1] * 1000, [2**63 - 1]):
        yield (
            f"weights of size {str(dims)[:30]}",
            model([add], TensorProto(name="w", data_type=floats, dims=dims, raw_data=b"1234")),
        )
        shaped = helper.make_tensor_value_info("x", floats, dims)
        yield f"input of size {str(dims)[:30]}", model([add], plain, inputs=[shaped])
    for size in (2**33, 2**40, 2**62):
        filled = helper.make_node("ConstantOfShape", ["n"], ["w"])
        yield f"filled {size}", model([filled, add], helper.make_tensor("n", TensorProto.INT64, [1], [size]))
    for name, domain in (("X", ""), ("Add", "evil"), ("", ""), ("PythonOp", "ai.onnx.contrib"), ("Loop", "")):
        yield f"operator {name} of {domain!r}", model([helper.make_node(name, ["x"], ["y"], domain=domain)])
    yield (
        "a cycle",
        model([helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Add", ["z", "x"], ["y"])]),
    )
    yield "no outputs", model([add], plain, outputs=())
    yield "no inputs", model([add], plain, inputs=())
    for kind in (0, 8, 99, TensorProto.STRING):
        odd = helper.make_tensor_value_info("x", kind, [1, 3])
        yield f"input of type {kind}", model([add], plain, inputs=[odd])
    for version in (0, 9999, 2**31 - 1):
        yield f"operators of {version}", model([add], plain, opset_imports=[helper.make_opsetid("", version)])
        yield f"format {version}", model([add], plain, ir_version=version)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["o"])],
        "i",
        [],
        [helper.make_tensor_value_info("o", floats, [1, 3])],
    )
    for _ in range(20):
        branch = helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=onnx.GraphProto())
        inner = helper.make_graph([branch], "i", [], [helper.make_tensor_value_info("o", floats, [1, 3])])
    yield "depth", model([helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)])
    yield (
        "a chain",
        model(
            [
                helper.make_node("Neg", ["x"], ["v0"]),
                *(helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(3_000)),
                helper.make_node("Neg", ["v3000"], ["y"]),
            ]
        ),
    )
    for number in range(each):
        yield f"changed {number}", changed(rng, honest)
