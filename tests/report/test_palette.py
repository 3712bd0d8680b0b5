from itertools import combinations

import numpy as np
import pytest

from conversations import MELD
from mmerc.report.palette import ALIASES, DARK, LIGHT, LOOKS, contrast, ink_on, looks_of, stacking

IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
# What is seen without one kind of cones, linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def mixed(colour: str, share: float, ground: str) -> str:
    """As `color-mix(in srgb, colour share, ground)`."""
    pairs = [(int(colour[k : k + 2], 16), int(ground[k : k + 2], 16)) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def lab(colour: str, seen: list[list[float]]) -> np.ndarray:
    parts = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ np.clip(np.array(seen) @ linear, 0, 1) / (0.9505, 1, 1.089)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    assert contrast("#123456", "#123456") == 1


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read(tokens: dict[str, str]) -> None:
    for ground in ("page", "surface"):
        for name in ("ink", "muted", "accent", "for", "against", "warning"):
            assert contrast(tokens[name], tokens[ground]) >= 4.5, (name, ground)
        assert contrast(tokens["edge"], tokens[ground]) >= 3
    assert contrast(tokens["ink"], tokens["raised"]) >= 4.5
    assert contrast(tokens["page"], tokens["ink"]) >= 4.5
    for name in ("for", "against"):
        assert contrast(tokens["page"], tokens[name]) >= 4.5
        row = mixed(tokens[name], 0.1, tokens["surface"])
        assert (
            min(contrast(tokens[other], row) for other in ("ink", "muted", "accent", "warning", name)) >= 4.5
        )
    for share in (0.08, 0.16, 0.24, 0.32, 0.4):
        assert contrast(tokens["ink"], mixed(tokens["accent"], share, tokens["page"])) >= 4.5


@pytest.mark.parametrize("name", LOOKS)
def test_emotions_stand_out_from_the_ground_and_shapes_from_emotions(name: str) -> None:
    look = LOOKS[name]
    for tokens, colour in ((LIGHT, look.light), (DARK, look.dark)):
        assert contrast(colour, tokens["page"]) >= 3
        assert contrast(colour, tokens["surface"]) >= 3
        assert contrast(ink_on(colour), colour) >= 4


@pytest.mark.parametrize("seen", [DEUTERANOPIA, PROTANOPIA], ids=["deuteranopia", "protanopia"])
@pytest.mark.parametrize("labels", [MELD, IEMOCAP], ids=["meld", "iemocap"])
def test_emotions_differ_for_the_colour_blind(labels: tuple[str, ...], seen: list[list[float]]) -> None:
    looks = looks_of(labels)
    for colours in ([x.light for x in looks], [x.dark for x in looks]):
        for one, other in combinations(colours, 2):
            assert np.linalg.norm(lab(one, seen) - lab(other, seen)) >= 12


@pytest.mark.parametrize("count", range(2, 13))
def test_up_to_twelve_labels_share_neither_colour_nor_shape(count: int) -> None:
    looks = looks_of([f"label {k}" for k in range(count)])
    for field in range(3):
        assert len({look[field] for look in looks}) == count


def test_known_names_have_their_look_and_unknown_ones_a_stable_one() -> None:
    assert looks_of(["Joy", "happy"])[0] == LOOKS["joy"] != looks_of(["Joy", "happy"])[1]
    for alias, name in ALIASES.items():
        assert looks_of([alias.upper()]) == [LOOKS[name]]
    envy = looks_of(["envy"])[0]
    assert looks_of(["joy", "envy"])[1] == envy == looks_of(["envy", "neutral"])[0]
    many = looks_of([f"label {k}" for k in range(30)])
    assert len(set(many)) == 30


def test_stacking_is_a_permutation_from_unpleasant_to_pleasant() -> None:
    order = stacking(MELD)
    assert sorted(order) == list(range(7))
    assert [MELD[k] for k in order][::6] == ["anger", "joy"]
    assert stacking(["b", "joy", "a"]) == [1, 0, 2]
