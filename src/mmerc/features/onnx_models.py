"""Models of ONNX files: networks that say something of a face, and detectors that find faces.

They run on one thread of the CPU, so that they give the same bits in every process.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from mmerc.errors import FeatureError
from mmerc.extras import needed
from mmerc.features.haar import HaarDetector
from mmerc.features.recipe import Detector, Image
from mmerc.features.weights import checked_recipe, file_sha256, followed, weights_file

Floats = npt.NDArray[np.float32]
_DTYPES: dict[str, type[np.floating[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}


class Port(NamedTuple):
    """An input or an output of a model."""

    name: str
    shape: tuple[int | None, ...]  # None: any length
    dtype: type[np.floating[Any]] | None  # None: no floating point numbers


class OnnxModel:
    """The model of an ONNX file.

    Attributes:
        path: full path of the file
        sha256: of the file, and of the files with its weights if those lie apart
        inputs, outputs: what goes in and comes out, in the order of the file
        metadata: what the file says of itself
    """

    def __init__(self, path: Path) -> None:
        """Load a model.

        Raises:
            FeatureError: the file is missing or broken, wants operators or data that it must not or cannot
                have, or the packages for ONNX models are not installed.
        """
        self.path = path.expanduser().absolute()
        with needed(f"the model {self.path}", "mmerc[onnx]", FeatureError):
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        kinds = [kind for kind in vars(state).values() if isinstance(kind, type)]
        # The errors of onnxruntime have no base of their own.
        named = (kind for kind in kinds if issubclass(kind, Exception))
        self._errors: tuple[type[Exception], ...] = (RuntimeError, ValueError, *named)
        self.sha256 = file_sha256(self.path, *_external_files(self.path))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise FeatureError(
                f"{self.path} is not an ONNX model that can be run: {_reason(error)}"
            ) from None
        self.inputs = [_port(argument) for argument in self._session.get_inputs()]
        self.outputs = [_port(argument) for argument in self._session.get_outputs()]
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map

    def __call__(self, values: npt.NDArray[Any], outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Return the named outputs for `values`, which are given to the first input in its type.

        Raises:
            FeatureError: the model cannot take the values.
        """
        first = self.inputs[0]
        try:
            found: list[npt.NDArray[Any]] = self._session.run(
                list(outputs), {first.name: values.astype(first.dtype or np.float32)}
            )
        except self._errors as error:
            raise FeatureError(f"{self.path} cannot be run: {_reason(error)}") from None
        return found


