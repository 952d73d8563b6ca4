"""Pictures contain what they should show."""

import io

import numpy as np
from PIL import Image

from cdmaa_jax.evaluation.drawing import HELD, PAPER
from cdmaa_jax.experiments.sheets import Row, Tile, draw_sheet

SIDE = 10  # a margin


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def grey(level):
    return np.full((8, 8, 3), level / 127.5 - 1, np.float32)


def sheet(*captions, holds=False):
    tiles = [Tile(grey(40 * (i + 1)), caption, holds) for i, caption in enumerate(captions)]
    return decode(draw_sheet(["a"] * len(tiles), ["x"] * len(tiles), [Row("row", tiles)]))


def test_a_sheet_has_a_tile_for_each_picture():
    pixels = sheet("L 0.1", "L 0.2", "L 0.3")
    for level in (40, 80, 120):
        assert (pixels == level).all(-1).sum() >= 96 * 96


def ink(pixels):
    return (pixels != PAPER).any(-1)


def test_edits_that_hold_are_told_by_a_word_and_by_red():
    spoiled, held = sheet("L 0.1"), sheet("L 0.1", holds=True)
    assert not (spoiled == HELD).all(-1).any() and (held == HELD).all(-1).any()
    assert not np.array_equal(ink(held), ink(spoiled))
    named = sheet("L 0.1 intact")
    assert np.array_equal(ink(held), ink(named))


def test_headings_have_room():
    """Of a model with a single edit, too, at the right edge of the sheet."""
    short = ["uniform", "of a single edit"]
    for group in ("model-" * 7, "a name of several words, 100k iterations"):
        rows = [Row("row", [Tile(grey(40)), Tile(grey(80))])]
        pixels = decode(draw_sheet(["photo", group], short, rows))
        usual = decode(draw_sheet(["photo", "model"], short, rows))
        assert pixels.shape[0] > usual.shape[0] and pixels.shape[1] == usual.shape[1]
        written = ink(pixels)
        assert not written[:, -SIDE:].any() and not written[:, :SIDE].any()
        above = written[: np.argmax((pixels == 80).all(-1).sum(1) >= 96)]
        left = pixels.shape[1] - SIDE - 96
        assert not above[:, left - 6 : left].any()  # nothing runs on from the column before
        lines = above[:, left:].any(1)
        assert (lines[1:] & ~lines[:-1]).sum() >= 4  # the name in several, and the edit


def test_many_columns_are_divided():
    tiles = [Tile(grey(level)) for level in range(1, 31)]
    pixels = decode(draw_sheet(["a"] * 30, ["x"] * 30, [Row("row", tiles)]))
    assert pixels.shape[1] < 1600
    for level in range(1, 31):
        assert (pixels == level).all(-1).sum() >= 96 * 96


def test_letters_that_the_font_lacks():
    def named(name):
        return decode(draw_sheet([name], [name], [Row(name, [Tile(grey(40), name)])]))

    assert np.array_equal(named("zoë"), named("zoe"))
    assert not np.array_equal(named("写"), named("真"))


def test_long_titles_are_broken_and_long_names_made_smaller():
    title, column = "logarithmic gradient regularization of a long name", "a domain of a long name"
    row = Row(title, [Tile(grey(40), "a long caption, L 0.1")])
    written = ink(decode(draw_sheet(["uniform"], [column], [row])))
    left, right = SIDE + 150 + 6, SIDE + 150 + 6 + 96  # edges of the tile
    top = int(np.argmax(written[:, left:right].all(1)))
    assert written.shape[1] == right + SIDE
    lines = written[top:, : left - 6].any(1)
    assert (lines[1:] & ~lines[:-1]).sum() >= 2  # the title has several lines
    assert not written[:, left - 6 : left].any() and not written[:, right:].any()
    assert written[SIDE + 24 : top, left:right].any() and written[top + 96 :, left:right].any()
