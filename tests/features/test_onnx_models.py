import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from graphs import linear, red_ultraface, save_graph, ultraface, yunet
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mmerc.errors import FeatureError
from mmerc.features.haar import HaarDetector
from mmerc.features.onnx_models import OnnxDetector, OnnxModel, detector_for
from mmerc.features.weights import file_sha256


def picture(height: int, width: int) -> Any:
    return np.zeros((height, width, 3), dtype=np.uint8)


def test_model_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    path = linear(
        tmp_path / "a smile 🙂.onnx", ["n", 3, "h", 7], {"logits": 8, "embedding": 5}, metadata={"a": "b"}
    )
    model = OnnxModel(path)
    assert model.inputs == [("face", (None, 3, None, 7), np.float32)]
    assert [(port.name, port.shape) for port in model.outputs] == [
        ("logits", (None, 8)),
        ("embedding", (None, 5)),
    ]
    assert model.metadata == {"a": "b"}
    assert model.sha256 == file_sha256(path)
    values = np.arange(2 * 3 * 2 * 7, dtype=np.float64).reshape(2, 3, 2, 7)
    (embedding,) = model(values, ["embedding"])
    expected = values.mean((2, 3)) @ ((np.arange(3)[:, None] + 1.0) * np.linspace(-1, 1, 5))
    np.testing.assert_allclose(embedding, expected, rtol=1e-5)
    assert embedding.dtype == np.float32


def test_double_input_is_fed_with_doubles(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "model.onnx", [1, 1, 2, 2], {"y": 3}, TensorProto.DOUBLE))
    (found,) = model(np.ones((1, 1, 2, 2), dtype=np.float32), ["y"])
    assert found.dtype == np.float64


def test_values_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = OnnxModel(linear(tmp_path / "model.onnx", [1, 1, 2, 2], {"y": 3}))
    with pytest.raises(FeatureError, match=r"model\.onnx cannot be run: .*") as caught:
        model(np.ones((1, 1, 3, 2), dtype=np.float32), ["y"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no model", "cut", "unknown operator", "no graph input"])
def test_broken_file_is_one_line(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "cut":
        whole = linear(path, [1, 1, 2, 2], {"y": 3}).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        kind, source = ("Evil", "x") if content == "unknown operator" else ("Relu", "nothing")
        save_graph(path, [helper.make_node(kind, [source], ["y"])], {"x": [1, 2]}, {"y": [1, 2]}, {})
    with pytest.raises(FeatureError, match=r"model\.onnx is not an ONNX model") as caught:
        OnnxModel(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(FeatureError, match="cannot be read"):
            OnnxModel(path)


@pytest.mark.parametrize("package", ["onnxruntime", "onnx"])
def test_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = linear(tmp_path / "model.onnx", [1, 1, 2, 2], {"y": 3})
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(FeatureError, match=r'pip install "mmerc\[onnx\]"'):
        OnnxModel(path)


def with_weights_apart(path: Path) -> Path:
    matrix = {"w": np.arange(12.0).reshape(3, 4)}
    save_graph(path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 3]}, {"y": [1, 4]}, matrix)
    model = onnx.load_model(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_in_the_folder_count_for_the_hash(tmp_path: Path) -> None:
    path = with_weights_apart(tmp_path / "model.onnx")
    model = OnnxModel(path)
    (found,) = model(np.ones((1, 3), dtype=np.float32), ["y"])
    assert found.tolist() == [[12, 15, 18, 21]]
    assert model.sha256 == file_sha256(path, tmp_path / "weights.bin") != file_sha256(path)


@pytest.mark.parametrize("place", ["../weights.bin", "absolute", "link.bin"])
def test_weights_outside_the_folder_are_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    path = with_weights_apart(tmp_path / "model" / "model.onnx")
    outside = (tmp_path / "model" / "weights.bin").rename(tmp_path / "weights.bin")
    if place == "link.bin":
        try:
            (tmp_path / "model" / place).symlink_to(outside)
        except OSError:
            pytest.skip("this user may not make links")
    model = onnx.load_model(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = str(outside) if place == "absolute" else place
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FeatureError, match="outside its folder"):
        OnnxModel(path)


def test_ultraface_sees_rgb_and_gives_pixels(tmp_path: Path) -> None:
    detector = OnnxDetector(red_ultraface(tmp_path / "red.onnx"))
    assert detector.colour
    image = picture(90, 160)
    image[30:60, 80:120, 0] = 255  # the cell in the middle row, third column
    image[60:90, :40, 1:] = 255  # not red
    np.testing.assert_allclose(detector(image), [[80, 30, 40, 30]])
    assert detector(picture(90, 160)).shape == (0, 4)


def test_faces_come_largest_first_and_inside_the_picture(tmp_path: Path) -> None:
    boxes = [
        [0.1, 0.1, 0.3, 0.3],
        [0.5, 0.4, 1.2, 1.1],
        [-0.3, 0.8, 0.1, 0.9],
        [1.1, 0.1, 1.3, 0.4],
        [0, 0.9, 0.2, 0.9],
    ]
    detector = OnnxDetector(ultraface(tmp_path / "faces.onnx", [0.9] * 5, boxes))
    found = detector(picture(100, 200))
    np.testing.assert_allclose(found, [[100, 40, 100, 60], [20, 10, 40, 20], [0, 80, 20, 10]], atol=1e-3)


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8)),
        min_size=1,
        max_size=12,
    )
)
def test_overlapping_faces_are_one(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[int, ...]]
) -> None:
    boxes = [[x / 16, y / 16, (x + w) / 16, (y + h) / 16] for x, y, w, h in places]
    scores = [0.71 + 0.28 * i / len(places) for i in range(len(places))]
    path = ultraface(tmp_path_factory.mktemp("nms") / "faces.onnx", scores, boxes)
    kept: list[list[float]] = []
    for box in reversed(boxes):  # the surest first
        if all(overlap(box, other) <= 0.45 for other in kept):
            kept.append(box)
    found = OnnxDetector(path, overlap_threshold=0.45)(picture(160, 160))
    expected = [[10 * 16 * v for v in (x, y, right - x, bottom - y)] for x, y, right, bottom in kept]
    np.testing.assert_allclose(sorted(found.tolist()), sorted(expected), atol=1e-3)


