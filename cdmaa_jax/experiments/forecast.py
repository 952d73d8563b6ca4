"""How long the remaining work will take, estimated from the work done so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdmaa_jax.experiments.columns import Column
from cdmaa_jax.types import Generator

LEAST_SHARE = 0.02  # of the work; what is measured before is mostly compilation


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
    """The approximate cost of a column's crop, in forward passes of one domain of one model.

    A backward pass costs about twice a forward pass. ``mgda`` across domains runs each domain's
    backward pass separately; apart from the part that domains share, that is no extra work.
    """
    count = sum(len(g.domains) for g in attacked)
    strategy = column.config.across_domains
    if strategy == "single" or (strategy == "iterative" and column.config.update != "apgd"):
        count = len(attacked)
    passes = 4 if strategy == "mgda" else 3
    measuring = 2 * sum(len(g.domains) for g in measured)
    return passes * count * column.config.resolve().steps + measuring


class Forecast:
    """The remaining work, and the time that it will take."""

    def __init__(self, works: Sequence[Work]) -> None:
        self._costs = {work.name: work.cost for work in works}
        self._left = {work.name: work.total - work.done for work in works}
        self._total = self._cost_left()
        self._worked = 0.0

    def record(self, name: str, pieces: int) -> None:
        """Records pieces of a part that were done in this run."""
        pieces = min(pieces, self._left[name])
        self._left[name] -= pieces
        self._worked += pieces * self._costs[name]

    def seconds_left(self, elapsed: float) -> float | None:
        """The time left at this run's rate so far; None before a fiftieth of the work is done."""
        if not self._worked or self._worked < LEAST_SHARE * self._total:
            return None
        return elapsed * self._cost_left() / self._worked

    def _cost_left(self) -> float:
        return sum(self._costs[name] * pieces for name, pieces in self._left.items())
