"""No hostile file runs anything or crashes a reader; `benchmarks/hostile.py` makes and counts them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from hostile import tried
from mmerc.config import read_yaml
from mmerc.errors import ConfigError


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_hostile_file_is_refused_or_handled(tmp_path: Path) -> None:
    outcomes = list(tried(10, 1, tmp_path))
    assert len(outcomes) > 1000
    assert [outcome for outcome in outcomes if outcome[2] not in ("refused", "handled")] == []
    assert {said for name, title, said in outcomes if name == "pickles" and ": " in title} == {"refused"}


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "a: &a {b: *a}", "a: 2001-99-99", "a: !!int x", "[" * 20_000, "a: " + "9" * 5_000],
)
def test_yaml_that_is_no_plain_data_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml is not a readable YAML file"):
        read_yaml(path)
