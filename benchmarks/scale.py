"""How the cost of an attack grows with steps, batch, domains, models and photo size."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.machine import machine
from benchmarks.report import digits
from benchmarks.session import (
    LENGTHS_ON_GPU,
    Options,
    Say,
    check_precision,
    open_ours,
    prepare,
    set_up,
    settings_of,
)
from benchmarks.statistics import Samples, fit
from benchmarks.workers import BenchmarkError, Worker

LENGTHS = (3,)
"""Steps of a run on a CPU, where the clean outputs take as long as one step."""
ROUNDS = 5
LASTING = 4.0
"""Rough minimum of seconds that the runs of a point take in a round: brief runs are repeated."""
MOST = 16
"""The most repetitions of a brief run."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """One quantity that grows while the rest stays fixed.

    Attributes:
      name: a key of the report.
      label: the label of the plot's axis, with the unit.
      values: the values to measure.
    """

    name: str
    label: str
    values: tuple[int, ...]


AXES = ("steps", "batch", "domains", "models", "size")


def axes(size: int, models: Sequence[Mapping[str, Any]], names: Sequence[str] = AXES) -> list[Axis]:
    """The axes among ``names``, for work whose photos have ``size`` pixels."""
    most = max(model["domains"] for model in models)
    every = [
        Axis("steps", "steps T", (1, 4, 8, 16)),
        Axis("batch", "photos in a batch", (1, 2, 4, 8)),
        Axis("domains", "domains", _doubling(most)),
        Axis("models", "models", tuple(range(1, len(models) + 1))),
        Axis("size", "photo size, px", _sizes(size)),
    ]
    return [axis for axis in every if axis.name in names]


def _sizes(size: int) -> tuple[int, ...]:
    """Sizes around a size that can be halved five times, as the encoders do."""
    around = (size // 2, size, 3 * size // 2, 2 * size)
    return tuple(each for each in around if each % 32 == 0 or each == size)


def _doubling(most: int) -> tuple[int, ...]:
    powers = [2**i for i in range(most.bit_length()) if 2**i < most]
    return (*powers, most)


def measure(
    options: Options,
    say: Say,
    names: Sequence[str] = AXES,
    keep: Callable[[Any], None] = lambda report: None,
) -> dict[str, Any]:
    """Everything that ``python -m benchmarks scale`` reports about some axes, for JSON.

    ``keep(report)`` is called after each axis, with the axes so far.

    Raises:
      BenchmarkError: a process fails.
    """
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        settings = settings_of(options, prepared)
        varied = axes_with_points(prepared.size, settings["generators"], names, say)
        with open_ours(options) as worker:
            versions = set_up(worker, options, folder)
            check_precision(options.precision, versions["platform"])
            on_cpu = versions["platform"] == "cpu"
            lengths = LENGTHS if on_cpu else tuple(LENGTHS_ON_GPU.values())
            report: dict[str, Any] = {
                "benchmark": "scale",
                "settings": settings,
                "machine": machine(),
                "versions": {"ours": versions},
                "axes": {},
            }
            for axis in varied:
                report["axes"][axis.name] = along(axis, worker, settings, say, lengths)
                keep(report)
    return report


def axes_with_points(
    size: int, generators: Sequence[Mapping[str, Any]], names: Sequence[str], say: Say
) -> list[Axis]:
    """The axes that have more than one point; names the others.

    Raises:
      BenchmarkError: no axis has.
    """
    found = axes(size, generators, names)
    varied = [axis for axis in found if len(axis.values) > 1]
    for axis in found:
        if axis not in varied:
            say(f"{axis.label}: left out, there is no more than one of these")
    if not varied:
        raise BenchmarkError("there is nothing to vary: give other --axes or generators")
    return varied


def join(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins reports on different axes of the same work.

    Raises:
      BenchmarkError: the work or the machine was not the same.
    """
    first = reports[0]
    for other in reports[1:]:
        for key in ("settings", "machine", "versions"):
            if other[key] != first[key]:
                raise BenchmarkError(f"these were not measured alike: they differ in {key}")
    found = {name: axis for report in reports for name, axis in report["axes"].items()}
    return {**first, "axes": {name: found[name] for name in AXES if name in found}}


def along(
    axis: Axis, worker: Worker, settings: Mapping[str, Any], say: Say, lengths: Sequence[int]
) -> dict[str, Any]:
    """The points of one axis: x, seconds per step and before the first; for steps, of a whole run.

    Points take turns, so that no point is measured while the machine is slower than for the others.
    """
    points = []
    for value in axis.values:
        say(f"{axis.label}: {value} (compiling)")
        arguments = arguments_of(axis.name, value, settings["generators"])
        own = (value,) if axis.name == "steps" else lengths
        points.append(Point(value, arguments, own))
        points[-1].prepare(worker)
    for turn in range(ROUNDS):
        say(f"{axis.label}: round {turn + 1} of {ROUNDS}")
        for point in points:
            point.measure(worker)
    whole = axis.name == "steps"
    found = [point.whole_run() if whole else point.found() for point in points]
    return {"label": axis.label, "points": found} | note(axis.name, settings["generators"])


