"""Sheets of pictures: generators' edits of photos, as tiles side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from cdmaa_jax.evaluation.drawing import (
    HELD,
    INK,
    PAPER,
    Colour,
    beside,
    broken,
    encode,
    fitted_font,
    font,
    spelled,
    stacked,
    tile,
    write,
)

_TILE, _GAP, _LINE, _SIDE, _MARGIN = 96, 6, 24, 150, 10
_LARGEST, _SMALLEST = 20, 14  # font sizes, in pixels: some 7 and 5 points in the width of a page
_MOST_TILES = 13  # side by side, for a sheet to be legible in the width of a page


@dataclass(frozen=True)
class Tile:
    """A picture [h,w,3] in [-1, 1] with a caption below it.

    If the edit holds, the caption is red, and ends in ``intact``.
    """

    image: np.ndarray = field(repr=False)
    caption: str = ""
    holds: bool = False


@dataclass(frozen=True)
class Row:
    """Tiles side by side, with a title to their left."""

    title: str
    tiles: Sequence[Tile]


def draw_sheet(groups: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """Draws a sheet, as a PNG file; of many columns the later ones are below the first.

    Args:
      groups: the heading of each column, such as the model's name; neighbours share an equal one.
      columns: the line below each heading, such as the domain's name.
      rows: the rows, each with a tile for every column.
    """
    count = -(-len(columns) // -(-len(columns) // _MOST_TILES))  # as many in each band
    bands = [
        _band(groups[k : k + count], columns[k : k + count], [_part(row, k, count) for row in rows])
        for k in range(0, len(columns), count)
    ]
    return encode(ImageOps.expand(stacked(bands, 2 * _LINE), _MARGIN, PAPER))


def _part(row: Row, start: int, count: int) -> Row:
    return Row(row.title, row.tiles[start : start + count])


def _band(groups: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> Image.Image:
    """All rows of some columns, with their headings above."""
    side = _words("", _SIDE)
    spans = [(group, len(list(equal))) for group, equal in itertools.groupby(groups)]
    headings = [_words(group, n * (_TILE + _GAP) - _GAP, bold=True) for group, n in spans]
    names = [_words(column, _TILE) for column in columns]
    lines = [beside([side, *headings], _GAP), beside([side, *names], _GAP)]
    for row in rows:
        tiles = [_captioned(one) for one in row.tiles]
        lines.append(beside([_words(row.title, _SIDE), *tiles], _GAP))
    return stacked(lines, _GAP)


def _captioned(one: Tile) -> Image.Image:
    verdict, colour = (" intact", HELD) if one.holds else ("", INK)
    return stacked([tile(one.image, _TILE), _words(one.caption + verdict, _TILE, colour)], 1)


def _words(text: str, width: int, colour: Colour = INK, bold: bool = False) -> Image.Image:
    """Text on a blank background of a given width, in a smaller font for words that are wider."""
    text = spelled(text, font(_LARGEST))
    longest = max(text.split(), key=font(_LARGEST).getlength, default="")
    letters = fitted_font(longest, width, _LARGEST, _SMALLEST)
    lines = broken(text, letters, width) if text else []
    canvas = Image.new("RGB", (width, _LINE * len(lines)), PAPER)
    for number, line in enumerate(lines):
        write(ImageDraw.Draw(canvas), (0, number * _LINE), line, letters, colour, bold)
    return canvas
