"""Charts show their figures, and can be read: in print, in grey, with any names."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from cdmaa_jax.experiments import charts, figures
from cdmaa_jax.experiments.columns import STEPS

LONG = (
    "StarGAN-CelebA-HQ-256px_finetuned|2024-11",
    "a $name$ of many words, 100k iterations",
    40 * "W",
    "a-generator-of-many-words-that-are-joined",
)
MODELS = {
    "four": ("stargan", "attgan", "stgan", "ugatit"),
    "one": ("ugatit",),
    "long": LONG,
    "ten": (*(f"generator{k}" for k in range(6)), *LONG),
}


@pytest.fixture
def drawn(monkeypatch):
    """A function that draws a chart and returns matplotlib's figure, laid out."""

    def draw(function, *args):
        made = []
        monkeypatch.setattr(
            charts, "_png", lambda one: made.append(one) or one.draw_without_rendering()
        )
        function(*args)
        return made[0]

    return draw


def table(models, columns=4, paper=None, value=0.5):
    """A record of a table whose last column is the default."""
    names = [f"column-{k}" for k in range(columns)]
    one = {
        "attack_rate": value,
        "avg_l": value / 5,
        "interval": (value / 2, value),
        "avg_l_interval": (value / 8, value / 4),
    }
    headings = [
        f"PGD on {LONG[k % 4]} alone" if k > 3 else f"a method ({k})" for k in range(columns)
    ]
    return {
        "title": "Table 0. A title",
        "columns": {name: dict.fromkeys((*models, "mean"), one) for name in names},
        "headings": dict(zip(names, headings, strict=True)),
        "default": names[-1],
        "threshold": 0.05,
        "steps": STEPS,
        "paper": paper and {"columns": paper},
    }


def trace(models, steps=80):
    """A record of Figure 2; curves of the same models lie on each other."""
    level = {"by_step": np.full(steps, 0.5)}
    pairs = {"pairs": {", ".join(pair): level for pair in itertools.combinations(models, 2)}}
    both = {"cosine": level, "norm_ratio": level}
    return {
        "title": "Figure 0. A title",
        "between_domains": dict.fromkeys(models[:-1], both),
        "between_models": {"cosine": pairs, "norm_ratio": pairs} if len(models) > 1 else None,
        "theorem1": dict.fromkeys(("w", "sign(w)", "step"), level),
    }


def texts(figure):
    """All texts that are seen."""
    found = [figure._suptitle]
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        found += legend.get_texts() if legend else []
    for axes in (axes for axes in figure.axes if axes.axison):
        found += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for k, axis in enumerate((axes.xaxis, axes.yaxis)):
            low, high = sorted(axis.get_view_interval())
            labels = axis.get_ticklabels()
            found += [label for label in labels if low <= label.get_position()[k] <= high]
    return [text for text in found if text.get_visible() and text.get_text()]


def check_legible(figure):
    """No text is smaller than 7 points in the width of a page, cut off, or over another."""
    page = figure.bbox.padded(0.5)
    assert figure.get_figwidth() == 7
    boxes = [(text, text.get_window_extent()) for text in texts(figure)]
    for text, box in boxes:
        assert text.get_fontsize() >= 7
        assert page.x0 <= box.x0 and box.x1 <= page.x1, text
        assert page.y0 <= box.y0 and box.y1 <= page.y1, text
    for (text, box), (other, beside) in itertools.combinations(boxes, 2):
        assert not box.padded(-0.5).overlaps(beside.padded(-0.5)), (text, other)
    for legend in (*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))):
        box = legend.get_window_extent()
        assert page.y0 <= box.y0 and box.y1 <= page.y1
        assert not any(axes.axison and axes.bbox.overlaps(box) for axes in figure.axes)


