"""What a checkpoint says of itself: the content of `checkpoint.json`, and what it was made with."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from mmerc.corpus import Modality

WIDEST: Final = 2**31  # more is a lie, and too much for torch


class CheckpointInfo(BaseModel):
    """Content of `checkpoint.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    labels: tuple[str, ...]
    modalities: dict[str, Modality]
    corpus: str
    seed: int
    fold: int | None
    epoch: int
    validation: dict[str, Any]  # scores on the validation split, at the chosen epoch
    class_weights: dict[str, float] | None
    versions: dict[str, str]
    git_commit: str | None
    config_sha256: str = ""
    weights_sha256: str = ""
    encoder_sha256: dict[str, str] = {}  # of the files in `encoder/`
    sha256: str = ""  # of checkpoint.json itself, with this left empty; the last field, for `seal_text`

    @property
    def files(self) -> tuple[str, ...]:
        """The files that a checkpoint cannot be without, as paths in its folder."""
        encoder = (f"encoder/{name}" for name in sorted(self.encoder_sha256))
        return ("checkpoint.json", "config.yaml", "model.safetensors", *encoder)

    @field_validator("encoder_sha256")
    @classmethod
    def _lie_in_the_folder(cls, sums: dict[str, str]) -> dict[str, str]:
        if odd := [
            name for name in sums if name in ("", ".", "..") or "\0" in name or Path(name).name != name
        ]:
            raise ValueError(f"{odd[0]!r} is not the name of a file in `encoder`")
        return sums

    @field_validator("modalities")
    @classmethod
    def _can_be(cls, modalities: dict[str, Modality]) -> dict[str, Modality]:
        for name, modality in modalities.items():
            if modality.width > WIDEST:
                raise ValueError(f"{name} has {modality.width} columns, more than any model")
        return modalities


def versions() -> dict[str, str]:
    """Return the versions of mmerc, Python and the libraries that results depend on."""
    names = ("mmerc", "torch", "transformers", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in names}}


@cache
def git_commit() -> str | None:
    """Return the commit of mmerc's own checkout, `+dirty` if it was changed; None outside a checkout.

    It is asked for once per process: what runs is what was imported.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments],
            capture_output=True,
            encoding="utf-8",
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", str(Path(__file__).resolve()))
        return (
            git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", ".") else "")
            if tracked
            else None
        )
    except (OSError, subprocess.SubprocessError):
        return None
