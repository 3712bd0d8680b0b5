"""What `predict` and `report` share: their arguments, and predicting what these name."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from mmerc.cli.measuring import metering
from mmerc.cli.terminal import load_torch, loading
from mmerc.errors import ConfigError, ConversationError
from mmerc.system import END_OF_INPUT

if TYPE_CHECKING:
    from mmerc.conversation import Conversation, Prediction
    from mmerc.recognizer import Recognizer

log = logging.getLogger(__name__)

STDIN = Path("-")
Given = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CHECKPOINT] CONVERSATION",
        help="A checkpoint folder, a model in the box (`meld-text` if none is named) or on the Hugging Face "
        "Hub (`name/model`), and a transcript (CSV, JSON, SRT, WebVTT, ELAN, TextGrid, `Speaker: text` "
        "lines, …; - is standard input) or, with --transcript, an audio or video recording.",
    ),
]
Transcript = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Who says what when in the recording: SRT, WebVTT, WhisperX JSON, …; - is standard input.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, help="Weights of the visual recipe, if they are not where it says."
    ),
]
FaceDetector = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, help="The face detector, if it is not where the recipe says."),
]


class Answer(NamedTuple):
    """Predictions, who made them, and the recording that they are of, if there is one."""

    recognizer: "Recognizer"
    predictions: "Sequence[Prediction]"
    recording: Path | None

    @property
    def model(self) -> str:
        """The model in words."""
        checkpoint = self.recognizer.checkpoint
        return f"{checkpoint.run.model}, trained on {checkpoint.info.corpus}"


def answer(
    given: Sequence[Path],
    transcript: Path | None,
    device: str,
    weights: Path | None,
    face_detector: Path | None,
    jobs: int | None,
    cache: Path | None,
) -> Answer:
    """Predict what the arguments name, and say on stderr what was used."""
    checkpoint, conversation = _checkpoint_and_conversation(given)
    if transcript is not None and conversation == STDIN:
        raise ConfigError("a recording is not read from standard input: name its file")
    # Before the model, which may have to be downloaded.
    spoken = _conversations(conversation if transcript is None else transcript)
    if transcript is not None and len(spoken) > 1:
        raise ConversationError(f"{transcript} holds {len(spoken)} conversations, a recording has one")
    if transcript is not None and not conversation.exists():
        raise ConversationError(f"{conversation} does not exist")
    with loading(str(checkpoint)):
        from mmerc.features.extractors import Files
        from mmerc.recognizer import load

        recognizer = load(checkpoint, device)
    if transcript is None:
        predictions = recognizer.predict_many(spoken)
    else:
        with metering(jobs, "processes", cache) as meter:
            files = Files(weights, face_detector)
            predictions = [recognizer.predict_recording(spoken[0], conversation, meter, files)]
    _tell_what_was_used(predictions)
    return Answer(recognizer, predictions, None if transcript is None else conversation)


def _conversations(path: Path) -> "list[Conversation]":
    """Read a transcript, or what is piped or pasted into standard input, in whichever form that is."""
    if path != STDIN:
        if not path.exists():
            raise ConversationError(f"{path} does not exist")
        load_torch()
        from mmerc import forms

        return forms.conversations(path)
    from mmerc.transcripts.reading import parse_transcript

    if sys.stdin.isatty():
        log.info("reading from the keyboard: end with %s", END_OF_INPUT)
    return parse_transcript(sys.stdin.buffer.read(), Path("standard input"), by_content=True)


def checkpoint_and_others(given: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """Return a checkpoint, that of the box if the first name is none, and the other names."""
    from mmerc.shipped import DEFAULT, SHIPPED

    first = given[0]
    if first == STDIN:
        return Path(DEFAULT), given
    inside = (first / "checkpoint.json", *first.glob("*/checkpoint.json"))  # several runs: loading says more
    if any(file.exists() for file in inside) or (str(first) in SHIPPED and not first.is_file()):
        return first, given[1:]
    if not first.exists():
        if len(given) > 1:
            from mmerc.checkpoint import checkpoint_folder, hub

            called = _called(first)
            if isinstance(called, str) and hub.is_name(called):
                return checkpoint_folder(called), given[1:]
        raise ConversationError(
            f"{first} does not exist: expected a conversation, a checkpoint folder, or a model in the box "
            f"({', '.join(SHIPPED)})"
        )
    return Path(DEFAULT), given


def _called(checkpoint: Path) -> str | Path:
    """Return what a checkpoint is called: in a text, it may be a name on the Hub; a file's name is none."""
    from mmerc.forms import FILES

    return checkpoint if checkpoint.suffix.lower() in FILES else checkpoint.as_posix()


def _checkpoint_and_conversation(given: Sequence[Path]) -> tuple[str | Path, Path]:
    """Return the two arguments; the first may be left out."""
    from mmerc.shipped import DEFAULT

    if len(given) > 2:
        raise typer.BadParameter(f"expected a checkpoint and a conversation, not {len(given)} names")
    if len(given) == 2:
        return _called(given[0]), given[1]
    if not checkpoint_and_others(given)[1]:
        raise ConfigError(f"{given[0]} is a model: name a conversation, too (- is standard input)")
    return DEFAULT, given[0]


def _tell_what_was_used(predictions: "Sequence[Prediction]") -> None:
    """Say in how many utterances each modality was there, and why not in the others."""
    total = sum(map(len, predictions))
    parts = []
    for name in predictions[0].modalities:
        covered = [prediction.modalities[name] for prediction in predictions]
        why = ", ".join(dict.fromkeys(c.absent for c in covered if c.absent))
        parts.append(f"{name} in {sum(c.present for c in covered)} of {total}" + (f" ({why})" if why else ""))
    log.info("used: %s", "; ".join(parts))