@pytest.mark.parametrize("models", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("columns", [4, 13])
def test_bars_are_legible(drawn, models, columns):
    figure = drawn(charts.draw_bars, table(models, columns))
    shown = [axes for axes in figure.axes if axes.axison]
    assert len(shown) == 2 * (len(models) + 1)
    check_legible(figure)


def test_a_long_title_is_broken_and_spelled(drawn):
    title = 20 * "a long title 写 "
    check_legible(drawn(charts.draw_bars, {**table(MODELS["four"]), "title": title}))


def test_every_curve_is_in_the_legend(drawn):
    (axes,) = drawn(charts.draw_lines, {"row": {"share": {"_a": [0, 1], "b": [1, 0]}}}, "").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_a", "b"]


@pytest.mark.parametrize("models", MODELS.values(), ids=MODELS)
def test_lines_are_legible(drawn, models):
    figure = drawn(figures._draw_figure2, trace(models))
    check_legible(figure)
    assert all(axes.bbox.height > 1.2 * figure.dpi for axes in figure.axes)


def test_a_chart_is_as_wide_as_a_page():
    with Image.open(io.BytesIO(charts.draw_bars(table(MODELS["four"])))) as picture:
        assert picture.width == 7 * 300


def grey(colour):
    """The lightness of a colour to the eye, from 0 to 1, by which a grey print shows it."""
    pixel = tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return Image.new("RGB", (1, 1), pixel).convert("L").getpixel((0, 0)) / 255


def test_the_default_is_told_in_grey_and_by_bold_letters(drawn):
    figure = drawn(charts.draw_bars, table(MODELS["four"]))
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert len(set(colours[:-1])) == 1 and colours[-1] != colours[0]
    assert abs(grey(charts._DEFAULT) - grey(charts._OTHER)) > 0.3
    weights = [label.get_fontweight() for label in figure.axes[0].get_yticklabels()]
    assert weights == ["normal"] * 3 + ["bold"]


def test_curves_differ_in_more_than_colour(drawn):
    assert len({str(dashes) for _, dashes in charts._CURVES}) == len(charts._CURVES)
    figure = drawn(figures._draw_figure2, trace(MODELS["four"]))
    for axes in figure.axes:
        widths = [line.get_linewidth() for line in axes.get_legend_handles_labels()[0]]
        assert widths == sorted(set(widths), reverse=True)


def test_curves_on_each_other_are_all_seen():
    lines = {name: np.ones(80) for name in ("one", "two", "three")}
    png = charts.draw_lines({"row": {"share": lines}}, "title")
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    for colour, _ in charts._CURVES[:3]:
        there = (pixels == [int(colour[k : k + 2], 16) for k in (1, 3, 5)]).all(-1)
        assert there[:, : pixels.shape[1] * 3 // 4].any(0).sum() > 100  # outside of the legend


def test_lines_start_at_step_1_and_share_an_axis_from_0_to_1(drawn):
    figure = drawn(figures._draw_figure2, trace(MODELS["four"], steps=5))
    cosines = [axes for axes in figure.axes if axes.get_ylabel() == "cosine"]
    assert len(cosines) == 2 and cosines[0].get_ylim() == cosines[1].get_ylim()
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert low < 0 and 1 < high < 1.1
        assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]


def test_a_single_step_is_seen(drawn):
    figure = drawn(figures._draw_figure2, trace(MODELS["four"], steps=1))
    assert all(axes.lines[0].get_marker() == "o" for axes in figure.axes)


def test_panels_without_lines_are_left_out(drawn):
    (axes,) = drawn(figures._draw_figure2, trace(MODELS["one"])).axes
    assert axes.get_ylabel() == "share of photos"


def test_of_many_curves_the_extremes_and_the_median_are_shown(drawn):
    lines = {f"{k}": np.array([k, -k]) / 100 for k in range(9)}
    (axes,) = drawn(charts.draw_lines, {"row": {"cosine": lines}}, "title").axes
    shown, names = axes.get_legend_handles_labels()
    assert names == ["highest of 9", "median", "lowest"]
    values = [line.get_ydata().tolist() for line in shown]
    assert values == [[0.08, 0], [0.04, -0.04], [0, -0.08]]


def marks(axes, marker):
    return [
        (*xy,) for line in axes.lines if line.get_marker() == marker for xy in line.get_xydata()
    ]


def test_the_papers_own_figures(drawn):
    """Hollow, beside the bars of its columns and models alone; at the edge if beyond the axis."""
    paper = {
        "column-0": {"stargan": {"attack_rate": 0.25, "avg_l": 9.0}},
        "column-2": {"stargan": {"attack_rate": 0.0, "avg_l": 0.1}},
    }
    figure = drawn(charts.draw_bars, table(MODELS["four"], paper=paper))
    places = figure.axes[0].get_yticks()
    rates, losses = (figure.axes[k] for k in (0, 5))
    assert marks(rates, "D") == [(0.25, places[0]), (0.0, places[2])] and not marks(rates, ">")
    ((edge, place),) = marks(losses, ">")
    assert 0.1 < edge < losses.get_xlim()[1] and place == places[0]
    assert marks(losses, "D") == [(0.1, places[2])]
    assert not any(marks(axes, "D") for axes in figure.axes if axes not in (rates, losses))
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"paper (other weights, other photos)", "paper, larger than the axis"} < {*entries}
    check_legible(figure)
    without = drawn(charts.draw_bars, table(MODELS["four"]))
    assert not any("paper" in text.get_text() for text in texts(without))


def test_the_papers_steps_are_told_where_they_are_others(drawn):
    paper = {"column-0": {"stargan": {"attack_rate": 0.25, "avg_l": 0.1}}}
    figure = drawn(charts.draw_bars, {**table(MODELS["four"], paper=paper), "steps": 5})
    assert any(f"other photos, T = {STEPS})" in text.get_text() for text in texts(figure))


def test_a_bar_of_zero_is_seen(drawn):
    figure = drawn(charts.draw_bars, table(MODELS["four"], value=0))
    for axes in figure.axes:
        assert [x for x, _ in marks(axes, ".")] == [0] * 4


def test_names_are_drawn_as_they_are_or_spelled():
    """They are no formulas, which would break a chart if they are wrong."""
    name = r"cost $\x$ müller ε 写"
    record = table((name,))
    assert charts.draw_bars({**record, "headings": dict.fromkeys(record["columns"], name)})
    assert charts.draw_lines({"row": {"share": {name: [0, 1]}}}, "title")
