"""The factor that a model's gradient is divided by before models are combined: equation (23).

Each function takes a gradient, its model's loss and zeta, and returns grad / S.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Float, ScalarLike, Shaped

from cdmaa_jax.types import Array

Gradient: TypeAlias = Float[Array, "B H W 3"]


def penalty(gradient: Gradient, loss: Float[Array, "B"], zeta: ScalarLike) -> Gradient:
    """S = 1 / max(L, zeta), equation (25): models that are not yet disrupted get small gradients.

    The min-norm combination then favours those.
    """
    return gradient * per_image(jnp.maximum(loss, zeta))


def none(gradient: Gradient, loss: Float[Array, "B"], zeta: ScalarLike) -> Gradient:
    """S = 1."""
    del loss, zeta
    return gradient


def l2(gradient: Gradient, loss: Float[Array, "B"], zeta: ScalarLike) -> Gradient:
    """S = ‖grad‖₂; a gradient of zero stays zero."""
    del loss, zeta
    largest = jnp.abs(gradient).max((1, 2, 3))
    scaled = gradient / per_image(jnp.where(largest > 0, largest, 1))  # squares would underflow
    norm = jnp.sqrt((scaled**2).sum((1, 2, 3)))
    return scaled / per_image(jnp.maximum(norm, 1))


def log(gradient: Gradient, loss: Float[Array, "B"], zeta: ScalarLike) -> Gradient:
    """S = max(L, zeta): the gradient of log L."""
    return gradient / per_image(jnp.maximum(loss, zeta))


def per_image(v: Shaped[Array, "B"]) -> Shaped[Array, "B 1 1 1"]:
    """A vector reshaped to broadcast against images."""
    return v[:, None, None, None]


REGULARIZATIONS: dict[str, Callable[[Gradient, Array, ScalarLike], Gradient]] = {
    "penalty": penalty,
    "none": none,
    "l2": l2,
    "log": log,
}
