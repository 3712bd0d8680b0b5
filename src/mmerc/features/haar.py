"""Face boxes by OpenCV's cascades, which come with it: no weights to fetch."""

import threading
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmerc.errors import FeatureError
from mmerc.extras import needed
from mmerc.features.recipe import Image

with needed("finding faces", "mmerc[media]", FeatureError):
    import cv2 as cv2  # for the modules that build on this one

Floats = npt.NDArray[np.float32]

FRONTAL: Final = "haarcascade_frontalface_alt2.xml"
WINDOW = 20  # pixels; the smallest face that the cascades know
OVERLAP = 0.3  # of two boxes (intersection over union) that show the same face


class HaarDetector:
    """OpenCV's boosted cascade of Haar features for frontal faces (Viola, Jones 2001; Lienhart, Maydt 2002).

    Searches a small copy of the picture in large steps, then looks closely at each find, which rejects false
    ones and makes the boxes steady: on a moving photograph their sizes vary by 2 % and their centres by 0.8 %
    of the face, where a single search in small steps, no faster, gives 5 % and 1.3 %. Results do not depend
    on the number of threads.

    Frontal faces of at least an eighth of the picture's shorter side are found; those seen from the side or
    tilted by more than some 10 degrees are often missed.
    """

    colour = False
    _shorter_side = 160  # of the copy that is searched; the smallest face has `WINDOW` pixels there
    _step = 1.2  # of sizes in the search
    _close_size = 56  # pixels of a face at the close look
    _close_step = 1.05
    _votes = 8  # boxes that must agree at the close look
    _margin = 0.35  # around a find, in parts of its width

    @property
    def recipe(self) -> dict[str, Any]:
        """All that what it finds depends on."""
        return {
            "kind": "haar",
            "version": 1,
            "cascade": FRONTAL,
            "sha256": digest(FRONTAL),
            "shorter_side": self._shorter_side,
            "step": self._step,
            "close_size": self._close_size,
            "close_step": self._close_step,
            "votes": self._votes,
        }

    def __call__(self, image: Image) -> Floats:
        """Return the faces of a grey picture (H, W), largest first: (F, 4) x, y, width, height in pixels."""
        small, scale = shrunk(image, self._shorter_side / min(image.shape))
        found = []
        if min(small.shape) >= WINDOW:
            for box in cascade(FRONTAL).detectMultiScale(small, self._step, 1):
                found += self._look_closely(image, np.asarray(box) / scale)
        found.sort(key=lambda find: (-find[0], *find[1]))
        boxes: list[tuple[float, ...]] = []
        for _, box in found:
            if all(_overlap(box, kept) < OVERLAP for kept in boxes):
                boxes.append(box)
        boxes.sort(key=lambda box: (-box[2] * box[3], *box))
        return np.array(boxes, np.float32).reshape(-1, 4)

    def _look_closely(self, image: Image, box: npt.NDArray[Any]) -> list[tuple[int, tuple[float, ...]]]:
        """Return votes and box of the best find around a box; none if there are too few votes."""
        part, left, top = around(image, box, self._margin)
        part, scale = shrunk(part, self._close_size / box[2])
        smallest, largest = (round(factor * box[2] * scale) for factor in (0.75, 1.35))
        if min(part.shape) < max(smallest, WINDOW):
            return []
        boxes, votes = cascade(FRONTAL).detectMultiScale2(
            part, self._close_step, self._votes, minSize=(smallest, smallest), maxSize=(largest, largest)
        )
        finds = sorted((-int(n), *(int(v) for v in b)) for b, n in zip(boxes, votes, strict=True))
        return [
            (-n, (x / scale + left, y / scale + top, w / scale, h / scale)) for n, x, y, w, h in finds[:1]
        ]


def shrunk(image: Image, scale: float) -> tuple[Image, float]:
    """Return a smaller picture, and how much smaller it is; a picture is not enlarged."""
    if scale >= 1:
        return image, 1.0
    size = tuple(max(round(n * scale), 1) for n in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), scale


def around(image: Image, box: npt.NDArray[Any], margin: float) -> tuple[Image, int, int]:
    """Return the part of a picture that holds a box and a margin, in parts of its width, and its corner."""
    x, y, width, height = (float(v) for v in box)
    left, top = max(int(x - margin * width), 0), max(int(y - margin * width), 0)
    right, bottom = int(x + width + margin * width) + 1, int(y + height + margin * width) + 1
    part: Image = np.ascontiguousarray(image[top:bottom, left:right])
    return part, left, top


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Return intersection over union of two boxes."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(across, 0.0) * max(down, 0.0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


_loaded = threading.local()  # a cascade keeps the picture that it searches, so that threads cannot share one


def cascade(name: str) -> Any:
    """Return a cascade of OpenCV's."""
    cascades = _loaded.__dict__
    if name not in cascades:
        text = _file(name).read_text(encoding="utf-8")  # on Windows OpenCV opens few paths beyond ASCII
        stored = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        cascades[name] = cv2.CascadeClassifier()
        cascades[name].read(stored.getFirstTopLevelNode())
    return cascades[name]


@cache
def digest(name: str) -> str:
    """Return the SHA-256 of a cascade's file."""
    return sha256(_file(name).read_bytes()).hexdigest()


def _file(name: str) -> Path:
    folder = getattr(cv2, "data", None)
    path = Path(folder.haarcascades) / name if folder else None
    if path is None or not path.is_file():
        raise FeatureError(
            f'this OpenCV ({cv2.__version__}) brings no {name}: pip install "opencv-python-headless<5"'
        )
    return path
