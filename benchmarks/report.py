"""The comparison's figures as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OURS = "cdmaa-jax"
NO_GRAPH = "no CUDA graph could be made of our attack: its kernels were launched one by one"
BUSY = 1.3
HEADINGS = (
    "",
    "s per image-iteration",
    "(min to max)",
    "start s",
    "images/s at T=80",
    "compile s",
    "peak GiB",
    "GFLOP/s",
    "of peak",
)


def text(report: Mapping[str, Any]) -> str:
    """All cases of a comparison, with the machine they were measured on."""
    parts = [heading(report), *(case(one) for one in report["cases"]), NOTES]
    return "\n\n".join(parts)


NOTES = """\
s per image-iteration: of a step, for one photo; ours of the compiled program, whose first turn
makes the clean outputs and takes as long as a step, PyTorch's timed directly. start: the clean
outputs, once per photo. images/s at T=80 are extrapolated from both, compilation apart. compile:
the first run less a later one. peak: resident memory of a fresh process (ours with its compiled
program cached; on a GPU, of the device, for PyTorch without what trying out kernels took).
GFLOP/s: operations of the algorithm, counted by hand, over the time; of peak: over the larger of
both frameworks' large matrix products (Winograd's convolutions do fewer than are counted, so more
than all of it is possible). split: what depends on the photo alone is convolved once for all
domains. Dropped variants (*) ran one round."""


def heading(report: Mapping[str, Any]) -> str:
    """What was measured, and on which machine."""
    s, m, v = report["settings"], report["machine"], report["versions"]
    threads = v["torch"]["threads"]
    peak = {side: rate / 1e9 for side, rate in report["matmul_flops_per_second"].items()}
    return "\n".join(
        [
            f"CDMAA at {s['size']} px, batch {s['batch']}, {s['precision']}",
            f"{m['processor']}, {threads} threads, {v['ours']['device']}; "
            f"jax {v['ours']['jax']}, torch {v['torch']['torch']}, Python {m['python']}",
            f"matmul peak: {peak['ours']:.0f} GFLOP/s in JAX, {peak['torch']:.0f} in PyTorch",
        ]
    )


def case(one: Mapping[str, Any]) -> str:
    """The table of one case and its ratios."""
    rows = [HEADINGS, line(OURS, one["ours"])]
    rows += [line(f"PyTorch {name}", row) for name, row in one["torch"].items()]
    lines = [" + ".join(one["models"]), *table(rows)]
    for kind, label in (("eager", "eager"), ("compile", "torch.compile")):
        lines.append(ratio(one, kind, label))
    lines += [*busy(one), agreement(one)]
    lines += [NO_GRAPH] if one["ours"]["graph"] is False else []
    lines.append(f"operations of a step: {digits(one['flops']['step'] / 1e9)} GFLOP per photo")
    lines += [f"left out: {name} ({reason})" for name, reason in one["left_out"].items()]
    return "\n".join(lines)


def line(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one side or variant."""
    seconds = row["seconds_per_image_iteration"]
    peak = row["memory"] and (row["memory"]["device"] or row["memory"]["process"])
    return (
        name + (" *" if row["dropped"] else ""),
        digits(seconds["median"]),
        f"({digits(seconds['min'])} to {digits(seconds['max'])})",
        digits(row["start_seconds"]["median"]),
        digits(row["images_per_second_at_80_steps"]),
        "" if row["compile_seconds"] is None else f"{row['compile_seconds']:.1f}",
        f"{peak / 2**30:.2f}" if peak else "",
        digits(row["flops_per_second"] / 1e9),
        f"{row['share_of_matmul_peak']:.0%}",
    )


def digits(value: float) -> str:
    """Formats a number with three digits."""
    return f"{value:.3g}"


def ratio(one: Mapping[str, Any], kind: str, label: str) -> str:
    """One line: the speedup over the best variant of a kind."""
    value, best = one[f"ratio_vs_{kind}"], one[f"best_{kind}"]
    if value is None:
        return f"against {label}: not measured"
    return f"against the best {label} ({best}): {value:.2f} times as fast"


def busy(one: Mapping[str, Any]) -> list[str]:
    """A warning if repetitions of the same run took very different times."""
    rows = [one["ours"], *(row for row in one["torch"].values() if not row["dropped"])]
    times = [row["seconds_per_image_iteration"] for row in rows]
    worst = max(t["max"] / t["min"] if t["min"] > 0 else float("inf") for t in times)
    if worst < BUSY:
        return []
    return [
        f"times of the same run differ by a factor of {worst:.1f}: measure on a quieter machine"
    ]


def agreement(one: Mapping[str, Any]) -> str:
    """How closely the losses of both sides agree, for the worst variant."""
    steps = one["agreement"]["steps"]
    found = one["agreement"]["relative_difference"].values()
    worst = max(max(each[:steps]) for each in found)
    last = max(each[-1] for each in found)
    count = len(next(iter(found)))
    later = f", of step {count} within {last:.0e}" if count > steps else ""
    first = f"losses of the first {steps} steps agree within {worst:.0e} of their size"
    return f"same work: {first}{later}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with aligned columns, the first one left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
