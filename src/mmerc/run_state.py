"""The file `state.pt`, from which an interrupted run goes on, and the fingerprint of what it read.

Its checksum says that it is as it was written, not who wrote it: whatever it holds is compared with what a
run like this one has, and none of it is run.
"""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from mmerc.config import TrainingConfig
from mmerc.errors import TrainingError
from mmerc.examples import CHUNK, Examples
from mmerc.metrics import Scores
from mmerc.storage import append_checksum, atomic_path, has_own_checksum
from mmerc.task import Task

NOT_A_STATE = (  # torch has all of these for files and values that are not its own
    OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, EOFError, MemoryError, zipfile.BadZipFile, pickle.UnpicklingError,
)  # fmt: skip

# Below this spread of 1 − ψ over the validation utterances the gate decides nothing (docs/log.md).
CONSTANT_GATE = 0.05


def begun_already(out: Path) -> TrainingError:
    """Return the refusal to begin a run in a folder that holds one."""
    return TrainingError(f"{out} already holds a run: use --resume to go on with it, or another --out")


@dataclass
class Progress:
    """What a run has reached; with the tensors of `state.pt` it is all that resuming needs."""

    epoch: int = 0  # epochs finished
    best_epoch: int = 0
    best_score: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def finished(self, config: TrainingConfig) -> bool:
        """Return whether the last epoch or the end of patience is reached."""
        return self.epoch >= config.epochs or self.epoch - self.best_epoch >= config.patience


def warnings_about(validation: Mapping[str, Any]) -> list[str]:
    """Return what is suspicious about an epoch's validation scores, a sentence each."""
    found = []
    if validation["never_predicted"]:
        found.append(f"never predicted on validation: {', '.join(validation['never_predicted'])}")
    spread = validation.get("context_weight_sd", 1.0)
    if spread < CONSTANT_GATE:
        mean = validation["context_weight_mean"]
        found.append(
            f"the context gate decides nothing: 1 − ψ = {mean:.3f} ± {spread:.3f} over the utterances"
        )
    return found


class _Record(BaseModel):
    """What is read of an epoch in the history."""

    epoch: int
    losses: dict[str, float]
    validation: Scores  # some models say more
    warnings: list[str]


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a run's state with a checksum, atomically.

    Raises:
        TrainingError: there is no room for it.
    """
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch has no other for a disk that is full
            reason = str(error).splitlines()[0]
            raise TrainingError(
                f"{path} cannot be written ({reason}): make room on the disk, then --resume goes on"
            ) from None
        append_checksum(temporary)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Say of the state at `path`, whatever turns out to be wrong with it, that it cannot be read.

    Raises:
        TrainingError: it cannot.
    """
    try:
        yield
    except torch.OutOfMemoryError:  # of the device: nothing is wrong with the state
        raise
    except NOT_A_STATE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TrainingError(
            f"{path} cannot be read ({reason:.300}): delete the folder and start again"
        ) from None


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    with refusing(path):
        _require_whole(path)
        state = torch.load(path, weights_only=True, map_location=device)
        if not isinstance(state, dict):
            raise TypeError("it is no state")
        return state


def fitting(found: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors of a state.

    Raises:
        ValueError: their names, shapes or types are not those of `like`.
    """
    if found.keys() != like.keys():
        raise ValueError("its tensors are not those of this network")
    for name, tensor in like.items():
        other = found[name]
        if not isinstance(other, Tensor) or (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f"{name} has another shape or type")
    with torch.no_grad():
        return {name: torch.empty_like(tensor).copy_(found[name]) for name, tensor in like.items()}


def restore_optimizer(
    optimizer: torch.optim.AdamW, schedule: torch.optim.lr_scheduler.LambdaLR, found: Any, steps: Any
) -> None:
    """Bring optimizer and schedule to where they were after `steps` steps.

    Of `found` only the memory of each parameter is taken; the rates follow from the config and the steps.

    Raises:
        ValueError, KeyError, TypeError: it is not of these parameters.
    """
    if not (isinstance(steps, int) and 0 <= steps < 2**63):
        raise ValueError("the number of its steps is none")
    state = optimizer.state_dict()
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for number, memory in found["state"].items():
        one = parameters[number]
        like = {"step": torch.zeros((), device=one.device), "exp_avg": one, "exp_avg_sq": one}
        state["state"][number] = fitting(memory, like)
    for group, factor in zip(state["param_groups"], schedule.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(steps)
    optimizer.load_state_dict(state)
    schedule.last_epoch = steps


def restore_scaler(scaler: torch.amp.GradScaler, found: Any) -> None:
    """Bring the gradient scaler to where it was.

    Raises:
        ValueError, KeyError, TypeError: `found` is of no such scaler.
    """
    own = scaler.state_dict()
    scaler.load_state_dict({name: type(value)(found[name]) for name, value in own.items()})


def parse_progress(text: Any) -> Progress:
    """Return the progress that a state holds as JSON.

    Raises:
        ValueError, TypeError, RecursionError: it is none, or contradicts itself.
    """
    progress = TypeAdapter(Progress).validate_python(json.loads(text))
    TypeAdapter(list[_Record]).validate_python(progress.history)
    if not 1 <= progress.best_epoch <= progress.epoch == len(progress.history):
        raise ValueError("its epochs contradict each other")
    return progress


def _require_whole(path: Path) -> None:
    """Refuse a `state.pt` with a bit that has changed; torch itself looks at no checksum."""
    if has_own_checksum(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not path.read_bytes()[-22:].startswith(b"PK\5\6"):  # the end of a zip file that nothing follows
            raise zipfile.BadZipFile("its checksum is wrong")
        if damaged := archive.testzip():  # of an older version, which had no checksum of its own
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def fingerprint(task: Task, examples: Examples) -> str:
    """Return a hash of the labels, features and texts of the run's own dialogues."""
    rows = task.corpus.rows(np.concatenate([task.train, task.validation]))
    digest = hashlib.sha256(task.corpus.targets[rows].tobytes())
    digest.update(examples.speakers.numpy()[rows].tobytes())
    digest.update(examples.present.numpy()[rows].tobytes())
    for name in examples.features:
        for some in torch.split(torch.from_numpy(rows), CHUNK):
            digest.update(examples.vectors(name, some).numpy().tobytes())
    if examples.texts is not None:
        digest.update(json.dumps([examples.texts[row] for row in rows]).encode())
    return digest.hexdigest()
