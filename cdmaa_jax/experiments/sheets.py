"""Sheets of pictures: what generators make of photos, tile beside tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdmaa_jax.evaluation.picture import encode

_PAPER, _INK, _HELD = (255, 255, 255), (28, 31, 36), (186, 50, 40)
_TILE, _GAP, _LINE, _SIDE, _MARGIN = 96, 6, 15, 150, 20


@dataclass(frozen=True)
class Tile:
    """A picture [h,w,3] in [-1, 1] with a word below it, red where an edit holds."""

    image: np.ndarray = field(repr=False)
    caption: str = ""
    holds: bool = False


@dataclass(frozen=True)
class Row:
    """Tiles beside each other, with words to their left."""

    title: str
    tiles: Sequence[Tile]


def draw_sheet(groups: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """A sheet, a PNG file.

    Args:
      groups: words above each column, such as the model's name; equal ones are written once.
      columns: words below those, such as the domain's name.
      rows: each with a tile for every column.
    """
    width = _SIDE + len(columns) * (_TILE + _GAP)
    heights = [_height(row) for row in rows]
    top = 2 * _LINE + _GAP
    canvas = Image.new("RGB", (width + 2 * _MARGIN, top + sum(heights) + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for k, (group, column) in enumerate(zip(groups, columns, strict=True)):
        x = _left(k)
        if k == 0 or groups[k - 1] != group:
            _write(draw, (x, _MARGIN), group, _TILE, bold=True)
        _write(draw, (x, _MARGIN + _LINE), column, _TILE)
    y = _MARGIN + top
    for row, height in zip(rows, heights, strict=True):
        _draw_row(canvas, draw, row, y)
        y += height
    return encode(canvas)


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    lines = _broken(row.title, _SIDE - _GAP)[: _TILE // _LINE]
    for number, line in enumerate(lines):
        draw.text((_MARGIN, y + number * _LINE), line, _INK, _font(12))
    for k, tile in enumerate(row.tiles):
        canvas.paste(_as_picture(tile.image), (_left(k), y))
        colour = _HELD if tile.holds else _INK
        _write(draw, (_left(k), y + _TILE + 1), tile.caption, _TILE, colour)


def _height(row: Row) -> int:
    return _TILE + _GAP + (_LINE if any(tile.caption for tile in row.tiles) else 0)


def _left(k: int) -> int:
    return _MARGIN + _SIDE + k * (_TILE + _GAP)


def _as_picture(image: np.ndarray) -> Image.Image:
    levels = np.clip(np.rint((np.asarray(image) + 1) * 127.5), 0, 255).astype(np.uint8)
    return Image.fromarray(levels).resize((_TILE, _TILE), Image.Resampling.BICUBIC)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    width: int,
    colour: tuple[int, int, int] = _INK,
    bold: bool = False,
) -> None:
    """Words in one line, made smaller until they fit."""
    size = 12
    while size > 7 and _font(size).getlength(text) > width:
        size -= 1
    stroke = 0.4 if bold else 0
    draw.text(place, text, colour, _font(size), stroke_width=stroke, stroke_fill=colour)


def _broken(text: str, width: int) -> list[str]:
    """Lines of a text that are no wider; words that are, as names of files, are broken too."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and not _fits(longer, width):
            longer = word
            lines.append("")
        while not _fits(longer, width):
            end = next(n for n in range(len(longer), 0, -1) if _fits(longer[:n], width) or n == 1)
            lines[-1], longer = longer[:end], longer[end:]
            lines.append("")
        lines[-1] = longer
    return lines


def _fits(text: str, width: int) -> bool:
    return _font(12).getlength(text) <= width


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)  # type: ignore[return-value]  # FreeType is in the wheels
