"""Faces in the pictures of an utterance: found, cut out upright, and which of them speaks.

The finder looks at one picture at a time and keeps only small cut-outs. When the utterance is over,
`speaking_face` links the faces of successive looks into tracks, one per person, and chooses one.

After a cut between two people at the same place of the picture their faces may share a track.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from mmerc.errors import FeatureError
from mmerc.features.haar import WINDOW, HaarDetector, around, cascade, cv2, digest, shrunk
from mmerc.features.loudness import SILENCE_DB
from mmerc.features.recipe import LOUDNESS_RATE, Detector, Image, Look, Loudness

__all__ = [
    "REGIONS", "Face", "FaceFinder", "HaarDetector",
    "agreement", "changes", "interval_ms", "mouth_motion", "speaking_face",
]  # fmt: skip

Floats = npt.NDArray[np.float32]

EYE: Final = "haarcascade_eye.xml"
MOST_FACES = 6  # of a picture, the largest; bounds memory and time

# Where things are, in parts of the box that OpenCV's frontal cascade puts around a face …
BOX_EYES = (0.49, 0.38)  # middle between the eyes
BOX_IN_CROP = 1 / 1.12
# … and of the cut-out.
CROP_EYES = (0.5, 0.34)

GAP_MS = 1000  # a face may be out of sight for so long and still be the same
FARTHEST = 1.0  # that two looks at one face differ: see `_difference`
FLEETING = 0.25  # tracks below this share of the longest one's looks are left out: mostly no faces at all
FEWEST_LOOKS = 8  # that tell whether a mouth moves with the sound
CLEARLY = 0.15  # by how much the best agreement of mouth and sound must exceed the next one
STILL = 0.03  # mean change of a mouth, in sd of the face's grey levels, that noise and alignment make


class Face(NamedTuple):
    """A face in a picture."""

    box: Floats  # (4,) x, y, width, height in pixels of the picture
    crop: Image  # (size, size) or (size, size, 3): upright, the eyes at `CROP_EYES`


class FaceFinder:
    """Finds the faces of a picture and cuts them out upright.

    The line through the eyes says how a face is turned, their middle where it is; the box says how large
    it is, which is steadier than the distance of the eyes. Where the eyes are not both found, the box
    alone says where they usually are.

    Args:
        detector: finds the boxes; `HaarDetector()` if none is given
        size: of the cut-outs, in pixels
        colour: whether cut-outs are RGB
    """

    _eye_width = 80  # pixels of a face in which eyes are looked for
    _eye_step = 1.1
    _eye_votes = 4
    _steepest = 25.0  # degrees

    def __init__(self, detector: Detector | None = None, size: int = 96, colour: bool = False) -> None:
        self.detector = detector or HaarDetector()
        self.size = size
        self._colour_crops = colour

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the cut-outs depend on."""
        return {
            "kind": "face-finder",
            "version": 1,
            "detector": self.detector.recipe,
            "size": self.size,
            "colour": self._colour_crops,
            "eyes": EYE,
            "eyes_sha256": digest(EYE),
        }

    @property
    def colour(self) -> bool:
        """Whether it wants pictures (H, W, 3) RGB rather than (H, W) grey."""
        return self._colour_crops or self.detector.colour

    def __call__(self, image: Image) -> list[Face]:
        """Return the faces of a picture, largest first, at most `MOST_FACES`.

        Raises:
            FeatureError: a picture of the other kind than `colour` says.
        """
        if image.ndim != 2 + self.colour:
            raise FeatureError(
                f"the picture has the shape {image.shape}; the finder has colour={self.colour}"
            )
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if self.colour else image
        boxes = self.detector(image if self.detector.colour else grey)[:MOST_FACES]
        source = image if self._colour_crops else grey
        return [Face(box, self._cut_out(source, grey, box)) for box in boxes if _touches(box, image)]

    def _cut_out(self, source: Image, grey: Image, box: Floats) -> Image:
        """Return the upright face in a box of `source`, by the eyes in `grey`."""
        part, left, top = around(grey, box, 0.5)
        part, scale = shrunk(part, max(self.size * BOX_IN_CROP, self._eye_width) / box[2])
        x, y, width, height = (box - np.array([left, top, 0, 0])) * scale
        middle, angle = self._eyes(part, x, y, width, height)
        turn = cv2.getRotationMatrix2D(middle, angle, self.size * BOX_IN_CROP / width)
        turn[:, 2] += np.array(CROP_EYES) * self.size - 0.5 - np.array(middle)
        if source is not grey:
            part, _ = shrunk(around(source, box, 0.5)[0], scale)
        crop: Image = cv2.warpAffine(part, turn, (self.size, self.size), borderMode=cv2.BORDER_REPLICATE)
        return crop

    def _eyes(
        self, face: Image, x: float, y: float, width: float, height: float
    ) -> tuple[tuple[float, float], float]:
        """Return the middle between the eyes of the face in a box, and how much their line falls, in °."""
        usual = (x + BOX_EYES[0] * width, y + BOX_EYES[1] * height), 0.0
        left, right = (
            self._eye(face, x + side * width, y + 0.15 * height, width, height) for side in (0.0, 0.45)
        )
        if left is None or right is None:
            return usual
        across, down = right - left
        angle = float(np.degrees(np.arctan2(down, across)))
        if not 0.25 < across / width < 0.55 or abs(angle) > self._steepest:
            return usual
        middle = (left + right) / 2
        return (float(middle[0]), float(middle[1])), angle

    def _eye(self, face: Image, x: float, y: float, width: float, height: float) -> npt.NDArray[Any] | None:
        """Return the centre of the surest eye in one half of a face, whose corner is (x, y)."""
        left, top = max(round(x), 0), max(round(y), 0)
        part = face[top : round(y + 0.45 * height), left : round(x + 0.55 * width)]
        smallest = round(0.18 * width)
        if min(part.shape) < max(smallest, WINDOW):
            return None
        boxes, votes = cascade(EYE).detectMultiScale2(
            part, self._eye_step, self._eye_votes, minSize=(smallest, smallest)
        )
        finds = sorted((-int(n), *(int(v) for v in b)) for b, n in zip(boxes, votes, strict=True))
        if not finds:
            return None
        _, x, y, w, h = finds[0]
        return np.array([left + x + w / 2, top + y + h / 2])


