"""The report as a picture: the photo, its protected copy, and each generator's edits of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from cdmaa_jax.evaluation.drawing import (
    FAINT,
    FRAME,
    HELD,
    INK,
    PAPER,
    SPOILED,
    Colour,
    beside,
    broken,
    fitted_font,
    font,
    spelled,
    stacked,
    tile,
    write,
)
from cdmaa_jax.images.faces import Box

_MARGIN, _GAP, _TILE, _PHOTO = 36, 10, 136, 400
_MOST_TILES = 8  # in one row
_SIDE = 112  # width of the labels left of the tiles
_AMPLIFIED = 20
_SMALLEST = 9  # font size, in pixels


def draw_report(
    original: np.ndarray,
    protected: np.ndarray,
    square: Box,
    panels: Sequence[Panel],
    threshold: float,
    psnr: float | None = None,
) -> Image.Image:
    """Draws the report.

    Args:
      original: uint8 ``[H, W, 3]``.
      protected: uint8 ``[H, W, 3]``.
      square: where generators look.
      panels: one for each generator.
      threshold: L above which an edit counts as spoiled.
      psnr: of the square, in dB.
    """
    blocks = [_photos(original, protected, square, psnr), _legend(threshold)]
    blocks += _in_rows([_block(panel, threshold) for panel in panels])
    return ImageOps.expand(stacked(blocks, 3 * _GAP), _MARGIN, PAPER)


def readable(name: str) -> str:
    """A domain's name as words: ``Black_Hair`` becomes ``black hair``."""
    return name.replace("_", " ").strip().lower() if "_" in name or name[1:].islower() else name


def _photos(
    original: np.ndarray, protected: np.ndarray, square: Box, psnr: float | None
) -> Image.Image:
    """The original with its square framed, the protected copy, and the change between them."""
    change = protected.astype(np.int16) - original
    levels = int(np.abs(change).max())
    amplified = np.clip(128 + _AMPLIFIED * change, 0, 255).astype(np.uint8)
    quality = "" if psnr is None else f", PSNR {psnr:.1f} dB"
    cells = (
        (_framed(original, square), "Original", "generators look at the frame"),
        (_fit(protected), "Protected", f"changed by at most {levels} of 255{quality}"),
        (_fit(amplified), f"Change, {_AMPLIFIED} times amplified", "grey: unchanged"),
    )
    return beside([_captioned(*cell) for cell in cells], 2 * _GAP)


def _legend(threshold: float) -> Image.Image:
    text = (
        "Below: what each generator makes of the original and of the protected photo. "
        "L is the mean squared difference between the two, in units of [-1, 1]; "
        f"above {threshold:g} the edit counts as spoiled."
    )
    return _words(text, 15, FAINT, width=3 * _PHOTO + 4 * _GAP)


def _block(panel: Panel, threshold: float) -> Image.Image:
    """A generator's title, then rows of tiles: the original's edits above those of the copy."""
    lines = [_words(panel.title, 20, INK, bold=True)]
    for first in range(0, len(panel.domains), _MOST_TILES):
        chosen = range(first, min(first + _MOST_TILES, len(panel.domains)))
        columns = [_side(), *([] if first else [_input_column(panel)])]
        columns += [_domain_column(panel, k, threshold) for k in chosen]
        lines.append(beside(columns, _GAP))
    return stacked(lines, _GAP)


def _side() -> Image.Image:
    """The labels beside two rows of tiles."""
    side = Image.new("RGB", (_SIDE, 2 * _TILE + _GAP), PAPER)
    draw = ImageDraw.Draw(side)
    for row, word in enumerate(("original", "protected")):
        middle = (_SIDE - 6, row * (_TILE + _GAP) + _TILE / 2)
        draw.text(middle, word, INK, font(16), anchor="rm")
    return side


def _input_column(panel: Panel) -> Image.Image:
    tiles = _two_tiles(panel.clean, panel.protected)
    return stacked([tiles, _centred("what it sees", 15, FAINT)], 4)


