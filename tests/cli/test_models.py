import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmerc.config import read_yaml
from mmerc.models import MODELS, resolve
from tiny import SMALL, write

Command = Callable[..., tuple[int, str, str]]


def test_the_list_has_a_row_for_every_model(mmerc: Command) -> None:
    code, out, err = mmerc("models")
    assert code == 0, err
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    for model, entry in MODELS.items():
        assert ", ".join(entry.presets) in rows[model]
        if entry.paper:
            assert f"{entry.paper.name}, {entry.paper.venue} {entry.paper.year}" in rows[model]
    assert "3,394,247" in rows["df-erc"]
    assert rows["text-only"].split()[-1] == "yes"
    assert "text 1024, audio 300, visual 342, 7 classes" in out


def test_the_list_as_json(mmerc: Command) -> None:
    code, out, err = mmerc("models", "--json")
    assert code == 0, err
    found = {model["name"]: model for model in json.loads(out)["models"]}
    assert list(found) == list(MODELS)
    assert found["df-erc"]["paper"]["year"] == 2023
    assert found["df-erc"]["modalities"] is None
    assert found["text-only"]["paper"] is None
    assert found["text-only"]["modalities"] == ["text"]
    assert found["text-only"]["causal"] == "yes"


def test_a_shown_config_trains(mmerc: Command, tmp_path: Path) -> None:
    code, out, err = mmerc("models", "show", "df-erc", "--preset", "paper-meld")
    assert code == 0, err
    (tmp_path / "my.yaml").write_text(out, encoding="utf-8")
    small = [p for key, value in SMALL["df-erc"].items() for p in ("--set", f"network.{key}={value}")]
    code, _, err = mmerc(
        "train", "df-erc", "--corpus", write(tmp_path / "c").path, "--out", tmp_path / "run",
        "--config", tmp_path / "my.yaml", *small, "--set", "training.epochs=1",
    )  # fmt: skip
    assert code == 0, err
    layer: dict[str, Any] = {"preset": "paper-meld", "network": SMALL["df-erc"], "training": {"epochs": 1}}
    assert resolve("df-erc", read_yaml(tmp_path / "run/config.yaml")) == resolve("df-erc", layer)


def test_the_default_preset_is_shown(mmerc: Command) -> None:
    assert yaml.safe_load(mmerc("models", "show", "text-only")[1])["preset"] == "refined"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "df-er"], "did you mean 'df-erc'"),
        (["show", "df-erc", "--preset", "oficial"], "did you mean 'official-iemocap'"),
        (["sho"], "no such command"),
        (["--json", "show", "df-erc"], "a config is YAML"),
        (["show"], "missing argument"),
    ],
)
def test_mistakes_end_with_exit_code_2(mmerc: Command, arguments: list[str], said: str) -> None:
    code, out, err = mmerc("models", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
