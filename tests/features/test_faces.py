"""Faces found in drawn pictures, linked over time, and the one that speaks."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmerc.errors import FeatureError
from mmerc.features.recipe import Image, Look, Loudness

cv2 = pytest.importorskip("cv2", reason="faces need mmerc[media]")
from actors import draw_face  # noqa: E402
from mmerc.features.faces import (  # noqa: E402
    GAP_MS,
    Face,
    FaceFinder,
    HaarDetector,
    _tracks,
    agreement,
    changes,
    mouth_motion,
    speaking_face,
)

STEP = 200  # ms


def grey(picture: Image) -> Image:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def overlap(a: npt.NDArray[np.float32], b: Sequence[float]) -> float:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(across, 0) * max(down, 0)
    return float(both / (a[2] * a[3] + b[2] * b[3] - both))


@cache
def head(seed: int = 0, mouth: float = 0.0) -> Image:
    """Return what a finder would cut out of a drawing."""
    picture = draw_face(96, 96, centre=(48, 48), size=64, mouth=mouth, seed=seed)
    return cv2.resize(grey(picture)[16:88, 12:84], (48, 48))


def face(x: float, y: float = 100.0, size: float = 80.0, crop: Image | None = None) -> Face:
    return Face(np.array([x, y, size, size], np.float32), head() if crop is None else crop)


def looks_at(*pictures: list[Face]) -> list[Look]:
    return [Look(STEP * i, faces) for i, faces in enumerate(pictures)]


def sound_of(mouths: Sequence[float]) -> Loudness:
    """Return sound as loud as mouths are open, from each look to the next."""
    levels = 20 * np.log10(np.maximum(mouths, 1e-3))
    return Loudness(0, np.repeat(levels, STEP // 20).astype(np.float32))


# --- finding


@pytest.mark.parametrize(
    ("width", "height", "size", "centre"),
    [
        (1280, 720, 120, (200, 150)),
        (1280, 720, 300, (900, 400)),
        (1280, 720, 500, (640, 360)),
        (641, 361, 100, (530, 250)),
        (360, 480, 90, (150, 200)),
        (720, 1280, 260, (300, 900)),
    ],
)
def test_a_face_is_found_where_it_is(width: int, height: int, size: int, centre: tuple[int, int]) -> None:
    picture = grey(draw_face(width, height, centre=centre, size=size, seed=size))
    boxes = HaarDetector()(picture)
    assert boxes.shape == (1, 4)
    assert boxes.dtype == np.float32
    assert overlap(boxes[0], (centre[0] - size / 2, centre[1] - size / 2, size, size)) > 0.7


def test_the_largest_face_comes_first_and_at_most_six_are_kept() -> None:
    sizes = [130, 190, 150, 120, 200, 140, 160, 180]
    tiles = [draw_face(320, 360, centre=(160, 180), size=size, seed=i) for i, size in enumerate(sizes)]
    picture = np.vstack([np.hstack(tiles[:4]), np.hstack(tiles[4:])])
    areas = HaarDetector()(grey(picture))[:, 2:].prod(1)
    assert len(areas) == 8
    assert (np.diff(areas) <= 0).all()
    faces = FaceFinder()(grey(picture))
    assert [face.box[2:].prod() for face in faces] == areas[:6].tolist()


def slide() -> Image:
    picture = np.full((720, 1280), 250, np.uint8)
    for i in range(9):
        place = (60, 90 + 70 * i)
        cv2.putText(
            picture, f"{i}. Results of the 8th quarter, 3069 %", place, cv2.FONT_HERSHEY_SIMPLEX, 1.8, 20, 4
        )
    return picture


@pytest.mark.parametrize("what", ["noise", "smooth noise", "gradient", "slide", "black", "wall"])
def test_nothing_is_found_where_no_face_is(what: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (360, 640), np.uint8)
    picture = {
        "noise": lambda: noise,
        "smooth noise": lambda: cv2.normalize(
            cv2.GaussianBlur(noise, (0, 0), 6), None, 0, 255, cv2.NORM_MINMAX
        ),
        "gradient": lambda: np.tile(np.linspace(0, 255, 640).astype(np.uint8), (360, 1)),
        "slide": slide,
        "black": lambda: np.zeros((360, 640), np.uint8),
        "wall": lambda: grey(draw_face(640, 360, centre=(-900, -900), size=100)),
    }[what]()
    assert HaarDetector()(picture).shape == (0, 4)
    assert FaceFinder()(picture) == []


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 900), (900, 1), (2, 3), (19, 19), (20, 20), (21, 333), (161, 163)]
)
def test_pictures_of_any_size_are_looked_at(shape: tuple[int, int]) -> None:
    for picture in (np.full(shape, 90, np.uint8), cv2.resize(head(), shape[::-1])):
        assert all(face.crop.shape == (96, 96) for face in FaceFinder()(picture))


@settings(max_examples=30, deadline=None)
@given(
    st.floats(-30, 500),
    st.floats(-30, 300),
    st.floats(0, 700),
    st.floats(0, 700),
    st.integers(0, 3),
    st.booleans(),
)
def test_whatever_box_a_detector_gives_is_cut_out(
    x: float, y: float, width: float, height: float, edge: int, colour: bool
) -> None:
    class Given:
        recipe = {"kind": "given", "version": 1}  # noqa: RUF012
        colour = False

        def __call__(self, image: Image) -> npt.NDArray[np.float32]:
            assert image.ndim == 2
            return np.array([[x, y, width, height]], np.float32)

    picture = draw_face(301 + edge, 200, centre=(150, 100), size=90)
    found = FaceFinder(Given(), size=32, colour=colour)(picture if colour else grey(picture))
    inside = x < picture.shape[1] and y < picture.shape[0] and x + width > 0 and y + height > 0
    assert len(found) == (inside and min(width, height) >= 1)
    assert all(
        f.crop.shape == ((32, 32, 3) if colour else (32, 32)) and f.crop.dtype == np.uint8 for f in found
    )


def test_a_tilted_face_is_cut_out_upright() -> None:
    finder = FaceFinder()
    upright, tilted = (
        finder(grey(draw_face(640, 360, centre=(320, 180), size=200, tilt=tilt)))[0].crop.astype(float)
        for tilt in (0, 12)
    )
    turned = cv2.warpAffine(upright, cv2.getRotationMatrix2D((47.5, 47.5), -12, 1), (96, 96))
    assert np.abs(upright - tilted)[16:80, 16:80].mean() < 0.5 * np.abs(turned - tilted)[16:80, 16:80].mean()


def test_a_cut_out_shows_the_same_face_at_any_size_and_place() -> None:
    crops = [
        FaceFinder()(grey(draw_face(1280, 720, centre=centre, size=size)))[0].crop.astype(float)
        for centre, size in [((300, 300), 150), ((800.5, 350), 240), ((640, 360), 460)]
    ]
    for crop in crops[1:]:
        assert np.corrcoef(crop.ravel(), crops[0].ravel())[0, 1] > 0.9


def test_colour_is_kept_where_it_is_wanted() -> None:
    picture = draw_face(640, 360, centre=(320, 180), size=200)
    finder = FaceFinder(colour=True, size=48)
    assert finder.colour
    (found,) = finder(picture)
    assert found.crop.shape == (48, 48, 3)
    red, _, blue = found.crop.reshape(-1, 3).mean(0)
    assert red > blue + 10  # skin
    (plain,) = FaceFinder(size=48)(grey(picture))
    np.testing.assert_array_equal(found.box, plain.box)
    with pytest.raises(FeatureError, match="colour=True"):
        finder(grey(picture))


def test_the_same_picture_gives_the_same_faces_on_any_number_of_threads() -> None:
    picture = grey(draw_face(1280, 720, centre=(640, 360), size=230, mouth=0.5))
    threads, results = cv2.getNumThreads(), []
    try:
        for n in (1, 4, 2):
            cv2.setNumThreads(n)
            results.append(FaceFinder()(picture)[0])
    finally:
        cv2.setNumThreads(threads)
    for result in results[1:]:
        np.testing.assert_array_equal(result.box, results[0].box)
        np.testing.assert_array_equal(result.crop, results[0].crop)


def test_the_recipe_tells_finders_apart() -> None:
    recipes = [FaceFinder().recipe, FaceFinder(size=64).recipe, FaceFinder(colour=True).recipe]
    assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i])
    assert FaceFinder().recipe == recipes[0]
    assert len(recipes[0]["detector"]["sha256"]) == 64


# --- linking


def test_faces_that_cross_keep_their_tracks() -> None:
    a, b = head(1), 255 - head(2)
    looks = looks_at(*[[face(100 + 20 * i, crop=a), face(340 - 20 * i, 120, crop=b)] for i in range(13)])
    tracks = _tracks(looks)
    assert [len(track) for track in tracks] == [13, 13]
    for track in tracks:
        assert len({found.crop.tobytes() for _, found in track}) == 1


def test_a_track_survives_a_short_gap_but_not_a_long_one() -> None:
    for gap, tracks in ((GAP_MS // STEP - 1, 1), (GAP_MS // STEP, 2)):
        looks = looks_at(
            *[[face(100 + i)] for i in range(5)], *([[]] * gap), *[[face(110 + i)] for i in range(5)]
        )
        assert len(_tracks(looks)) == tracks


def test_a_face_elsewhere_or_of_another_size_is_someone_else() -> None:
    assert len(_tracks(looks_at([face(0)], [face(200)]))) == 2
    assert len(_tracks(looks_at([face(0, 0, 50)], [face(0, 0, 150)]))) == 2


# --- choosing


def conversation(speaker: int, mouths: Sequence[float], sizes: tuple[float, float] = (80, 80)) -> list[Look]:
    """Return looks at two faces whose heads move a little; one of them moves the mouth."""
    chance = np.random.default_rng(5)
    looks = []
    for i, mouth in enumerate(mouths):
        faces = []
        for who in (0, 1):
            crop = head(who, mouth if who == speaker else 0.0).astype(float)
            shift = np.float32([[1, 0, chance.normal(0, 0.5)], [0, 1, chance.normal(0, 0.5)]])
            crop = cv2.warpAffine(crop, shift, (48, 48), borderMode=cv2.BORDER_REPLICATE)
            crop += chance.normal(0, 2, crop.shape)
            faces.append(face(100 + 300 * who, 100, sizes[who], crop.clip(0, 255).astype(np.uint8)))
        looks.append(Look(STEP * i, faces))
    return looks


MOUTHS = np.abs(np.sin(np.arange(24) * 1.3)) * (np.arange(24) % 12 < 8)


@pytest.mark.parametrize("speaker", [0, 1])
def test_the_face_that_speaks_is_the_one_whose_mouth_moves_with_the_sound(speaker: int) -> None:
    sizes = (70.0, 90.0) if speaker == 0 else (90.0, 70.0)
    chosen = speaking_face(conversation(speaker, MOUTHS, sizes), sound_of(MOUTHS))
    assert len(chosen) == 24
    assert {float(look.seen.box[0]) for look in chosen} == {100.0 + 300 * speaker}


@pytest.mark.parametrize(
    "sound", [None, sound_of([0.0] * 24)._replace(decibels=np.full(240, -80, np.float32))]
)
def test_without_sound_the_largest_face_is_chosen(sound: Loudness | None) -> None:
    chosen = speaking_face(conversation(0, MOUTHS, (70, 90)), sound)
    assert {float(look.seen.box[0]) for look in chosen} == {400.0}


def test_when_no_mouth_moves_or_looks_are_few_the_largest_face_is_chosen() -> None:
    still = conversation(0, [0.0] * 24, (70, 90))
    assert speaking_face(still, sound_of(MOUTHS))[0].seen.box[0] == 400
    few = conversation(0, MOUTHS[:6], (70, 90))
    assert speaking_face(few, sound_of(MOUTHS))[0].seen.box[0] == 400


def test_a_face_that_is_there_for_long_is_chosen_before_a_fleeting_larger_one() -> None:
    looks = looks_at(*[[face(100)] + ([face(400, 100, 300)] if i == 7 else []) for i in range(20)])
    chosen = speaking_face(looks, None)
    assert [look.time_ms for look in chosen] == [STEP * i for i in range(20)]


def test_no_face_is_nobody() -> None:
    assert speaking_face([], None) == []
    assert speaking_face(looks_at([], [], []), sound_of([0.5] * 3)) == []


def test_the_order_of_faces_within_a_look_does_not_matter() -> None:
    looks = conversation(1, MOUTHS)
    turned = [Look(look.time_ms, look.seen[:: -1 if i % 3 else 1]) for i, look in enumerate(looks)]
    for sound in (None, sound_of(MOUTHS)):
        a, b = (speaking_face(given_looks, sound) for given_looks in (looks, turned))
        assert [(x.time_ms, x.seen.box.tolist()) for x in a] == [(x.time_ms, x.seen.box.tolist()) for x in b]
        assert all(np.array_equal(x.seen.crop, y.seen.crop) for x, y in zip(a, b, strict=True))


random_faces = st.builds(
    Face,
    arrays.arrays(np.float32, 4, elements=st.sampled_from([0, 1, 40, 90, 200])).map(
        lambda box: np.maximum(box, 1)
    ),
    arrays.arrays(np.uint8, (20, 20), elements=st.integers(0, 255)),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(random_faces, max_size=3), max_size=12),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_any_looks_give_one_face_a_look_in_order(
    pictures: list[list[Face]], chance: object, heard: bool
) -> None:
    looks = looks_at(*pictures)
    sound = sound_of(np.linspace(0, 1, 12)) if heard else None
    chosen = speaking_face(looks, sound)
    times = [look.time_ms for look in chosen]
    assert times == sorted(set(times))
    assert bool(chosen) == any(pictures)
    for look in chosen:
        assert any(look.seen is seen for seen in looks[look.time_ms // STEP].seen)
    turned = [look._replace(seen=look.seen[::-1]) for look in looks]
    again = speaking_face(turned, sound)
    assert [look.seen.box.tolist() for look in again] == [look.seen.box.tolist() for look in chosen]


# --- motion


def test_light_and_small_movements_of_the_whole_face_are_no_motion_but_a_mouth_is() -> None:
    def pair(other: Image) -> npt.NDArray[np.float32]:
        return changes([Look(0, face(0)), Look(STEP, face(0, crop=other))], STEP)[1]

    turn = cv2.getRotationMatrix2D((23.5, 23.5), 0.75, 1.01)
    turn[:, 2] += 0.35, -0.35  # pixels of 48: about what alignment leaves
    moved = cv2.warpAffine(head(), turn, (48, 48), borderMode=cv2.BORDER_REPLICATE)
    darker = np.rint(head() * 0.6 + 20).astype(np.uint8)
    speaks = pair(head(mouth=0.7))
    assert pair(head()).max() == 0
    assert pair(darker).mean() < 0.02
    assert pair(moved).mean() < 0.5 * speaks.mean()
    assert mouth_motion(speaks)[0] > 0.2
    assert abs(mouth_motion(pair(moved))[0]) < 0.2 * mouth_motion(speaks)[0]


def test_agreement_counts_only_looks_that_follow_each_other() -> None:
    looks = [Look(STEP * i, look.seen[0]) for i, look in enumerate(conversation(0, MOUTHS))]
    assert agreement(looks, sound_of(MOUTHS), STEP) > 0.3
    assert agreement(looks, sound_of(MOUTHS)._replace(start_ms=100_000), STEP) == 0
    assert agreement(looks[::2], sound_of(MOUTHS), STEP) == 0  # never two in a row
    assert len(changes(looks[:5] + looks[7:], STEP)[0]) == 20
