"""The one error tree: every mistake a user can make ends in one of these, never in a traceback.

    MmercError
    ├── CorpusError         a corpus folder or the source of an import is broken
    ├── FeatureError        features are missing, of the wrong width, or made by another recipe
    ├── MediaError          an audio or video file cannot be read
    ├── CheckpointError     a checkpoint cannot be read or does not fit
    ├── ConfigError         an unknown key, a value of the wrong type or out of range
    ├── ConversationError   a transcript or conversation handed in cannot be used
    └── TrainingError       a run cannot start, go on, or has diverged

A message says what was wrong, where (file, row, field) and what to do. The command line prints it
and exits with code 2.
"""


class MmercError(Exception):
    """Base of all errors that mmerc raises on purpose."""


class CorpusError(MmercError):
    """A corpus folder, or a file that is to be imported into one, is missing or broken."""


class FeatureError(MmercError):
    """Features are missing, have the wrong width, are not finite, or follow another recipe."""


class MediaError(MmercError):
    """An audio or video file is missing, broken, or has not what is asked of it."""


class CheckpointError(MmercError):
    """A checkpoint folder cannot be read, or does not fit what it is used for."""


class ConfigError(MmercError):
    """A configuration has an unknown key or a value that is not allowed."""


class ConversationError(MmercError):
    """A transcript or conversation that was handed in for prediction cannot be used."""


class TrainingError(MmercError):
    """Training cannot start or go on: no labelled utterances, a diverged loss, a folder in use."""
