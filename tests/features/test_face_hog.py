"""The description of a face and its motion, from drawn faces and from random looks."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmerc.features.recipe import Image, Look, Loudness

cv2 = pytest.importorskip("cv2", reason="faces need mmerc[media]")
from actors import draw_face  # noqa: E402
from mmerc.features.face_hog import FaceHog, Picture  # noqa: E402
from mmerc.features.faces import Face, FaceFinder, changes  # noqa: E402

STEP = 200  # ms
HOG = FaceHog()


@cache
def picture(x: int = 320, mouth: float = 0.0, size: int = 150) -> Image:
    drawn = draw_face(640, 360, centre=(x, 180), size=size, mouth=mouth)
    return cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)


def looks_at(*pictures: Image) -> list[Look]:
    return [Look(STEP * i, HOG.look(image)) for i, image in enumerate(pictures)]


def described(looks: Sequence[Look], loudness: Loudness | None = None) -> dict[str, float]:
    values, reason = HOG.describe(looks, loudness)
    assert values is not None, reason
    assert values.dtype == np.float32
    assert values.shape == (HOG.width,)
    assert np.isfinite(values).all()
    return dict(zip(HOG.names, values.tolist(), strict=True))


def motions(features: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if "motion" in name or name.startswith("head")}


MOUTHS = (0.0, 0.8, 0.2, 1.0, 0.1, 0.7, 0.0, 0.9, 0.3, 0.8)


@pytest.fixture(scope="module")
def talking() -> list[Look]:
    return looks_at(*(picture(mouth=mouth) for mouth in MOUTHS))


def test_names_are_unique_and_say_what_is_measured() -> None:
    assert len(set(HOG.names)) == len(HOG.names) == HOG.width
    assert 300 <= HOG.width <= 700
    assert HOG.recipe["kind"] == "face-hog"
    assert HOG.recipe == FaceHog(FaceFinder()).recipe != FaceHog(FaceFinder(size=64)).recipe
    assert not HOG.colour


def test_a_still_face_has_no_motion() -> None:
    features = described(looks_at(*[picture()] * 6))
    assert set(motions(features).values()) == {0.0}
    assert max(value for name, value in features.items() if name.endswith("_sd")) < 1e-6
    assert features["looks_with_face"] == features["faces"] == 1
    assert features["face_height"] == pytest.approx(150 / 360, abs=0.05)


def test_a_mouth_that_moves_is_seen_in_the_mouth(talking: list[Look]) -> None:
    features = described(talking)
    assert features["mouth_motion_mean"] > 2 * features["eyes_motion_mean"]
    assert features["mouth_motion_max"] > 2 * features["brows_motion_max"]
    assert features["mouth_over_face_motion"] > 0.1
    loudest = max((f"motion_grid{y}{x}" for y in range(4) for x in range(4)), key=features.__getitem__)
    assert loudest in {"motion_grid21", "motion_grid22", "motion_grid31", "motion_grid32"}
    assert features["mouth_sound_agreement"] == 0  # nothing is heard


def test_a_mouth_that_moves_with_the_sound_agrees_with_it(talking: list[Look]) -> None:
    opening = np.repeat(np.maximum(np.abs(np.diff(MOUTHS)), 1e-3), STEP // 20)
    sound = Loudness(0, (20 * np.log10(opening)).astype(np.float32))
    assert described(talking, sound)["mouth_sound_agreement"] > 0.6
    still = described(looks_at(*[picture()] * 10), sound)
    assert still["mouth_sound_agreement"] == 0


def test_a_head_that_moves_is_no_mouth_that_moves() -> None:
    features = described(looks_at(*(picture(x=250 + 15 * i) for i in range(8))))
    assert features["head_across_mean"] == pytest.approx(15 / 150 / 0.2, rel=0.1)
    assert features["head_speed_mean"] == pytest.approx(features["head_across_mean"], rel=0.1)
    assert features["head_down_max"] < 0.2
    assert abs(features["mouth_over_face_motion"]) < 0.05


def test_a_head_that_comes_nearer_grows() -> None:
    features = described(looks_at(*(picture(size=size) for size in (120, 145, 175, 210))))
    assert features["head_growth_mean"] == pytest.approx(np.log(210 / 120) / 0.6, rel=0.1)


def test_light_changes_little_of_the_appearance() -> None:
    def hog(image: Image | None, crop: Image | None = None) -> np.ndarray:
        kept = HOG.look(picture() if image is None else image)
        faces = kept.faces if crop is None else [kept.faces[0]._replace(crop=crop)]
        features = described([Look(0, kept._replace(faces=faces))])
        return np.array([v for k, v in features.items() if k.startswith("hog") and k.endswith("mean")])

    def dimmed(image: Image) -> Image:
        return np.rint(image * 0.5 + 40).astype(np.uint8)

    plain = hog(picture())
    assert plain.shape == (324,)
    same_cut = hog(None, dimmed(HOG.look(picture()).faces[0].crop))
    assert np.linalg.norm(same_cut - plain) < 0.05 * np.linalg.norm(plain)
    found_anew, other = hog(dimmed(picture())), hog(picture(mouth=1.0))  # the box may come out otherwise
    assert np.linalg.norm(found_anew - plain) < 0.6 * np.linalg.norm(other - plain)


def test_one_look_tells_nothing_of_motion_and_says_so() -> None:
    features = described(looks_at(picture()))
    assert set(motions(features).values()) == {0.0}
    assert features["looks"] == pytest.approx(np.log(2))


def test_pictures_without_the_face_count() -> None:
    wall = np.full((360, 640), 120, np.uint8)
    features = described(looks_at(picture(), wall, picture(), wall))
    assert features["looks_with_face"] == features["faces"] == 0.5
    assert set(motions(features).values()) == {0.0}  # never two looks in a row
    assert HOG.describe(looks_at(wall, wall), None) == (None, "no face")
    assert HOG.describe([], None) == (None, "no picture")


def test_the_same_pictures_give_the_same_vector(talking: list[Look]) -> None:
    again = looks_at(*(picture(mouth=mouth).copy() for mouth in MOUTHS))
    later = [Look(look.time_ms + 7000, look.seen) for look in again]
    first, second, third = (FaceHog().describe(looks, None).values for looks in (talking, again, later))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_colour_faces_are_described_as_grey_ones() -> None:
    drawn = draw_face(640, 360, centre=(320, 180), size=150)
    hog = FaceHog(FaceFinder(colour=True))
    values = hog.describe([Look(0, hog.look(drawn))], None).values
    plain = HOG.describe(looks_at(picture()), None).values
    assert values is not None
    np.testing.assert_allclose(values, plain, atol=0.02)


def normalized(crop: Image) -> list[list[float]]:
    """Return 16 × 16 means over 4 × 4 pixels of mean 0 and sd 1, plainly."""
    cells = [[crop[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean() for x in range(16)] for y in range(16)]
    mean, sd = np.mean(cells), max(float(np.std(cells)), 1.0)
    return [[(value - mean) / sd for value in row] for row in cells]


def test_changes_are_what_no_movement_of_the_whole_face_explains() -> None:
    chance = np.random.default_rng(0)
    crops = [chance.integers(0, 256, (64, 64), np.uint8) for _ in range(4)]
    times = [0, 200, 400, 900]  # the last one after a gap
    box = np.array([0, 0, 64, 64], np.float32)
    later, found = changes([Look(t, Face(box, c)) for t, c in zip(times, crops, strict=True)], 200)
    assert later.tolist() == [1, 2]
    for k, i in enumerate(later):
        before, after = np.array(normalized(crops[i - 1])), np.array(normalized(crops[i]))
        middle = (before + after) / 2
        rows, target = [], []
        down, across = np.gradient(middle)
        for y in range(16):
            for x in range(16):
                v, u = (y - 7.5) / 7.5, (x - 7.5) / 7.5
                dy, dx = down[y, x], across[y, x]
                rows.append([dy, dx, v * dy + u * dx, u * dy - v * dx])
                target.append(after[y, x] - before[y, x])
        move = np.linalg.lstsq(np.array(rows), np.array(target), rcond=None)[0]
        expected = np.abs(np.array(target) - np.array(rows) @ move).reshape(16, 16)
        np.testing.assert_allclose(found[k], expected, atol=1e-3)


random_pictures = st.builds(
    Picture,
    st.integers(1, 2000),
    st.lists(
        st.builds(
            Face,
            arrays.arrays(np.float32, 4, elements=st.floats(1, 2000, width=32)),
            st.integers(0, 2**32 - 1).map(
                lambda seed: np.random.default_rng(seed).integers(0, 1 + seed % 256, (64, 64), np.uint8)
            ),
        ),
        max_size=3,
    ),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(random_pictures, max_size=12),
    st.lists(st.integers(1, 3000), min_size=12, max_size=12),
    arrays.arrays(np.float32, st.integers(0, 200), elements=st.floats(-90, 6, width=32)) | st.none(),
)
def test_any_looks_give_finite_numbers_or_a_reason(
    pictures: list[Picture], waits: list[int], decibels: np.ndarray | None
) -> None:
    looks = [Look(int(time), seen) for time, seen in zip(np.cumsum(waits), pictures, strict=False)]
    sound = None if decibels is None else Loudness(500, decibels)
    if any(seen.faces for seen in pictures):
        described(looks, sound)
    else:
        assert HOG.describe(looks, sound) == (None, "no face" if pictures else "no picture")


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 255))
def test_any_small_picture_is_looked_at(width: int, height: int, level: int) -> None:
    assert HOG.look(np.full((height, width), level, np.uint8)) == Picture(height, [])
