"""What `predict` and `report` share: their arguments, and predicting what these name."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from mmerc.cli.measuring import metering
from mmerc.cli.terminal import loading
from mmerc.errors import ConfigError, ConversationError

if TYPE_CHECKING:
    from mmerc.conversation import Conversation, Prediction
    from mmerc.recognizer import Recognizer

log = logging.getLogger(__name__)

STDIN = Path("-")
Given = Annotated[
    list[Path],
    typer.Argument(
        metavar="[CHECKPOINT] CONVERSATION",
        help="A checkpoint folder or a model in the box (`meld-text` if none is named), a transcript "
        "(CSV, JSON, SRT, WebVTT, ELAN, TextGrid, `Speaker: text` lines, …; - is standard input) or, with "
        "--transcript, an audio or video recording.",
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
    from mmerc.transcripts import read_transcript

    checkpoint, conversation = _checkpoint_and_conversation(given)
    if transcript is not None and conversation == STDIN:
        raise ConfigError("a recording is not read from standard input: name its file")
    for path in filter(None, (conversation, transcript)):
        if path != STDIN and not path.exists():  # before the model is loaded
            raise ConversationError(f"{path} does not exist")
    pasted = _read_stdin() if STDIN in (conversation, transcript) else []
    if transcript is not None and len(pasted) > 1:
        raise ConversationError(f"standard input holds {len(pasted)} conversations, a recording has one")
    with loading(str(checkpoint)):
        from mmerc.features.extractors import Files
        from mmerc.recognizer import load, read_conversation, refuse_recording

        recognizer = load(checkpoint, device)
    if transcript is None:
        refuse_recording(conversation)
        predictions = recognizer.predict_many(pasted or read_transcript(conversation))
    else:
        spoken = pasted[0] if pasted else read_conversation(transcript)
        with metering(jobs, "processes", cache) as meter:
            files = Files(weights, face_detector)
            predictions = [recognizer.predict_recording(spoken, conversation, meter, files)]
    _tell_what_was_used(predictions)
    return Answer(recognizer, predictions, None if transcript is None else conversation)


def _read_stdin() -> "list[Conversation]":
    """Read the conversations that are piped or pasted into standard input, in whichever form they are."""
    from mmerc.transcripts.reading import parse_transcript

    if sys.stdin.isatty():
        end = "Ctrl-Z and Enter" if sys.platform == "win32" else "Ctrl-D"
        log.info("reading from the keyboard: end with %s", end)
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
        raise ConversationError(
            f"{first} does not exist: expected a conversation, a checkpoint folder, or a model in the box "
            f"({', '.join(SHIPPED)})"
        )
    return Path(DEFAULT), given


def _checkpoint_and_conversation(given: Sequence[Path]) -> tuple[Path, Path]:
    """Return the two arguments; the first may be left out."""
    if len(given) > 2:
        raise typer.BadParameter(f"expected a checkpoint and a conversation, not {len(given)} names")
    checkpoint, others = checkpoint_and_others(given)
    if not others:
        raise ConfigError(f"{checkpoint} is a model: name a conversation, too (- is standard input)")
    return (checkpoint, others[0]) if len(others) == 1 else (given[0], given[1])


def _tell_what_was_used(predictions: "Sequence[Prediction]") -> None:
    """Say in how many utterances each modality was there, and why not in the others."""
    total = sum(map(len, predictions))
    parts = []
    for name in predictions[0].modalities:
        covered = [prediction.modalities[name] for prediction in predictions]
        why = ", ".join(dict.fromkeys(c.absent for c in covered if c.absent))
        parts.append(f"{name} in {sum(c.present for c in covered)} of {total}" + (f" ({why})" if why else ""))
    log.info("used: %s", "; ".join(parts))
