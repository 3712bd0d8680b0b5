"""What the models are and what their settings mean, read from the code that uses them.

A setting is explained once, by the comment behind its field; a preset by the comment above it; a model by its
module's docstring.
"""

import ast
import inspect
import io
import itertools
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import yaml

from mmerc.config import RunConfig, TextEncoderConfig
from mmerc.corpora.peer_layouts import LABELS
from mmerc.models import Entry, build_network, choose_modalities, find, resolve
from mmerc.models.base import Paper
from mmerc.models.labels import corpus_of

MELD_WIDTHS = {"text": 1024, "audio": 300, "visual": 342}
MELD_CLASSES = 7
# What presets of one name have in common, in all models.
KINDS = {
    "refined": "sizes and training that hold up on every corpus, the same training for all models",
    "plain": "the defaults",
    "paper": "what the publication says",
    "official": "what the authors' code does",
}
# Instructions to tools stand where explanations do, alone or behind one.
INSTRUCTION = re.compile(r"#\s*(fmt:|type:|ruff:|pragma:|noqa\b).*")


class Card(NamedTuple):
    """A registered model at a glance."""

    name: str
    title: str
    paper: Paper | None  # None: of our own making
    parameters: int  # of the default preset at MELD's shape
    modalities: tuple[str, ...] | None  # that it can read; None: any
    presets: tuple[str, ...]  # the first is the default
    causal: Literal["yes", "no", "always"]  # whether it can do without later utterances


def card(name: str) -> Card:
    """Return what is to be said about the model called `name`; builds its network to count parameters.

    Raises:
        ConfigError: there is no such model.
    """
    entry = find(name)
    run = resolve(name)
    widths = {m: MELD_WIDTHS[m] for m in choose_modalities(run, list(MELD_WIDTHS))}
    count = sum(p.numel() for p in build_network(run, widths, MELD_CLASSES).parameters())
    uses, presets = entry.network.uses, tuple(entry.presets)
    return Card(name, title(entry), entry.paper, count, uses, presets, causal_mode(entry))


def title(entry: Entry) -> str:
    """Return the first line of the docstring of a model's module."""
    return (inspect.getdoc(inspect.getmodule(entry.network)) or "").partition("\n")[0]


def causal_mode(entry: Entry) -> Literal["yes", "no", "always"]:
    """Return whether a model predicts without later utterances: by its switch `causal`, never, or always."""
    if not entry.network.looks_ahead:
        return "always"
    return "yes" if "causal" in {field.name for field in fields(entry.config)} else "no"


def explanations(cls: type) -> dict[str, str]:
    """Return the comment behind each field of a dataclass, by the field's name.

    Where a field takes several lines, the last comment on them counts. Fields without one are left out.
    """
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if is_dataclass(c)]):
        source = textwrap.dedent(inspect.getsource(base))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {t.start[0]: _text(t.string) for t in tokens if t.type == tokenize.COMMENT}
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for node in definition.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                if texts := [comments[line] for line in lines if comments.get(line)]:
                    found[node.target.id] = texts[-1]
    return found


def preset_note(entry: Entry, preset: str) -> str:
    """Return what a preset is: its kind, its corpus with the labels, and the comment above it."""
    meant = corpus_of(preset)
    kind = KINDS[preset.removesuffix(f"-{meant}")]
    where = f", for {meant.upper()} ({', '.join(LABELS[meant])})" if meant else ""
    return " ".join(filter(None, [f"{preset}: {kind}{where}.", _comment_above(entry, preset)]))


def _comment_above(entry: Entry, preset: str) -> str:
    source = inspect.getsource(sys.modules[entry.of(preset).config.__module__])
    lines = source.splitlines()
    keys = [key for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Dict) for key in node.keys]
    (line,) = [key.lineno for key in keys if isinstance(key, ast.Constant) and key.value == preset]
    above = itertools.takewhile(lambda text: text.lstrip().startswith("#"), reversed(lines[: line - 1]))
    return " ".join(_text(text) for text in reversed([*above]))


def config_file(model: str, preset: str | None = None) -> str:
    """Return the whole config of a model's preset, or of its default, as YAML with every key explained.

    Raises:
        ConfigError: there is no such model or preset.
    """
    run = resolve(model, {"preset": preset} if preset else {})
    entry = find(model, run.preset)
    source = "# Of mmerc's own making."
    if entry.paper is not None:
        source = f"# {entry.paper.name}, {entry.paper.venue} {entry.paper.year}, {entry.paper.url}"
    note = f"Preset {preset_note(entry, run.preset)}" if run.preset else ""
    lines = [
        f"# {title(entry)}",
        source,
        *(f"# {line}" for line in textwrap.wrap(note, 108)),
        f"# mmerc train {model} --corpus DIR --out DIR --config THIS-FILE",
        "",
        *_lines(RunConfig, asdict(run), {"network": entry.config, "text_encoder": TextEncoderConfig}),
    ]
    return "\n".join(lines) + "\n"


def _lines(cls: type, values: Mapping[str, Any], sections: Mapping[str, type] | None = None) -> Iterator[str]:
    """Yield `key: value  # explanation` for each field; `sections` tells the classes that types do not.

    A section that is switched off is written out behind `#`, so that it can be switched on.
    """
    types, comments = get_type_hints(cls), explanations(cls)
    for field in fields(cls):
        name, value = field.name, values[field.name]
        section = (sections or {}).get(name, types[name])
        note = "  # " + comments.get(name, "") + _choices(types[name])
        if not (isinstance(section, type) and is_dataclass(section)):
            yield f"{name}: {_yaml(value)}{note}".rstrip(" #")
        elif value is None:
            yield f"{name}: null{note}; or, in place of this line:"
            yield f"# {name}:"
            yield from (f"#   {line}" for line in _lines(section, asdict(section())))
        else:
            yield f"{name}:{note}"
            yield from (f"  {line}" for line in _lines(section, value))


def _text(comment: str) -> str:
    """Return what a comment says to a reader of YAML, who writes null for None."""
    return re.sub(r"\bNone\b", "null", INSTRUCTION.sub("", comment).strip("# "))


def _choices(hint: Any) -> str:
    """Return the values that a field with a Literal type allows, in parentheses."""
    literals = [t for t in (hint, *get_args(hint)) if get_origin(t) is Literal]
    values = [_yaml(value) for literal in literals for value in get_args(literal)]
    return f" ({', '.join(values)})" if values else ""


def _yaml(value: Any) -> str:
    """Return a value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
