"""Sheets of pictures: generators' edits of photos, as tiles side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from cdmaa_jax.evaluation.drawing import (
    HELD,
    INK,
    PAPER,
    Colour,
    broken,
    encode,
    fitted_font,
    font,
    tile,
    write,
)

_TILE, _GAP, _LINE, _SIDE, _MARGIN = 96, 6, 15, 150, 20
_LARGEST, _SMALLEST = 12, 7  # font sizes, in pixels


@dataclass(frozen=True)
class Tile:
    """A picture [h,w,3] in [-1, 1] with a caption below it, which is red if an edit holds."""

    image: np.ndarray = field(repr=False)
    caption: str = ""
    holds: bool = False


@dataclass(frozen=True)
class Row:
    """Tiles side by side, with a title to their left."""

    title: str
    tiles: Sequence[Tile]


def draw_sheet(groups: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """Draws a sheet, as a PNG file.

    Args:
      groups: the heading of each column, such as the model's name; neighbours share an equal one.
      columns: the line below each heading, such as the domain's name.
      rows: the rows, each with a tile for every column.
    """
    width = _SIDE + len(columns) * (_TILE + _GAP)
    heights = [_height(row) for row in rows]
    top = 2 * _LINE + _GAP
    canvas = Image.new("RGB", (width + 2 * _MARGIN, top + sum(heights) + 2 * _MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    for k, (group, column) in enumerate(zip(groups, columns, strict=True)):
        x = _left(k)
        if k == 0 or groups[k - 1] != group:
            _write(draw, (x, _MARGIN), group, bold=True)
        _write(draw, (x, _MARGIN + _LINE), column)
    y = _MARGIN + top
    for row, height in zip(rows, heights, strict=True):
        _draw_row(canvas, draw, row, y)
        y += height
    return encode(canvas)


def _draw_row(canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Row, y: int) -> None:
    lines = broken(row.title, font(_LARGEST), _SIDE - _GAP)[: _TILE // _LINE]
    for number, line in enumerate(lines):
        write(draw, (_MARGIN, y + number * _LINE), line, font(_LARGEST))
    for k, one in enumerate(row.tiles):
        canvas.paste(tile(one.image, _TILE), (_left(k), y))
        colour = HELD if one.holds else INK
        _write(draw, (_left(k), y + _TILE + 1), one.caption, colour)


def _height(row: Row) -> int:
    return _TILE + _GAP + (_LINE if any(one.caption for one in row.tiles) else 0)


def _left(k: int) -> int:
    return _MARGIN + _SIDE + k * (_TILE + _GAP)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    colour: Colour = INK,
    bold: bool = False,
) -> None:
    """Writes a line above or below a tile, in a smaller font if it would be wider."""
    write(draw, place, text, fitted_font(text, _TILE, _LARGEST, _SMALLEST), colour, bold)
