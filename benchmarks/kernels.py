"""What a GPU does in an attack: the time of its kernels, by kind, in each precision."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compare import report_by_precision
from benchmarks.report import NO_GRAPH, digits, table
from benchmarks.session import Options, Say, open_ours, prepare, set_up
from benchmarks.workers import BenchmarkError

STEPS = 80
TURNS = STEPS + 1
"""Iterations of the loop; the first computes the clean outputs and takes as long as a step."""
REPEATS = 5
CONVOLUTIONS = (
    "cudnn", "implicit_gemm", "convolve", "winograd", "dgrad", "fprop", "addpadding",
    "nchwtonhwc", "nhwctonchw", "converttensor", "memset",
)  # fmt: skip
"""Parts of the names of cuDNN's kernels, including its own padding, conversion and zeroing."""
PRODUCTS = ("gemm", "gemv", "dot", "nvjet", "cutlass")
HEADINGS = (
    "", "images/s at T=80", "ms a step", "TFLOP/s", "of peak", "kernels a step",
    "convolutions ms", "TFLOP/s", "of peak", "products ms", "other ms",
)  # fmt: skip


def measure(
    options: Options, precisions: Sequence[str], say: Say, keep: Callable[[Any], None]
) -> dict[str, Any]:
    """Everything that ``python -m benchmarks kernels`` reports, for JSON.

    ``keep(report)`` is called after each precision, with the precisions so far.

    Raises:
      BenchmarkError: a process fails, or there is no GPU.
    """
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        names = [model.name for model in prepared.models]
        report = report_by_precision("kernels", options, prepared, precisions)
        for precision in precisions:
            say(
                f"{precision}: compiling, then {REPEATS} attacks of {STEPS} steps, and one profiled"
            )
            here = dataclasses.replace(options, precision=precision)
            with open_ours(here) as worker:
                versions = set_up(worker, here, folder)
                if versions["platform"] != "gpu":
                    raise BenchmarkError("kernels are timed on a GPU, and JAX has none here")
                found = measure_one(worker, names) | {"matmul": worker("matmul")}
            report["versions"] = {"ours": versions}
            report["precisions"][precision] = figures(
                found, report["flops"]["step"], prepared.batch
            )
            keep(report)
    return report


def measure_one(worker: Any, names: Sequence[str]) -> dict[str, Any]:
    """Seconds of whole attacks, and the kernels of one attack.

    Raises:
      BenchmarkError: the profile holds no kernels, as without the rights that a profiler needs.
    """
    first = worker("run", models=names, steps=STEPS)
    runs = [worker("run", models=names, steps=STEPS)["seconds"] for _ in range(REPEATS)]
    found = worker("profile", models=names, steps=STEPS)
    if not found:
        raise BenchmarkError("the profile holds no GPU kernels; may this user profile the GPU?")
    times = {"first": first["seconds"], "attacks": first["attacks"], "runs": runs}
    return {**times, "graph": first["graph"], "kernels": found}


def figures(found: Mapping[str, Any], flops: int, batch: int) -> dict[str, Any]:
    """The figures of one precision; ``flops`` are the operations of a step for one photo.

    Those of convolutions are None if no kernel has the name of one.
    """
    whole = statistics.median(found["runs"])
    rate = batch * TURNS * flops / whole
    seconds = by_kind(found["kernels"])
    spent = seconds["convolutions"]
    convolving = batch * TURNS * flops / spent if spent else None
    return {
        "compile_seconds": found["first"] - found["attacks"] * whole,
        "seconds": {"median": whole, "min": min(found["runs"]), "max": max(found["runs"])},
        "images_per_second_at_80_steps": batch / whole,
        "seconds_per_step": whole / TURNS,
        "matmul_flops_per_second": found["matmul"],
        "flops_per_second": rate,
        "share_of_matmul_peak": rate / found["matmul"],
        "kernels_per_step": sum(count for _, count, _ in found["kernels"]) / TURNS,
        "kernel_seconds_per_step": {kind: total / TURNS for kind, total in seconds.items()},
        "convolution_flops_per_second": convolving,
        "convolution_share_of_matmul_peak": convolving and convolving / found["matmul"],
        "graph": found["graph"],
    }


def by_kind(kernels: Iterable[tuple[str, int, float]]) -> dict[str, float]:
    """Seconds of convolutions, of other matrix products, and of the rest."""
    found = {"convolutions": 0.0, "products": 0.0, "other": 0.0}
    for name, _, seconds in kernels:
        found[kind_of(name)] += seconds
    return found


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    name = kernel.lower()
    if any(part in name for part in CONVOLUTIONS):
        return "convolutions"
    return "products" if any(part in name for part in PRODUCTS) else "other"


def text(report: Mapping[str, Any]) -> str:
    """The figures as a table."""
    s, m, v = report["settings"], report["machine"], report["versions"]["ours"]
    names = " + ".join(model["name"] for model in s["generators"])
    rows = [HEADINGS, *(line(name, one) for name, one in report["precisions"].items())]
    graphless = [name for name, one in report["precisions"].items() if not one["graph"]]
    return "\n".join(
        [
            f"kernels of CDMAA on {names} at {s['size']} px, batch {s['batch']}",
            f"{v['device']}, {m['processor']}; jax {v['jax']}, Python {m['python']}",
            *table(rows),
            *ratios(report["precisions"]),
            *(f"{name}: {NO_GRAPH}" for name in graphless),
            NOTES,
        ]
    )


NOTES = """\
images/s: of whole attacks, the median; where they fit, generators' kernels run side by side.
Kernels by kind: in one attack more whose kernels run one by one; convolutions with cuDNN's padding
and zeroing. Peak: of a large matrix product in the same precision."""


def line(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one precision."""
    kinds = {kind: 1e3 * seconds for kind, seconds in one["kernel_seconds_per_step"].items()}
    rate, share = one["convolution_flops_per_second"], one["convolution_share_of_matmul_peak"]
    return (
        name,
        digits(one["images_per_second_at_80_steps"]),
        digits(1e3 * one["seconds_per_step"]),
        digits(one["flops_per_second"] / 1e12),
        f"{one['share_of_matmul_peak']:.0%}",
        f"{one['kernels_per_step']:.0f}",
        digits(kinds["convolutions"]),
        digits(rate / 1e12) if rate else "",
        f"{share:.0%}" if share else "",
        digits(kinds["products"]),
        digits(kinds["other"]),
    )


def ratios(found: Mapping[str, Any]) -> list[str]:
    """How much faster bfloat16 is than TF32, where both were measured."""
    if not {"tf32", "bfloat16"} <= set(found):
        return []
    slow, fast = (found[name]["seconds"]["median"] for name in ("tf32", "bfloat16"))
    return [f"bfloat16 is {slow / fast:.2f} times as fast as TF32"]
