"""How long the work that is left will take, from the work that was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdmaa_jax.experiments.columns import Column
from cdmaa_jax.types import Generator


@dataclass(frozen=True)
class Work:
    """A part of the work, such as a column.

    Attributes:
      name: for people.
      total: how many pieces it has, such as crops.
      done: how many of them were done in earlier runs.
      cost: of a piece, in a unit common to all parts.
    """

    name: str
    total: int
    done: int
    cost: float


def cost(column: Column, attacked: Sequence[Generator], measured: Sequence[Generator]) -> float:
    """What a crop of a column costs, about, in passes of one domain of one model.

    A pass back costs about twice one forth. ``mgda`` across domains takes each of them back alone,
    but for what they share that is no more work.
    """
    count = sum(len(g.domains) for g in attacked)
    strategy = column.config.across_domains
    if strategy == "single" or (strategy == "iterative" and column.config.update != "apgd"):
        count = len(attacked)
    passes = 4 if strategy == "mgda" else 3
    measuring = 2 * sum(len(g.domains) for g in measured)
    return passes * count * column.config.resolve().steps + measuring


class Forecast:
    """The work that is left, and the time that it will take."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._costs = {work.name: work.cost for work in works}
        self._left = {work.name: work.total - work.done for work in works}
        self._worked = 0.0

    def record(self, name: str, pieces: int) -> None:
        """Some pieces of a part were done in this run."""
        pieces = min(pieces, self._left[name])
        self._left[name] -= pieces
        self._worked += pieces * self._costs[name]

    def seconds_left(self, elapsed: float) -> float | None:
        """At the rate of this run so far; None before anything was done."""
        if not self._worked:
            return None
        left = sum(self._costs[name] * pieces for name, pieces in self._left.items())
        return elapsed * left / self._worked
