"""Tables of measured columns: as records for programs and as Markdown for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cdmaa_jax.evaluation import report
from cdmaa_jax.experiments import paper
from cdmaa_jax.experiments.columns import STEPS, Table, paper_tables
from cdmaa_jax.experiments.runner import ON_TESTED, TUNED_ON, Measured, Study, column_folder
from cdmaa_jax.experiments.statistics import (
    LEVEL,
    RESAMPLES,
    UNANIMOUS,
    resampling,
    rounded,
    summarize,
)

FORMAT = "cdmaa-jax table"
FORMAT_VERSION = 1


def build_table(
    table: Table, measured: Mapping[str, Measured], study: Study, skipped: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of a table.

    Args:
      table: what it shows.
      measured: name in the table to figures, of each of its columns.
      study: what was measured.
      skipped: photos that could not be used, and why.

    Raises:
      ValueError: the figures are of other columns or photos, or the columns' thresholds differ.
    """
    threshold = _threshold(table)
    folders = {name: column_folder(column, study) for name, column in table.columns.items()}
    if {name: one.folder for name, one in measured.items()} != folders:
        raise ValueError(f"the figures are not those of this study's columns of {table.name}")
    draws = resampling(len(study.crops), study.seed)
    default = measured[table.default].losses
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "table": table.name,
        "title": table.title,
        "columns": {
            name: summarize(one.losses, default, draws, threshold) for name, one in measured.items()
        },
        "losses": {
            name: {model: rounded(values) for model, values in one.losses.items()}
            for name, one in measured.items()
        },
        "domains": {g.name: list(g.domains) for g in study.ensemble.generators},
        "default": table.default,
        "headings": table.headings,
        "quality": {name: _quality(one) for name, one in measured.items()},
        "paper": _printed(table),
        "configuration": {name: _configuration(one) for name, one in measured.items()},
        "made_with": {name: one.made_with for name, one in measured.items() if one.made_with},
        "facts": {name: one.facts for name, one in measured.items() if one.facts},
        "threshold": threshold,
        "seconds": {name: round(one.seconds, 3) for name, one in measured.items()},
        **about(study, skipped),
        "steps": table.columns[table.default].config.resolve().steps,
        **(_tuning(study) if any(c.is_tuned for c in table.columns.values()) else {}),
    }


def _threshold(table: Table) -> float:
    """The τ by which all columns of a table are judged."""
    found = {name: column.config.threshold for name, column in table.columns.items()}
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} {threshold:g}" for name, threshold in found.items())
        raise ValueError(f"the columns of {table.name} have different thresholds: {told}")
    return found[table.default]


def _tuning(study: Study) -> dict[str, Any]:
    """What determines the figures of methods that are tuned before they are tested."""
    return {"tuning": [crop.entry() for crop in study.tuning]}


def about(study: Study, skipped: Sequence[str] = ()) -> dict[str, Any]:
    """What every result records about how it was made."""
    return {
        "seed": study.seed,
        "steps": study.steps,
        "bootstrap": {"resamples": RESAMPLES, "level": LEVEL, "seed": study.seed},
        "images": [crop.entry() for crop in study.crops],
        "skipped": list(skipped),
        "labelled": study.labels is not None,
        "attributes": None if study.labels is None else list(study.labels.attributes),
        "image_size": study.size,
        "batch_size": study.batch,
        "ensemble": report.describe(study.ensemble)["generators"],
        "purposes": _purposes(study),
        **report.made_with(),
    }


def _purposes(study: Study) -> dict[str, str]:
    """Generator name to the purpose that its metadata state, of those that state one."""
    pairs = zip(study.ensemble.generators, study.ensemble.metadata, strict=True)
    stated = {generator.name: metadata.extra.get("purpose") for generator, metadata in pairs}
    return {name: " ".join(str(purpose).split()) for name, purpose in stated.items() if purpose}


def stated_purposes(record: Mapping[str, Any]) -> str:
    """A sentence to put after others, `` Generators: demonstration weights.``; empty without any.

    It names the generators of a purpose that not all have.
    """
    names: dict[str, list[str]] = {}
    for name, purpose in record["purposes"].items():
        names.setdefault(purpose, []).append(name)
    every = len(record["ensemble"])
    parts = [
        purpose if len(some) == every else f"{purpose} ({', '.join(some)})"
        for purpose, some in names.items()
    ]
    return f" Generators: {'; '.join(parts)}." if parts else ""


def to_markdown(record: Mapping[str, Any]) -> str:
    """A table for people: measured figures with intervals, and the paper's in separate columns."""
    lines = [f"## {record['title']}", "", _protocol(record), ""]
    lines += markdown_table(_figure_rows(record))
    if len(record["columns"]) == 1:
        return "\n".join(lines) + "\n"
    default = record["headings"][record["default"]]
    paired = f"Less the default ({default}), paired: attack_rate in points with the 95 % interval"
    lines += ["", f"{paired} of the difference, and avg_L in round brackets:", ""]
    lines += markdown_table(_difference_rows(record))
    return "\n".join(lines) + "\n"


