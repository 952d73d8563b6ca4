"""Times of repeated runs, and their summaries."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass
class Samples:
    """The runs of one side or variant.

    Attributes:
      steps: seconds per step, one for each round.
      starts: seconds of the work before the first step, one for each round.
      kept: False once the side or variant has been dropped.
      limit: seconds per step of a first run, which may include more than the steps.
    """

    steps: list[float] = dataclasses.field(default_factory=list)
    starts: list[float] = dataclasses.field(default_factory=list)
    kept: bool = True
    limit: float = float("inf")
    _pairs: list[tuple[tuple[int, float], tuple[int, float]]] = dataclasses.field(
        default_factory=list
    )

    def add_direct(self, start: float, steps: float, count: int) -> None:
        """Adds a run whose parts were timed: the start, and ``count`` steps together."""
        self.starts.append(start)
        self.steps.append(steps / count)

    def add_turns(self, seconds: float, count: int) -> None:
        """Adds a whole run of ``count`` steps and a start that takes as long as a step."""
        self.add_direct(seconds / (count + 1), seconds * count / (count + 1), count)

    def add_pair(self, short: tuple[int, float], long: tuple[int, float]) -> None:
        """Adds two whole runs as (steps, seconds); their difference gives the time of a step."""
        step, start = line(short, long)
        self.steps.append(step)
        self.starts.append(start)
        self._pairs.append((short, long))

    def step(self) -> float:
        """Seconds per step; for pairs, from the medians of both lengths."""
        return self._line()[0] if self._pairs else statistics.median(self.steps)

    def fastest(self) -> float:
        """The shortest time of a step, the first run included."""
        return min([*self.steps, self.limit])

    def start(self) -> float:
        """Seconds before the first step, from medians like ``step``."""
        return self._line()[1] if self._pairs else statistics.median(self.starts)

    def _line(self) -> tuple[float, float]:
        short, long = (
            (pairs[0][0], statistics.median(seconds for _, seconds in pairs))
            for pairs in zip(*self._pairs, strict=True)
        )
        return line(short, long)


def line(short: tuple[int, float], long: tuple[int, float]) -> tuple[float, float]:
    """Seconds per step and before the first, from two runs as (steps, seconds)."""
    step = (long[1] - short[1]) / (long[0] - short[0])
    return step, short[1] - short[0] * step


def fit(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line."""
    slope, intercept = statistics.linear_regression(*zip(*points, strict=True))
    return slope, intercept


def summary(values: Sequence[float], median: float | None = None) -> dict[str, float]:
    """Median, minimum and maximum of the values."""
    middle = statistics.median(values) if median is None else median
    return {"median": middle, "min": min(values), "max": max(values)}


def images_per_second(samples: Samples, batch: int, steps: int) -> float:
    """Rate of an attack of ``steps`` steps, extrapolated from the times of a step and the start."""
    return batch / (samples.start() + steps * samples.step())
