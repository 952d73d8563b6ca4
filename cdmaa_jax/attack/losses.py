"""How far an output is from the output for the clean image: the L of equation (4)."""

from __future__ import annotations

from collections.abc import Callable

from cdmaa_jax.types import Array


def mean_squared_error(outputs: Array, references: Array) -> Array:
    """The mean of the squared difference over height, width and channels, [...,h,w,3] -> [...].

    Equation (4) is printed without the square; the threshold of 0.05 is one of the squared error.
    Images are in [-1, 1], so L is at most 4.
    """
    return ((outputs - references) ** 2).mean((-3, -2, -1))


LOSSES: dict[str, Callable[[Array, Array], Array]] = {"mse": mean_squared_error}
"""Name to ``loss(outputs [...,h,w,3], references [...,h,w,3]) -> [...]``; add one to offer it."""
