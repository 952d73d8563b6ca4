"""Sizes of images that a generator halves a number of times, and doubles back to the same."""

from __future__ import annotations

from typing import Any


def check_image_size(size: int, multiple: int, least: int = 1) -> None:
    """Checks a native size in pixels.

    Raises:
      ValueError: it is not a multiple of ``multiple`` and at least ``least``.
    """
    if size < least or size % multiple:
        least = max(multiple, least)
        raise ValueError(f"image_size must be a multiple of {multiple} and at least {least}")


def check_images(title: str, images: Any, multiple: int) -> None:
    """Checks images [B,H,W,C] before a generator of this title is traced.

    Raises:
      ValueError: they are not of four dimensions, or height or width is not a multiple of
        ``multiple``.
    """
    if images.ndim != 4:
        raise ValueError(f"this {title} takes images [B,H,W,3], not of shape {images.shape}")
    height, width = images.shape[1:3]
    if height % multiple or width % multiple:
        raise ValueError(
            f"this {title} takes images whose height and width are multiples of {multiple}, "
            f"not {height} × {width}"
        )
