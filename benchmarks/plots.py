"""Pictures of what was measured."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.backend_bases import FigureCanvasBase

from benchmarks.report import digits
from benchmarks.statistics import fit
from cdmaa_jax import disk

COLOURS = {"ours": "#0072b2", "eager": "#9a9a9a", "compile": "#e69f00"}
LABELS = {"ours": "cdmaa-jax", "eager": "PyTorch eager", "compile": "torch.compile"}
STEP = "s per image-iteration"
EXPECTED: dict[str, Callable[[float], float]] = {
    "steps": float,
    "batch": float,
    "domains": float,
    "size": lambda size: size**2,
}
"""For each axis, the quantity in which the cost should be linear; models differ."""


def draw_comparisons(reports: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Bars of every comparison: ours, the best eager and the best compiled variant of PyTorch.

    Comparisons of the same size, batch, precision and machine share a panel.
    """
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports:
        panels.setdefault(title(report), []).extend(report["cases"])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.5 + 5.5 * len(panels), 3.6), squeeze=False
    )
    for axis, (heading, cases) in zip(axes[0], panels.items(), strict=True):
        draw_comparison(axis, heading, cases)
    axes[0][0].legend(frameon=False, fontsize=8)
    save(figure, path)


def draw_comparison(axis: Any, heading: str, cases: Sequence[Mapping[str, Any]]) -> None:
    """The bars of one panel, a group for each case."""
    width = 0.26
    for i, kind in enumerate(LABELS):
        rows = [fastest(case, kind) for case in cases]
        places = [place + (i - 1) * width for place in range(len(cases))]
        known = [(x, row) for x, row in zip(places, rows, strict=True) if row]
        if not known:
            continue
        heights = [row["median"] for _, row in known]
        spread = [
            [row["median"] - row["min"] for _, row in known],
            [row["max"] - row["median"] for _, row in known],
        ]
        bars = axis.bar(
            [x for x, _ in known],
            heights,
            width,
            yerr=spread,
            color=COLOURS[kind],
            label=LABELS[kind],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
        )
        axis.bar_label(bars, [digits(height) for height in heights], fontsize=7, padding=2)
    axis.set_xticks(range(len(cases)), [name_of(case) for case in cases], fontsize=8)
    axis.set_ylabel(STEP, fontsize=8)
    axis.set_title(heading, fontsize=9)
    tidy(axis)


def fastest(case: Mapping[str, Any], kind: str) -> Mapping[str, float] | None:
    """The times of our side or of the best variant of a kind; None if there was none."""
    name = case.get(f"best_{kind}")
    row = case["ours"] if kind == "ours" else case["torch"].get(name)
    return row and row["seconds_per_image_iteration"]


def name_of(case: Mapping[str, Any]) -> str:
    """The label under a group of bars."""
    names = case["models"]
    return names[0] if len(names) == 1 else f"all {len(names)} together"


def title(report: Mapping[str, Any]) -> str:
    """Size, batch, precision and the machine."""
    s, m = report["settings"], report["machine"]
    threads, device = report["versions"]["torch"]["threads"], report["versions"]["ours"]
    where = (
        f"{m['processor']}, {threads} cores" if device["platform"] == "cpu" else device["device"]
    )
    return f"{s['size']} px, batch {s['batch']}, {s['precision']}; {where}"


def draw_growth(report: Mapping[str, Any], path: Path) -> None:
    """A small panel for each axis, with the line that the points should lie on."""
    found = report["axes"]
    figure, axes = plt.subplots(1, len(found), figsize=(2.7 * len(found), 2.6), squeeze=False)
    for axis, (name, one) in zip(axes[0], found.items(), strict=True):
        points = [(point["x"], point["seconds"]) for point in one["points"]]
        if (law := EXPECTED.get(name)) is not None:
            slope, start = fit([(law(x), y) for x, y in points])
            xs = [points[0][0] + i / 50 * (points[-1][0] - points[0][0]) for i in range(51)]
            line = [start + slope * law(x) for x in xs]
            axis.plot(xs, line, linewidth=1, color=COLOURS["eager"])
        axis.plot(*zip(*points, strict=True), "o", markersize=4, color=COLOURS["ours"])
        model = f" ({one['model']} alone)" if "model" in one else ""
        axis.set_xlabel(one["label"] + model, fontsize=8)
        axis.set_ylabel("s per run" if name == "steps" else "s per step", fontsize=8)
        axis.set_xticks([x for x, _ in points])
        axis.set_xlim(0, None)
        tidy(axis)
    figure.suptitle(growth_title(report), fontsize=9)
    save(figure, path)


def growth_title(report: Mapping[str, Any]) -> str:
    """What was attacked, and on which machine."""
    s = report["settings"]
    names = " + ".join(model["name"] for model in s["generators"])
    device = report["versions"]["ours"]
    on_cpu = device["platform"] == "cpu"
    where = report["machine"]["processor"] if on_cpu else device["device"]
    return f"{names}; {s['size']} px, batch 1, {s['precision']}; {where}"


def tidy(axis: Any) -> None:
    """Starts the axis at zero and removes its box."""
    axis.set_ylim(0, None)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def check_suffix(path: Path) -> None:
    """Raises ValueError if the name of a file ends in no format of pictures."""
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if (suffix := _suffix(path)) not in known:
        raise ValueError(f"{suffix} is no format of pictures; choose one of {', '.join(known)}")


def save(figure: Any, path: Path) -> None:
    """Writes a picture, whole or not at all, in the format that its suffix names."""
    content = io.BytesIO()
    figure.tight_layout()
    figure.savefig(content, dpi=150, format=_suffix(path))
    plt.close(figure)
    disk.write_whole(path, content.getvalue())


def _suffix(path: Path) -> str:
    return path.suffix.removeprefix(".").lower() or "png"
