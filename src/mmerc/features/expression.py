"""Visual features of networks that know facial expressions: the papers' DenseNet, or any ONNX model.

The vector of an utterance is the mean over the looks at the speaking face, as in the papers. Faces go through
the network one by one and on one thread: the last bits of a convolution depend on the size of the batch and
on the threads, and on one thread batches save no time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict

from mmerc.errors import FeatureError
from mmerc.features.densenet import DenseNet, read_weights, settings_of
from mmerc.features.faces import Face, FaceFinder, speaking_face
from mmerc.features.onnx_models import OnnxModel, detector_for, listed_ports
from mmerc.features.recipe import Detector, Image, Look, Loudness, Measured
from mmerc.features.weights import checked_recipe, file_sha256, followed, weights_file
from mmerc.processes import one_thread

FRAMES_PER_SECOND = 5.0
WIDTH = 342  # of the papers' visual features
FACE_SIZE = 64  # pixels of the faces that their network reads

Floats = npt.NDArray[np.float32]
Scale = Literal["255", "unit", "signed", "imagenet"]
# The mean and the standard deviation by which a network expects pixels of 0 to 255 to be standardised.
SCALES: dict[str, tuple[Any, Any]] = {
    "255": (0.0, 1.0),
    "unit": (0.0, 255.0),  # 0 to 1
    "signed": (127.5, 127.5),  # -1 to 1
    "imagenet": ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
}


class _Recipe(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    kind: str
    version: Literal[1] = 1
    weights: str  # full path
    weights_sha256: str
    frames_per_second: float = FRAMES_PER_SECOND
    finder: dict[str, Any]


class DenseNetRecipe(_Recipe):
    """What the vectors of `DenseNetFerPlus` depend on."""

    kind: Literal["densenet-ferplus"] = "densenet-ferplus"
    network: Literal["DenseNet-BC-100-12"] = "DenseNet-BC-100-12"
    output: str | None = None  # of an ONNX model
    pixel_mean: float
    pixel_sd: float
    norm_epsilon: float | None = None  # None: an ONNX model has it inside


class OnnxRecipe(_Recipe):
    """What the vectors of `OnnxExpression` depend on."""

    kind: Literal["onnx"] = "onnx"
    scale: Scale
    output: str
    height: int
    width: int


class _Network(Protocol):
    """Reads faces of one size and gives a vector for each."""

    height: int
    width: int
    colour: bool
    features: int  # length of the vector

    def __call__(self, face: Floats) -> Floats:
        """face: (H, W) or (H, W, 3), standardised → (features,)."""


class _Expression:
    """The mean over what a network says of each look at the speaking face."""

    _recipe: _Recipe

    def __init__(self, network: _Network, mean: Any, sd: Any, finder: FaceFinder) -> None:
        self._network, self._finder = network, finder
        self._mean, self._sd = np.asarray(mean, dtype=np.float32), np.asarray(sd, dtype=np.float32)

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the values depend on."""
        return self._recipe.model_dump()

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return self._network.features

    @property
    def frames_per_second(self) -> float:
        """How many pictures a second it wants."""
        return self._recipe.frames_per_second

    @property
    def colour(self) -> bool:
        """Whether pictures are (H, W, 3) RGB rather than (H, W) grey."""
        return self._finder.colour

    def look(self, image: Image) -> list[Face]:
        """Keep the faces of one picture."""
        return self._finder(image)

    def describe(self, looks: Sequence[Look], loudness: Loudness | None) -> Measured:
        """Measure one utterance from its pictures in order; `loudness` is None without sound.

        Raises:
            FeatureError: the network gives NaN or infinity.
        """
        faces = speaking_face(looks, loudness)
        if not faces:
            return Measured(None, "no face")
        vectors = np.stack([self._read(look.seen.crop) for look in faces])
        if not np.isfinite(vectors).all():
            raise FeatureError(
                f"{self._recipe.weights} gives NaN or infinity for a face: are its weights whole?"
            )
        return Measured(vectors.mean(axis=0, dtype=np.float64).astype(np.float32))

    def _read(self, face: Image) -> Floats:
        size = (self._network.width, self._network.height)
        if face.shape[1::-1] != size:  # the network wants no squares
            import cv2

            face = cv2.resize(face, size)
        return self._network((face.astype(np.float32) - self._mean) / self._sd)