def _quality(measured: Measured) -> dict[str, float | None]:
    """How little the crops were changed: mean PSNR of the changed ones, and the largest change."""
    changed = measured.psnr[np.isfinite(measured.psnr)]
    return {
        "psnr": float(changed.mean()) if len(changed) else None,
        "linf": float(measured.linf.max()),
    }


def _configuration(measured: Measured) -> dict[str, Any]:
    column = measured.column
    named = {"method": column.method} | ({"model": column.model} if column.model else {})
    weights = measured.facts.get("weights")  # those that a search found
    found = {"model_weights": [weights[name] for name in measured.losses]} if weights else {}
    return {**named, **dataclasses.asdict(column.config), **found}


def _printed(table: Table) -> dict[str, Any] | None:
    """The paper's own figures for a table, if it is one of the paper's, and their source."""
    if table not in paper_tables(table.columns[table.default].config.steps).values():
        return None
    columns = {
        column: {model: printed._asdict() for model, printed in models.items()}
        for column, models in paper.TABLES[table.name].items()
    }
    return {"source": paper.SOURCE, "columns": columns}


def photos_of(record: Mapping[str, Any]) -> str:
    """How many photos were measured, in words."""
    count = len(record["images"])
    return "1 photo" if count == 1 else f"{count} photos"


def _protocol(record: Mapping[str, Any]) -> str:
    images = record["images"]
    lost = sum(image["face"] is False for image in images)
    faces = f" ({lost} without a face found: centre square)" if lost else ""
    text = (
        f"attack_rate, the share of image and edit pairs with L > {record['threshold']:g}, with "
        f"its 95 % interval over images ({UNANIMOUS}), and avg_L in round brackets; T = "
        f"{record['steps']}; {photos_of(record)}{faces} as crops of {record['image_size']} px, "
        f"saved as 8-bit files and read back, seed {record['seed']}.{stated_purposes(record)} "
        "Pairs in which the edit changes little count. The row “mean” is the mean over the models."
    )
    tuned = [name for name, facts in record["facts"].items() if facts.get(TUNED_ON) == ON_TESTED]
    if tuned:
        names = ", ".join(record["headings"][name] for name in tuned)
        text += f" Tuned on the tested photos, for want of others: {names}."
    if record["made_with"]:
        names = ", ".join(record["headings"][name] for name in record["made_with"])
        text += (
            " Measured in part with other versions, in another precision, or on another device or "
            f"number of cores: {names}."
        )
    if record["paper"]:
        text += f" Columns marked “paper” are of {record['paper']['source']}"
        text += "." if record["steps"] == STEPS else f", of T = {STEPS}."
    return text


def _figure_rows(record: Mapping[str, Any]) -> list[list[str]]:
    printed = (record["paper"] or {"columns": {}})["columns"]
    head = ["model"]
    for name in record["columns"]:
        head.append(record["headings"][name])
        head += ["paper"] if name in printed else []
    rows = [head]
    for model in _models(record):
        row = [model]
        for name, column in record["columns"].items():
            row.append(_cell(column[model]))
            row += [_printed_cell(printed[name].get(model))] if name in printed else []
        rows.append(row)
    return rows


def _difference_rows(record: Mapping[str, Any]) -> list[list[str]]:
    others = [name for name in record["columns"] if name != record["default"]]
    rows = [["model", *(record["headings"][name] for name in others)]]
    for model in _models(record):
        cells = [record["columns"][name][model]["difference"] for name in others]
        rows.append([model, *(_cell(cell, signed=True) for cell in cells)])
    return rows


def _models(record: Mapping[str, Any]) -> list[str]:
    return list(record["columns"][record["default"]])


def _cell(figures: Mapping[str, Any], signed: bool = False) -> str:
    """``97.6 % [95.9, 99.0] (0.236)``; differences in points and with their sign."""
    low, high = (100 * end for end in figures["interval"])
    rate, average = 100 * figures["attack_rate"], figures["avg_l"]
    if signed:
        return f"{rate:+.1f} [{low:+.1f}, {high:+.1f}] ({average:+.3f})"
    return f"{rate:.1f} % [{low:.1f}, {high:.1f}] ({average:.3f})"


def _printed_cell(figures: Mapping[str, float] | None) -> str:
    if figures is None:
        return ""
    return f"{100 * figures['attack_rate']:.1f} % ({figures['avg_l']:.3f})"


def _as_cell(text: str) -> str:
    """Text for a cell of a Markdown table, which a bar would end."""
    return text.replace("|", r"\|")


def markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, of which the first row is the heading."""
    lines = ["| " + " | ".join(map(_as_cell, row)) + " |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]
