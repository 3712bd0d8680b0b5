"""Colours and shapes: every emotion has one of each, so that colour is never the only carrier."""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

LIGHT: Final = {
    "page": "#f7f6f2",
    "surface": "#ffffff",
    "raised": "#efede6",
    "ink": "#1b2026",
    "muted": "#59616b",
    "line": "#dcd9d0",
    "edge": "#858078",
    "accent": "#1f5fae",
    "for": "#1d6b4f",
    "against": "#9a3412",
    "warning": "#7a4b00",
}
DARK: Final = {
    "page": "#12161b",
    "surface": "#191e25",
    "raised": "#242b34",
    "ink": "#e9ebee",
    "muted": "#a4adb8",
    "line": "#313a45",
    "edge": "#77828f",
    "accent": "#8ab8f5",
    "for": "#6fd0a8",
    "against": "#ff9f7a",
    "warning": "#f2c063",
}
INKS: Final = ("#ffffff", "#101418")  # of a shape that lies on a colour


class Look(NamedTuple):
    """How an emotion is drawn: its colour on light and on dark ground, and a shape in a box of 16 × 16."""

    light: str
    dark: str
    shape: str


# The first seven (MELD's) and the first four with the two that follow (IEMOCAP's) differ by a CIELAB distance
# of at least 12 for people who see no red, or no green; a test holds that. All stand out from both grounds.
LOOKS: Final = {
    "neutral": Look("#6f7c7e", "#989fa1", "M8 2a6 6 0 1 0 0 12a6 6 0 1 0 0-12z"),
    "joy": Look("#b67b00", "#f0b429", "M8 1.5 15.2 14H.8z"),
    "sadness": Look("#2c6cb8", "#5d9ddc", "M8 14.5.8 2h14.4z"),
    "anger": Look("#b32a0e", "#ef624a", "M2.3 2.3h11.4v11.4H2.3z"),
    "surprise": Look(
        "#c257a3", "#f29ccf", "M8 .6l2.3 5 5.3.6-4 3.7 1.1 5.4L8 12.6l-4.7 2.7 1.1-5.4-4-3.7 5.3-.6z"
    ),
    "fear": Look("#4b3a8c", "#a088fa", "M8 .6 15.4 8 8 15.4.6 8z"),
    "disgust": Look("#35803a", "#6fc46f", "M4.2 1.6h7.6L15.5 8l-3.7 6.4H4.2L.5 8z"),
    "excited": Look("#d05837", "#ff9d5c", "M5.7 1.3h4.6v4.4h4.4v4.6h-4.4v4.4H5.7v-4.4H1.3V5.7h4.4z"),
    "frustrated": Look(
        "#7a4929",
        "#c1896f",
        "M3.5.9 8 5.4 12.5.9l2.6 2.6L10.6 8l4.5 4.5-2.6 2.6L8 10.6l-4.5 4.5L.9 12.5 5.4 8 .9 3.5z",
    ),
    "half disc": Look("#0f8a8a", "#4fd0c8", "M.8 12a7.2 7.2 0 0 1 14.4 0z"),
    "bar": Look("#72720f", "#c9c94a", "M3.5 4.8h9a3.2 3.2 0 0 1 0 6.4h-9a3.2 3.2 0 0 1 0-6.4z"),
    "heart": Look(
        "#7d1f54",
        "#d16ba5",
        "M8 14.7C2 10.2.8 7.6.8 5.4A3.6 3.6 0 0 1 8 4.2a3.6 3.6 0 0 1 7.2 1.2c0 2.2-1.2 4.8-7.2 9.3z",
    ),
}
ALIASES: Final = {
    "happy": "joy",
    "happiness": "joy",
    "joyful": "joy",
    "positive": "joy",
    "sad": "sadness",
    "negative": "sadness",
    "angry": "anger",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "disgusted": "disgust",
    "excitement": "excited",
    "frustration": "frustrated",
}
# From what is unpleasant to what is pleasant: the order in which probabilities are stacked.
ORDER: Final = (
    "anger", "frustrated", "disgust", "fear", "sadness", "neutral", "surprise", "excited", "joy",
)  # fmt: skip


def looks_of(labels: Sequence[str]) -> list[Look]:
    """Return a look for each label; a name that is not known gets a free one, for a set of names the same."""
    chosen: dict[str, str] = {}
    for label in labels:
        name = ALIASES.get(label.casefold(), label.casefold())
        if name in ORDER and name not in chosen.values():
            chosen[label] = name
    for label in sorted(set(labels) - chosen.keys()):
        free = [name for name in _preferred(label) if name not in chosen.values()]
        if free:
            chosen[label] = free[0]
    return [LOOKS[chosen[x]] if x in chosen else _mixed(k) for k, x in enumerate(labels)]


def stacking(labels: Sequence[str]) -> list[int]:
    """Return the positions of the labels in the order in which their probabilities are stacked."""
    known = [ALIASES.get(label.casefold(), label.casefold()) for label in labels]
    return sorted(
        range(len(labels)), key=lambda k: ORDER.index(known[k]) if known[k] in ORDER else len(ORDER) + k
    )


def colours_css(looks: Sequence[Look]) -> str:
    """Return the rules that name all colours; paper is always light."""
    rules = "".join(f".e{k}{{--c:var(--e{k});--on:var(--on{k})}}" for k in range(len(looks)))
    light, dark = _variables(LIGHT, [x.light for x in looks]), _variables(DARK, [x.dark for x in looks])
    return (
        f":root{{color-scheme:light;{light}}}"
        "@media screen and (prefers-color-scheme:dark)"
        f"{{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}{rules}"
    )


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours `#rrggbb`, 1 to 21 (WCAG 2, relative luminance)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink_on(colour: str) -> str:
    """Return the ink that is seen best on a colour."""
    return max(INKS, key=lambda ink: contrast(ink, colour))


def _preferred(label: str) -> list[str]:
    """Return the looks in the order in which a name that is not known takes them, those of no name first."""
    turn = hashlib.sha256(label.casefold().encode("utf-8", "replace")).digest()[0]
    spare = [name for name in LOOKS if name not in ORDER]
    named = [name for name in LOOKS if name in ORDER]
    return [names[(turn + k) % len(names)] for names in (spare, named) for k in range(len(names))]


def _luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _mixed(position: int) -> Look:
    """Return a look beyond the twelfth: the colour of one, the shape of another."""
    looks = list(LOOKS.values())
    shape = looks[(position + 1 + position // len(looks)) % len(looks)].shape
    return looks[position % len(looks)]._replace(shape=shape)


def _variables(tokens: dict[str, str], colours: Sequence[str]) -> str:
    own = "".join(f"--e{k}:{colour};--on{k}:{ink_on(colour)};" for k, colour in enumerate(colours))
    return "".join(f"--{name}:{colour};" for name, colour in tokens.items()) + own