class DenseNetFerPlus(_Expression):
    """The papers' visual features: 342 numbers of a DenseNet that was trained on FER+ (`densenet.py`)."""

    def __init__(self, weights: Path, detector: Detector | None = None) -> None:
        """Load the network.

        Args:
            weights: a .safetensors file with the state of `DenseNet`, or an .onnx file with an output of
                width 342 for grey faces of 64 × 64 pixels; their metadata may hold `Settings`
            detector: finds the faces; None: OpenCV's cascade

        Raises:
            FeatureError: the file is missing, broken, or holds another network.
        """
        weights = weights.expanduser().absolute()
        finder = FaceFinder(detector, size=FACE_SIZE, colour=False)
        network: _Network
        output, epsilon = None, None
        if weights.suffix == ".onnx":
            model = OnnxModel(weights)
            network = _OnnxNetwork(model, features=WIDTH)
            if network.colour or (network.height, network.width) != (FACE_SIZE, FACE_SIZE):
                raise FeatureError(f"{weights} does not read grey faces of {FACE_SIZE} × {FACE_SIZE} pixels")
            sha256, output, settings = model.sha256, network.output, settings_of(model.metadata, weights)
        else:
            sha256 = file_sha256(weights)
            densenet, settings = read_weights(weights)
            network, epsilon = _TorchNetwork(densenet), settings.norm_epsilon
        super().__init__(network, settings.pixel_mean, settings.pixel_sd, finder)
        self._recipe = DenseNetRecipe(
            weights=str(weights),
            weights_sha256=sha256,
            finder=finder.recipe,
            output=output,
            pixel_mean=settings.pixel_mean,
            pixel_sd=settings.pixel_sd,
            norm_epsilon=epsilon,
        )

    @classmethod
    def from_recipe(
        cls, recipe: Mapping[str, Any], weights: Path | None = None, detector: Path | None = None
    ) -> "DenseNetFerPlus":
        """Return the extractor that has `recipe`.

        Args:
            recipe: of features that are there
            weights: where the weights are, if not where the recipe says
            detector: where an ONNX face detector is, likewise

        Raises:
            FeatureError: a file is missing or broken, or is not the one that made those features.
        """
        asked = checked_recipe(DenseNetRecipe, recipe)
        made = cls(
            weights_file(asked.weights, asked.weights_sha256, weights),
            detector_for(asked.finder["detector"], detector),
        )
        made._recipe = followed(made._recipe, asked)
        return made


class OnnxExpression(_Expression):
    """Features of a network for faces in an ONNX file."""

    def __init__(
        self,
        path: Path,
        scale: Scale | None = None,
        output: str | None = None,
        detector: Detector | None = None,
    ) -> None:
        """Load the network.

        Args:
            path: a model with one input, a picture (1, C, H, W) or (1, H, W, C) of 1 (grey) or 3 channels
                (RGB); the batch may be of any size, H and W too (64 grey and 224 RGB pixels are taken then)
            scale: what pixels are to be: "255" (as they are), "unit" (0 to 1), "signed" (-1 to 1) or
                "imagenet" (mean and deviation of each colour); None: "255" for grey, "imagenet" for RGB
            output: the output to take, of shape (1, d); None: the one named like features or an embedding,
                else the widest
            detector: finds the faces; None: OpenCV's cascade

        Raises:
            FeatureError: the file is missing or broken, or has not such an input or output.
        """
        model = OnnxModel(path)
        network = _OnnxNetwork(model, output)
        scale = scale or ("imagenet" if network.colour else "255")
        if scale not in SCALES or (scale == "imagenet" and not network.colour):
            known = ", ".join(get_args(Scale))
            raise FeatureError(
                f"the pixel scale {scale!r} does not suit {model.path}: there are {known}, the last for RGB"
            )
        finder = FaceFinder(detector, size=max(network.height, network.width), colour=network.colour)
        super().__init__(network, *SCALES[scale], finder)
        self._recipe = OnnxRecipe(
            weights=str(model.path),
            weights_sha256=model.sha256,
            finder=finder.recipe,
            scale=scale,
            output=network.output,
            height=network.height,
            width=network.width,
        )

    @classmethod
    def from_recipe(
        cls, recipe: Mapping[str, Any], weights: Path | None = None, detector: Path | None = None
    ) -> "OnnxExpression":
        """Return the extractor that has `recipe`; as `DenseNetFerPlus.from_recipe`."""
        asked = checked_recipe(OnnxRecipe, recipe)
        found = detector_for(asked.finder["detector"], detector)
        made = cls(
            weights_file(asked.weights, asked.weights_sha256, weights), asked.scale, asked.output, found
        )
        made._recipe = followed(made._recipe, asked)
        return made


