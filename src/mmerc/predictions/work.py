"""Predicting many files into a folder: `one.txt` → `one.json`; a second time, only what is missing.

A result that is still what the folder's index says, of files that are still the same, is not made again.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from mmerc.conversation import Prediction
from mmerc.errors import ConfigError, ConversationError, FeatureError, MmercError
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_turn
from mmerc.extraction.measuring import Meter
from mmerc.features.extractors import NO_FILES, Files
from mmerc.forms import conversation
from mmerc.predictions.index import INDEX, Entry, add_to_index, read_index, write_index
from mmerc.predictions.inputs import Input
from mmerc.processes import one_thread
from mmerc.recognizer import Recognizer, load
from mmerc.shipped import DEFAULT, located
from mmerc.storage import exclusive, sha256, write_text
from mmerc.transcripts import read_transcript, write_predictions


class Setup(NamedTuple):
    """What is the same for all files."""

    out: Path  # the folder of the results
    checkpoint: str | Path = DEFAULT
    format: Literal["json", "csv"] = "json"
    device: str = "auto"
    files: Files = NO_FILES  # of the recipes, where they are not where these say
    cache: Path | None = None  # where measurements of recordings are kept

    def result(self, given: Input) -> Path:
        """Return where the result of a file is written."""
        return self.out / f"{given.path.stem}.{self.format}"


class Outcome(NamedTuple):
    """What became of a file: its result was there, it was predicted, or it failed."""

    given: Input
    kept: bool = False
    error: str | None = None
    utterances: int = 0
    present: Mapping[str, int] = {}  # modality → utterances that had it
    made_of: str = ""  # as in the index
    sha256: str = ""


Engine = Callable[[Callable[[Input], Outcome], Sequence[Input]], Iterator[tuple[Input, Outcome | Exception]]]


def predict_files(
    inputs: Sequence[Input], setup: Setup, engine: Engine = in_turn, force: bool = False
) -> Iterator[Outcome]:
    """Predict each file into a result of its own; yield each as it ends, those that were there first.

    A file that fails does not stop the others. Every file is computed by itself and in one thread, so that
    results are the same bytes whoever does the work, as long as the processors are of one kind.

    Args:
        inputs: what to predict, see `find_inputs`
        setup: with what, and where to
        engine: who does it: `extraction.engines.in_processes(count)`, `cluster.on_cluster`
        force: make anew what is there, and overwrite what somebody else has written

    Raises:
        ConfigError: a result would have the name of another, of an input, or of somebody else's file, or
            the folder cannot be written to, or is in use.
        CheckpointError: the checkpoint cannot be loaded.
        FeatureError: a file of the recipes is missing.
    """
    _require_own_names(inputs, setup)
    made_with = _made_with(setup)
    with exclusive(setup.out, ConfigError):
        entries = read_index(setup.out)
        if not force:
            _require_ours(inputs, setup, entries)
        is_kept = partial(_is_kept, setup, made_with, {} if force else entries)
        with ThreadPoolExecutor(4) as pool:  # hashing leaves the interpreter's lock alone
            kept = dict(zip(inputs, pool.map(is_kept, inputs), strict=True))
        yield from (Outcome(given, kept=True) for given in inputs if kept[given])
        left = [given for given in inputs if not kept[given]]
        if left:
            begun = {entry.result: entry for entry in (_entry(setup, Outcome(given)) for given in left)}
            write_index(setup.out, entries | begun)
            yield from _predict(left, setup, made_with, engine)


def _predict(left: Sequence[Input], setup: Setup, made_with: str, engine: Engine) -> Iterator[Outcome]:
    """Have files predicted; what failed leaves no result of an earlier time behind."""
    load(setup.checkpoint, "cpu")  # what is wrong with it would be wrong for every file
    for given, result in engine(partial(_predict_file, setup, made_with), left):
        if isinstance(result, Exception):
            kind = "" if isinstance(result, MmercError) else f"{type(result).__name__}: "
            setup.result(given).unlink(missing_ok=True)
            yield Outcome(given, error=f"{kind}{result}")
        else:
            add_to_index(setup.out, [_entry(setup, result)])
            yield result


def _predict_file(setup: Setup, made_with: str, given: Input) -> Outcome:
    """Predict a file in this process, in one thread, and write the result."""
    recognizer = _recognizer(setup.checkpoint, setup.device, made_with)
    try:
        made_of = _made_of(given, made_with)  # before it is read: what changes meanwhile is made again
        with one_thread(), Cache(setup.cache) as cache:
            predictions = _read_and_predict(recognizer, Meter(in_turn, cache), setup.files, given)
        text = write_predictions(predictions, setup.format)
        write_text(setup.result(given), text)
    except (OSError, UnicodeError) as error:  # a file that vanished, a name that is no UTF-8
        raise ConversationError(str(error)) from None
    used = [prediction.modalities for prediction in predictions]
    return Outcome(
        given,
        utterances=sum(map(len, predictions)),
        present={name: sum(one[name].present for one in used) for name in recognizer.modalities},
        made_of=made_of,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


@lru_cache(maxsize=1)
def _recognizer(checkpoint: str | Path, device: str, made_with: str) -> Recognizer:
    """Load a checkpoint once in a process; `made_with` tells it from what lay there before."""
    return load(checkpoint, device)


def _read_and_predict(recognizer: Recognizer, meter: Meter, files: Files, given: Input) -> list[Prediction]:
    if given.recording is None:
        return recognizer.predict_many(read_transcript(given.transcript))
    spoken = conversation(given.transcript)
    return [recognizer.predict_recording(spoken, given.recording, meter, files)]


def _require_own_names(inputs: Sequence[Input], setup: Setup) -> None:
    read = {file.resolve() for given in inputs for file in given.files}
    taken: dict[str, Path] = {}
    for given in inputs:
        result = setup.result(given)
        other = taken.setdefault(result.name.casefold(), given.path)  # not all file systems tell A from a
        if other != given.path:
            raise ConfigError(
                f"{other} and {given.path} would both be written to {result}: rename one of them, or predict "
                "them into different folders"
            )
        if result.resolve() in read:
            raise ConfigError(f"{result} would be overwritten, which is read: choose another output folder")


def _require_ours(inputs: Sequence[Input], setup: Setup, entries: Mapping[str, Entry]) -> None:
    for result in map(setup.result, inputs):
        if result.name not in entries and result.exists():
            raise ConfigError(
                f"{result} is there, and {INDEX} beside it does not say that it is a result: choose another "
                "output folder, or overwrite it with --force"
            )


def _is_kept(setup: Setup, made_with: str, entries: Mapping[str, Entry], given: Input) -> bool:
    """Return whether the result of a file is there, whole, and made of the same."""
    entry = entries.get(setup.result(given).name)
    if entry is None or not entry.sha256:
        return False
    with suppress(OSError):  # predicting it says more
        return sha256(setup.result(given)) == entry.sha256 and _made_of(given, made_with) == entry.made_of
    return False


def _entry(setup: Setup, outcome: Outcome) -> Entry:
    given = [str(file) for file in outcome.given.files]
    name = setup.result(outcome.given).name
    return Entry(result=name, given=given, made_of=outcome.made_of, sha256=outcome.sha256)


def _made_with(setup: Setup) -> str:
    """Return a hash of what is the same for every file: the checkpoint, files of recipes, mmerc's version."""
    manifest = located(setup.checkpoint) / "checkpoint.json"  # it holds the checksums of the others
    if not manifest.is_file():
        load(setup.checkpoint, "cpu")  # says what is wrong
    if missing := [file for file in setup.files if file is not None and not file.is_file()]:
        raise FeatureError(f"{missing[0]} does not exist")
    return _hash([version("mmerc"), sha256(manifest), *(file and sha256(file) for file in setup.files)])


def _made_of(given: Input, made_with: str) -> str:
    """Return a hash of all that a result depends on; names of files do count, they name conversations."""
    return _hash([made_with, *((file.name, sha256(file)) for file in given.files)])


def _hash(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
