"""The squares of a photo that generators see: finding, resizing, and writing changes back.

Photos are uint8 ``[H, W, 3]``. Generators see float32 ``[size, size, 3]`` in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdmaa_jax.images.faces import Box, centre_square, face_square, find_faces

GREY_LEVEL = 1 / 127.5
"""One step of an 8-bit channel in units of [-1, 1]."""
_ROUNDS = 2  # of back-projection; more rounds add visibility rather than effect


def look(photo: np.ndarray, aligned: bool = False) -> list[Look]:
    """The faces of ``photo`` with their squares, the most prominent first.

    Without a face, the centre square; so, too, of an ``aligned`` photo, a face crop already.
    """
    shape = photo.shape[:2]
    faces = [] if aligned else find_faces(photo)
    found = [Look(face, face_square(face, *shape)) for face in faces]
    return found or [Look(None, centre_square(*shape))]


def see(photo: np.ndarray, square: Box, size: int) -> np.ndarray:
    """The input of a generator of ``size`` pixels: the square, resized (bilinear, antialiased)."""
    crop = square.crop(photo)
    levels = np.stack([_resize(crop[..., channel], size) for channel in range(3)], axis=-1)
    return to_unit(levels)


def to_unit(levels: np.ndarray) -> np.ndarray:
    """8-bit levels, whole or not, as float32 in [-1, 1]."""
    return np.clip(np.asarray(levels, np.float32) * np.float32(GREY_LEVEL) - np.float32(1), -1, 1)


def to_levels(image: np.ndarray) -> np.ndarray:
    """An image in [-1, 1] as uint8, each value the nearest level."""
    return np.clip(np.rint((np.asarray(image) + 1) / GREY_LEVEL), 0, 255).astype(np.uint8)


def write_back(
    photo: np.ndarray, squares: Sequence[Box], perturbations: Sequence[np.ndarray], epsilon: float
) -> np.ndarray:
    """The photo with perturbations added in its squares, as whole grey levels.

    Where squares overlap, each pixel is changed for the square in which it is the most central.

    Plain interpolation would blur the perturbation, and a generator would see less of it than was
    found. The difference, at the perturbation's own size, is therefore added a few times (iterative
    back-projection, Irani and Peleg 1991), as far as ``epsilon`` and the range of colours allow.

    Args:
      photo: uint8 ``[H, W, 3]``.
      squares: where the perturbations go.
      perturbations: for each square, float32 ``[N, N, 3]`` in units of [-1, 1]; brought to its
        size.
      epsilon: no channel of the result differs from ``photo`` by more, in units of [-1, 1].
    """
    limit = math.floor(epsilon / GREY_LEVEL + 1e-6)
    result = photo.copy()
    for number, (square, perturbation) in enumerate(zip(squares, perturbations, strict=True)):
        before, region, own = square.crop(photo), square.crop(result), _own(number, squares)
        for channel in range(3):  # one at a time: photos may be large
            wanted = perturbation[..., channel] / np.float32(GREY_LEVEL)
            change = np.rint(_back_project(wanted, before[..., channel], limit))
            change *= own
            region[..., channel] += change.astype(np.int16).astype(np.uint8)  # modulo 256
    return result


def _own(number: int, squares: Sequence[Box]) -> np.ndarray:
    """Which pixels of a square are no nearer to another's middle, ``[s, s]`` or, if all, ``[]``.

    Distances are in sides of the respective square; between equal ones, the first square wins.
    """
    square, own = squares[number], np.ones((), bool)
    for other, box in enumerate(squares):
        if other != number and _touch(square, box):
            nearer = np.less_equal if number < other else np.less
            own = own & nearer(_from_middle(square, square), _from_middle(box, square))
    return own


def _touch(one: Box, other: Box) -> bool:
    """Whether two squares share a pixel."""
    steps = other.top - one.top, other.left - one.left
    return all(-other.size < step < one.size for step in steps)


def _from_middle(box: Box, square: Box) -> np.ndarray:
    """How far the pixels of ``square`` are from the middle of ``box``, in its sides, ``[s, s]``."""
    pixels = np.arange(square.size, dtype=np.float32)
    y = np.abs(pixels + np.float32(square.top - box.top + (1 - box.size) / 2))
    x = np.abs(pixels + np.float32(square.left - box.left + (1 - box.size) / 2))
    return np.maximum(y[:, None], x) / np.float32(box.size)


def _back_project(wanted: np.ndarray, values: np.ndarray, limit: int) -> np.ndarray:
    """The change to ``values``, uint8 ``[s, s]``, that is near ``wanted`` at ``[N, N]``.

    It is float32, at most ``limit``, and keeps the values within 0 and 255.
    """
    change = _within(_resize(wanted, len(values)), values, limit)
    if len(wanted) == len(values):  # nothing is lost
        return change
    for _ in range(_ROUNDS):
        missing = wanted - _resize(change, len(wanted))
        change += _resize(missing, len(values))
        change = _within(change, values, limit)
    return change


def _within(change: np.ndarray, values: np.ndarray, limit: int) -> np.ndarray:
    """The change clipped to ``limit`` and to results from 0 to 255."""
    change = np.clip(change, -limit, limit)
    change += values
    np.clip(change, 0, 255, out=change)
    change -= values
    return change


def _resize(plane: np.ndarray, size: int) -> np.ndarray:
    """``[h, w]`` as float32 ``[size, size]``, by Pillow's bilinear filter on floats."""
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Look:
    """A face in a photo, None if none was found, and the square that generators see."""

    face: Box | None
    square: Box
