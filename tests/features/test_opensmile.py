import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from mmerc.errors import FeatureError
from mmerc.features.opensmile import FEATURE_SETS, LICENCE, SHORTEST, OpenSmile
from mmerc.features.recipe import Samples

pytest.importorskip("opensmile")
SMALL = "eGeMAPSv02"


@cache
def extractor(name: str) -> OpenSmile:
    return OpenSmile(name)


def voice(seconds: float = 0.5, seed: int = 0) -> Samples:
    """Return a buzz with noise, so that every functional has something to say."""
    time = np.arange(round(16000 * seconds)) / 16000
    pitch = 140 + 20 * np.sin(2 * np.pi * 3 * time)
    buzz = sum(np.cos(h * 2 * np.pi * np.cumsum(pitch) / 16000) / h for h in range(1, 30))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * buzz + 0.01 * noise).astype(np.float32)


def values(name: str, samples: Samples) -> np.ndarray:
    measured = extractor(name)(samples)
    assert measured.values is not None, measured.reason
    return measured.values


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_widths_are_the_published_ones(name: str) -> None:
    assert extractor(name).width == FEATURE_SETS[name] == len(set(extractor(name).names))
    found = values(name, voice())
    assert found.shape == (FEATURE_SETS[name],)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_recipe_says_what_values_depend_on() -> None:
    import opensmile

    assert extractor(SMALL).recipe == {
        "kind": "opensmile",
        "version": 1,
        "sample_rate": 16000,
        "feature_set": SMALL,
        "level": "functionals",
        "opensmile": opensmile.__version__,
    }


def test_values_are_those_of_the_package_itself() -> None:
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = smile.process_signal(voice(), 16000)
    np.testing.assert_array_equal(values(SMALL, voice()), expected.to_numpy()[0])
    assert extractor(SMALL).names == tuple(expected.columns)


def test_pitch_is_found() -> None:
    found = dict(zip(extractor(SMALL).names, values(SMALL, voice(1)), strict=True))
    semitones = 12 * np.log2(140 / 27.5)
    assert found["F0semitoneFrom27.5Hz_sma3nz_amean"] == pytest.approx(semitones, abs=0.5)


@pytest.mark.parametrize("name", ["IS10", SMALL, "emobase"])
def test_what_came_before_and_beside_changes_nothing(name: str) -> None:
    first = values(name, voice())
    values(name, voice(0.8, seed=1))
    np.testing.assert_array_equal(first, values(name, voice()))
    with ThreadPoolExecutor(4) as pool:
        for beside in pool.map(lambda seed: values(name, voice(0.5, seed % 2)), range(8)):
            assert beside.shape == first.shape
        again = list(pool.map(lambda _: values(name, voice()), range(4)))
    for beside in again:
        np.testing.assert_array_equal(first, beside)


@pytest.mark.slow
def test_another_process_finds_the_same_bits() -> None:
    code = (
        "import sys, numpy as np; from mmerc.features.opensmile import OpenSmile;"
        "samples = np.frombuffer(sys.stdin.buffer.read(), dtype=np.float32);"
        f"sys.stdout.buffer.write(OpenSmile({SMALL!r})(samples).values.tobytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=voice().tobytes(), capture_output=True, check=True
    )
    assert done.stdout == values(SMALL, voice()).tobytes()


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_the_shortest_that_is_measured_is_measured_by_all(name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, SHORTEST).astype(np.float32)
    assert extractor(name)(noise).values is not None
    assert extractor(name)(noise[:-1]) == (None, "too short")


def test_silence_and_nothing_are_not_measured() -> None:
    assert extractor(SMALL)(np.zeros(16000, dtype=np.float32)) == (None, "silence")
    assert extractor(SMALL)(np.full(16000, 0.3, dtype=np.float32)) == (None, "silence")
    assert extractor(SMALL)(np.zeros(0, dtype=np.float32)) == (None, "too short")
    assert extractor(SMALL)(voice()[:320]) == (None, "too short")


def test_full_scale_does_not_wrap_around() -> None:
    square = np.sign(np.sin(2 * np.pi * 150 * np.arange(8000) / 16000)).astype(np.float32)
    nearly = np.clip(square, -1, 1 - 2**-15)
    np.testing.assert_array_equal(values(SMALL, square), values(SMALL, nearly))
    np.testing.assert_array_equal(values(SMALL, 3 * square), values(SMALL, nearly))


def test_unknown_set_names_the_nearest() -> None:
    for given, meant in (("egemaps", "eGeMAPSv02"), ("compare2016", "ComParE_2016"), ("IS-10", "IS10")):
        with pytest.raises(FeatureError, match=f"'{given}': did you mean '{meant}'"):
            OpenSmile(given)
    with pytest.raises(FeatureError, match="there are IS09, IS10"):
        OpenSmile("?")


def test_missing_package_says_what_to_install_and_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(FeatureError, match=r'pip install "mmerc\[opensmile\]"') as caught:
        OpenSmile("IS10")
    assert LICENCE in str(caught.value)
    assert "features" in LICENCE
    assert "models" in LICENCE
