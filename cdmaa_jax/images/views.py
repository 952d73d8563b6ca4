"""Views of a photo for generators: differentiable maps from images to images.

Images are ``[B, H, W, 3]``, RGB, in [-1, 1]. A view is called as ``view(images, key=None)``; it is
a frozen, hashable record, so equal views share compiled programs. None of these is random: the key
is ignored. ``resize`` and ``jpeg`` raise ValueError for images of whole numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from cdmaa_jax.images.faces import Box
from cdmaa_jax.types import Array, View

# ITU-T T.81, annex K, tables K.1 and K.2: the "quality 50" of every common encoder.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)  # ITU-T T.871 (JFIF), without the offsets


def resize(size: int) -> View:
    """The view resized to ``size`` x ``size`` pixels: bilinear, antialiased when it shrinks.

    The filter is Pillow's ``BILINEAR`` (and torchvision's with ``antialias=True``) on floats.
    Images of that size are returned unchanged.

    Raises:
      ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"a view cannot have {size} pixels a side")
    return _Resize(int(size))


def crop(box: Box) -> View:
    """The view of the square ``box``, in pixels of the images given.

    Calling it raises ValueError where the box is not inside the images.
    """
    return _Crop(box)


def jpeg(quality: int) -> View:
    """The view after JPEG compression of ``quality`` 1 to 100, without chroma subsampling.

    The rounding passes gradients straight through.

    Raises:
      ValueError: the quality is outside 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality is 1 to 100, not {quality}")
    return _Jpeg(int(quality))


def compose(*views: View) -> View:
    """The views applied in the order given; each gets its own key."""
    return _Compose(tuple(views))


@lru_cache(maxsize=64)
def resize_matrix(source: int, target: int) -> np.ndarray:
    """Weights, float64 ``[target, source]``, of antialiased bilinear interpolation along one axis.

    Follows ``precompute_coeffs`` of Pillow's ``Resample.c`` with the triangle filter.
    """
    scale = source / target
    width = max(scale, 1.0)
    centres = (np.arange(target)[:, None] + 0.5) * scale
    positions = np.arange(source)[None, :] + 0.5
    weights = np.maximum(0.0, 1.0 - np.abs((positions - centres) / width))
    matrix = weights / weights.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def _dct_matrix() -> np.ndarray:
    """The orthonormal DCT-II of 8 points, float64 ``[8, 8]``."""
    k, n = np.mgrid[:8, :8]
    matrix = np.cos(np.pi * (2 * n + 1) * k / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def _tables(quality: int) -> np.ndarray:
    """Quantization steps of Y, Cb and Cr, float64 ``[3, 8, 8]``, scaled as the IJG library does."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.array([_LUMINANCE, _CHROMINANCE, _CHROMINANCE])
    return np.clip((tables * scale + 50) // 100, 1, 255).astype(np.float64)


def _quantize(planes: Array, quality: int) -> Array:
    """Y, Cb and Cr, level-shifted, ``[B, 8h, 8w, 3]``, as a decoder restores them."""
    count, height, width, _ = planes.shape
    dct = jnp.asarray(_dct_matrix(), planes.dtype)
    steps = jnp.asarray(_tables(quality), planes.dtype).reshape(1, 1, 1, 3, 8, 8)
    blocks = planes.reshape(count, height // 8, 8, width // 8, 8, 3)
    scaled = _einsum("ui,bminjc,vj->bmncuv", dct, blocks, dct) / steps
    restored = _straight_through(jnp.round(scaled), scaled) * steps
    decoded = _einsum("ui,bmncuv,vj->bminjc", dct, restored, dct)
    decoded = _straight_through(jnp.round(decoded), decoded)
    return decoded.reshape(planes.shape)


def _straight_through(rounded: Array, x: Array) -> Array:
    return x + jax.lax.stop_gradient(rounded - x)


def _check_floats(images: Array) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"a view takes images of floats in [-1, 1], not {images.dtype}")


def _einsum(subscripts: str, *operands: Array) -> Array:
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


@dataclass(frozen=True)
class _Resize:
    size: int

    def __call__(self, images: Array, key: Array | None = None) -> Array:
        _check_floats(images)
        height, width = images.shape[1:3]
        if height == width == self.size:
            return images
        rows = jnp.asarray(resize_matrix(height, self.size), images.dtype)
        columns = jnp.asarray(resize_matrix(width, self.size), images.dtype)
        return _einsum("ph,bhwc,qw->bpqc", rows, images, columns)


@dataclass(frozen=True)
class _Crop:
    box: Box

    def __call__(self, images: Array, key: Array | None = None) -> Array:
        box, (height, width) = self.box, images.shape[1:3]
        inside = 0 <= box.top <= height - box.size and 0 <= box.left <= width - box.size
        if not inside or box.size < 1:
            raise ValueError(f"{box} is not inside images of {height} x {width} pixels")
        return images[:, box.top : box.top + box.size, box.left : box.left + box.size]


@dataclass(frozen=True)
class _Jpeg:
    quality: int

    def __call__(self, images: Array, key: Array | None = None) -> Array:
        _check_floats(images)
        dtype = images.dtype
        height, width = images.shape[1:3]
        levels = (images + 1) * 127.5
        levels = _straight_through(jnp.round(levels), levels)
        padding = ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0))
        ycc = _einsum("yc,bhwc->bhwy", jnp.asarray(_TO_YCBCR, dtype), levels - 128.0)
        ycc = _straight_through(jnp.round(ycc), ycc)
        decoded = _quantize(jnp.pad(ycc, padding, mode="edge"), self.quality)[:, :height, :width]
        inverse = jnp.asarray(np.linalg.inv(_TO_YCBCR), dtype)
        rgb = _einsum("cy,bhwy->bhwc", inverse, decoded) + 128.0
        return jnp.clip(_straight_through(jnp.round(rgb), rgb), 0, 255) / 127.5 - 1


@dataclass(frozen=True)
class _Compose:
    views: tuple[View, ...]

    def __call__(self, images: Array, key: Array | None = None) -> Array:
        keys = [None] * len(self.views) if key is None else jax.random.split(key, len(self.views))
        for view, one in zip(self.views, keys, strict=True):
            images = view(images, one)
        return images
