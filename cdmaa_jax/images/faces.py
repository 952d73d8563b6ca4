"""Finds the faces in a photo, and the squares around them that the generators see.

Photos are uint8 arrays ``[H, W, 3]``, RGB; every position and length is in pixels of that photo.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import skimage.data
from PIL import Image
from skimage.feature import Cascade

_LONGEST_SIDE = 512  # a photo is shrunk to this before the detector sees it
_SMALLEST_FACE = 36  # side in the shrunk photo; smaller hits are mostly texture
_WINDOW = 24  # the detector's own window: it cannot scan a smaller picture
_SCALE_FACTORS = (1.1, 1.2)
_SAME_FACE = 0.3  # intersection over union from which two hits are one face
_ANOTHER_FACE = 0.15  # share of the most prominent face's summed side that others need
_VOTES = 2  # hits that others need
_ENLARGE = 1.5  # side of the square over side of the hit, to include hair and chin
_RAISE = 0.06  # the square's centre lies this far (in sides of the hit) above the hit's


def find_face(photo: np.ndarray) -> Box | None:
    """The most prominent frontal face of ``photo`` (uint8 ``[H, W, 3]``), or None.

    Raises:
        ValueError: ``photo`` is not uint8 ``[H, W, 3]``.
    """
    found = find_faces(photo)
    return found[0] if found else None


def find_faces(photo: np.ndarray) -> list[Box]:
    """The frontal faces of ``photo`` (uint8 ``[H, W, 3]``), the most prominent first.

    A box is tight, about eyebrows to chin. Several scans (two scale steps, mirrored or not) vote;
    the hits on one face are averaged, and the face with the greatest summed side wins. Others
    count from two hits and 15 % of that sum on: less is mostly texture. The result is
    deterministic.

    Raises:
        ValueError: ``photo`` is not uint8 ``[H, W, 3]``.
    """
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"a photo is uint8 [H, W, 3], not {photo.dtype} {list(photo.shape)}")
    height, width = photo.shape[:2]
    small = _shrink(photo)
    if min(small.shape[:2]) < _WINDOW:
        return []
    hits = np.array(list(_hits(small)), dtype=np.float64).reshape(-1, 3)
    scale = max(height, width) / max(small.shape[:2])
    faces = [group for n, group in enumerate(_groups(hits)) if n == 0 or len(group) >= _VOTES]
    means = [group.mean(axis=0) * scale for group in faces]
    return [_inside(top, left, size, height, width) for top, left, size in means]


def face_square(box: Box, height: int, width: int) -> Box:
    """The square around the face ``box``, with hair and chin, in a ``height`` x ``width`` photo.

    Near the photo's edges the square is shifted; if the photo is too small, shrunk.
    """
    size = _ENLARGE * box.size
    centre_y = box.top + box.size * (0.5 - _RAISE)
    centre_x = box.left + box.size * 0.5
    return _inside(centre_y - size / 2, centre_x - size / 2, size, height, width)


def centre_square(height: int, width: int) -> Box:
    """The largest square in the middle of a photo, used when there is no face."""
    size = min(height, width)
    return _inside((height - size) / 2, (width - size) / 2, size, height, width)


def _shrink(photo: np.ndarray) -> np.ndarray:
    height, width = photo.shape[:2]
    scale = _LONGEST_SIDE / max(height, width, 1)
    if scale >= 1:
        return photo
    shape = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(photo).resize(shape, Image.Resampling.BOX))


@cache
def _cascade() -> Cascade:
    return Cascade(skimage.data.lbp_frontal_face_cascade_filename())


def _hits(photo: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(top, left, size) of the detector's hits in ``photo`` and in its mirror image."""
    height, width = photo.shape[:2]
    longest = min(height, width)
    smallest = min(_SMALLEST_FACE, longest)
    for mirrored in (False, True):
        view = np.ascontiguousarray(photo[:, ::-1] if mirrored else photo)
        for factor in _SCALE_FACTORS:
            for hit in _cascade().detect_multi_scale(
                view, factor, 1, (smallest, smallest), (longest, longest)
            ):
                left = width - hit["c"] - hit["width"] if mirrored else hit["c"]
                yield hit["r"], left, hit["width"]


def _groups(hits: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of overlapping hits (top, left, size), by descending sum of sizes."""
    least = 0.0
    while len(hits):
        groups = [_overlaps(hits, hit) >= _SAME_FACE for hit in hits]
        members = max(groups, key=lambda members: _weight(hits[members]))
        group = hits[members]
        if _weight(group) < least:
            return
        yield group
        least = least or _ANOTHER_FACE * _weight(group)
        hits = hits[~(members | _share_middle(hits, group.mean(axis=0)))]


def _weight(group: np.ndarray) -> float:
    return group[:, 2].sum()


def _overlaps(hits: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Intersection over union of each of ``hits`` ``[N, 3]`` with ``hit`` ``[3]``."""
    low = np.maximum(hits[:, :2], hit[:2])
    high = np.minimum(hits[:, :2] + hits[:, 2:], hit[:2] + hit[2])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    return common / (hits[:, 2] ** 2 + hit[2] ** 2 - common)


def _share_middle(hits: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Whether each of ``hits`` ``[N, 3]`` holds the middle of ``hit`` ``[3]``, or the reverse.

    Boxes of neighbours may overlap without being of one face.
    """
    apart = np.abs(hits[:, :2] + hits[:, 2:] / 2 - hit[:2] - hit[2] / 2).max(axis=1)
    return apart < np.maximum(hits[:, 2], hit[2]) / 2


def _inside(top: float, left: float, size: float, height: int, width: int) -> Box:
    """The rounded square, shrunk and shifted into the photo."""
    if height < 1 or width < 1:
        raise ValueError(f"a photo of {height} x {width} pixels has no square")
    side = max(1, min(round(size), height, width))
    return Box(
        top=min(max(round(top), 0), height - side),
        left=min(max(round(left), 0), width - side),
        size=side,
    )


@dataclass(frozen=True)
class Box:
    """A square in a photo: its upper left corner and its side, in pixels."""

    top: int
    left: int
    size: int

    def crop(self, photo: np.ndarray) -> np.ndarray:
        """The part of ``photo`` ``[H, W, ...]`` inside the box, a view ``[size, size, ...]``."""
        return photo[self.top : self.top + self.size, self.left : self.left + self.size]
