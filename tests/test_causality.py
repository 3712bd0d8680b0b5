from pathlib import Path
from typing import Any

import pytest

from mmerc.causality import require_no_look_ahead
from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.models import resolve
from mmerc.training import train
from tiny import SMALL, config, tables, task, write

RECIPE = {"kind": "text-encoder", "encoder": "minilm", "layers": [2, 4]}


def corpus_with(folder: Path, recipe: dict[str, Any]) -> Corpus:
    frame, features = tables()
    return write(folder / "c", frame, features | {"text": features["text"]._replace(recipe=recipe)})


def causal(model: str = "late-fusion", **more: Any) -> RunConfig:
    training = {"epochs": 1, "warmup_steps": 1}
    layer = {"network": SMALL[model] | {"causal": True}, "training": training, **more}
    return resolve(model, layer)


@pytest.mark.parametrize("scope", [{"scope": "dialogue"}, {"scope": "both"}, {}])
@pytest.mark.parametrize("model", ["df-erc", "text-only"])
def test_text_vectors_that_know_what_comes(tmp_path: Path, scope: dict[str, str], model: str) -> None:
    corpus = corpus_with(tmp_path, RECIPE | scope)
    command = (
        rf"encode-text {corpus.path} --encoder minilm --layers 2,4 --scope utterance --name text --force"
    )
    with pytest.raises(ConfigError, match=command):
        train(task(corpus, causal(model)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(task(corpus, config(model, epochs=1)), tmp_path / "run")  # not causal


@pytest.mark.parametrize("recipe", [RECIPE | {"scope": "utterance"}, {"kind": "imported", "scope": "both"}])
def test_what_does_not_look_ahead_or_does_not_say(tmp_path: Path, recipe: dict[str, Any]) -> None:
    train(task(corpus_with(tmp_path, recipe), causal()), tmp_path / "run")


def test_only_what_is_read_counts(tmp_path: Path) -> None:
    require_no_look_ahead(causal(modalities=["audio"]), corpus_with(tmp_path, RECIPE))
    frame, features = tables()
    alone = features["text"]._replace(recipe=RECIPE | {"scope": "utterance"})
    beside = {"audio": features["audio"], "text": features["text"]._replace(recipe=RECIPE), "alone": alone}
    corpus = write(tmp_path / "c", frame, beside)
    require_no_look_ahead(causal(modalities=["audio", "alone"]), corpus)
    with pytest.raises(ConfigError, match=r"the 'text' vectors .* \(scope 'dialogue'\)"):
        require_no_look_ahead(causal(), corpus)


@pytest.mark.parametrize("scope", ["dialogue", "both"])
def test_a_text_encoder_that_is_trained_along(tmp_path: Path, scope: str) -> None:
    corpus = corpus_with(tmp_path, RECIPE)  # its vectors are not read
    with pytest.raises(ConfigError, match=r"set text_encoder\.scope=utterance"):
        train(task(corpus, causal(text_encoder={"name": "none", "scope": scope})), tmp_path / "run")
    require_no_look_ahead(causal(text_encoder={"name": "none", "scope": "utterance"}), corpus)
