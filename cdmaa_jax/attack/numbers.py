"""The numbers of an attack, apart from its structure: arguments of the compiled program.

Attacks that differ in nothing else share one program.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from cdmaa_jax.attack.config import JITTER, Config


class Numbers(NamedTuple):
    """Scalars in the images' type, but for the last.

    Attributes:
      radius: the largest change of a value, rounded down to the type.
      start: the half-width of the noise at the start.
      step_size: a; for APGD the first step, twice epsilon.
      zeta: the least loss that regularization reckons with.
      threshold: τ.
      model_weights: [J], summing to one; None unless the models are ``weighted``.
    """

    radius: Any
    start: Any
    step_size: Any
    zeta: Any
    threshold: Any
    model_weights: Any


def numbers_of(config: Config, dtype: Any, models: int) -> Numbers:
    """The numbers of an attack on images of a type by J models.

    Raises:
      ValueError: there are weights of another number of models.
    """
    config = config.resolve()
    start = JITTER if config.start == "jitter" else config.epsilon
    step_size = 2 * config.epsilon if config.update == "apgd" else config.step_size
    return Numbers(
        radius=inner_radius(config.epsilon, dtype),
        start=np.asarray(start, dtype),
        step_size=np.asarray(step_size, dtype),
        zeta=np.asarray(config.zeta, dtype),
        threshold=np.asarray(config.threshold, dtype),
        model_weights=_shares(config.model_weights, dtype, models),
    )


def structure_of(config: Config) -> Config:
    """What of an attack its program depends on: the same with every number at its default."""
    config, default = config.resolve(), Config()
    names = ("epsilon", "step_size", "zeta", "threshold", "start")
    weights = None if config.model_weights is None else (1.0,)
    defaults = {name: getattr(default, name) for name in names}
    return dataclasses.replace(config, model_weights=weights, **defaults)


def inner_radius(epsilon: float, dtype: Any) -> np.ndarray:
    """The largest number of a type that is at most epsilon."""
    radius = np.asarray(epsilon, dtype)
    if float(radius) > epsilon:
        radius = np.nextafter(radius, np.zeros_like(radius))
    return radius


def _shares(weights: tuple[float, ...] | None, dtype: Any, models: int) -> np.ndarray | None:
    if weights is None:
        return None
    if len(weights) != models:
        raise ValueError(f"there are {len(weights)} model_weights, but {models} generators")
    return np.asarray(np.divide(weights, np.sum(weights)), dtype)
