"""A trained model as a folder that says what it is.

    model.safetensors   weights, standardising statistics, and the text encoder if it was trained along
    config.yaml         the resolved config of the run
    checkpoint.json     labels, modalities with recipes, scores, versions, git commit, seed, checksums
    encoder/            tokenizer and architecture of a text encoder that was trained along
    README.md           model card

`checkpoint.json` is written last: where it is, the checkpoint is whole.
"""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmerc.checkpoint import hub
from mmerc.checkpoint.card import model_card, shared_card
from mmerc.checkpoint.info import CheckpointInfo
from mmerc.config import RunConfig, build, read_yaml
from mmerc.errors import CheckpointError, ConfigError, FeatureError
from mmerc.features.text import TextEncoder
from mmerc.metrics import Scores
from mmerc.pipeline import Pipeline, build_pipeline
from mmerc.shipped import SHIPPED, located
from mmerc.storage import atomic_path, is_sealed, seal_text, sha256, write_text

_log = logging.getLogger(__name__)
CARD = "README.md"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: a pipeline in evaluation mode, and what is known about it."""

    path: Path
    pipeline: Pipeline
    run: RunConfig
    info: CheckpointInfo
    name: str = ""  # what it was called when it was loaded


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
    write_text(path / CARD, model_card(run, info))
    write_text(path / "checkpoint.json", seal_text(info.model_dump_json(indent=2) + "\n"))


def checkpoint_folder(name: str | Path, revision: str | None = None) -> Path:
    """Return the folder of a checkpoint: of that path, in the box, or fetched from the Hugging Face Hub.

    What is there goes first. Of the Hub's names, a text `name/model` is one, a `Path` never.

    Args:
        name: a folder, a model in the box, or a model on the Hub
        revision: a branch, a tag or a commit on the Hub

    Raises:
        CheckpointError: it is none of these, or the Hub does not give it.
    """
    path = located(name)
    if isinstance(name, str) and hub.is_name(name) and not path.exists():
        path = hub.fetch(name, ["checkpoint.json"], revision)
        needed = _read_info(path).files
        with suppress(CheckpointError):  # nothing depends on the card
            hub.fetch(name, [CARD], path.name)
        return hub.fetch(name, needed, path.name)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a checkpoint folder; the models that come with mmerc are {', '.join(SHIPPED)}"
        )
    if revision is not None:
        raise CheckpointError(f"{path} is a folder: only a model on the Hugging Face Hub has revisions")
    return path


def load_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Load a checkpoint; see `checkpoint_folder` for what it may be called.

    Raises:
        CheckpointError: it is missing, incomplete, damaged, or of another format version.
    """
    path = checkpoint_folder(name, revision)
    info = _read_info(path)
    try:
        run = build(RunConfig, read_yaml(path / "config.yaml"))
        _require_checksums(path, info)
        encoder = TextEncoder.restore(path / "encoder") if run.text_encoder else None
        widths = {name: modality.width for name, modality in info.modalities.items()}
        pipeline = build_pipeline(run, widths, len(info.labels), encoder, None)
        _require_checksum(path / "config.yaml", info.config_sha256)  # now: others say more about an edit
        _fill(pipeline, load_file(path / "model.safetensors"), path)
    except ConfigError as error:
        raise CheckpointError(f"{path} cannot be loaded: config.yaml: {error}") from None
    except (SafetensorError, OSError, RuntimeError, TypeError, FeatureError) as error:
        # TypeError: torch's word for sizes that are no numbers of its own (2**70).
        _require_checksum(path / "config.yaml", info.config_sha256)
        raise CheckpointError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from None
    _log.debug("checkpoint %s: %s, trained on %s", path, run.model, info.corpus)
    return Checkpoint(path, pipeline.eval(), run, info, str(name))


def share(
    checkpoint: Checkpoint, name: str, test: Scores | None, license: str | None = None, private: bool = False
) -> str:
    """Put a checkpoint on the Hugging Face Hub, with its card; return the address.

    Args:
        checkpoint: loaded from a folder, whose files are uploaded as they are
        name: `name/model`
        test: scores on the test split, if they are known
        license: the terms of the weights, as the Hub abbreviates them: `mit`, `cc-by-nc-4.0`
        private: make a repository that only its owners see

    Raises:
        CheckpointError: a file has changed since, or the Hub does not take it.
    """
    info, folder = checkpoint.info, checkpoint.path
    if _read_info(folder) != info:
        raise CheckpointError(f"{folder} holds another checkpoint by now: load it again")
    _require_checksums(folder, info)
    _require_checksum(folder / "config.yaml", info.config_sha256)
    card = folder / CARD
    try:
        own = card.read_text(encoding="utf-8") if card.exists() else model_card(checkpoint.run, info)
        text = shared_card(own, checkpoint.run, info, test, license)
    except (ValueError, TypeError, yaml.YAMLError) as error:  # somebody has written into it
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{card} cannot be read as Markdown with YAML above it: {reason}") from None
    files: dict[str, Path | bytes] = {file: folder / file for file in info.files}
    said = f"{checkpoint.run.model} on {info.corpus}, by mmerc {info.versions['mmerc']}"
    return hub.put(name, files | {CARD: text.encode()}, said, private)


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


def _require_checksums(path: Path, info: CheckpointInfo) -> None:
    """Compare all files but config.yaml, of which others can say what is wrong with it."""
    _require_checksum(path / "model.safetensors", info.weights_sha256)
    for name, expected in info.encoder_sha256.items():
        _require_checksum(path / "encoder" / name, expected)


def _require_checksum(file: Path, expected: str) -> None:
    if sha256(file) != expected:
        raise CheckpointError(f"{file} is damaged: its checksum is not the one in checkpoint.json")


def _plain(value: Any) -> Any:
    """Turn tuples into lists, which YAML can say."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
