"""Bar and line charts, drawn with matplotlib, which the extra ``reproduce`` installs.

They are as wide as a page, with letters of 7 points. Colours are from Okabe and Ito's palette, made
for the colour-blind, and nothing is told by colour alone.
"""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFont

from cdmaa_jax.evaluation.drawing import broken, spelled
from cdmaa_jax.experiments.columns import STEPS

_WIDTH, _LABEL, _LEGEND = 7.0, 2.35, 1.5  # inches: the page, a bar's name, a curve's name
_DOTS, _POINTS = 300, 7  # per inch; of letters
_ACROSS = 6  # most panels of bars side by side
_DEFAULT, _OTHER = "#0072B2", "#CCCCCC"
_CURVES: tuple[tuple[str, Any], ...] = (
    ("#0072B2", "-"),
    ("#E69F00", (0, (4, 1.5))),
    ("#000000", (0, (1, 1))),
    ("#009E73", (0, (5, 1.5, 1, 1.5))),
    ("#D55E00", (0, (8, 2))),
    ("#56B4E9", (0, (2, 2))),
    ("#CC79A7", (0, (4, 1, 1, 1, 1, 1))),
    ("#999999", (0, (1, 3))),
)
"""Colours and dashes."""


class MissingLibrary(ValueError):
    """matplotlib is not installed, or does not work; the message is one line."""


def check() -> None:
    """Raises MissingLibrary if charts cannot be drawn: before the work, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingLibrary(
            "matplotlib, which draws the charts, is not installed; "
            "run pip install '.[reproduce]' in the folder of cdmaa-jax"
        )
    try:
        importlib.import_module("matplotlib.figure")
    except Exception as error:  # such as a backend, of MPLBACKEND, that is not installed
        lines = str(error).splitlines() or [type(error).__name__]
        what = "matplotlib, which draws the charts, does not work"
        raise MissingLibrary(f"{what}: {lines[0]}") from error


def _styled(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    """A function that draws in one style, and dollar signs in names as they are, no formulas."""

    @functools.wraps(draw)
    def drawn(*args: Any) -> bytes:
        from matplotlib import rc_context

        with rc_context(
            {
                "text.parse_math": False,
                "font.family": "DejaVu Sans",
                "font.size": _POINTS,
                "axes.titlesize": _POINTS,
                "axes.linewidth": 0.6,
                "legend.fontsize": _POINTS,
                "legend.frameon": False,
            }
        ):
            return draw(*args)

    return drawn


@_styled
def draw_bars(record: Mapping[str, Any]) -> bytes:
    """The attack rates and avg_L of a table with their intervals, as a PNG file.

    A panel for each model and metric has a bar for each column of the table.
    """
    columns, models = record["columns"], list(record["columns"][record["default"]])
    labels = [_broken(record["headings"][name], _LABEL) for name in columns]
    heights = np.array([label.count("\n") + 1.2 for label in labels])  # in lines
    places = np.cumsum(heights) - heights / 2
    bands = -(-len(models) // _ACROSS)
    across = -(-len(models) // bands)
    titles = [_broken(model, 0.85 * (_WIDTH - _LABEL) / across) for model in models]
    heading = _broken(record["title"], 0.75 * _WIDTH)  # its letters are larger
    lines = 2 * heights.sum() + 7 + max(title.count("\n") for title in [*titles, heading])
    figure = _figure(0.7 + 0.13 * lines * bands)
    grid = figure.subplots(2 * bands, across, sharey=True, squeeze=False)
    for number, (model, title) in enumerate(zip(models, titles, strict=True)):
        band, place = divmod(number, across)
        upper, lower = grid[2 * band : 2 * band + 2, place]
        upper.set_title(title)
        _bars(upper, record, model, places, "attack_rate", "interval", 1)
        upper.set_xlabel("attack_rate")
        upper.set_xticks((0, 0.5, 1))
        _bars(lower, record, model, places, "avg_l", "avg_l_interval", _largest(record))
        lower.set_xlabel("avg_L")
        lower.locator_params(axis="x", nbins=2)
        style = {"color": "black", "linewidth": 0.8, "linestyle": ":"}
        lower.axvline(record["threshold"], label="threshold of L", **style)
    for axes in grid[-2:, len(models) - across * (bands - 1) :].flat:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_yticks(places, labels)
        axes.get_yticklabels()[list(columns).index(record["default"])].set_fontweight("bold")
    grid[0, 0].set_ylim(heights.sum(), 0)
    figure.suptitle(heading, x=0.01, ha="left")
    entries = _entries(grid.flat)
    figure.legend(entries.values(), entries, loc="outside lower left", ncols=2)
    return _png(figure)


@_styled
def draw_lines(rows: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], title: str) -> bytes:
    """Lines over the steps, of numbers up to 1, as a PNG file.

    Args:
      rows: title of a row of panels to the panels: what they show to their lines, name to [T].
        The names are the same in all panels of a row; of more than ``len(_CURVES)`` lines, only
        the highest, the median and the lowest number at each step are shown.
      title: of the whole.
    """
    heights = [_height(_few(next(iter(panels.values())))) for panels in rows.values()]
    across = max(map(len, rows.values()))
    figure = _figure(0.3 + sum(heights))
    grid = figure.add_gridspec(len(rows), across, height_ratios=heights)
    shared: dict[str, Any] = {}
    for number, (name, panels) in enumerate(rows.items()):
        for start, (metric, lines) in enumerate(panels.items()):
            end = start + 1 if start + 1 < len(panels) else across
            axes = figure.add_subplot(grid[number, start:end], sharey=shared.get(metric))
            shared.setdefault(metric, axes)
            _lines(axes, _few(lines))
            axes.set_ylabel(metric)
            axes.set_title("" if start else name, loc="left")
        # Given by name, since matplotlib leaves out labels that begin with an underscore.
        curves = axes.lines[: len(_few(lines))]
        names = [curve.get_label() for curve in curves]
        axes.legend(curves, names, loc="upper left", bbox_to_anchor=(1, 1), handlelength=4)
    figure.suptitle(title, x=0.01, ha="left")
    return _png(figure)


def _bars(
    axes: Any,
    record: Mapping[str, Any],
    model: str,
    places: np.ndarray,
    metric: str,
    ends: str,
    largest: float,
) -> None:
    """A model's bars with their whiskers, and the paper's own figures; zero shows as a dot."""
    figures = [column[model] for column in record["columns"].values()]
    values = np.array([one[metric] for one in figures])
    low, high = np.array([one[ends] for one in figures]).T
    errors = np.maximum(0, [values - low, high - values])
    colours = [_DEFAULT if name == record["default"] else _OTHER for name in record["columns"]]
    axes.barh(places, values, 0.85, color=colours)
    axes.axvline(0, color="black", linewidth=0.8)
    whiskers = {"color": "black", "markersize": 2, "linewidth": 0.8, "zorder": 3}
    axes.errorbar(values, places, None, errors, ".", label="95 % interval", **whiskers)
    printed = _printed(record, model, metric)
    other = "" if record["steps"] == STEPS else f", T = {STEPS}"
    for marker, shown, text in (
        ("D", printed <= largest, f"paper (other weights, other photos{other})"),
        (">", printed > largest, "paper, larger than the axis"),
    ):
        if shown.any():
            style = {"markersize": 4, "color": "black", "markerfacecolor": "white"}
            x = np.minimum(printed[shown], 1.03 * largest)
            axes.plot(x, places[shown], marker, label=text, **style)
    axes.set_xlim(-0.06 * largest, 1.1 * largest)
    axes.minorticks_on()
    axes.tick_params(axis="y", which="both", length=0)
    axes.spines[["left", "right", "top"]].set_visible(False)


def _entries(panels: Iterable[Any]) -> dict[str, Any]:
    """What is labelled in some panels: text to mark."""
    entries: dict[str, Any] = {}
    for axes in panels:
        marks, texts = axes.get_legend_handles_labels()
        entries |= dict(zip(texts, marks, strict=True))
    return entries


def _largest(record: Mapping[str, Any]) -> float:
    """The end of the axis of avg_L."""
    ends = [
        figures["avg_l_interval"][1]
        for column in record["columns"].values()
        for figures in column.values()
    ]
    return float(max(record["threshold"], *ends))


def _printed(record: Mapping[str, Any], model: str, metric: str) -> np.ndarray:
    """The figure that the paper prints for each column; NaN where it prints none."""
    printed = (record["paper"] or {"columns": {}})["columns"]
    return np.array(
        [printed.get(name, {}).get(model, {metric: np.nan})[metric] for name in record["columns"]]
    )


def _few(lines: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The lines, or what summarizes them if they are too many to be told apart."""
    if len(lines) <= len(_CURVES):
        return lines
    values = np.array(list(lines.values()))
    summary = values.max(0), np.median(values, axis=0), values.min(0)
    return dict(zip((f"highest of {len(lines)}", "median", "lowest"), summary, strict=True))


