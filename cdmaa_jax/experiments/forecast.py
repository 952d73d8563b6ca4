"""How long the columns that are left will take, from those that were done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdmaa_jax.experiments.columns import Column
from cdmaa_jax.types import Generator


def cost(column: Column, generators: Sequence[Generator]) -> float:
    """What a crop of a column costs, about, in passes of one domain of one model.

    A pass back costs twice one forth. All domains of a model go forth together; ``mgda`` takes each
    of them back alone, but for an encoder that they share that is no more work.
    """
    attacked = [g for g in generators if column.model in (None, g.name)]
    count = sum(len(g.domains) for g in attacked)
    strategy = column.config.across_domains
    if strategy == "single" or (strategy == "iterative" and column.config.update != "apgd"):
        count = len(attacked)
    passes = 4 if strategy == "mgda" else 3
    measuring = 2 * sum(len(g.domains) for g in generators)
    return passes * count * column.config.resolve().steps + measuring


class Forecast:
    """The work that is left, in the units of ``cost``, and the time that it will take."""

    def __init__(
        self, done: Mapping[Column, int], count: int, generators: Sequence[Generator]
    ) -> None:
        self._costs = {column: cost(column, generators) for column in done}
        self._left = {column: count - number for column, number in done.items()}
        self._worked = 0.0

    def record(self, column: Column, crops: int) -> None:
        """Some crops of a column were done in this run."""
        crops = min(crops, self._left[column])
        self._left[column] -= crops
        self._worked += crops * self._costs[column]

    def seconds_left(self, elapsed: float) -> float | None:
        """At the rate of this run so far; None before anything was done."""
        if not self._worked:
            return None
        left = sum(self._costs[column] * crops for column, crops in self._left.items())
        return elapsed * left / self._worked
