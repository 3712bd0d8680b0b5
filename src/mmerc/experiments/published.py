"""What was published on MELD and IEMOCAP, and what each number rests on (published.yaml)."""

from functools import cache
from importlib import resources
from typing import Any, Literal, Self

import yaml
from pydantic import ConfigDict, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

Corpus = Literal["meld", "iemocap", "iemocap-4"]
Split = Literal["validation", "test", "unknown"]

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Source:
    """Where numbers stand in print."""

    text: str
    url: str = ""


@dataclass(frozen=True, config=_STRICT)
class Code:
    """The official code of a system on GitHub, as it was read."""

    repository: str  # owner/name
    commit: str
    licence: str = "no licence"


@dataclass(frozen=True, config=_STRICT)
class Score:
    """A system's result on the test split of a corpus, in percent."""

    corpus: Corpus
    source: str  # a key of `Published.sources`
    weighted_f1: float
    accuracy: float | None = None
    macro_f1: float | None = None
    kind: Literal["own", "quoted", "re-run"] = "own"  # by the authors, from a table of others, run by others
    what: str = ""  # the variant, where there are several
    selection: Split | None = None  # where its epoch was chosen by another rule than the system's


@dataclass(frozen=True, config=_STRICT)
class System:
    """A published system, its results, and what was read in its code."""

    name: str
    year: int
    inputs: str
    text_encoder: str
    scores: tuple[Score, ...] = ()  # the first of a corpus stands in the benchmark
    model: str = ""  # how mmerc calls it, if it has it
    selection: Split = "unknown"  # the split on which the code chooses the epoch that it reports
    rule: str = ""  # by which measure
    evidence: tuple[str, ...] = ()  # file:line or file:first-last of the code
    gold_labels: Literal["no", "yes", "unknown"] = "unknown"  # of other utterances, when it predicts
    seeds: str = "unknown"  # how many runs the numbers are the mean of
    code: Code | None = None
    note: str = ""

    @model_validator(mode="after")
    def _evidence_is_of_code(self) -> Self:
        if self.evidence and self.code is None:
            raise ValueError(f"{self.name}: evidence needs the code that it is of")
        if self.selection != "unknown" and not self.evidence:
            raise ValueError(f"{self.name}: which lines say that the epoch is chosen on {self.selection}?")
        return self

    def selection_of(self, score: Score) -> Split:
        """Return the split on which the epoch of a score was chosen."""
        return score.selection or self.selection


@dataclass(frozen=True, config=_STRICT)
class Published:
    """All that is known of published systems."""

    sources: dict[str, Source]
    systems: tuple[System, ...] = ()

    @model_validator(mode="after")
    def _sources_are_those_named(self) -> Self:
        named = {score.source for system in self.systems for score in system.scores}
        if odd := sorted(named ^ self.sources.keys()):
            raise ValueError(
                f"sources that are named but not listed, or listed but not named: {', '.join(odd)}"
            )
        return self


@cache
def published() -> Published:
    """Return the content of published.yaml."""
    text = resources.files("mmerc.experiments").joinpath("published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(Published).validate_python(yaml.safe_load(text))


@cache
def published_scores() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what was published of mmerc's models: corpus → model → scores (%), inputs, `selection: test`.

    `selection` stands where the official code reports the epoch that is best on test.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for system in published().systems:
        for score in system.scores if system.model else ():
            entry = {
                "accuracy": score.accuracy,
                "weighted_f1": score.weighted_f1,
                "inputs": f"{system.inputs}; {system.text_encoder}",
            }
            if system.selection_of(score) == "test":
                entry["selection"] = "test"
            found.setdefault(score.corpus, {}).setdefault(system.model, entry)
    return found