def _touches(box: Floats, image: Image) -> bool:
    """Return whether a box of at least a pixel has a part in the picture: networks also give others."""
    x, y, width, height = (float(v) for v in box)
    return min(width, height) >= 1 and -width < x < image.shape[1] and -height < y < image.shape[0]


def speaking_face(looks: Sequence[Look], loudness: Loudness | None) -> list[Look]:
    """Return the looks at the face that speaks, `seen` being that `Face`; none if there is no face.

    Faces of successive looks that are near, alike and of like size are the same person's, also after up to
    `GAP_MS` out of sight. Of several people it is the one whose mouth moves with the sound, if one clearly
    does (`agreement`), else the one who is largest and longest in the picture. At 5 pictures a second
    movements within a syllable are lost, so that this tells someone who talks from someone who listens,
    but hardly two who move their mouths in turns within a word.

    Args:
        looks: `seen` is the list of `Face`s of a picture, in any order
        loudness: of the same utterance; None without sound
    """
    tracks = [_chosen(looks, track) for track in _tracks(looks)]
    longest = max(map(len, tracks), default=0)
    tracks = [track for track in tracks if len(track) >= FLEETING * longest]
    if len(tracks) < 2:
        return tracks[0] if tracks else []
    moving = sorted(
        (
            (agreement(t, loudness, interval_ms(looks)), i)
            for i, t in enumerate(tracks)
            if len(t) >= FEWEST_LOOKS
        ),
        reverse=True,
    )
    rivals = [score for score, _ in moving[1:]] or [0.0]
    if moving and moving[0][0] > max(rivals[0], 0.0) + CLEARLY:
        return tracks[moving[0][1]]
    return max(tracks, key=lambda track: sum(float(np.sqrt(np.prod(look.seen.box[2:]))) for look in track))


