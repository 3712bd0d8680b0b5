"""The file `state.pt`, from which an interrupted run goes on, and the fingerprint of what it read."""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmerc.batch import CHUNK, Examples
from mmerc.errors import TrainingError
from mmerc.storage import append_checksum, atomic_path, has_own_checksum
from mmerc.task import Task

NOT_A_STATE = (zipfile.BadZipFile, pickle.UnpicklingError)


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


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        _require_whole(path)
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except (OSError, RuntimeError, ValueError, EOFError, *NOT_A_STATE) as error:
        raise TrainingError(f"{path} cannot be read ({error}): delete the folder and start again") from None
    return state


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
