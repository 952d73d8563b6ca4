"""Bar and line charts, drawn with matplotlib, which the extra ``reproduce`` installs."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_COLOURS = (
    "#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c",
    "#ccb974", "#64b5cd", "#1b3a6b", "#f0b98d", "#2b6b3f",
)  # fmt: skip
_DOTS = 150


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


def _literal(draw: Callable[..., bytes]) -> Callable[..., bytes]:
    """A function that draws dollar signs in generators' names as they are, not as formulas."""

    @functools.wraps(draw)
    def drawn(*args: Any) -> bytes:
        from matplotlib import rc_context

        with rc_context({"text.parse_math": False}):
            return draw(*args)

    return drawn


@_literal
def draw_bars(record: Mapping[str, Any]) -> bytes:
    """The attack rates and avg_L of a table with their intervals, as a PNG file."""
    models = list(record["columns"][record["default"]])
    figure = _figure(width=5 + 1.1 * len(models), height=7.2)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, metric, ends in (
        (upper, "attack_rate", "interval"),
        (lower, "avg_l", "avg_l_interval"),
    ):
        _bars(axes, record, models, metric, ends)
    upper.set_ylabel("attack_rate")
    upper.set_ylim(0, 1.02)
    lower.set_ylabel("avg_L")
    lower.axhline(record["threshold"], color="black", linewidth=0.8, linestyle=":")
    lower.set_xticks(range(len(models)), models)
    upper.set_title(record["title"], loc="left")
    upper.legend(fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.08), frameon=False)
    return _png(figure)


@_literal
def draw_lines(
    panels: Mapping[str, Mapping[str, np.ndarray]], title: str, xlabel: str, ylabels: Sequence[str]
) -> bytes:
    """Lines over the steps, in panels side by side, as a PNG file.

    Args:
      panels: title of a panel to lines: name to [T].
      title: of the whole.
      xlabel: of every panel.
      ylabels: one for each panel; that of a ``share`` shows all of 0 to 1.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = _figure(width=5.2 * columns, height=3.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, lines), ylabel in zip(grid, panels.items(), ylabels, strict=False):
        for number, (label, values) in enumerate(lines.items()):
            style = ("-", "--", ":")[number // len(_COLOURS) % 3]
            colour = _COLOURS[number % len(_COLOURS)]
            axes.plot(values, label=label, color=colour, linestyle=style, linewidth=1.2)
        axes.set_title(name, loc="left", fontsize=10)
        if ylabel == "share":
            axes.set_ylim(-0.02, 1.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if lines:
            axes.legend(fontsize=7, frameon=False)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    return _png(figure)


def _bars(axes: Any, record: Mapping[str, Any], models: list[str], metric: str, ends: str) -> None:
    columns = record["columns"]
    width = 0.8 / len(columns)
    for number, (name, column) in enumerate(columns.items()):
        values = np.array([column[model][metric] for model in models])
        low, high = np.array([column[model][ends] for model in models]).T
        errors = np.maximum(0, [values - low, high - values])
        axes.bar(
            np.arange(len(models)) + (number - (len(columns) - 1) / 2) * width,
            values,
            width,
            yerr=errors,
            capsize=2,
            color=_COLOURS[number % len(_COLOURS)],
            hatch=("", "///", "...")[number // len(_COLOURS) % 3],
            error_kw={"linewidth": 0.8},
            label=record["headings"][name],
        )


def _figure(width: float, height: float) -> Any:
    """A figure without pyplot, which belongs to the main thread."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DOTS, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()
