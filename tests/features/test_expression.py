import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graphs import linear, red_ultraface, save_graph
from onnx import TensorProto, helper
from safetensors.torch import save_file

from mmerc.errors import FeatureError
from mmerc.features.densenet import DenseNet, DenseNetConfig
from mmerc.features.expression import SCALES, DenseNetFerPlus, OnnxExpression, Scale
from mmerc.features.faces import Face
from mmerc.features.onnx_models import OnnxDetector
from mmerc.features.recipe import Image, Look, VisualExtractor
from mmerc.features.weights import file_sha256

SETTINGS = {"norm_epsilon": "0.001", "pixel_mean": "100", "pixel_sd": "50", "format": "pt"}


@pytest.fixture(scope="module")
def network() -> DenseNet:
    torch.manual_seed(0)
    return DenseNet().eval()


@pytest.fixture(scope="module")
def weights(network: DenseNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "ferplus.safetensors"
    save_file(network.state_dict(), path)
    return path


def faces(count: int, size: int, colour: bool = False, seed: int = 0) -> list[Image]:
    """Pictures of noise, larger than the pixel."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, size // 4, size // 4, 3 if colour else 1), dtype=np.uint8)
    return [face.repeat(4, axis=0).repeat(4, axis=1).squeeze() for face in small]


def looks(crops: Sequence[Image]) -> list[Look]:
    """One still face; every third picture has none."""
    box = np.array([10, 10, 64, 64], dtype=np.float32)
    seen = [Look(200 * i, [Face(box, crop)]) for i, crop in enumerate(crops)]
    for i in range(2, len(seen), 3):
        seen.insert(i, Look(200 * i - 100, []))
    return seen


def vector(extractor: VisualExtractor, crops: Sequence[Image]) -> Any:
    values, reason = extractor.describe(looks(crops), None)
    assert values is not None
    assert not reason
    assert values.dtype == np.float32
    assert values.shape == (extractor.width,)
    return values


def test_densenet_gives_the_mean_over_faces(network: DenseNet, weights: Path) -> None:
    extractor = DenseNetFerPlus(weights)
    assert extractor.width == 342
    assert extractor.frames_per_second == 5
    assert not extractor.colour
    crops = faces(3, 64)
    pictures = torch.from_numpy(np.stack(crops).astype(np.float32))[:, None]
    with torch.inference_mode():
        expected = network((pictures - 131.0754) / 47.858177).features.mean(0)
    np.testing.assert_allclose(vector(extractor, crops), expected, rtol=1e-4, atol=1e-5)


def test_densenet_gives_the_same_bits_on_any_number_of_threads(weights: Path) -> None:
    extractor, crops = DenseNetFerPlus(weights), faces(2, 64)
    alone, before = vector(extractor, crops), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert (vector(extractor, crops) == alone).all()
        assert torch.get_num_threads() == 4
        assert (vector(DenseNetFerPlus(weights), crops[:1]) == vector(extractor, crops[:1])).all()
    finally:
        torch.set_num_threads(before)


def test_no_face_is_said(weights: Path) -> None:
    extractor = DenseNetFerPlus(weights)
    for seen in ([], [Look(0, [])], [Look(0, extractor.look(np.zeros((90, 160), dtype=np.uint8)))]):
        assert extractor.describe(seen, None) == (None, "no face")


def test_metadata_of_the_weights_is_followed(network: DenseNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, SETTINGS)
    extractor = DenseNetFerPlus(path)
    found = {name: extractor.recipe[name] for name in ("norm_epsilon", "pixel_mean", "pixel_sd")}
    assert found == {"norm_epsilon": 0.001, "pixel_mean": 100, "pixel_sd": 50}
    other = DenseNet(DenseNetConfig(norm_epsilon=0.001)).eval()
    other.load_state_dict(network.state_dict())
    (crop,) = faces(1, 64)
    with torch.inference_mode():
        expected = other((torch.from_numpy(crop.astype(np.float32))[None, None] - 100) / 50).features[0]
    np.testing.assert_allclose(vector(extractor, [crop]), expected, rtol=1e-4, atol=1e-5)
    save_file(network.state_dict(), path, {"pixel_sd": "0"})
    with pytest.raises(FeatureError, match="pixel_sd in its metadata cannot be used"):
        DenseNetFerPlus(path)


def test_weights_without_batch_counters_will_do(network: DenseNet, weights: Path, tmp_path: Path) -> None:
    state = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    crops = faces(1, 64)
    assert (vector(DenseNetFerPlus(path), crops) == vector(DenseNetFerPlus(weights), crops)).all()


def test_weights_of_another_network_are_refused(network: DenseNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = dict(network.state_dict())
    del state["features.norm_final.bias"]
    state["extra"] = torch.zeros(1)
    state["features.conv0.weight"] = torch.zeros(24, 3, 3, 3)
    save_file(state, path)
    with pytest.raises(FeatureError) as caught:
        DenseNetFerPlus(path)
    for part in (
        "lacks features.norm_final.bias",
        "has the unknown extra",
        "features.conv0.weight (24, 3, 3, 3) for (24, 1, 3, 3)",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.onnx"])
def test_broken_and_missing_weights_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with pytest.raises(FeatureError, match="cannot be read"):
        DenseNetFerPlus(path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(FeatureError, match=r"is no safetensors file|is not an ONNX model"):
        DenseNetFerPlus(path)


def test_weights_with_nan_are_named(network: DenseNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = dict(network.state_dict())
    state["features.norm_final.weight"] = torch.full((342,), float("nan"))
    save_file(state, path)
    with pytest.raises(FeatureError, match=r"weights\.safetensors gives NaN or infinity"):
        DenseNetFerPlus(path).describe(looks(faces(1, 64)), None)


def test_densenet_may_come_as_onnx(tmp_path: Path) -> None:
    path = linear(tmp_path / "net.onnx", ["n", 1, 64, 64], {"logits": 8, "pooled": 342}, metadata=SETTINGS)
    extractor = DenseNetFerPlus(path)
    assert extractor.recipe["output"] == "pooled"
    (crop,) = faces(1, 64)
    expected = (crop.mean() - 100) / 50 * np.linspace(-1, 1, 342)
    np.testing.assert_allclose(vector(extractor, [crop]), expected, rtol=1e-4, atol=1e-5)
    for shape, widths in (([1, 3, 64, 64], {"y": 342}), ([1, 1, 48, 48], {"y": 342})):
        with pytest.raises(FeatureError, match="does not read grey faces of 64 × 64"):
            DenseNetFerPlus(linear(path, shape, widths))
    with pytest.raises(FeatureError, match=r"no output \(1, 342\)"):
        DenseNetFerPlus(linear(path, [1, 1, 64, 64], {"y": 341}))


@pytest.mark.parametrize(
    "shape", [[1, 3, 32, 32], ["n", 3, 32, 32], ["n", 32, 32, 3], [1, 32, 32, 1], [1, 1, 32, 32]]
)
@pytest.mark.parametrize("scale", ["255", "unit", "signed", "imagenet", None])
def test_onnx_model_reads_every_layout_and_scale(
    shape: list[int | str], scale: Scale | None, tmp_path: Path
) -> None:
    colour = 3 in shape
    path = linear(tmp_path / "model.onnx", shape, {"probabilities": 4})
    if scale == "imagenet" and not colour:
        with pytest.raises(FeatureError, match="'imagenet' does not suit"):
            OnnxExpression(path, scale)
        return
    extractor = OnnxExpression(path, scale)
    assert extractor.colour == colour
    crops = faces(2, 32, colour)
    channels = np.stack([crop.reshape(-1, 3 if colour else 1).mean(0) for crop in crops]).mean(0)
    mean, sd = SCALES[scale or ("imagenet" if colour else "255")]
    weighted = ((channels - mean) / sd) @ np.arange(1.0, len(channels) + 1)
    np.testing.assert_allclose(
        vector(extractor, crops), weighted * np.linspace(-1, 1, 4), rtol=1e-3, atol=1e-4
    )


def test_open_and_uneven_sizes(tmp_path: Path) -> None:
    open_size = OnnxExpression(linear(tmp_path / "open.onnx", ["n", 3, "h", "w"], {"y": 2}))
    assert (open_size.recipe["height"], open_size.recipe["width"]) == (224, 224)
    assert vector(open_size, faces(1, 224, colour=True)).shape == (2,)
    uneven = OnnxExpression(linear(tmp_path / "uneven.onnx", [1, 1, 16, 32], {"y": 2}))
    grey = np.full((32, 32), 7, dtype=np.uint8)
    np.testing.assert_allclose(vector(uneven, [grey]), [-7, 7])


def test_output_is_chosen_by_name_then_width(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    shape = [1, 1, 8, 8]

    def chosen(widths: dict[str, int], output: str | None = None) -> str:
        name = OnnxExpression(linear(path, shape, widths), output=output).recipe["output"]
        assert isinstance(name, str)
        return name

    assert chosen({"a": 2, "b": 5, "c": 5}) == "b"
    assert chosen({"a": 9, "Face_Embedding": 3}) == "Face_Embedding"
    assert chosen({"features.1": 2, "last_features": 4, "a": 9}) == "last_features"
    assert chosen({"a": 9, "embedding": 3}, "a") == "a"
    with pytest.raises(FeatureError, match="has no `c`: its outputs are"):
        chosen({"a": 2}, "c")


def logarithm(path: Path, shape: list[int]) -> Path:
    """A model that gives the logarithm of the mean over all but two axes."""
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=list(range(2, len(shape))), keepdims=0)
    return save_graph(
        path, [mean, helper.make_node("Log", ["mean"], ["y"])], {"x": shape}, {"y": shape[:2]}, {}
    )


def test_models_of_other_things_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for shape in ([4, 1, 8, 8], [1, 1, 8]):
        with pytest.raises(FeatureError, match="one picture at a time"):
            OnnxExpression(logarithm(path, shape))
    with pytest.raises(FeatureError, match="1 or 3 channels"):
        OnnxExpression(logarithm(path, [1, 5, 8, 8]))


def test_values_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    extractor = OnnxExpression(logarithm(tmp_path / "model.onnx", [1, 1, 8, 8]))
    np.testing.assert_allclose(
        vector(extractor, [np.full((8, 8), 2, dtype=np.uint8)]), np.log([2]), rtol=1e-6
    )
    with pytest.raises(FeatureError, match=r"model\.onnx gives NaN or infinity"):
        extractor.describe(looks([np.zeros((8, 8), dtype=np.uint8)]), None)


def test_double_precision_is_fed_and_rounded(tmp_path: Path) -> None:
    extractor = OnnxExpression(linear(tmp_path / "model.onnx", [1, 1, 8, 8], {"y": 2}, TensorProto.DOUBLE))
    np.testing.assert_allclose(vector(extractor, [np.full((8, 8), 9, dtype=np.uint8)]), [-9, 9])


def test_densenet_is_found_again_by_its_recipe(weights: Path, network: DenseNet, tmp_path: Path) -> None:
    made = DenseNetFerPlus(weights)
    assert made.recipe["kind"] == "densenet-ferplus"
    assert made.recipe["weights"] == str(weights)
    assert made.recipe["weights_sha256"] == file_sha256(weights)
    recipe = json.loads(json.dumps(made.recipe))
    crops = faces(1, 64)
    again = DenseNetFerPlus.from_recipe(recipe)
    assert again.recipe == recipe
    assert (vector(again, crops) == vector(made, crops)).all()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    assert DenseNetFerPlus.from_recipe(recipe, copy).recipe == recipe
    save_file(network.state_dict(), copy, SETTINGS)
    with pytest.raises(FeatureError) as caught:
        DenseNetFerPlus.from_recipe(recipe, copy)
    assert file_sha256(weights) in str(caught.value)
    assert file_sha256(copy) in str(caught.value)
    with pytest.raises(FeatureError, match="cannot be followed"):
        DenseNetFerPlus.from_recipe(recipe | {"version": 2})
    with pytest.raises(FeatureError, match="the features follow the recipe"):
        DenseNetFerPlus.from_recipe(recipe | {"pixel_sd": 12.0})


def test_onnx_model_and_its_detector_are_found_again(tmp_path: Path) -> None:
    detector = OnnxDetector(red_ultraface(tmp_path / "red.onnx"), score_threshold=0.6)
    path = linear(tmp_path / "model.onnx", [1, 3, 32, 32], {"embedding": 3, "logits": 4})
    made = OnnxExpression(path, "unit", "logits", detector)
    assert made.recipe["finder"]["detector"] == detector.recipe
    recipe = json.loads(json.dumps(made.recipe))
    moved = path.rename(tmp_path / "moved.onnx")
    moved_detector = Path(detector.recipe["weights"]).rename(tmp_path / "moved red.onnx")
    with pytest.raises(FeatureError, match=r"red\.onnx is not there"):
        OnnxExpression.from_recipe(recipe, moved)
    again = OnnxExpression.from_recipe(recipe, moved, moved_detector)
    assert again.recipe == recipe
    crops = faces(1, 32, colour=True)
    assert (vector(again, crops) == vector(made, crops)).all()


def test_faces_are_looked_for_with_the_given_detector(tmp_path: Path) -> None:
    detector = OnnxDetector(red_ultraface(tmp_path / "red.onnx"))
    extractor = OnnxExpression(
        linear(tmp_path / "model.onnx", [1, 1, 8, 8], {"y": 2}), "unit", detector=detector
    )
    assert extractor.colour  # for the detector's sake; faces are grey
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    image[80:160, 80:160, 0] = 255
    seen = [Look(time, extractor.look(image)) for time in (0, 200)]
    assert len(seen[0].seen) == 1
    assert seen[0].seen[0].crop.shape == (8, 8)
    low, high = vector(extractor, [look.seen[0].crop for look in seen])
    assert low == -high
    assert high > 0.1
