import subprocess
import sys

import pytest

import mmerc
from mmerc import errors


def test_the_public_names() -> None:
    assert sorted(mmerc.__all__) == [
        "Conversation",
        "Corpus",
        "Emotion",
        "MmercError",
        "Prediction",
        "Recognizer",
        "Utterance",
        "load",
        "read_transcript",
    ]
    assert list(mmerc.__all__) == sorted(mmerc.__all__)


@pytest.mark.parametrize("name", mmerc.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(mmerc, name)
    assert found.__name__ == name
    assert found.__doc__


def test_a_name_that_is_not_public() -> None:
    with pytest.raises(AttributeError, match="module 'mmerc' has no attribute 'train'"):
        _ = mmerc.train


def test_one_error_tree() -> None:
    classes = {x for x in vars(errors).values() if isinstance(x, type)}
    assert {x.__name__ for x in classes} == {
        "MmercError", "CorpusError", "FeatureError", "MediaError", "CheckpointError", "ConfigError",
        "ConversationError", "TrainingError",
    }  # fmt: skip
    assert all(issubclass(x, errors.MmercError) for x in classes)
    assert all(x.__name__ in (errors.__doc__ or "") for x in classes)


@pytest.mark.parametrize("module", ["mmerc", "mmerc.cli.main"])
def test_importing_waits_for_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "pandas", "sklearn", "scipy", "pyarrow")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
