"""A trained model as a folder that says what it is.

    model.safetensors   weights, standardising statistics, and the text encoder if it was trained along
    config.yaml         the resolved config of the run
    checkpoint.json     labels, modalities with recipes, scores, versions, git commit, seed, checksums
    encoder/            tokenizer and architecture of a text encoder that was trained along
    README.md           model card

`checkpoint.json` is written last: where it is, the checkpoint is whole.
"""

import importlib.metadata
import logging
import platform
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmerc.config import RunConfig, build, read_yaml
from mmerc.corpus import Modality
from mmerc.errors import CheckpointError, ConfigError, FeatureError
from mmerc.features.text import TextEncoder
from mmerc.models import build_pipeline
from mmerc.models.pipeline import Pipeline
from mmerc.shipped import SHIPPED, located
from mmerc.storage import atomic_path, is_sealed, seal_text, sha256, write_text

_log = logging.getLogger(__name__)
FORMAT = 1
WIDEST = 2**31  # more is a lie, and too much for torch


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


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: a pipeline in evaluation mode, and what is known about it."""

    path: Path
    pipeline: Pipeline
    run: RunConfig
    info: CheckpointInfo


def save_checkpoint(
    path: Path, state: dict[str, Tensor], run: RunConfig, info: CheckpointInfo, encoder: TextEncoder | None
) -> None:
    """Write a checkpoint into the folder `path`.

    Raises:
        CheckpointError: there is no room for it.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / "checkpoint.json").unlink(missing_ok=True)
    try:
        with atomic_path(path / "model.safetensors") as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, temporary)
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be written ({error}): is there room on the disk?") from None
    if encoder is not None:
        encoder.save(path / "encoder")
    write_text(path / "config.yaml", yaml.safe_dump(_plain(asdict(run)), sort_keys=False, allow_unicode=True))
    files = sorted((path / "encoder").iterdir()) if encoder is not None else []
    sums = {
        "config_sha256": sha256(path / "config.yaml"),
        "weights_sha256": sha256(path / "model.safetensors"),
        "encoder_sha256": {file.name: sha256(file) for file in files},
        "sha256": "",
    }
    info = info.model_copy(update=sums)
    write_text(path / "README.md", model_card(run, info))
    write_text(path / "checkpoint.json", seal_text(info.model_dump_json(indent=2) + "\n"))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load the checkpoint folder `path`, or the shipped model of that name.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format version.
    """
    path = located(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a checkpoint folder; the models that come with mmerc are {', '.join(SHIPPED)}"
        )
    info = _read_info(path)
    weights = path / "model.safetensors"
    try:
        run = build(RunConfig, read_yaml(path / "config.yaml"))
        _require_checksum(weights, info.weights_sha256)
        for name, expected in info.encoder_sha256.items():
            _require_checksum(path / "encoder" / name, expected)
        encoder = TextEncoder.restore(path / "encoder") if run.text_encoder else None
        widths = {name: modality.width for name, modality in info.modalities.items()}
        pipeline = build_pipeline(run, widths, len(info.labels), encoder, None)
        _require_checksum(path / "config.yaml", info.config_sha256)  # now: others say more about an edit
        _fill(pipeline, load_file(weights), path)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be loaded: config.yaml: {error}") from None
    except (SafetensorError, OSError, RuntimeError, TypeError, FeatureError) as error:
        # TypeError: torch's word for sizes that are no numbers of its own (2**70).
        _require_checksum(path / "config.yaml", info.config_sha256)
        raise CheckpointError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from None
    _log.debug("checkpoint %s: %s, trained on %s", path, run.model, info.corpus)
    return Checkpoint(path, pipeline.eval(), run, info)


def _read_info(path: Path) -> CheckpointInfo:
    file = path / "checkpoint.json"
    try:
        text = file.read_bytes().decode("utf-8")
        info = CheckpointInfo.model_validate_json(text)
    except FileNotFoundError:
        raise CheckpointError(_no_checkpoint(path)) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{file}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    if info.sha256 and not is_sealed(text, info.sha256):
        raise CheckpointError(f"{file} is damaged: its checksum is not its own")
    return info


def versions() -> dict[str, str]:
    """Return the versions of mmerc, Python and the libraries that results depend on."""
    names = ("mmerc", "torch", "transformers", "numpy", "scikit-learn")
    return {"python": platform.python_version(), **{n: importlib.metadata.version(n) for n in names}}


@cache
def git_commit() -> str | None:
    """Return the commit of mmerc's own checkout, `+dirty` if it was changed; None outside a checkout.

    It is asked for once per process: what runs is what was imported.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        return (
            git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", ".") else "")
            if tracked
            else None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def model_card(run: RunConfig, info: CheckpointInfo) -> str:
    """Return the model card, Markdown."""
    scores = {k: info.validation[k] for k in ("weighted_f1", "macro_f1", "accuracy") if k in info.validation}
    rows = "\n".join(f"| {m} | {x.width} | `{x.recipe}` |" for m, x in info.modalities.items())
    per_class = info.validation.get("per_class", {})
    classes = "\n".join(f"| {k} | {100 * v['f1']:.1f} | {v['support']} |" for k, v in per_class.items())
    fold = "" if info.fold is None else f", test fold {info.fold}"
    return f"""# {run.model}{f" ({run.preset})" if run.preset else ""} on {info.corpus}

Recognises the emotion of every utterance of a conversation: {", ".join(info.labels)}.
Trained with mmerc {info.versions["mmerc"]}, seed {info.seed}{fold}; commit {info.git_commit or "unknown"}.

| modality | width | recipe |
| --- | --- | --- |
{rows}

Scores on the **validation** split, on which epoch {info.epoch} was chosen (optimistic; `mmerc evaluate` gives
the test split's): {", ".join(f"{k.replace('_', ' ')} {100 * v:.2f}" for k, v in scores.items())}.

| emotion | F1 (validation) | utterances |
| --- | --- | --- |
{classes}

Limits: a label is what annotators read into an utterance, not what a person feels. The scores hold for
conversations like those of {info.corpus}. Not for decisions about people.

Use: `mmerc predict {{this folder}} chat.txt`, or `mmerc.load("{{this folder}}").predict(conversation)`.
"""


def _no_checkpoint(path: Path) -> str:
    nested = sorted(str(p.parent.relative_to(path)) for p in path.glob("**/checkpoint.json"))
    if nested:
        return f"{path} holds several runs, not one checkpoint; name one of: {', '.join(nested[:5])}"
    return f"{path} is not a finished checkpoint: it has no checkpoint.json"


def _fill(pipeline: Pipeline, state: dict[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in pipeline.state_dict().items()}
    for name in sorted(shapes.keys() | state.keys()):
        found = tuple(state[name].shape) if name in state else "nothing"
        expected = shapes.get(name, "nothing")
        if found != expected:
            raise CheckpointError(
                f"{path} cannot be loaded: model.safetensors does not fit config.yaml and checkpoint.json: "
                f"{name} is {found}, they say {expected}"
            )
    for name, own in pipeline.state_dict().items():
        other = state[name].dtype
        # Half of the digits, as in the shipped models, are weights, too.
        if other != own.dtype and not (other.is_floating_point and own.dtype.is_floating_point):
            reason = f"{name} holds {other}, it should hold {own.dtype}"
        elif not state[name].isfinite().all():
            reason = f"{name} holds NaN or infinity"
        else:
            continue
        raise CheckpointError(f"{path} cannot be loaded: model.safetensors: {reason}")
    pipeline.load_state_dict(state)


def _require_checksum(file: Path, expected: str) -> None:
    if sha256(file) != expected:
        raise CheckpointError(f"{file} is damaged: its checksum is not the one in checkpoint.json")


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML can say."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
