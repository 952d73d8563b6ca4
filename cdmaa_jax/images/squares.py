"""The square of a photo that generators look at: what they see of it, and the way back.

Photos are uint8 ``[H, W, 3]``. What is seen is float32 ``[size, size, 3]`` in [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cdmaa_jax.images.faces import Box, centre_square, face_square, find_faces

GREY_LEVEL = 1 / 127.5
"""One step of an 8-bit channel in units of [-1, 1]."""


def look(photo: np.ndarray, aligned: bool = False) -> Look:
    """Finds the face of ``photo`` and the square around it; without one, the centre square.

    Of several faces it is the most prominent one.

    What is ``aligned`` is a face crop already, and its centre square is what generators look at.
    """
    faces = [] if aligned else find_faces(photo)
    if not faces:
        return Look(None, centre_square(*photo.shape[:2]))
    return Look(faces[0], face_square(faces[0], *photo.shape[:2]), len(faces) - 1)


def see(photo: np.ndarray, square: Box, size: int) -> np.ndarray:
    """What a generator of ``size`` pixels sees: the square, resized (bilinear, antialiased)."""
    crop = square.crop(photo)
    levels = np.stack([_resize(crop[..., channel], size) for channel in range(3)], axis=-1)
    return np.clip(levels * np.float32(GREY_LEVEL) - np.float32(1), -1, 1)


def write_back(
    photo: np.ndarray, square: Box, perturbation: np.ndarray, epsilon: float
) -> np.ndarray:
    """The photo with a perturbation added in its square, as whole grey levels.

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
        plane = _resize(perturbation[..., channel], square.size) / np.float32(GREY_LEVEL)
        levels = np.clip(np.rint(plane), -limit, limit).astype(np.int16)
        region[..., channel] = np.clip(region[..., channel] + levels, 0, 255)
    return result


def _resize(plane: np.ndarray, size: int) -> np.ndarray:
    """``[h, w]`` as float32 ``[size, size]``, by Pillow's bilinear filter on floats."""
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Look:
    """Where generators look: the face, None where none was found, and the square around it.

    ``others`` is how many more faces there are.
    """

    face: Box | None
    square: Box
    others: int = 0
