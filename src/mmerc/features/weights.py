"""Recipes that name a file of weights: read, and held against the file that is there."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mmerc.errors import FeatureError

Recipe = TypeVar("Recipe", bound=BaseModel)


def checked_recipe(kind: type[Recipe], recipe: Mapping[str, Any]) -> Recipe:
    """Return `recipe` as a `kind`; FeatureError if it is none."""
    try:
        return kind.model_validate(dict(recipe))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FeatureError(
            f"the recipe {dict(recipe)} cannot be followed ({where}: {first['msg']})"
        ) from None


def weights_file(path: str, sha256: str, moved: Path | None = None) -> Path:
    """Return where the weights of a recipe are: `path`, or where they were `moved` to.

    Raises:
        FeatureError: there is no such file.
    """
    file = (moved or Path(path)).expanduser()
    if not file.is_file():
        raise FeatureError(
            f"{file} is not there, the file that made the features (sha256 {sha256}): say where it is now"
        )
    return file


def followed(found: Recipe, asked: Recipe) -> Recipe:
    """Return `asked`, the recipe of features; FeatureError if what was `found` does not follow it.

    Both have `weights` and `weights_sha256`. The weights may have moved, but not changed.
    """
    old, new = asked.model_dump(), found.model_dump()
    if old["weights_sha256"] != new["weights_sha256"]:
        raise FeatureError(
            f"{new['weights']} is not what made the features: the sha256 of that file ({old['weights']}) was "
            f"{old['weights_sha256']}, here it is {new['weights_sha256']}"
        )
    if old | {"weights": new["weights"]} != new:
        raise FeatureError(f"the features follow the recipe {old}, here is {new}")
    return asked


def file_sha256(*paths: Path) -> str:
    """Return the SHA-256 of files, one after the other; FeatureError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as error:
            raise FeatureError(f"{path} cannot be read ({error.strerror}): is the path right?") from None
    return digest.hexdigest()
