"""Extractors by name and by recipe, and those that docs/recipes.md teaches to write."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmerc.errors import FeatureError
from mmerc.extraction.cache import Cache
from mmerc.extraction.engines import in_turn
from mmerc.extraction.measuring import Meter
from mmerc.features import extractors
from mmerc.features.extractors import NO_FILES, again, choose, kinds
from mmerc.media import Source

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.fixture
def taught() -> dict[str, Any]:
    """The Python code of the page."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        exec(compile(block, "docs/recipes.md", "exec"), names)
    return names


@pytest.fixture
def installed(taught: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The page's recipes, as entry points of an installed package."""
    points = [SimpleNamespace(name=n, load=lambda n=n: taught[n]) for n in ("crossings", "brightness")]
    monkeypatch.setattr(extractors, "entry_points", lambda group: points)
    kinds.cache_clear()
    yield taught
    kinds.cache_clear()


@pytest.mark.parametrize(("name", "medium"), [("prosody", "audio"), ("face-hog", "visual")])
def test_by_name_and_again(name: str, medium: Any) -> None:
    chosen = choose(name, medium)
    assert chosen.extractor.recipe["kind"] == name
    assert again(chosen.extractor.recipe).extractor.recipe == chosen.extractor.recipe
    assert again(chosen.extractor.recipe).medium == medium


@pytest.mark.parametrize("name", ["opensmile/eGeMAPSv02", "opensmile/IS10"])
def test_variants(name: str) -> None:
    pytest.importorskip("opensmile", reason="openSMILE is not installed")
    recipe = choose(name, "audio").extractor.recipe
    assert recipe["feature_set"] == name.partition("/")[2]
    assert again(recipe).extractor.recipe == recipe


@pytest.mark.parametrize(
    ("name", "medium", "said"),
    [
        ("face-hog", "audio", "there is no audio recipe 'face-hog'; there are: opensmile, prosody"),
        ("", "visual", "there is no visual recipe ''; there are: densenet-ferplus, face-hog, onnx"),
        ("prosody:file", "audio", "takes neither '' nor a file"),
        ("prosody/x", "audio", "takes neither 'x' nor a file"),
        ("densenet-ferplus", "visual", "needs a file: densenet-ferplus:PATH"),
        ("onnx:gone.onnx", "visual", "gone.onnx"),
        ("opensmile/IS11000", "audio", "did you mean"),
    ],
)
def test_mistakes(name: str, medium: Any, said: str) -> None:
    with pytest.raises(FeatureError, match=re.escape(said)):
        choose(name, medium)


def test_recipes_that_nobody_follows() -> None:
    with pytest.raises(FeatureError, match=r"whose kind is not installed; installed are: prosody, .*onnx"):
        again({"kind": "os.system", "version": 1})
    with pytest.raises(FeatureError, match="whose kind is not installed"):
        again({})
    with pytest.raises(FeatureError, match=r"'version': 2.* follows .*'version': 1"):
        again({**choose("prosody", "audio").extractor.recipe, "version": 2})


def test_the_recipes_of_the_page(installed: dict[str, Any], recording: Path) -> None:
    assert kinds()["crossings"] is installed["crossings"]
    voice, face = choose("crossings", "audio"), choose("brightness", "visual")
    assert again(voice.extractor.recipe, NO_FILES).extractor.recipe == {"kind": "crossings", "version": 1}
    sources = [Source(recording, 500, 3400), Source(recording, 8500, 10_800)]
    with Cache(None) as cache:
        meter = Meter(in_turn, cache)
        heard, seen = meter.sound(sources, voice), meter.pictures(sources, sources, face)
    assert all(m.values is not None and m.values.shape == (2,) for m in heard)
    assert [m.reason for m in seen] == ["", "no face"]
    assert seen[0].values is not None
    assert 0 < seen[0].values[0] < 255


def test_the_entry_point_of_the_page(taught: dict[str, Any]) -> None:
    (group,) = re.findall(r'^\[project\.entry-points\."(.*)"\]$', PAGE, re.MULTILINE)
    assert group == extractors.GROUP
    (name, target) = re.findall(r'^(\w+) = ".*:(\w+)"$', PAGE, re.MULTILINE)[0]
    assert isinstance(taught[target], extractors.Kind)
    assert taught[target].new("", NO_FILES).recipe["kind"] == name
    short = taught["Crossings"]()(np.zeros(10, np.float32))
    assert short.reason == "too short"


@pytest.mark.parametrize("name", ["prosody", "odd"])
def test_an_entry_point_that_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = SimpleNamespace(name=name, load=lambda: object())
    monkeypatch.setattr(extractors, "entry_points", lambda group: [point])
    kinds.cache_clear()
    with pytest.raises(FeatureError, match=f"the entry point '{name}' .* is not a new mmerc Kind"):
        kinds()