class DetectorRecipe(BaseModel):
    """What the faces that an ONNX detector finds depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: Literal["onnx-detector"] = "onnx-detector"
    version: Literal[1] = 1
    contract: Literal["ultraface", "yunet"]
    weights: str  # full path
    weights_sha256: str
    score_threshold: float
    overlap_threshold: float  # of two boxes, intersection over union, above which one is dropped
    longest_side: int | None  # pixels that larger pictures are scaled down to; None: the model's own size


class OnnxDetector:
    """Finds faces with an ONNX model that keeps one of the contracts in `CONTRACTS`."""

    colour = True

    def __init__(
        self, path: Path, score_threshold: float | None = None, overlap_threshold: float | None = None
    ) -> None:
        """Load a detector.

        Args:
            path: the model
            score_threshold: how sure it must be of a face; None: what its authors take
            overlap_threshold: intersection over union above which two boxes are one face; None: likewise

        Raises:
            FeatureError: the model cannot be loaded, or keeps none of the contracts.
        """
        model = OnnxModel(path)
        outputs = {port.name for port in model.outputs}
        kind = next((kind for kind in CONTRACTS if kind.outputs <= outputs and _takes_pictures(model)), None)
        if kind is None:
            contracts = "; ".join(f"{kind.name}: {kind.contract}" for kind in CONTRACTS)
            raise FeatureError(
                f"{model.path} is no face detector that is known here: it goes from "
                f"{listed_ports(model.inputs)} to {listed_ports(model.outputs)}. Contracts are {contracts}"
            )
        self._recipe = DetectorRecipe(
            contract=kind.name,
            weights=str(model.path),
            weights_sha256=model.sha256,
            score_threshold=kind.score_threshold if score_threshold is None else score_threshold,
            overlap_threshold=kind.overlap_threshold if overlap_threshold is None else overlap_threshold,
            longest_side=kind.longest_side,
        )
        self._find = kind(model, self._recipe)
        self(np.zeros((96, 128, 3), dtype=np.uint8))  # what its outputs hold shows only now

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any], weights: Path | None = None) -> "OnnxDetector":
        """Load the detector that has `recipe`, from `weights` if the model is not where the recipe says.

        Raises:
            FeatureError: as the constructor, or the model is another one.
        """
        asked = checked_recipe(DetectorRecipe, recipe)
        detector = cls(
            weights_file(asked.weights, asked.weights_sha256, weights),
            asked.score_threshold,
            asked.overlap_threshold,
        )
        detector._recipe = followed(detector._recipe, asked)
        return detector

    @property
    def recipe(self) -> dict[str, Any]:
        """All that what it finds depends on."""
        return self._recipe.model_dump()

    def __call__(self, image: Image) -> Floats:
        """Return the faces of an RGB picture (H, W, 3), largest first: (F, 4) x, y, width, height."""
        boxes = self._find(image)
        if not np.isfinite(boxes).all():
            raise FeatureError(f"{self._recipe.weights} gives NaN or infinity for the place of a face")
        height, width = image.shape[:2]
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        corners = corners.clip(0, np.array([width, height, width, height], dtype=np.float32))
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        boxes = boxes[(boxes[:, 2:] >= 1).all(axis=1)]
        return boxes[np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")]


class _Contract(ABC):
    """How a detector is asked and how its answer is read."""

    name: Literal["ultraface", "yunet"]
    contract: str
    outputs: frozenset[str]
    score_threshold: float
    overlap_threshold: float
    longest_side: int | None

    def __init__(self, model: OnnxModel, recipe: DetectorRecipe) -> None:
        self._model, self._recipe = model, recipe

    @abstractmethod
    def __call__(self, image: Image) -> Floats:
        """Return (F, 4) x, y, width, height in pixels of the picture, which may lie partly outside."""


class _UltraFace(_Contract):
    """https://github.com/Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB, its RFB and slim models."""

    name = "ultraface"
    contract = (
        "RGB (1, 3, H, W) as (x - 127) / 128 → `scores` (1, N, 2) and `boxes` (1, N, 4), corners in [0, 1]"
    )
    outputs = frozenset({"scores", "boxes"})
    score_threshold = 0.7
    overlap_threshold = 0.5
    longest_side = None

    def __init__(self, model: OnnxModel, recipe: DetectorRecipe) -> None:
        super().__init__(model, recipe)
        _, _, height, width = model.inputs[0].shape
        self._size = (width or 320, height or 240)

    def __call__(self, image: Image) -> Floats:
        import cv2

        pixels = (cv2.resize(image, self._size).astype(np.float32) - 127) / 128
        scores, corners = self._model(pixels.transpose(2, 0, 1)[None], ["scores", "boxes"])
        if scores.shape != (1, scores.size // 2, 2) or corners.shape != (1, scores.size // 2, 4):
            raise FeatureError(
                f"{self._model.path} gives scores {scores.shape} and boxes {corners.shape}, "
                "not (1, N, 2) and (1, N, 4)"
            )
        sure = scores[0, :, 1] > self._recipe.score_threshold
        height, width = image.shape[:2]
        scale = np.array([width, height] * 2, dtype=np.float32)
        found = corners[0, sure].astype(np.float32) * scale
        boxes = np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], axis=1)
        if not np.isfinite(boxes).all():
            return boxes
        kept = cv2.dnn.NMSBoxes(
            boxes.tolist(), scores[0, sure, 1].tolist(), 0.0, self._recipe.overlap_threshold
        )
        return boxes[np.asarray(kept, dtype=np.int64)]


