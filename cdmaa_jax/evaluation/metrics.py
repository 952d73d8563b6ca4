"""Metrics of how far edits are spoiled (equations 4, 29 to 31) and how little photos change.

L is the mean squared error over height, width and channels, in units of [-1, 1], between a
generator's edits of the original and of the protected photo, per image and domain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from cdmaa_jax import kept
from cdmaa_jax.attack import pieces
from cdmaa_jax.attack.compilation import in_turn
from cdmaa_jax.attack.config import Config
from cdmaa_jax.tracing import once
from cdmaa_jax.types import Array, Generator

THRESHOLD = Config().threshold
"""The default τ of attack rates."""
_WINDOW = 7  # side of SSIM's window, in pixels
_STRIP = 64  # rows at a time: SSIM needs some forty times the memory of its input


def edits(generator: Generator, images: Array | np.ndarray, conditions: np.ndarray) -> Array:
    """A generator's edits of images of its native size.

    Args:
      generator: its view is not applied.
      images: ``[B, h, w, 3]``.
      conditions: ``[B, K, n]``, or ``[1, K, n]`` for all.

    Returns:
      ``[B, K, h, w, 3]``.
    """
    conditions = np.asarray(conditions, np.float32)
    conditions = np.broadcast_to(conditions, (len(images), *conditions.shape[1:]))
    arguments = generator, jnp.asarray(images), jnp.asarray(conditions)
    if pieces.is_apart():
        return pieces.outputs_of(*arguments)
    if (program := kept.program(_edits, (), arguments, {})) is not None:
        return in_turn(program, *jax.tree.leaves(arguments))[0]
    return in_turn(_edits_program, *arguments)


def losses(clean: Array | np.ndarray, protected: Array | np.ndarray) -> np.ndarray:
    """L, float64 ``[B, K]``, of the edits ``[B, K, h, w, 3]`` of two sets of images."""
    difference = np.asarray(protected, np.float64) - np.asarray(clean, np.float64)
    return np.mean(difference**2, axis=(2, 3, 4))


def avg_l(values: np.ndarray) -> float:
    """The mean of a model's L ``[B, K]`` over images and domains; NaN if there are none."""
    return float(np.mean(values)) if np.size(values) else math.nan


def attack_rate(values: np.ndarray, threshold: float = THRESHOLD) -> float:
    """The share of a model's L ``[B, K]`` above the threshold; NaN if there are none."""
    return float(np.mean(np.asarray(values) > threshold)) if np.size(values) else math.nan


def linf(original: np.ndarray, protected: np.ndarray) -> float:
    """The largest change of a channel between uint8 photos ``[H, W, 3]``, in units of [-1, 1].

    Raises:
      ValueError: they are no such photos of one size.
    """
    return max(int(_distance(*strip).max()) for strip in _strips(original, protected)) / 127.5


def psnr(original: np.ndarray, protected: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 photos ``[H, W, 3]``, in dB; infinite if equal.

    Raises:
      ValueError: they are no such photos of one size.
    """
    total = sum(
        int(np.sum(np.square(_distance(*strip), dtype=np.uint32), dtype=np.uint64))
        for strip in _strips(original, protected)
    )
    return 10 * math.log10(255**2 * original.size / total) if total else math.inf


def ssim(original: np.ndarray, protected: np.ndarray) -> float:
    """Structural similarity of uint8 photos ``[H, W, 3]``, mean over channels, window 7.

    Raises:
      ValueError: they are no such photos of one size, or smaller than the window.
    """
    _check(original, protected)
    rows = original.shape[0] - _WINDOW + 1
    if min(rows, original.shape[1] - _WINDOW + 1) < 1:
        raise ValueError(f"SSIM needs photos of at least {_WINDOW} pixels a side")
    total = 0.0
    for before, after in _strips(original, protected, overlap=_WINDOW - 1):
        value = structural_similarity(
            before, after, win_size=_WINDOW, channel_axis=2, data_range=255
        )
        total += float(value) * (len(before) - _WINDOW + 1)
    return total / rows


def _edits(generator: Generator, images: Array, conditions: Array) -> Array:
    with once():
        return jax.vmap(generator, in_axes=(None, 1), out_axes=1)(images, conditions)


_edits_program = jax.jit(_edits)


def _strips(
    original: np.ndarray, protected: np.ndarray, overlap: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both photos in strips of rows, each with ``overlap`` rows of the next."""
    _check(original, protected)
    for top in range(0, len(original) - overlap, _STRIP):
        rows = slice(top, top + _STRIP + overlap)
        yield original[rows], protected[rows]


def _check(*photos: np.ndarray) -> None:
    told = [f"{photo.dtype} {list(photo.shape)}" for photo in photos]
    if any(photo.dtype != np.uint8 or photo.shape[2:] != (3,) for photo in photos):
        raise ValueError(
            f"photos must be uint8 [H,W,3], not {' and '.join(told)}; images.squares.to_levels "
            "makes them of images in [-1, 1]"
        )
    if photos[0].shape != photos[1].shape:
        raise ValueError(f"photos must be of one size, not {' and '.join(told)}")


def _distance(original: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The absolute difference, uint8."""
    return np.maximum(original, protected) - np.minimum(original, protected)