def _height(lines: Mapping[str, np.ndarray]) -> float:
    """The height of a row of panels, in inches: the legend is beside them."""
    return max(1.9, 0.5 + 0.13 * sum(_broken(name, _LEGEND).count("\n") + 1.5 for name in lines))


def _lines(axes: Any, lines: Mapping[str, np.ndarray]) -> None:
    """Lines, each thinner than those before it, which may lie below it."""
    widths = np.linspace(2.2, 0.8, len(lines))
    for (name, values), (colour, dashes), width in zip(
        lines.items(), _CURVES, widths, strict=False
    ):
        steps = np.arange(1, len(values) + 1)
        style = {"color": colour, "linestyle": dashes, "linewidth": width, "markersize": 4 * width}
        marker = "o" if len(values) == 1 else ""
        axes.plot(steps, values, label=_broken(name, _LEGEND), marker=marker, **style)
    axes.axhline(0, color="black", linewidth=0.4)
    axes.update_datalim([(1, 0), (1, 1)])
    axes.margins(x=0)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("step")


def _broken(text: str, inches: float) -> str:
    """A name in lines that are at most some inches long."""
    from matplotlib import get_data_path

    path, scale = Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), 10
    letters = ImageFont.truetype(path, scale * _POINTS, layout_engine=ImageFont.Layout.BASIC)
    return "\n".join(broken(spelled(text, letters), letters, int(72 * scale * inches)))


def _figure(height: float) -> Any:
    """A figure without pyplot, which belongs to the main thread."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS, metadata={"Software": None})
    return file.getvalue()
