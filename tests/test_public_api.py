import importlib.metadata
import inspect
import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import mmerc
from mmerc import errors

# What docs/embedding.md promises to keep: a change here is one that users have to hear of.
SIGNATURES = {
    "Conversation": "(utterances, id='conversation')",
    "Corpus": "(path, manifest, utterances)",
    "Coverage": "(present, absent='')",
    "Emotion": "(label, confidence, probabilities, contributions=None, context_weight=None)",
    "Explanation": "(prediction, influences)",
    "Influence": "(turn, change)",
    "MmercError": "",
    "Prediction": "(conversation, emotions, modalities=<factory>)",
    "Recognizer": "(checkpoint, device='auto')",
    "Utterance": "(text='', speaker='', label=None, start_ms=None, end_ms=None, features=<factory>)",
    "load": "(path='meld-text', device='auto', *, revision=None)",
    "read_transcript": "(path)",
}
METHODS = {
    "Conversation": {"__iter__": "(self)", "__len__": "(self)"},
    "Corpus": {
        "add_modality": "(self, name, features)",
        "conversation": "(self, dialogue)",
        "features": "(self, modality)",
        "fold": "(self, number, validation_share=0.2)",
        "folds": "",
        "labels": "",
        "modalities": "",
        "name": "",
        "open": "(path)",
        "rows": "(self, dialogues)",
        "split": "(self, name)",
        "targets": "",
        "texts": "",
    },
    "Explanation": {"__repr__": "(self)", "__str__": "(self)", "_repr_html_": "(self)", "to_dict": "(self)"},
    "Prediction": {
        "__iter__": "(self)",
        "__len__": "(self)",
        "__repr__": "(self)",
        "__str__": "(self)",
        "_repr_html_": "(self)",
        "to_dict": "(self)",
        "to_frame": "(self)",
        "to_json": "(self)",
    },
    "Recognizer": {
        "__call__": "(self, conversation, *, transcript=None, jobs=1)",
        "__repr__": "(self)",
        "explain": "(self, conversation, most=5)",
        "labels": "",
        "modalities": "",
        "predict": "(self, conversation, *, transcript=None, jobs=1)",
        "predict_many": "(self, conversations)",
        "predict_recording": "(self, conversation, recording, meter, files=<default>)",
        "push_to_hub": "(self, name, *, license=None, private=False)",
        "text_encoder": "(self)",
    },
}


PLAIN = (str, int, float, type(None), type)  # a type: `Parameter.empty`


def signature(thing: Any) -> str:
    """Names, kinds and defaults of the parameters, without their types; "" for what is not called."""
    if not callable(thing) or thing is mmerc.MmercError:
        return ""
    found = inspect.signature(thing)
    bare = [
        p.replace(annotation=p.empty, default=p.default if isinstance(p.default, PLAIN) else Named(p.default))
        for p in found.parameters.values()
    ]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


class Named:
    """A default that is an object of its own: `<factory>` of a dataclass, or `<default>`."""

    def __init__(self, default: Any) -> None:
        self.name = repr(default) if repr(default) == "<factory>" else "<default>"

    def __repr__(self) -> str:
        return self.name


def test_the_public_names() -> None:
    assert list(mmerc.__all__) == sorted(SIGNATURES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_public_signatures(name: str) -> None:
    found = getattr(mmerc, name)
    assert signature(found) == SIGNATURES[name]
    if not inspect.isclass(found):
        return
    attributes = {f.name for f in fields(found)} if is_dataclass(found) else set()
    pinned = METHODS.get(name, {})
    public = {m for m in vars(found) if not m.startswith("_")} - attributes
    assert public == {m for m in pinned if not m.startswith("_")}
    assert {m: signature(getattr(found, m)) for m in pinned} == pinned


@pytest.mark.parametrize("name", mmerc.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(mmerc, name)
    assert found.__name__ == name
    assert found.__doc__


def test_the_version() -> None:
    assert mmerc.__version__ == importlib.metadata.version("mmerc")


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


HEAVY = ("transformers", "pandas", "sklearn", "scipy", "pyarrow", "safetensors")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("mmerc", ("torch", *HEAVY)),
        ("mmerc.cli.main", ("torch", *HEAVY)),
        ("mmerc.models.df_erc", (*HEAVY, "mmerc.models.registry", "mmerc.models.mm_dfn", "mmerc.corpus")),
    ],
)
def test_importing_waits_for_nothing_heavy(module: str, heavy: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert found.stdout.strip() == "[]"
