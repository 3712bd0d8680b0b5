"""Multimodal emotion recognition in conversation: which emotion, how sure, and because of what.

import mmerc

recognizer = mmerc.load()  # the model in the box; or mmerc.load("runs/df-erc")
print(recognizer("chat.txt"))  # a table; in a notebook, the last line of a cell is a report
for utterance, emotion in recognizer([("Ann", "I got the job!"), ("Ben", "Congratulations!")]):
    print(utterance.speaker, emotion.label, emotion.confidence)
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from mmerc.conversation import Conversation, Coverage, Emotion, Prediction, Utterance
    from mmerc.corpus import Corpus
    from mmerc.errors import MmercError
    from mmerc.explanation import Explanation, Influence
    from mmerc.recognizer import Recognizer, load
    from mmerc.transcripts import read_transcript

__all__ = [
    "Conversation",
    "Corpus",
    "Coverage",
    "Emotion",
    "Explanation",
    "Influence",
    "MmercError",
    "Prediction",
    "Recognizer",
    "Utterance",
    "load",
    "read_transcript",
]

_HOME = {
    "Conversation": "conversation",
    "Corpus": "corpus",
    "Coverage": "conversation",
    "Emotion": "conversation",
    "Explanation": "explanation",
    "Influence": "explanation",
    "MmercError": "errors",
    "Prediction": "conversation",
    "Recognizer": "recognizer",
    "Utterance": "conversation",
    "load": "recognizer",
    "read_transcript": "transcripts",
}


def __getattr__(name: str) -> Any:
    # On first use only, so that `mmerc --help` does not wait for torch.
    if name == "__version__":
        return importlib.metadata.version("mmerc")
    if name not in _HOME:
        raise AttributeError(f"module 'mmerc' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mmerc.{_HOME[name]}"), name)
