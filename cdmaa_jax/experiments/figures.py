"""The paper's figures: the gradients of Figure 2, and sheets of generators' edits of photos."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdmaa_jax import disk
from cdmaa_jax.evaluation import metrics, report
from cdmaa_jax.evaluation.picture import readable
from cdmaa_jax.experiments import charts, runner
from cdmaa_jax.experiments.columns import Column, Table
from cdmaa_jax.experiments.forecast import Work, cost
from cdmaa_jax.experiments.gradients import (
    COSINE,
    RATIO,
    Trace,
    arrays_of,
    join,
    prepare_trace,
    summarize_trace,
    trace_gradients,
)
from cdmaa_jax.experiments.methods import crop_images, labels_of, see_crop
from cdmaa_jax.experiments.records import read_arrays
from cdmaa_jax.experiments.runner import Measured, Study
from cdmaa_jax.experiments.sheets import Row, Tile, draw_sheet
from cdmaa_jax.experiments.statistics import UNANIMOUS, digits_of, rounded
from cdmaa_jax.experiments.tables import about, markdown_table, photos_of, stated_purposes
from cdmaa_jax.images import files
from cdmaa_jax.protection import batches, conditions_of, fit_views, padding_mask

FORMAT = "cdmaa-jax figure"
TRACE = "gradients.npz"
ELSEWHERE = (
    "Measured with other versions, in another precision, or on another device or number of cores."
)
MOST_TRACED = 20
"""Limit of images in Figure 2: a trace costs several times as much as an attack."""
MOST_SHOWN = 4
"""Limit of photos in Figure 4."""
_METRICS = {COSINE: "cosine", RATIO: "norm ratio"}
_L = "L is the mean squared difference from the edit of the original, in units of [-1, 1]"


# Captions


def shown(name: str, title: str, caption: str) -> str:
    """A picture and its caption, in Markdown."""
    return f"![{title}]({name}.png)\n\n{caption}\n"


def caption_of_bars(record: Mapping[str, Any]) -> str:
    """What the bars of a table show."""
    return (
        f"Above: attack_rate, the share of edits with L > {record['threshold']:g}. Below: avg_L, "
        f"the mean of L; dotted: the threshold of L. {_L}. Whiskers: 95 % intervals over "
        f"{photos_of(record)}. Blue: {record['headings'][record['default']]}, the default. “mean” "
        f"is the mean over the generators.{_printed_marks(record)}{stated_purposes(record)}"
    )


def _printed_marks(record: Mapping[str, Any]) -> str:
    """The sentence on the paper's figures, if there are any."""
    return f" Hollow: those of {record['paper']['source']}" if record["paper"] else ""


def caption_of_outputs(record: Mapping[str, Any]) -> str:
    """What the sheet of an ablation shows."""
    return (
        "The first photo (top row), its protected copies (one row for each way), and every "
        f"generator's edits of them. L as above; {_red(record)}.{stated_purposes(record)}"
    )


def caption_of_gradients(record: Mapping[str, Any]) -> str:
    """What the lines of Figure 2 show."""
    return (
        "Means over photos at each step: (a) between the gradients of a model's domains, the mean "
        "over their pairs; (b) between those of two models. Theorem 1: the share of photos in "
        "which w · grad_j, sign(w) · grad_j, or step · grad_j, with x_{t+1} - x_t for the step, is "
        "positive for every model j."
        f"{stated_purposes(record)}"
    )


def caption_of_edits(record: Mapping[str, Any]) -> str:
    """What the sheet of Figure 4 shows."""
    count, config = len(record["photos"]), record["configuration"]
    photos = "The first photo," if count == 1 else f"The first {count} photos, each"
    return (
        f"{photos} above its protected copy (T = {config['steps']}, ε = {config['epsilon']:g}). "
        "Left: the photo; right of it: what each generator makes of it, a column for each edit. "
        f"{_L}; {_red(record)}.{stated_purposes(record)}"
    )


def _red(record: Mapping[str, Any]) -> str:
    return f"“intact”, in red: L ≤ {record['threshold']:g}, not spoiled"


# Figure 2


