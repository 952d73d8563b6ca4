"""Pictures contain what they should show."""

import io

import numpy as np
from PIL import Image

from cdmaa_jax.evaluation.drawing import HELD, PAPER
from cdmaa_jax.experiments import charts
from cdmaa_jax.experiments.sheets import Row, Tile, draw_sheet


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


def test_edits_that_hold_are_red():
    assert not (sheet("L 0.1") == HELD).all(-1).any()
    assert (sheet("L 0.1", holds=True) == HELD).all(-1).any()


def test_long_titles_are_broken_and_long_names_made_smaller():
    title, column = "logarithmic gradient regularization of a long name", "a domain of a long name"
    row = Row(title, [Tile(grey(40), "a long caption, L 0.1")])
    written = (decode(draw_sheet(["uniform"], [column], [row])) != PAPER).any(-1)
    left, right, top = 20 + 150, 20 + 150 + 96, 20 + 36  # edges of the tile
    assert written.shape[1] == right + 6 + 20
    lines = written[top:, : left - 6].any(1)
    assert (lines[1:] & ~lines[:-1]).sum() >= 2  # the title has several lines
    assert not written[:, left - 6 : left].any() and not written[:, right:].any()
    assert written[20 + 15 : top, left:right].any() and written[top + 96 :, left:right].any()


def test_lines_and_panels_without_any():
    png = charts.draw_lines(
        {"a": {"one": np.arange(4), "two": [0, 1]}, "b": {}, "c": {"three": [1]}},
        "title",
        "step",
        ("y", "y", "y"),
    )
    assert len(np.unique(decode(png).reshape(-1, 3), axis=0)) > 10


def test_names_are_no_formulas():
    """Nor do they break a chart, as a formula that is wrong would."""
    name, interval = r"cost $\x$", (0.1, 0.3)
    figures = {"attack_rate": 0.2, "avg_l": 0.2, "interval": interval, "avg_l_interval": interval}
    record = {"columns": {"a": {name: figures}}, "default": "a", "threshold": 0.05}
    assert charts.draw_bars({**record, "headings": {"a": name}, "title": name})
    assert charts.draw_lines({name: {name: [0, 1]}}, name, "step", ("y",))
