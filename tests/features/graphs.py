"""Small ONNX models for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_graph(
    path: Path,
    nodes: Sequence[Any],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    weights: dict[str, Any],
    kind: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the model and return `path`; `weights` of whole numbers are int64, others float32."""
    tensors = []
    for name, values in weights.items():
        array = np.asarray(values)
        whole = np.issubdtype(array.dtype, np.integer)
        tensors.append(numpy_helper.from_array(array.astype(np.int64 if whole else np.float32), name))
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kind, s) for n, s in outputs.items()],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save_model(model, path)
    return path


def linear(
    path: Path,
    shape: Sequence[int | str],
    widths: dict[str, int],
    kind: int = TensorProto.FLOAT,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A model that gives mean over H and W, times weights that grow by a ramp, for each of `widths`.

    The mean of channel c counts c + 1 times; `shape` is (N, C, H, W) or (N, H, W, C).
    """
    first = shape[1] in (1, 3)
    channels = int(shape[1] if first else shape[3])
    weights: dict[str, Any] = {"axes": [2, 3] if first else [1, 2]}
    # ReduceMean takes its axes as an attribute in opset 17.
    nodes = [helper.make_node("ReduceMean", ["face"], ["mean"], axes=weights.pop("axes"), keepdims=0)]
    to = {TensorProto.FLOAT: np.float32, TensorProto.DOUBLE: np.float64}[kind]
    for name, width in widths.items():
        ramp = (np.arange(channels)[:, None] + 1.0) * np.linspace(-1, 1, width)
        constant = numpy_helper.from_array(ramp.astype(to))
        nodes.append(helper.make_node("Constant", [], [f"{name}.w"], value=constant))
        nodes.append(helper.make_node("MatMul", ["mean", f"{name}.w"], [name]))
    return save_graph(
        path, nodes, {"face": shape}, {n: [shape[0], w] for n, w in widths.items()}, weights, kind, metadata
    )


def ultraface(path: Path, scores: Any, boxes: Any) -> Path:
    """A detector that finds the same faces in every picture: `scores` (N,), `boxes` (N, 4)."""
    sure = np.asarray(scores, dtype=np.float32)
    nodes = [helper.make_node("Identity", [f"{n}.w"], [n]) for n in ("scores", "boxes")]
    return save_graph(
        path,
        nodes,
        {"input": [1, 3, 24, 32]},
        {"scores": [1, len(sure), 2], "boxes": [1, len(sure), 4]},
        {
            "scores.w": np.stack([1 - sure, sure], axis=1)[None],
            "boxes.w": np.asarray(boxes, dtype=np.float32)[None],
        },
    )


def red_ultraface(path: Path) -> Path:
    """A detector of red: each of 3 × 4 cells of the picture is a face as far as it is red."""
    rows, columns = np.mgrid[:3, :4].reshape(2, 12)
    boxes = np.stack([columns / 4, rows / 3, (columns + 1) / 4, (rows + 1) / 3], axis=1)
    nodes = [
        helper.make_node("Gather", ["input", "red"], ["r"], axis=1),
        helper.make_node("AveragePool", ["r"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["cells", "column"], ["sure"]),
        helper.make_node("Sub", ["one", "sure"], ["unsure"]),
        helper.make_node("Concat", ["unsure", "sure"], ["scores"], axis=2),
        helper.make_node("Identity", ["boxes.w"], ["boxes"]),
    ]
    weights = {"red": [0], "column": [1, 12, 1], "one": np.ones((1, 1, 1)), "boxes.w": boxes[None]}
    outputs = {"scores": [1, 12, 2], "boxes": [1, 12, 4]}
    return save_graph(path, nodes, {"input": [1, 3, 24, 32]}, outputs, weights)


def yunet(path: Path) -> Path:
    """A detector of blue with the heads of YuNet: a cell of 32 × 32 pixels is a face as far as it is blue."""
    nodes = [helper.make_node("Gather", ["input", "blue"], ["b"], axis=1)]  # the input is BGR
    weights: dict[str, Any] = {
        "blue": [0],
        "column": [1, -1, 1],
        "middle": np.array([0.5, 0.5, 0, 0]).reshape(1, 1, 4),
    }
    outputs: dict[str, Sequence[int | str]] = {}
    for s in (8, 16, 32):
        cells = (640 // s) ** 2
        weights |= {
            f"{s}.scale": np.array(1 / 255 if s == 32 else 0.0),
            f"{s}.4": np.zeros((1, 4)),
            f"{s}.10": np.zeros((1, 10)),
        }
        nodes += [
            helper.make_node("AveragePool", ["b"], [f"{s}.pool"], kernel_shape=[s, s], strides=[s, s]),
            helper.make_node("Reshape", [f"{s}.pool", "column"], [f"{s}.flat"]),
            helper.make_node("Mul", [f"{s}.flat", f"{s}.scale"], [f"cls_{s}"]),
            helper.make_node("Mul", [f"{s}.flat", f"{s}.scale"], [f"obj_{s}"]),
            helper.make_node("MatMul", [f"cls_{s}", f"{s}.4"], [f"{s}.zeros"]),
            helper.make_node("Add", [f"{s}.zeros", "middle"], [f"bbox_{s}"]),
            helper.make_node("MatMul", [f"cls_{s}", f"{s}.10"], [f"kps_{s}"]),
        ]
        outputs |= {
            f"cls_{s}": [1, cells, 1],
            f"obj_{s}": [1, cells, 1],
            f"bbox_{s}": [1, cells, 4],
            f"kps_{s}": [1, cells, 10],
        }
    return save_graph(path, nodes, {"input": [1, 3, 640, 640]}, outputs, weights)
