"""The models in the box: they load, say what they are, and do what their cards claim."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import mmerc
from mmerc.config import read_yaml
from mmerc.corpora.meld import LABELS, import_meld
from mmerc.errors import CheckpointError, ConfigError
from mmerc.evaluation import evaluate
from mmerc.features.frozen import encode, encoder_for
from mmerc.metrics import Scores
from mmerc.recognizer import load
from mmerc.shipped import CHAT, CONFIGS, DEFAULT, SHIPPED, located, located_config

DATA = Path(__file__).resolve().parents[1] / "../shared/data/meld"
SECTIONS = ("What it is", "Data and terms", "Protocol and scores", "Use and limits")


def card(name: str) -> str:
    return (located(name) / "README.md").read_text(encoding="utf-8")


def test_together_they_are_small() -> None:
    assert DEFAULT in SHIPPED
    size = sum(p.stat().st_size for name in SHIPPED for p in located(name).iterdir())
    assert size < 15 * 2**20


@pytest.mark.parametrize("name", SHIPPED)
def test_a_name_is_enough(name: str) -> None:
    recognizer = load(name, "cpu")
    assert recognizer.labels == LABELS
    assert recognizer.modalities == ("text",)
    recipe = recognizer.checkpoint.info.modalities["text"].recipe
    assert (recipe["encoder"], recipe["scope"]) == ("minilm", "utterance" if "live" in name else "both")


@pytest.mark.parametrize("name", SHIPPED)
def test_the_card_is_whole(name: str) -> None:
    _, front, text = card(name).split("---\n", 2)
    assert text.startswith(f"\n# {name}\n")
    said = yaml.safe_load(front)
    assert (said["license"], said["language"], said["library_name"]) == ("mit", "en", "mmerc")
    results = {r["dataset"]["split"]: r["metrics"] for r in said["model-index"][0]["results"]}
    shown = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+) \| .*±.*$", text, re.MULTILINE))
    assert [f"{100 * m['value']:.2f}" for m in results["test"]] == [shown[m["name"]] for m in results["test"]]
    assert list(results) == ["validation", "test"]
    assert re.findall("^## (.*)$", text, re.MULTILINE) == list(SECTIONS)
    assert all(re.search(rf"^\| {label} \| [\d.]+ \|", text, re.MULTILINE) for label in LABELS)
    assert "Not for decisions about people" in text
    assert "GPL-3.0" in text
    assert "{" not in text


@pytest.mark.parametrize("name", SHIPPED)
def test_it_reads_a_chat(name: str) -> None:
    said = load(name, "cpu").predict(CHAT)
    labels = [emotion.label for emotion in said.emotions]
    assert (labels[:2], labels[-1]) == (["joy", "joy"], "sadness")
    for emotion in said.emotions:
        assert sum(emotion.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert mmerc.load is load


def test_a_live_model_does_not_look_ahead() -> None:
    recognizer = load("meld-text-live", "cpu")
    (chat,) = mmerc.read_transcript(CHAT)
    whole = recognizer.predict(chat)
    part = recognizer.predict(mmerc.Conversation(chat.utterances[:5]))
    for one, other in zip(whole.emotions[:5], part.emotions, strict=True):
        np.testing.assert_allclose(
            list(one.probabilities.values()), list(other.probabilities.values()), atol=1e-5
        )


def test_a_folder_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(DEFAULT).mkdir()
    with pytest.raises(CheckpointError, match=r"meld-text is not a finished checkpoint"):
        load(DEFAULT)
    Path(DEFAULT).rmdir()
    assert load(DEFAULT).labels == LABELS
    with pytest.raises(
        CheckpointError, match="the models that come with mmerc are meld-text, meld-text-live"
    ):
        load("meld-texts")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_scores_of_the_card(name: str, tmp_path: Path) -> None:
    if not DATA.exists():
        pytest.skip("MELD's transcripts are not here")
    bare = import_meld(DATA, tmp_path / "meld")
    recipe = load(name, "cpu").checkpoint.info.modalities["text"].recipe
    corpus = bare.add_modality("text", encode(encoder_for(recipe), bare.texts))
    (found,) = evaluate(Path(name), corpus, device="cpu")
    said = dict(re.findall(r"^\| ([\w ]+) \| ([\d.]+) \| .*±.*$", card(name), re.MULTILINE))
    scores: Scores = found.scores
    assert float(said["weighted F1"]) == pytest.approx(100 * scores.weighted_f1, abs=0.05)
    assert float(said["macro F1"]) == pytest.approx(100 * scores.macro_f1, abs=0.1)
    assert float(said["accuracy"]) == pytest.approx(100 * scores.accuracy, abs=0.05)
    assert float(said["expected calibration error"]) < 5


def test_a_config_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located_config("df-erc-hazumi") == CONFIGS / "df-erc-hazumi.yaml"
    assert read_yaml(located_config(CONFIGS / "df-erc-hazumi.yaml"))["model"] == "df-erc"
    (tmp_path / "df-erc-hazumi").write_text("model: tfn", encoding="utf-8")
    assert read_yaml(located_config("df-erc-hazumi")) == {"model": "tfn"}  # a file of that name goes first
    with pytest.raises(ConfigError, match=r"^hazumi does not exist: .* df-erc-hazumi, df-erc-meld-text$"):
        located_config("hazumi")
