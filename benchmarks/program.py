"""What XLA compiles for a device that need not be present: a step's kernels, what they move."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.compare import report_by_precision
from benchmarks.hlo import loop_kernels
from benchmarks.report import digits, table
from benchmarks.session import Options, Say, open_ours, prepare, set_up
from benchmarks.targets import TARGETS

KINDS = ("convolution", "product", "copy", "other")
HEADINGS = (
    "", "kernels a step", "convolutions", "copies", "GB a step", "of convolutions", "ms at least",
    "GiB taken", "GiB planned", "s to compile",
)  # fmt: skip


def measure(
    options: Options,
    precisions: Sequence[str],
    say: Say,
    keep: Callable[[Any], None],
    target: str,
) -> dict[str, Any]:
    """Everything that ``python -m benchmarks program`` reports, for JSON.

    ``keep(report)`` is called after each precision, with the precisions so far; ``target`` is a
    name in ``TARGETS``.

    Raises:
      BenchmarkError: a process fails, or JAX's plugin for the device is missing.
    """
    device = TARGETS[target]
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        names = [model.name for model in prepared.models]
        report = report_by_precision("program", options, prepared, precisions)
        report["device"] = device.title
        for precision in precisions:
            say(f"{precision}: compiling for {device.title} (minutes)")
            here = dataclasses.replace(options, precision=precision)
            with open_ours(here, {"JAX_PLATFORMS": "cpu", **device.environment}) as worker:
                report["versions"] = {"ours": set_up(worker, here, folder)}
                report["precisions"][precision] = figures(
                    worker("program", target=target, models=names), device.bytes_per_second
                )
            keep(report)
    return report


def figures(compiled: Mapping[str, Any], bytes_per_second: float) -> dict[str, Any]:
    """The figures of one program, as returned by ``ahead.compile_attack``."""
    kernels = loop_kernels(compiled["text"])
    sizes = {k: sum(one.size for one in kernels if one.kind == k) for k in KINDS}
    counts = Counter(one.kind for one in kernels)
    return {
        "kernels_per_step": counts.total() - counts["copy"],
        "kernels_by_kind": counts,
        "bytes_per_step": sum(sizes.values()),
        "bytes_by_kind": sizes,
        "seconds_at_least": sum(sizes.values()) / bytes_per_second,
        "compile_seconds": compiled["seconds"],
        "memory_bytes": compiled["bytes"],
        "planned_bytes": compiled["planned"],
    }


def text(report: Mapping[str, Any]) -> str:
    """The figures as a table."""
    s, v = report["settings"], report["versions"]["ours"]
    names = " + ".join(model["name"] for model in s["generators"])
    rows = [HEADINGS, *(line(name, one) for name, one in report["precisions"].items())]
    return "\n".join(
        [
            f"CDMAA on {names} at {s['size']} px, batch {s['batch']}, as compiled for "
            f"{report['device']}; jax {v['jax']}",
            *table(rows),
            NOTES,
        ]
    )


NOTES = """\
copies: run beside the kernels; on a TPU, to its cores' own memory. GB: of the arrays that kernels
and copies read from the device's main memory and write to it, but for loops within a step.
ms at least: that, at the memory's nominal rate; caches may do better. Nothing was run."""


def line(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one precision."""
    return (
        name,
        f"{one['kernels_per_step']}",
        f"{one['kernels_by_kind']['convolution']}",
        f"{one['kernels_by_kind']['copy']}",
        digits(one["bytes_per_step"] / 1e9),
        digits(one["bytes_by_kind"]["convolution"] / 1e9),
        digits(1e3 * one["seconds_at_least"]),
        f"{one['memory_bytes'] / 2**30:.2f}",
        f"{one['planned_bytes'] / 2**30:.2f}",
        digits(one["compile_seconds"]),
    )