@dataclasses.dataclass
class Point:
    """One point on an axis.

    Attributes:
      x: its position.
      arguments: the arguments of its runs besides the number of steps.
      lengths: the steps of its runs: one length, of a loop whose first iteration is as long as a
        step, or two, whose difference counts.
      repeats: how often each length is run in a round.
      runs: for each round, the seconds of a run of each length.
    """

    x: int
    arguments: Mapping[str, Any]
    lengths: Sequence[int]
    repeats: int = 1
    runs: list[list[float]] = dataclasses.field(default_factory=list)

    def prepare(self, worker: Worker) -> None:
        """Compiles, and determines how often brief runs are repeated."""
        for steps in self.lengths:
            worker("run", steps=steps, **self.arguments)
        seconds = self._run(worker, self.lengths[-1])
        self.repeats = min(max(1, round(LASTING / seconds)), MOST)

    def measure(self, worker: Worker) -> None:
        """Measures one round."""
        self.runs.append([self._run(worker, steps) for steps in self.lengths])

    def _run(self, worker: Worker, steps: int) -> float:
        runs = [worker("run", steps=steps, **self.arguments) for _ in range(self.repeats)]
        return statistics.fmean(run["seconds"] for run in runs)

    def whole_run(self) -> dict[str, float]:
        """The median run over the rounds."""
        return {"x": self.x, "seconds": statistics.median(run[-1] for run in self.runs)}

    def found(self) -> dict[str, float]:
        """Medians of the seconds of a step and of the work before the first."""
        samples = Samples()
        for short, *long in self.runs:
            if long:
                pair = zip(self.lengths, (short, *long), strict=True)
                samples.add_pair(*pair)
            else:
                samples.add_turns(short, *self.lengths)
        return {"x": self.x, "seconds": samples.step(), "start_seconds": samples.start()}


def note(axis: str, generators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The model that was attacked, if not all."""
    return {"model": richest(generators)} if axis == "domains" else {}


def richest(generators: Sequence[Mapping[str, Any]]) -> str:
    """The model with the most domains."""
    return max(generators, key=lambda g: g["domains"])["name"]


def arguments_of(axis: str, value: int, generators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of a run at a point of an axis."""
    names = [generator["name"] for generator in generators]
    arguments: dict[str, Any] = {"models": names, "batch": 1}
    if axis == "domains":
        return arguments | {"models": [richest(generators)], "domains": value}
    if axis == "models":
        return arguments | {"models": names[:value]}
    return arguments | ({axis: value} if axis in ("batch", "size") else {})


def text(report: Mapping[str, Any]) -> str:
    """The measurements, with explanations."""
    s, found = report["settings"], report["axes"]
    names = " + ".join(model["name"] for model in s["generators"])
    head = f"cost of an attack on {names}; where nothing else is said, {s['size']} px and batch 1"
    return "\n".join([head, *(explain(name, one) for name, one in found.items())])


def explain(name: str, axis: Mapping[str, Any]) -> str:
    """A paragraph about one axis."""
    points = [(point["x"], point["seconds"]) for point in axis["points"]]
    listed = ", ".join(f"{x}: {digits(y)} s" for x, y in points)
    return f"{axis['label']} ({'whole run' if name == 'steps' else 'per step'}): {listed}\n  " + (
        _EXPLANATIONS[name](points, axis)
    )


def _steps(points: Sequence[tuple[int, float]], axis: Mapping[str, Any]) -> str:
    slope, start = fit(points)
    return (
        f"{digits(start)} s for the clean outputs and {digits(slope)} s for each step: a loop, "
        "each turn of which does the same"
    )


def _batch(points: Sequence[tuple[int, float]], axis: Mapping[str, Any]) -> str:
    (one, alone), (many, together) = points[0], points[-1]
    least, most = digits(alone / one), digits(together / many)
    return (
        f"a photo costs {least} s in a batch of {one} and {most} s in one of {many}: photos share "
        "nothing but the weights"
    )


def _domains(points: Sequence[tuple[int, float]], axis: Mapping[str, Any]) -> str:
    slope, start = fit(points)
    return (
        f"{axis['model']} alone: {digits(start)} s once for a photo (what does not depend on the "
        f"domain: an encoder) and {digits(slope)} s for each domain"
    )


def _models(points: Sequence[tuple[int, float]], axis: Mapping[str, Any]) -> str:
    shares = [b - a for (_, a), (_, b) in zip([(0, 0.0), *points], points, strict=False)]
    listed = ", ".join(f"{digits(share)} s" for share in shares)
    return f"the models, one after another, add {listed}: each its own"


def _size(points: Sequence[tuple[int, float]], axis: Mapping[str, Any]) -> str:
    slope, start = fit([(size**2, seconds) for size, seconds in points])
    return (
        f"{digits(start)} s whatever the size and {digits(1e4 * slope)} s for each 10,000 pixels: "
        "convolutions cost by the pixel, to read their kernels does not"
    )


_EXPLANATIONS = {
    "steps": _steps,
    "batch": _batch,
    "domains": _domains,
    "models": _models,
    "size": _size,
}