class _YuNet(_Contract):
    """https://github.com/opencv/opencv_zoo, face_detection_yunet of 2023 and later, run by OpenCV."""

    name = "yunet"
    contract = "OpenCV's YuNet, (1, 3, H, W) → `cls_8`, `obj_8`, `bbox_8`, `kps_8` and those of 16 and 32"
    outputs = frozenset(f"{head}_{s}" for head in ("cls", "obj", "bbox", "kps") for s in (8, 16, 32))
    score_threshold = 0.9
    overlap_threshold = 0.3
    longest_side = 640

    def __init__(self, model: OnnxModel, recipe: DetectorRecipe) -> None:
        import cv2

        super().__init__(model, recipe)
        try:
            self._detector = cv2.FaceDetectorYN.create(
                str(model.path), "", (640, 640), recipe.score_threshold, recipe.overlap_threshold
            )
        except cv2.error as error:
            raise FeatureError(f"OpenCV cannot run {model.path}: {_reason(error)}") from None

    def __call__(self, image: Image) -> Floats:
        import cv2

        scale = min(1.0, self.longest_side / max(image.shape[:2]))
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        small = image if scale == 1 else cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        try:
            self._detector.setInputSize((width, height))
            _, faces = self._detector.detect(np.ascontiguousarray(small[..., ::-1]))  # it wants BGR
        except cv2.error as error:
            raise FeatureError(f"OpenCV cannot run {self._model.path}: {_reason(error)}") from None
        if faces is None:
            return np.zeros((0, 4), dtype=np.float32)
        factors = np.array([image.shape[1] / width, image.shape[0] / height] * 2, dtype=np.float32)
        boxes: Floats = faces[:, :4] * factors
        return boxes


CONTRACTS: tuple[type[_Contract], ...] = (_UltraFace, _YuNet)


def detector_for(recipe: Mapping[str, Any], weights: Path | None = None) -> Detector:
    """Return the detector that has `recipe`: OpenCV's cascade, or an ONNX model.

    Args:
        recipe: of a detector
        weights: where the ONNX model is, if not where the recipe says

    Raises:
        FeatureError: the model cannot be loaded or is another one, or no detector has that recipe.
    """
    if recipe.get("kind") == "onnx-detector":
        return OnnxDetector.from_recipe(recipe, weights)
    detector = HaarDetector()
    if detector.recipe != recipe:
        raise FeatureError(f"the features follow the face detector {dict(recipe)}, here is {detector.recipe}")
    return detector


def _external_files(path: Path) -> list[Path]:
    """Return the files beside `path` that hold weights of the model."""
    with needed(f"the model {path}", "mmerc[onnx]", FeatureError):
        import onnx
        from google.protobuf.message import DecodeError
    try:
        model = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise FeatureError(f"{path} cannot be read ({error.strerror}): is the path right?") from None
    except DecodeError:
        raise FeatureError(f"{path} is not an ONNX model: it is cut off or something else") from None
    folders = {path.parent.resolve(), path.resolve().parent}
    names = {e.value for t in _tensors(model) for e in t.external_data if e.key == "location"}
    if odd := [name for name in sorted(names) if not name or "\0" in name]:
        raise FeatureError(f"{path} wants weights from a file called {odd[0]!r}: it is not to be trusted")
    files = [path.parent / name for name in sorted(names)]
    for file in files:
        if not any(file.resolve().is_relative_to(folder) for folder in folders):
            raise FeatureError(
                f"{path} wants weights from {file}, outside its folder: it is not to be trusted"
            )
    return files


def _tensors(message: Any) -> Iterator[Any]:
    """Yield the tensors in a protobuf message, however deep."""
    if message.DESCRIPTOR.full_name == "onnx.TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _tensors(part)


def _takes_pictures(model: OnnxModel) -> bool:
    shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
    return len(shape) == 4 and shape[0] in (1, None) and shape[1] == 3


def _port(argument: Any) -> Port:
    shape = (length if isinstance(length, int) and length > 0 else None for length in argument.shape)
    return Port(argument.name, tuple(shape), _DTYPES.get(argument.type))


def listed_ports(ports: Sequence[Port]) -> str:
    """Return names and shapes for a message."""
    return ", ".join(f"`{port.name}` ({', '.join(str(n or '?') for n in port.shape)})" for port in ports)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
