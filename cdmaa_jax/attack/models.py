"""Combines the gradients of several models into one direction: step 7 of Algorithm 1.

Each strategy takes the regularized gradients, the step number and the given weights (for
``weighted``), and returns the weight of every model.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.types import Array, Time

Gradients: TypeAlias = Float[Array, "B J H W 3"]
Weights: TypeAlias = Float[Array, "B J"]
Shares: TypeAlias = Float[Array | np.ndarray, "J"]


def mgda(gradients: Gradients, time: Time, given: Shares) -> Weights:
    """The weights of the shortest convex combination, equations (12) and (13)."""
    del time, given
    return min_norm_weights(gradients)


def uniform(gradients: Gradients, time: Time, given: Shares) -> Weights:
    """The mean of the models' gradients."""
    del time, given
    return jnp.full(gradients.shape[:2], 1 / gradients.shape[1], gradients.dtype)


def single(gradients: Gradients, time: Time, given: Shares) -> Weights:
    """The first model alone."""
    return iterative(gradients, jnp.zeros_like(time), given)


def iterative(gradients: Gradients, time: Time, given: Shares) -> Weights:
    """Model ``time mod J`` alone."""
    del given
    count = gradients.shape[1]
    chosen = (jnp.arange(count, dtype=time.dtype) == time % count).astype(gradients.dtype)
    return jnp.broadcast_to(chosen, gradients.shape[:2])


def weighted(gradients: Gradients, time: Time, given: Shares) -> Weights:
    """Fixed weights, such as a search finds (Fang et al. 2020)."""
    del time
    return jnp.broadcast_to(given.astype(gradients.dtype), gradients.shape[:2])


def combine(weights: Weights, gradients: Gradients) -> Float[Array, "B H W 3"]:
    """w = Σ a_j · grad_j; by additions, so that no matrix unit rounds it.

    A reduction would take XLA's CPU backend many times as long. A gradient of weight 0 contributes
    nothing, even where it is not finite.
    """
    weights = weights[:, :, None, None, None]
    shares = jnp.where(weights == 0, 0, weights * gradients)
    return functools.reduce(operator.add, [shares[:, j] for j in range(shares.shape[1])])


MODEL_STRATEGIES: dict[str, Callable[[Gradients, Time, Shares], Weights]] = {
    "mgda": mgda,
    "single": single,
    "iterative": iterative,
    "uniform": uniform,
    "weighted": weighted,
}
