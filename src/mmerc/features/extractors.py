"""The extractors of sound and pictures: chosen by name, and built again from a recipe.

A name is a kind, for some a variant, for some a file: `prosody`, `opensmile/IS10`, `face-hog`,
`densenet-ferplus:weights.safetensors`, `onnx:model.onnx`. Installed packages add kinds of their own through
the entry point group `mmerc.extractors` (docs/recipes.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from mmerc.errors import FeatureError
from mmerc.features.recipe import Detector, Extractor, Measured, Samples

Medium = Literal["audio", "visual"]
GROUP: Final = "mmerc.extractors"


class Files(NamedTuple):
    """Files that an extractor needs, where they are not where its recipe says."""

    weights: Path | None = None
    detector: Path | None = None  # an ONNX face detector


NO_FILES: Final = Files()


@dataclass(frozen=True)
class Kind:
    """A kind of extractor.

    `new` makes one of a variant, which is what stands behind the slash in its name, or ""; `again` makes that
    of a stored recipe. Both raise FeatureError when they cannot.
    """

    medium: Medium
    new: Callable[[str, Files], Extractor]
    again: Callable[[Mapping[str, Any], Files], Extractor]


class Chosen(NamedTuple):
    """An extractor that was made, and the files that it was made with."""

    medium: Medium
    extractor: Extractor
    files: Files = NO_FILES


def choose(name: str, medium: Medium, detector: Path | None = None) -> Chosen:
    """Make the extractor that a user names.

    Raises:
        FeatureError: an unknown name, or its maker's complaint about variant, file or detector.
    """
    head, _, file = name.partition(":")
    kind, _, variant = head.partition("/")
    known = {k: v for k, v in kinds().items() if v.medium == medium}
    if kind not in known:
        raise FeatureError(
            f"there is no {medium} recipe {kind!r}; there are: {', '.join(sorted(known))} (docs/recipes.md)"
        )
    made = known[kind].new(variant, Files(Path(file).expanduser() if file else None, detector))
    return Chosen(medium, made)


def again(recipe: Mapping[str, Any], files: Files = NO_FILES) -> Chosen:
    """Make the extractor of a stored recipe.

    Raises:
        FeatureError: no installed kind follows it, or what can be made follows another recipe; names both.
    """
    kind = (kinds() | _INTERNAL).get(str(recipe.get("kind")))
    if kind is None:
        raise FeatureError(
            f"features were made by the recipe {dict(recipe)}, whose kind is not installed; installed are: "
            f"{', '.join(kinds())}"
        )
    extractor = kind.again(recipe, files)
    if extractor.recipe != dict(recipe):
        raise FeatureError(
            f"features were made by the recipe {dict(recipe)}; what is installed here follows "
            f"{extractor.recipe}: install the version of mmerc that made them, or extract again"
        )
    return Chosen(kind.medium, extractor, files)


@cache
def kinds() -> dict[str, Kind]:
    """Return all kinds that can be chosen, by name: ours, and those of installed packages."""
    added = {point.name: point.load() for point in entry_points(group=GROUP)}
    for name, kind in added.items():
        if not isinstance(kind, Kind) or name in _OURS | _INTERNAL:
            raise FeatureError(f"the entry point {name!r} of {GROUP} is not a new mmerc Kind")
    return _OURS | added


def _prosody(variant: str, files: Files) -> Extractor:
    from mmerc.features.prosody import Prosody

    _require_neither("prosody", variant, files.weights)
    return Prosody()


def _opensmile(variant: str, files: Files) -> Extractor:
    from mmerc.features.opensmile import OpenSmile

    _require_neither("opensmile", "", files.weights)
    return OpenSmile(variant)


def _face_hog(variant: str, files: Files) -> Extractor:
    from mmerc.features.face_hog import FaceHog
    from mmerc.features.faces import FaceFinder

    _require_neither("face-hog", variant, files.weights)
    return FaceHog(FaceFinder(_detector(files)))


def _face_hog_again(recipe: Mapping[str, Any], files: Files) -> Extractor:
    from mmerc.features.face_hog import FaceHog
    from mmerc.features.faces import FaceFinder
    from mmerc.features.onnx_models import detector_for

    return FaceHog(FaceFinder(detector_for(recipe["finder"]["detector"], files.detector)))


def _densenet(variant: str, files: Files) -> Extractor:
    from mmerc.features.expression import DenseNetFerPlus

    _require_neither("densenet-ferplus", variant, None)
    return DenseNetFerPlus(_weights("densenet-ferplus", files), _detector(files))


def _densenet_again(recipe: Mapping[str, Any], files: Files) -> Extractor:
    from mmerc.features.expression import DenseNetFerPlus

    return DenseNetFerPlus.from_recipe(recipe, *files)


def _onnx(variant: str, files: Files) -> Extractor:
    from mmerc.features.expression import OnnxExpression, Scale

    scale = cast(Scale, variant) if variant else None  # what is none of them is refused
    return OnnxExpression(_weights("onnx", files), scale, detector=_detector(files))


def _onnx_again(recipe: Mapping[str, Any], files: Files) -> Extractor:
    from mmerc.features.expression import OnnxExpression

    return OnnxExpression.from_recipe(recipe, *files)


def _detector(files: Files) -> Detector | None:
    from mmerc.features.onnx_models import OnnxDetector

    return OnnxDetector(files.detector) if files.detector else None


def _weights(name: str, files: Files) -> Path:
    if files.weights is None:
        raise FeatureError(f"{name} needs a file: {name}:PATH (docs/expression-models.md)")
    return files.weights


def _require_neither(name: str, variant: str, file: Path | None) -> None:
    if variant or file:
        raise FeatureError(f"{name!r} takes neither {variant!r} nor a file: name it alone")


class _LoudnessContour:
    """The loudness of an utterance over time, as an extractor: what tells which face speaks."""

    recipe: Final = {"kind": "loudness", "version": 1}
    width: Final = 1  # for each 20 ms

    def __call__(self, samples: Samples) -> Measured:
        from mmerc.features.loudness import loudness

        return Measured(loudness(samples, 0).decibels)


def _health(*of: Any) -> Extractor:
    from mmerc.features.diagnosis import Health

    return Health()


def _face_count(*of: Any) -> Extractor:
    from mmerc.features.diagnosis import FaceCount

    return FaceCount()


_OURS: Final = {
    "prosody": Kind("audio", _prosody, lambda recipe, files: _prosody("", files)),
    "opensmile": Kind("audio", _opensmile, lambda recipe, files: _opensmile(recipe["feature_set"], files)),
    "face-hog": Kind("visual", _face_hog, _face_hog_again),
    "densenet-ferplus": Kind("visual", _densenet, _densenet_again),
    "onnx": Kind("visual", _onnx, _onnx_again),
}
_INTERNAL: Final = {
    "loudness": Kind("audio", lambda *of: _LoudnessContour(), lambda *of: _LoudnessContour()),
    "health": Kind("audio", _health, _health),
    "face-count": Kind("visual", _face_count, _face_count),
}