class _TorchNetwork:
    """Our DenseNet, without its classifier."""

    height = width = FACE_SIZE
    colour = False
    features = WIDTH

    def __init__(self, network: DenseNet) -> None:
        self._network = network.eval()

    def __call__(self, face: Floats) -> Floats:
        with one_thread(), torch.inference_mode():
            features: Floats = self._network(torch.from_numpy(face)[None, None]).features[0].numpy()
        return features


class _OnnxNetwork:
    """A model that reads one face at a time, with the output that was chosen."""

    def __init__(self, model: OnnxModel, output: str | None = None, features: int | None = None) -> None:
        self._model = model
        shape = model.inputs[0].shape if len(model.inputs) == 1 else ()
        if len(shape) != 4 or shape[0] not in (1, None) or model.inputs[0].dtype is None:
            raise FeatureError(
                f"{model.path} does not read one picture at a time: it reads {listed_ports(model.inputs)}"
            )
        self._channels_first = shape[1] in (1, 3)
        channels, *size = shape[1:] if self._channels_first else (shape[3], *shape[1:3])
        if channels not in (1, 3):
            raise FeatureError(
                f"{model.path} reads pictures of {shape}, where 1 or 3 channels are not to be seen"
            )
        self.colour = channels == 3
        self.height, self.width = (length or (224 if self.colour else FACE_SIZE) for length in size)
        names = [port.name for port in model.outputs if port.dtype is not None]
        blank = np.zeros((self.height, self.width, channels), dtype=np.float32)
        found = self._run(blank, names)
        widths = {n: v.shape[1] for n, v in zip(names, found, strict=True) if v.ndim == 2 and len(v) == 1}
        self.output = _chosen(widths, output, features, model)
        self.features = widths[self.output]

    def __call__(self, face: Floats) -> Floats:
        features: Floats = self._run(face, [self.output])[0][0].astype(np.float32)
        return features

    def _run(self, face: Floats, outputs: Sequence[str]) -> list[npt.NDArray[Any]]:
        picture = face.reshape(1, self.height, self.width, -1)
        return self._model(picture.transpose(0, 3, 1, 2) if self._channels_first else picture, outputs)


def _chosen(widths: Mapping[str, int], name: str | None, width: int | None, model: OnnxModel) -> str:
    """Return the output of `widths` that has that name and width, or else is most likely to hold features."""
    fitting = [n for n in widths if name in (None, n) and width in (None, widths[n])]
    if not fitting:
        wanted = (
            f"`{name}`"
            if name
            else "float output of shape (1, d)"
            if width is None
            else f"output (1, {width})"
        )
        raise FeatureError(f"{model.path} has no {wanted}: its outputs are {listed_ports(model.outputs)}")
    named = [n for n in fitting if "feature" in n.lower() or "embed" in n.lower()]
    return max(named or fitting, key=lambda n: widths[n])
