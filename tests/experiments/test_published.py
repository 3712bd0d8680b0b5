"""What was published, and what it rests on: the file, its page, and what the benchmark takes from it."""

import re
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from mmerc.experiments.published import Published, System, published, published_scores
from mmerc.models import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from published_page import PAGE, fill

SPECIFICATION = Path(__file__).resolve().parents[2] / "../shared/spec/published-results.md"


def content() -> dict[str, Any]:
    text = resources.files("mmerc.experiments").joinpath("published.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def named(name: str) -> System:
    return next(system for system in published().systems if system.name == name)


# The file


def test_every_system_is_there_once_with_plausible_numbers() -> None:
    systems = published().systems
    assert len(systems) >= 25
    assert len({system.name for system in systems}) == len(systems)
    assert {system.model for system in systems} - {""} <= MODELS.keys()
    for score in (score for system in systems for score in system.scores):
        numbers = [score.weighted_f1, score.accuracy, score.macro_f1]
        assert all(30 < number < 90 for number in numbers if number is not None), score


def test_what_the_code_of_some_systems_does() -> None:
    for name in ("MM-DFN", "MMGCN", "CFN-ESA", "SDT", "M³Net", "GraphSmile", "MultiEMO"):
        assert named(name).selection == "test", name
    for name in ("DF-ERC", "TelME", "CORECT", "CoMPM", "EmotionFlow", "COSMIC"):
        assert named(name).selection == "validation", name
    crn = named("DialogueCRN")
    text_only = {score.corpus: crn.selection_of(score) for score in crn.scores if "the paper" in score.what}
    assert text_only == {"meld": "validation", "iemocap": "test"}


def test_evidence_is_lines_of_a_file_at_a_commit() -> None:
    for system in published().systems:
        assert all(re.fullmatch(r"[\w./-]+\.\w+:\d+(-\d+)?", place) for place in system.evidence), system.name
        if system.code is not None:
            assert re.fullmatch(r"[0-9a-f]{7,40}", system.code.commit), system.name


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("modality", "text", "Unexpected keyword argument"),
        ("selection", "dev", "'validation', 'test' or 'unknown'"),
        ("evidence", [], "which lines say that the epoch is chosen on validation"),
        ("code", None, "evidence needs the code that it is of"),
        ("scores", [{"corpus": "meld", "weighted_f1": 60, "source": "hearsay"}], "not listed.*: hearsay"),
        ("scores", [{"corpus": "meld", "source": "df-erc"}], "weighted_f1"),
    ],
)
def test_mistakes_are_found_when_it_is_read(key: str, value: Any, said: str) -> None:
    changed = content()
    assert changed["systems"][0]["name"] == "DF-ERC"
    changed["systems"][0][key] = value
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Published).validate_python(changed)


def test_a_source_that_nothing_needs_is_found() -> None:
    changed = content()
    changed["sources"]["old"] = {"text": "a page"}
    with pytest.raises(ValidationError, match="listed but not named: old"):
        TypeAdapter(Published).validate_python(changed)


# The page


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert fill(text, published()) == text, "run python benchmarks/published_page.py"


def test_the_page_counts_what_its_tables_show() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows: dict[str, int] = {}
    for section in text.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        rows[title] = sum(line.startswith("| ") for line in body.splitlines()) - 2  # header and rule
    counted = re.search(
        r"Of (\d+) systems (\d+) have .*?\*\*(\d+) of .*?, (\d+) choose .*?and (\d+) print", text
    )
    assert counted is not None
    everything, read, test, validation, several = map(int, counted.groups())
    assert everything == read + rows["No official code for these corpora"]
    assert read == test + validation + several
    shown = (rows["Chosen on test"], rows["Chosen on validation"], rows["Several candidates printed"])
    assert shown == (test, validation, several)


def test_a_row_leads_to_its_evidence() -> None:
    text = PAGE.read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| SDT "))
    assert "(https://github.com/butterfliesss/SDT/blob/60af921/train.py#L225-L227)" in row
    number = re.search(r"74\.08 / 73\.95 \[(\d+)\]", row)
    assert number is not None
    assert f"\n{number[1]}. [results page about SDT](" in text


# Beside the benchmark


def test_scores_of_our_models() -> None:
    scores = published_scores()
    assert scores.keys() == {"meld", "iemocap", "iemocap-4"}
    assert scores["meld"].keys() == scores["iemocap"].keys() < MODELS.keys()
    assert scores["iemocap"]["df-erc"]["accuracy"] == 71.84
    assert scores["meld"]["mm-dfn"] == {  # the first of several
        "accuracy": 62.49,
        "weighted_f1": 59.46,
        "inputs": "text, audio, video; TextCNN on GloVe",
        "selection": "test",
    }
    by_code = {model for model, entry in scores["meld"].items() if "selection" in entry}
    assert by_code == {"mm-dfn", "cfn-esa", "mmgcn", "dialogue-rnn"}
    assert all(isinstance(x["accuracy"], float) for models in scores.values() for x in models.values())


@pytest.mark.skipif(not SPECIFICATION.exists(), reason="the list of published results is not here")
def test_scores_of_our_models_are_those_of_the_list() -> None:
    numbers = {}
    for line in SPECIFICATION.read_text(encoding="utf-8").split("## C.")[0].splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        numbers[cells[0].lower().replace("-", "")] = [c for c in cells if re.fullmatch(r"\d\d\.\d\d|–", c)]
    for corpus, position in (("iemocap", 0), ("meld", 2)):
        for model, entry in published_scores()[corpus].items():
            accuracy, weighted_f1 = numbers[model.replace("-", "")][position : position + 2]
            assert (f"{entry['accuracy']:.2f}", f"{entry['weighted_f1']:.2f}") == (accuracy, weighted_f1)
