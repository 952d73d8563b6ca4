"""The numbers of an attack, as opposed to its structure: arguments of the compiled program.

Attacks that differ only in these share one program. The choices of regularization, model weights
and sign step are numbers too: computing all alternatives and selecting one costs next to nothing
compared with the generators, while compiling a program for each is expensive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from cdmaa_jax.attack.config import JITTER, Config, choices
from cdmaa_jax.attack.models import Shares
from cdmaa_jax.types import Array

Number: TypeAlias = Float[Array | np.ndarray, ""]
Whole: TypeAlias = Int[Array | np.ndarray, ""]


class Numbers(NamedTuple):
    """Numbers in the images' dtype; the whole ones are int32.

    Attributes:
      radius: the largest change of a value, rounded down to the type.
      start: the half-width of the noise at the start.
      step_size: a; for APGD the first step, twice epsilon.
      zeta: the lower bound of the loss in the regularization.
      threshold: τ.
      model_weights: summing to one; equal unless the models are ``weighted``.
      regularization: the place in ``REGULARIZATIONS``.
      across_models: the place in ``MODEL_STRATEGIES``.
      momentum: whether the update rule is ``mi-fgsm``.
      domain_period: for how many steps a domain has its turn, where each step attacks one domain:
        for ever, or until each of the models that take turns, too, has had it.
    """

    radius: Number
    start: Number
    step_size: Number
    zeta: Number
    threshold: Number
    model_weights: Shares
    regularization: Whole
    across_models: Whole
    momentum: Bool[Array | np.ndarray, ""]
    domain_period: Whole


def numbers_of(config: Config, dtype: Any, models: int) -> Numbers:
    """The numbers of an attack on J ``models`` with images of a dtype.

    Raises:
      ValueError: there are weights of another number of models.
    """
    config = config.resolve()
    most, least = (float(bound) for bound in (np.finfo(dtype).max, np.finfo(dtype).tiny))
    start = JITTER if config.start == "jitter" else config.epsilon
    step_size = 2 * config.epsilon if config.update == "apgd" else config.step_size
    return Numbers(
        radius=inner_radius(config.epsilon, dtype),
        start=np.asarray(start, dtype),
        step_size=np.asarray(step_size, dtype),
        zeta=np.asarray(min(max(config.zeta, least), most), dtype),
        threshold=np.asarray(min(config.threshold, most), dtype),
        model_weights=_shares(config.model_weights, dtype, models),
        regularization=_place(config, "regularization"),
        across_models=_place(config, "across_models"),
        momentum=np.asarray(config.update == "mi-fgsm"),
        domain_period=np.asarray(_domain_period(config, models), np.int32),
    )


def structure_of(config: Config) -> Config:
    """The options that an attack's program depends on; those in ``Numbers`` have their defaults.

    ``single`` is ``iterative`` with a period without end, except for APGD, which reads the losses
    of all domains that a strategy attacks.
    """
    config, default = config.resolve(), Config()
    if config.update == "mi-fgsm":
        config = dataclasses.replace(config, update=default.update)
    if config.across_domains == "single" and config.update != "apgd":
        config = dataclasses.replace(config, across_domains="iterative")
    names = (
        "epsilon", "step_size", "zeta", "threshold", "start",
        "regularization", "across_models", "model_weights",
    )  # fmt: skip
    return dataclasses.replace(config, **{name: getattr(default, name) for name in names})


def inner_radius(epsilon: float, dtype: Any) -> np.ndarray:
    """The largest number of a dtype that is at most epsilon."""
    radius = np.asarray(epsilon, dtype)
    if float(radius) > epsilon:
        radius = np.asarray(np.nextafter(radius, np.zeros_like(radius)))
    return radius


def _domain_period(config: Config, models: int) -> int:
    if config.across_domains == "single":
        return int(np.iinfo(np.int32).max)
    return models if config.across_models == "iterative" else 1


def _place(config: Config, option: str) -> np.ndarray:
    return np.asarray(choices()[option].index(getattr(config, option)), np.int32)


def _shares(weights: Sequence[float] | None, dtype: Any, models: int) -> np.ndarray:
    weights = weights or (1.0,) * models
    if len(weights) != models:
        raise ValueError(
            f"model_weights must have one number for each generator: {models}, not {len(weights)}"
        )
    return np.asarray(np.divide(weights, np.sum(weights)), dtype)