def traced(study: Study) -> Study:
    """The part of a study that Figure 2 covers: whole batches, about ``MOST_TRACED`` images."""
    count = max(study.batch, MOST_TRACED // study.batch * study.batch)
    return dataclasses.replace(study, crops=study.crops[:count])


def gradient_column(default: Column) -> Column:
    """The trace of the default column, as a column with its own folder."""
    return dataclasses.replace(default, method="gradients")


def work_of_trace(default: Column, study: Study) -> Work:
    """The work of tracing."""
    few, column = traced(study), gradient_column(default)
    total = len(_batches(few))
    done = total if _saved(column, few).is_file() else 0
    models = study.ensemble.generators
    each = 2 * cost(default, models, models) * study.batch
    return Work(column.slug, total, done, each)


def prepare_figure2(default: Column, study: Study) -> None:
    """Compiles the programs that trace gradients, unless the trace exists; runs nothing."""
    few = traced(study)
    column = gradient_column(default)
    if not _saved(column, few).is_file():
        prepare_trace(*_tracing(column, few, next(batches(len(few.crops), few.batch))))


def measure_figure2(
    default: Column, study: Study, progress: Callable[[int], None], skipped: Sequence[str] = ()
) -> tuple[dict[str, Any], bytes]:
    """The record of Figure 2, and its chart as a PNG file."""
    few = traced(study)
    trace, seconds, made_with = _trace(gradient_column(default), few, progress)
    domains = {g.name: g.domains for g in study.ensemble.generators}
    record = {
        "format": FORMAT,
        "figure": "figure2",
        "title": "Figure 2. How alike gradients are, over the steps of the attack",
        **summarize_trace(trace, domains, study.seed),
        "configuration": dataclasses.asdict(default.config),
        "seconds": round(seconds, 1),
        "made_with": None if made_with == report.made_with() else made_with,
        **about(few, skipped),
    }
    return record, _draw_figure2(record)


def figure2_markdown(record: Mapping[str, Any]) -> str:
    """Figure 2 in numbers."""
    protocol = (
        f"Means over {record['steps']} steps and pairs of gradients, with 95 % intervals over "
        f"{photos_of(record)} ({UNANIMOUS}); the norm ratio is the smaller norm over "
        "the larger."
    )
    title = record["title"]
    lines = [
        f"## {title}",
        "",
        shown("figure2", title, caption_of_gradients(record)),
        f"{protocol} {ELSEWHERE}" if record["made_with"] else protocol,
        "",
    ]
    rows = [["gradients of", "cosine", "norm ratio"]]
    groups = {f"the domains of {name}": one for name, one in record["between_domains"].items()}
    if record["between_models"]:
        groups["the models"] = record["between_models"]
    for title, one in groups.items():
        rows.append([title, _mean(one[COSINE]), _mean(one[RATIO])])
    theorem = record["theorem1"]
    lines += [
        *markdown_table(rows),
        "",
        f"w · grad_j > 0 for every model j (Theorem 1) in {_percent(theorem['w'])} of the steps; "
        f"sign(w) · grad_j, by the step before it is clipped, in {_percent(theorem['sign(w)'])}; "
        f"(x_{{t+1}} - x_t) · grad_j, by the step that is taken, in {_percent(theorem['step'])}.",
    ]
    return "\n".join(lines) + "\n"


def _trace(
    column: Column, study: Study, progress: Callable[[int], None]
) -> tuple[Trace, float, dict[str, Any]]:
    """The trace of a study's images, its seconds, and what it was made with.

    Read from its file if there is one.
    """
    path = _saved(column, study)
    if (saved := read_arrays(path)) is not None:
        progress(len(_batches(study)))
        trace = Trace(*(saved[field.name] for field in dataclasses.fields(Trace)))
        made_with = report.made_with_in(json.loads(str(saved["made_with"])))
        return trace, float(saved["seconds"]), made_with
    start, traces = time.monotonic(), []
    for rows in _batches(study):
        traces.append(_trace_batch(column, study, rows))
        progress(1)
    trace, seconds, made_with = join(traces), time.monotonic() - start, report.made_with()
    facts: dict[str, Any] = {"seconds": seconds, "made_with": json.dumps(made_with)}
    file = io.BytesIO()
    np.savez(file, **dataclasses.asdict(trace), **facts)
    disk.make_folder(path.parent)
    disk.write_whole(path, file.getvalue())
    return trace, seconds, made_with


def _trace_batch(column: Column, study: Study, rows: np.ndarray) -> Trace:
    """The trace of the images of a batch, without its padding."""
    trace, kept = trace_gradients(*_tracing(column, study, rows)), padding_mask(rows)
    return Trace(*(array[:, kept] for array in arrays_of(trace)))


def _tracing(column: Column, study: Study, rows: np.ndarray) -> tuple[Any, ...]:
    """The arguments of ``trace_gradients`` for a batch."""
    crops = [study.crops[i] for i in rows]
    labels = labels_of(crops, study)
    models = fit_views(study.ensemble.generators, study.size, study.size)
    conditions = [conditions_of(model, labels, len(crops)) for model in models]
    return column.config, models, crop_images(crops), conditions, study.seed


def _batches(study: Study) -> list[np.ndarray]:
    return list(batches(len(study.crops), study.batch))


def _saved(column: Column, study: Study) -> Path:
    return runner.column_folder(column, study) / TRACE


def _draw_figure2(record: Mapping[str, Any]) -> bytes:
    domains, models = record["between_domains"], record["between_models"]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    if domains:
        rows["(a) between domains"] = {
            label: {name: one[metric]["by_step"] for name, one in domains.items()}
            for metric, label in _METRICS.items()
        }
    if models:
        rows["(b) between models"] = {
            label: {pair: one["by_step"] for pair, one in models[metric]["pairs"].items()}
            for metric, label in _METRICS.items()
        }
    theorem = {name: one["by_step"] for name, one in record["theorem1"].items()}
    rows["Theorem 1"] = {"share of photos": theorem}
    return charts.draw_lines(rows, record["title"])


def _mean(figures: Mapping[str, Any]) -> str:
    low, high = figures["interval"]
    return f"{figures['mean']:.3f} [{low:.3f}, {high:.3f}]"


def _percent(figures: Mapping[str, Any]) -> str:
    mean, low, high = (
        f"{100 * share:.{digits_of(share)}g}" for share in (figures["mean"], *figures["interval"])
    )
    return f"{mean} % [{low}, {high}]"


# Sheets


def figure4(measured: Measured, study: Study, skipped: Sequence[str] = ()) -> tuple[Any, bytes]:
    """The record of Figure 4 and its sheet: photos, protected photos, and the edits of both."""
    threshold = measured.column.config.threshold
    shown = study.crops[:MOST_SHOWN]
    before = _edits(study, [crop.path for crop in shown], range(len(shown)))
    copies = [measured.folder / name for name in measured.files[: len(shown)]]
    after = _edits(study, copies, range(len(shown)))
    losses = np.concatenate([values[: len(shown)] for values in measured.losses.values()], axis=1)
    rows = []
    for i, crop in enumerate(shown):
        rows.append(Row(f"{crop.file} original", [Tile(image) for image in before[i]]))
        tiles = [Tile(after[i][0]), *_tiles(after[i][1:], losses[i], threshold)]
        rows.append(Row("protected", tiles))
    groups, columns = _columns_of(study)
    record = {
        "format": FORMAT,
        "figure": "figure4",
        "title": "Figure 4. Photos, protected photos, and what the generators make of both",
        "photos": [crop.file for crop in shown],
        "losses": {name: rounded(v[: len(shown)]) for name, v in measured.losses.items()},
        "threshold": threshold,
        "configuration": dataclasses.asdict(measured.column.config),
        "made_with": list(measured.made_with) or None,
        **about(study, skipped),
    }
    return record, draw_sheet(groups, columns, rows)


def draw_outputs(table: Table, measured: Mapping[str, Measured], study: Study) -> bytes:
    """The sheet of an ablation: the first photo's edits, and those of every column's copy."""
    copies = [one.folder / one.files[0] for one in measured.values()]
    before, *each = _edits(study, [study.crops[0].path, *copies], [0] * (1 + len(copies)))
    rows = [Row("original", [Tile(image) for image in before])]
    for (name, one), after in zip(measured.items(), each, strict=True):
        losses = np.concatenate([values[0] for values in one.losses.values()])
        tiles = _tiles(after[1:], losses, one.column.config.threshold)
        rows.append(Row(table.headings[name], [Tile(after[0]), *tiles]))
    return draw_sheet(*_columns_of(study), rows)


def _edits(study: Study, paths: Sequence[Any], rows: Sequence[int]) -> list[list[np.ndarray]]:
    """For each photo, what the largest generator sees, then every edit by every model.

    In batches of the study's size, for which the measuring programs are compiled already.
    """
    from_table = labels_of([study.crops[i] for i in rows], study)
    pixels = [files.read_photo(path).pixels for path in paths]
    seen = [[see_crop(one, study.size)] for one in pixels]
    for generator in study.ensemble.generators:
        inputs = np.stack([see_crop(one, generator.image_size) for one in pixels])
        conditions = conditions_of(generator, from_table, len(paths))
        for some in batches(len(paths), study.batch):
            outputs = np.asarray(metrics.edits(generator, inputs[some], conditions[some]))
            kept = padding_mask(some)
            for place, edits in zip(some[kept], outputs[kept], strict=True):
                seen[place] += list(edits)
    return seen


def _tiles(images: Sequence[np.ndarray], losses: np.ndarray, threshold: float) -> list[Tile]:
    return [
        Tile(image, f"L {loss:.3f}", holds=loss <= threshold)
        for image, loss in zip(images, losses, strict=True)
    ]


def _columns_of(study: Study) -> tuple[list[str], list[str]]:
    """The headings of the columns: the model, and the domain."""
    groups, columns = ["photo"], [""]
    for generator in study.ensemble.generators:
        groups += [generator.name] * len(generator.domains)
        columns += [readable(domain) for domain in generator.domains]
    return groups, columns
