"""A trained model as a folder that says what it is: writing, loading, and sharing it."""

from mmerc.checkpoint.card import front_matter, model_card, shared_card
from mmerc.checkpoint.folder import Checkpoint, checkpoint_folder, load_checkpoint, save_checkpoint, share
from mmerc.checkpoint.info import CheckpointInfo, git_commit, versions

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "checkpoint_folder",
    "front_matter",
    "git_commit",
    "load_checkpoint",
    "model_card",
    "save_checkpoint",
    "share",
    "shared_card",
    "versions",
]
