"""Drawing helpers for this package's pictures: colours, tiles, and text that fits."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cdmaa_jax.images.squares import to_levels

Colour = tuple[int, int, int]
PAPER: Colour = (255, 255, 255)
INK: Colour = (28, 31, 36)
FAINT: Colour = (110, 116, 125)
SPOILED: Colour = (14, 122, 68)
HELD: Colour = (186, 50, 40)
FRAME: Colour = (255, 196, 0)


def tile(image: np.ndarray, side: int) -> Image.Image:
    """An image ``[h, w, 3]`` in [-1, 1] as a square picture of ``side`` pixels."""
    return Image.fromarray(to_levels(image)).resize((side, side), Image.Resampling.BICUBIC)


def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all text, ``size`` pixels high."""
    return ImageFont.load_default(size)  # type: ignore[return-value]  # FreeType is in the wheels


def fitted_font(text: str, width: int, largest: int, smallest: int) -> ImageFont.FreeTypeFont:
    """The largest font in which a line is at most ``width`` pixels wide, or else the smallest."""
    size = largest
    while size > smallest and not fits(text, font(size), width):
        size -= 1
    return font(size)


def fits(text: str, letters: ImageFont.FreeTypeFont, width: int) -> bool:
    """Whether a line is at most ``width`` pixels wide."""
    return letters.getlength(text) <= width


def broken(text: str, letters: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A text broken into lines of at most ``width`` pixels.

    Lines break between words; a word that is wider than a line, such as a file name, is broken
    as well.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and not fits(longer, letters, width):
            longer = word
            lines.append("")
        while not fits(longer, letters, width):
            ends = range(len(longer), 0, -1)
            end = next(n for n in ends if n == 1 or fits(longer[:n], letters, width))
            lines[-1], longer = longer[:end], longer[end:]
            lines.append("")
        lines[-1] = longer
    return lines


def spelled(text: str, letters: ImageFont.FreeTypeFont) -> str:
    """A text with what the font lacks in ASCII: ``é`` as ``e``, ``ε`` by its code, ``\\u03b5``."""
    lacking = bytes(letters.getmask("\uffff"))  # the box that stands for any character it lacks
    return "".join(
        _in_ascii(letter) if bytes(letters.getmask(letter)) == lacking else letter
        for letter in unicodedata.normalize("NFC", text)
    )


def _in_ascii(letter: str) -> str:
    base = (part for part in unicodedata.normalize("NFKD", letter) if " " <= part <= "~")
    return "".join(base) or ascii(letter)[1:-1]


def write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    letters: ImageFont.FreeTypeFont,
    colour: Colour = INK,
    bold: bool = False,
) -> None:
    """Writes a line; ``place`` is its upper left corner."""
    draw.text(place, text, colour, letters, stroke_width=0.4 if bold else 0, stroke_fill=colour)


def beside(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures side by side, with their upper edges in a line."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, max(image.height for image in images)), PAPER)
    left = 0
    for image in images:
        canvas.paste(image, (left, 0))
        left += image.width + gap
    return canvas


def stacked(images: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures one below the other, with their left edges in a line."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (max(image.width for image in images), height), PAPER)
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height + gap
    return canvas


def encode(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
