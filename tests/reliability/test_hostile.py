"""No hostile file runs anything or crashes a reader; `benchmarks/hostile.py` makes and counts them."""

import contextlib
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from hostile import tried
from mmerc.config import parse_overrides, read_yaml
from mmerc.errors import ConfigError
from mmerc.experiments.benchmark import read_settings
from mmerc.models import resolve


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_hostile_file_is_refused_or_handled(tmp_path: Path) -> None:
    outcomes = list(tried(10, 1, tmp_path))
    assert len(outcomes) > 1000
    assert [outcome for outcome in outcomes if outcome[2] not in ("refused", "handled")] == []
    assert {said for name, title, said in outcomes if name == "pickles" and ": " in title} == {"refused"}
    states = {title: said for name, title, said in outcomes if name == "state.pt of a run"}
    assert states["honest"] == "handled"
    assert {said for title, said in states.items() if title.startswith("evil")} == {"refused"}


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "a: &a {b: *a}", "a: 2001-99-99", "a: !!int x", "[" * 20_000, "a: " + "9" * 5_000],
)
def test_yaml_that_is_no_plain_data_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml is not a readable YAML file"):
        read_yaml(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
NAMES = st.sampled_from(
    ["model", "preset", "modalities", "network", "training", "epochs", "betas", "*", "df-erc"]
)
VALUES = st.recursive(
    SCALARS | NAMES,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES | SCALARS, v, max_size=4),
    max_leaves=8,
)
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.slow
@MANY
@given(
    content=st.binary(max_size=80)
    | st.dictionaries(NAMES, VALUES, max_size=5).map(lambda v: yaml.safe_dump(v).encode())
)
def test_anything_in_a_config_is_one_or_our_own_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    for read in (
        lambda: resolve("df-erc", read_yaml(path)),
        lambda: read_settings(path),
        lambda: parse_overrides(
            [content.decode(errors="replace"), f"training={content.decode(errors='replace')}"]
        ),
    ):
        with contextlib.suppress(ConfigError):
            read()
