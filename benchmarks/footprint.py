"""How much memory an attack takes in a fresh process, compared with the planned amount."""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks.machine import machine
from benchmarks.session import (
    Options,
    Say,
    check_precision,
    open_ours,
    prepare,
    set_up,
    settings_of,
)

STEPS = 1
"""All iterations of a loop take the same memory."""


def measure(options: Options, chunk: int | None, say: Say) -> dict[str, Any]:
    """Everything that ``python -m benchmarks memory`` reports, for JSON.

    Raises:
      BenchmarkError: the process fails, or the requested work does not fit.
    """
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        asked = {"models": [model.name for model in prepared.models], "chunk": chunk}
        found = {}
        for state in ("compiling", "cached"):
            say(f"a fresh process, {state}: the clean outputs and a step (seconds to minutes)")
            with open_ours(options) as worker:
                versions = set_up(worker, options, folder)
                check_precision(options.precision, versions["platform"])
                plan = worker("plan", **asked)
                worker("run", steps=STEPS, **asked)
                found[state] = worker("memory")
    return {
        "benchmark": "memory",
        "settings": settings_of(options, prepared),
        "machine": machine(),
        "versions": {"ours": versions},
        "plan": plan,
        **found,
    }


def text(report: dict[str, Any]) -> str:
    """The figures in words."""
    s, plan = report["settings"], report["plan"]
    models = [
        f"{model['name']} (domains: {model['domains']}, photos at a time: {chunk})"
        for model, chunk in zip(s["generators"], plan["chunks"], strict=True)
    ]
    lines = [
        f"memory of an attack at {s['size']} px, batch {s['batch']}, {s['precision']}, on "
        + ", ".join(models),
        f"planned: {plan['bytes'] / 2**30:.2f} GiB of arrays",
    ]
    for state, label in (("compiling", "compiled in it"), ("cached", "from the cache")):
        process, device = report[state]["process"], report[state]["device"]
        lines.append(
            f"peak of a process, its program {label}: {process / 2**30:.2f} GiB"
            + ("" if device is None else f", {device / 2**30:.2f} GiB on the device")
        )
    return "\n".join(lines)