def _domain_column(panel: Panel, k: int, threshold: float) -> Image.Image:
    tiles = _two_tiles(panel.before[k], panel.after[k])
    spoiled = panel.losses[k] > threshold
    verdict = f"L {panel.losses[k]:.3f} {'spoiled' if spoiled else 'not spoiled'}"
    name = _centred(readable(panel.domains[k]), 15, INK)
    colour = SPOILED if spoiled else HELD
    return stacked([tiles, name, _centred(verdict, 15, colour)], 4)


def _two_tiles(above: np.ndarray, below: np.ndarray) -> Image.Image:
    return stacked([tile(above, _TILE), tile(below, _TILE)], _GAP)


def _framed(photo: np.ndarray, square: Box) -> Image.Image:
    image = _fit(photo)
    scale = image.width / photo.shape[1]
    corner = (square.left * scale, square.top * scale)
    other = ((square.left + square.size) * scale - 1, (square.top + square.size) * scale - 1)
    ImageDraw.Draw(image).rectangle((*corner, *other), outline=FRAME, width=3)
    return image


def _fit(photo: np.ndarray) -> Image.Image:
    """A photo with its longer side scaled to the width of a column."""
    height, width = photo.shape[:2]
    scale = _PHOTO / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)


def _captioned(image: Image.Image, title: str, text: str) -> Image.Image:
    canvas = Image.new("RGB", (_PHOTO, image.height), PAPER)
    canvas.paste(image, ((_PHOTO - image.width) // 2, 0))
    words = [_words(title, 20, INK, bold=True), _words(text, 15, FAINT)]
    return stacked([canvas, *words], 6)


def _words(text: str, size: int, colour: Colour, bold: bool = False, width: int = 0) -> Image.Image:
    """Text on a blank background, broken into lines if ``width`` is given."""
    letters = font(size)
    text = spelled(text, letters)
    lines = broken(text, letters, width) if width else [text]
    longest = max(letters.getlength(line) for line in lines)
    canvas = Image.new("RGB", (int(longest) + 3, round(size * 1.4) * len(lines)), PAPER)
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        write(draw, (0, row * round(size * 1.4)), line, letters, colour, bold)
    return canvas


def _centred(text: str, size: int, colour: Colour) -> Image.Image:
    """A line of text centred below a tile, in a smaller font if it would be wider than the tile."""
    text = spelled(text, font(size))
    letters = fitted_font(text, _TILE, size, _SMALLEST)
    canvas = Image.new("RGB", (_TILE, 19), PAPER)
    ImageDraw.Draw(canvas).text((_TILE / 2, 1), text, colour, letters, anchor="ma")
    return canvas


def _in_rows(blocks: Sequence[Image.Image]) -> list[Image.Image]:
    """Blocks in rows, side by side as long as they fit into the width of the photos."""
    rows: list[list[Image.Image]] = []
    for block in blocks:
        used = sum(other.width + 3 * _GAP for other in rows[-1]) if rows else 0
        if rows and used + block.width <= 3 * _PHOTO + 4 * _GAP:
            rows[-1].append(block)
        else:
            rows.append([block])
    return [beside(row, 3 * _GAP) for row in rows]


@dataclass(frozen=True)
class Panel:
    """One generator's edits of a photo and of its protected copy; images are in [-1, 1].

    Attributes:
      title: the generator.
      domains: names of its K edits.
      clean: ``[h, w, 3]``, what it sees of the original.
      protected: ``[h, w, 3]``, what it sees of the protected copy.
      before: ``[K, h, w, 3]``, its edits of the original.
      after: ``[K, h, w, 3]``, its edits of the protected copy.
      losses: ``[K]``, L of each edit.
    """

    title: str
    domains: tuple[str, ...]
    clean: np.ndarray = field(repr=False)
    protected: np.ndarray = field(repr=False)
    before: np.ndarray = field(repr=False)
    after: np.ndarray = field(repr=False)
    losses: np.ndarray
