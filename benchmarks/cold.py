"""How long a user waits for the compiler in a fresh process: without a cache, then with one."""

from __future__ import annotations

import contextlib
import tempfile
import time
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

STEPS = 2
"""Steps of the compiled program; the length of its loop does not change what is compiled."""


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Everything that ``python -m benchmarks compile`` reports, for JSON.

    Raises:
      BenchmarkError: a process fails.
    """
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        names = [model.name for model in prepared.models]
        say("a fresh process with an empty cache (up to minutes)")
        versions, empty = first_run(options, folder, names)
        say("a fresh process with the cache that it left")
        _, full = first_run(options, folder, names)
    return {
        "benchmark": "compile",
        "settings": settings_of(options, prepared),
        "machine": machine(),
        "versions": {"ours": versions},
        "cold": empty,
        "cached": full,
    }


def first_run(options: Options, folder: str, names: list[str]) -> tuple[Any, dict[str, Any]]:
    """Versions, with seconds from the start of a process to its first result, and of compilation.

    Compilation time is the first run minus the same number of attacks at the second run's speed:
    tracing, lowering and XLA, or reading the cache.
    """
    begin = time.perf_counter()
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(open_ours(options))
        versions = set_up(worker, options, folder)
        check_precision(options.precision, versions["platform"])
        first = worker("run", models=names, steps=STEPS)
        whole = time.perf_counter() - begin
        memory = worker("memory")
        second = worker("run", models=names, steps=STEPS)
    return versions, {
        "compile_seconds": first["seconds"] - first["attacks"] * second["seconds"],
        "process_seconds": whole,
        "stages": first["stages"],
        "memory": memory,
    }


def text(report: dict[str, Any]) -> str:
    """The figures in words."""
    s = report["settings"]
    names = " + ".join(model["name"] for model in s["generators"])
    lines = [f"compilation for {names} at {s['size']} px, batch {s['batch']}, {s['precision']}"]
    for key, label in (("cold", "empty cache"), ("cached", "persistent cache")):
        one = report[key]
        lines.append(
            f"{label}: {one['compile_seconds']:.1f} s of compilation, "
            f"{one['process_seconds']:.1f} s from the start of the process to its first result, "
            f"peak {one['memory']['process'] / 2**30:.2f} GiB"
        )
        lines += [f"  {stage}: {seconds:.1f} s" for stage, seconds in sorted(one["stages"].items())]
    return "\n".join(lines)