def interval_ms(looks: Sequence[Look]) -> float:
    """Return the time between one look and the next, usually."""
    times = [look.time_ms for look in looks]
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def changes(track: Sequence[Look], interval: float) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return how a face changes from one look to the next.

    Brightness and contrast are taken out, and so is what a small shift, turn or growth of the whole face
    explains: the cut-outs are never aligned to the pixel, and a moving head is no moving mouth.

    Args:
        track: the looks at one face
        interval: ms between looks; pairs further apart than 1.5 of it are left out

    Returns:
        The places in `track` of the later look of each pair, (P,), and the absolute changes, (P, 16, 16),
        in sd of the face's grey levels.
    """
    times = np.array([look.time_ms for look in track])
    waits = np.diff(times)
    later = np.flatnonzero((waits > 0) & (waits <= 1.5 * interval)) + 1
    if not len(later):
        return later, np.zeros((0, 16, 16), np.float32)
    faces = np.stack([_normalized(look.seen.crop) for look in track])
    before, after = faces[later - 1], faces[later]
    down, across = np.gradient((before + after) / 2, axis=(1, 2))
    y, x = (np.mgrid[:16, :16] - 7.5) / 7.5
    ways = np.stack([down, across, x * across + y * down, x * down - y * across], -1).reshape(-1, 256, 4)
    change = (after - before).reshape(-1, 256, 1)
    gram = ways.swapaxes(1, 2) @ ways + 1e-3 * np.eye(4)
    moved = ways @ np.linalg.solve(gram, ways.swapaxes(1, 2) @ change)
    return later, np.abs(change - moved).reshape(-1, 16, 16).astype(np.float32)


REGIONS: Final = {  # rows and columns of the 16 × 16 changes of a face
    "brows": (slice(2, 4), slice(2, 14)),
    "eyes": (slice(4, 7), slice(2, 14)),
    "mouth": (slice(9, 14), slice(4, 12)),
}


def mouth_motion(change: Floats) -> Floats:
    """Return how much more the mouth changes than the upper half of the face: (P,) of `changes`."""
    motion: Floats = change[:, *REGIONS["mouth"]].mean((1, 2)) - change[:, :8].mean((1, 2))
    return motion


def agreement(track: Sequence[Look], loudness: Loudness | None, interval: float) -> float:
    """Return how well the motion of a mouth agrees with the sound, -1 to 1; 0 without sound or motion.

    It is a correlation about zero rather than about the means, for who talks all the time moves all the
    time, and it is shrunk where there is hardly any motion.
    """
    if loudness is None or not len(loudness.decibels) or loudness.decibels.max() < SILENCE_DB:
        return 0.0
    later, change = changes(track, interval)
    if not len(later):
        return 0.0
    times = np.array([look.time_ms for look in track])
    sound = _mean_amplitude(loudness, times[later - 1], times[later])
    motion = mouth_motion(change).astype(np.float64)
    length = float(np.linalg.norm(motion)) + STILL * len(motion) ** 0.5
    return float(motion @ sound / (length * max(float(np.linalg.norm(sound)), 1e-9)))


def _mean_amplitude(
    loudness: Loudness, start_ms: npt.NDArray[Any], end_ms: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the mean amplitude of each stretch of time; what lies outside of the sound is silent."""
    amplitude = 10 ** (loudness.decibels.astype(np.float64) / 20)
    total = np.concatenate([[0.0], np.cumsum(amplitude)])
    first, last = (
        np.clip(np.rint((ms - loudness.start_ms) * LOUDNESS_RATE / 1000).astype(int), 0, len(amplitude))
        for ms in (start_ms, end_ms)
    )
    means: npt.NDArray[Any] = (total[last] - total[first]) / np.maximum(last - first, 1)
    return means


def _tracks(looks: Sequence[Look]) -> list[list[tuple[int, Face]]]:
    """Link faces that are the same person's: for each the places in `looks` and the faces, in order."""
    tracks: list[list[tuple[int, Face]]] = []
    for i, look in enumerate(looks):
        faces = sorted(look.seen, key=lambda face: (*map(float, face.box), face.crop.tobytes()))
        active = [t for t in tracks if look.time_ms - looks[t[-1][0]].time_ms <= GAP_MS]
        costs = np.array([[_difference(t[-1][1], face) for face in faces] for t in active])
        linked = set()
        for row, column in (
            zip(*linear_sum_assignment(np.minimum(costs, 2 * FARTHEST)), strict=True) if costs.size else ()
        ):
            if costs[row, column] <= FARTHEST:
                active[row].append((i, faces[column]))
                linked.add(column)
        tracks += [[(i, face)] for column, face in enumerate(faces) if column not in linked]
    return tracks


def _chosen(looks: Sequence[Look], track: list[tuple[int, Face]]) -> list[Look]:
    return [Look(looks[i].time_ms, face) for i, face in track]


def _difference(a: Face, b: Face) -> float:
    """Return how much two faces differ in place (in face sizes), size (ln of the ratio) and looks (to 1)."""
    size_a, size_b = (max(float(np.sqrt(face.box[2] * face.box[3])), 1e-6) for face in (a, b))
    apart = np.linalg.norm((a.box[:2] + a.box[2:] / 2) - (b.box[:2] + b.box[2:] / 2)) / (
        (size_a + size_b) / 2
    )
    alike = float((_normalized(a.crop) * _normalized(b.crop)).mean())
    return float(apart) + abs(float(np.log(size_a / size_b))) + (1 - alike) / 2


def _normalized(crop: Image) -> Floats:
    """Return a face as 16 × 16 grey levels of mean 0 and sd 1 (0 where it is all one)."""
    grey = crop if crop.ndim == 2 else cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    small -= small.mean()
    face: Floats = small / max(float(small.std()), 1.0)
    return face