def test_uncertain_faces_are_left_out(tmp_path: Path) -> None:
    path = ultraface(tmp_path / "faces.onnx", [0.6, 0.8], [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]])
    assert len(OnnxDetector(path)(picture(64, 64))) == 1
    assert len(OnnxDetector(path, score_threshold=0.5)(picture(64, 64))) == 2


def test_yunet_sees_rgb_and_gives_pixels(tmp_path: Path) -> None:
    detector = OnnxDetector(yunet(tmp_path / "yunet.onnx"))
    image = picture(200, 320)
    image[64:96, 128:160, 2] = 255  # blue
    image[160:192, 0:32, 0] = 255  # red
    np.testing.assert_allclose(detector(image), [[128, 64, 32, 32]])
    assert detector(picture(200, 320)).shape == (0, 4)
    large = picture(720, 1280)
    large[128:192, 256:320, 2] = 255
    before = cv2.getNumThreads()
    try:
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            np.testing.assert_allclose(detector(large), [[256, 128, 64, 64]])
    finally:
        cv2.setNumThreads(before)


def test_other_models_are_told_the_contracts(tmp_path: Path) -> None:
    path = linear(tmp_path / "model.onnx", [1, 3, 2, 2], {"scores": 2})
    with pytest.raises(
        FeatureError, match=r"`face` \(1, 3, 2, 2\) to `scores` \(1, 2\).*ultraface: RGB.*yunet: Open"
    ):
        OnnxDetector(path)
    path = linear(tmp_path / "model.onnx", [1, 3, 2, 2], {"scores": 2, "boxes": 4})
    with pytest.raises(FeatureError, match=r"scores \(1, 2\) and boxes \(1, 4\)"):
        OnnxDetector(path)
    with pytest.raises(FeatureError, match="NaN or infinity"):
        OnnxDetector(ultraface(tmp_path / "nan.onnx", [0.9], [[0, 0, float("nan"), 1]]))


def test_detector_is_found_again_by_its_recipe(tmp_path: Path) -> None:
    path = red_ultraface(tmp_path / "red.onnx")
    recipe = OnnxDetector(path, score_threshold=0.6).recipe
    assert recipe["weights"] == str(path)
    assert recipe["weights_sha256"] == file_sha256(path)
    assert detector_for(recipe).recipe == recipe
    moved = path.rename(tmp_path / "moved.onnx")
    assert detector_for(recipe, moved).recipe == recipe
    with pytest.raises(FeatureError, match=rf"red\.onnx is not there.*{recipe['weights_sha256']}"):
        detector_for(recipe)
    other = ultraface(tmp_path / "other.onnx", [0.9], [[0, 0, 1, 1]])
    with pytest.raises(FeatureError) as caught:
        detector_for(recipe, other)
    assert file_sha256(moved) in str(caught.value)
    assert file_sha256(other) in str(caught.value)


def test_other_recipes_are_refused(tmp_path: Path) -> None:
    recipe = OnnxDetector(red_ultraface(tmp_path / "red.onnx")).recipe
    with pytest.raises(FeatureError, match="version"):
        detector_for(recipe | {"version": 2})
    haar = HaarDetector()
    assert detector_for(haar.recipe).recipe == haar.recipe
    with pytest.raises(FeatureError, match="follow the face detector"):
        detector_for({"kind": "unknown"})
