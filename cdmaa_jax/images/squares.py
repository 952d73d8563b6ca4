"""The square of a photo that generators see: finding it, resizing it, and writing changes back.

Photos are uint8 ``[H, W, 3]``. Generators see float32 ``[size, size, 3]`` in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdmaa_jax.images.faces import Box, centre_square, face_square, find_faces

GREY_LEVEL = 1 / 127.5
"""One step of an 8-bit channel in units of [-1, 1]."""
_ROUNDS = 2  # of back-projection; more rounds add visibility rather than effect


def look(photo: np.ndarray, aligned: bool = False) -> Look:
    """Finds the most prominent face of ``photo`` and its square; without one, the centre square.

    An ``aligned`` photo is a face crop already, so generators see its centre square.
    """
    faces = [] if aligned else find_faces(photo)
    if not faces:
        return Look(None, centre_square(*photo.shape[:2]))
    return Look(faces[0], face_square(faces[0], *photo.shape[:2]), len(faces) - 1)


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
    photo: np.ndarray, square: Box, perturbation: np.ndarray, epsilon: float
) -> np.ndarray:
    """The photo with a perturbation added in its square, as whole grey levels.

    Plain interpolation would blur the perturbation, and a generator would see less of it than was
    found. The difference, at the perturbation's own size, is therefore added a few times (iterative
    back-projection, Irani and Peleg 1991), as far as ``epsilon`` and the range of colours allow.

    Args:
      photo: uint8 ``[H, W, 3]``.
      square: where the perturbation goes.
      perturbation: float32 ``[N, N, 3]`` in units of [-1, 1]; brought to the square's size.
      epsilon: no channel of the result differs from ``photo`` by more, in units of [-1, 1].
    """
    limit = math.floor(epsilon / GREY_LEVEL + 1e-6)
    result = photo.copy()
    region = square.crop(result)
    for channel in range(3):  # one at a time: photos may be large
        wanted = perturbation[..., channel] / np.float32(GREY_LEVEL)
        change = np.rint(_back_project(wanted, region[..., channel], limit))
        region[..., channel] += change.astype(np.int16).astype(np.uint8)  # modulo 256
    return result


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
    """The face in a photo, None if none was found, and the square that generators see.

    ``others`` is the number of further faces.
    """

    face: Box | None
    square: Box
    others: int = 0
