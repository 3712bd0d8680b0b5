"""What there is to predict: transcripts, and recordings with their transcripts."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mmerc.corpora.clips import TRANSCRIPTS, transcripts_beside
from mmerc.corpora.recording import PICTURES, SOUND
from mmerc.errors import ConversationError
from mmerc.predictions.index import INDEX, read_index
from mmerc.transcripts.reading import SUFFIXES


class Input(NamedTuple):
    """One thing to predict: a transcript, or a recording with its transcript."""

    transcript: Path
    recording: Path | None = None

    @property
    def path(self) -> Path:
        """The file that the result is called after."""
        return self.recording or self.transcript

    @property
    def files(self) -> list[Path]:
        """All that is read."""
        return [self.transcript] if self.recording is None else [self.transcript, self.recording]


def find_inputs(paths: Sequence[str | Path]) -> list[Input]:
    """Find what there is to predict: files, and of folders the transcripts and recordings in them.

    The transcript of a recording has its name (`meeting.mp4`, `meeting.srt`): it is one of `paths`, or lies
    beside it. Hidden files of a folder, those with other suffixes, and what `predict_files` has written are
    left aside.

    Raises:
        ConversationError: a path does not exist, a folder holds nothing to predict, or a recording has no
            transcript.
    """
    results = cache(lambda folder: frozenset((INDEX, *read_index(folder))))
    files = list(dict.fromkeys(file for path in paths for file in _files(Path(path), results)))
    named = defaultdict(list)
    for file in files:
        if not _is_recording(file):
            named[file.with_suffix("")].append(file)
    spoken = {}
    for recording in filter(_is_recording, files):
        beside = named.pop(recording.with_suffix(""), []) or [
            file for file in transcripts_beside(recording) if file.name not in results(file.parent)
        ]
        if not beside:
            raise ConversationError(
                f"{recording} has no transcript beside it: put {recording.stem}.srt there (or WebVTT, "
                "WhisperX JSON, …), which says who says what when"
            )
        spoken[recording] = min(beside, key=_rank)
    alone = {file for of_one_name in named.values() for file in of_one_name}
    return [
        Input(spoken[file], file) if file in spoken else Input(file)
        for file in files
        if file in spoken or file in alone
    ]


def _files(path: Path, results: Callable[[Path], frozenset[str]]) -> list[Path]:
    """Return the file, or those of a folder that are transcripts or recordings by their suffix."""
    if path.is_dir():
        known = SUFFIXES | SOUND | PICTURES
        found = [file for file in sorted(path.iterdir()) if file.suffix.lower() in known and file.is_file()]
        files = [file for file in found if not file.name.startswith(".") and file.name not in results(path)]
        if not files:
            raise ConversationError(f"{path} holds neither transcripts nor recordings")
        return files
    if not path.exists():
        raise ConversationError(f"{path} does not exist")
    return [] if path.name in results(path.parent) else [path]


def _is_recording(file: Path) -> bool:
    return file.suffix.lower() in SOUND | PICTURES


def _rank(transcript: Path) -> int:
    """Return a number; of several transcripts of a recording, that of the lowest is read."""
    suffix = transcript.suffix.lower()
    return TRANSCRIPTS.index(suffix) if suffix in TRANSCRIPTS else len(TRANSCRIPTS)
