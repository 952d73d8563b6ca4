"""The factor that a model's gradient is divided by before models are combined: equation (23).

Each function takes a gradient [B,H,W,3], its model's loss [B] and zeta, and returns grad / S.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from cdmaa_jax.types import Array


def penalty(gradient: Array, loss: Array, zeta: float | Array) -> Array:
    """S = 1 / max(L, zeta), equation (25): models that are not yet disrupted get small gradients.

    The min-norm combination then favours those.
    """
    return gradient * per_image(jnp.maximum(loss, zeta))


def none(gradient: Array, loss: Array, zeta: float | Array) -> Array:
    """S = 1."""
    del loss, zeta
    return gradient


def l2(gradient: Array, loss: Array, zeta: float | Array) -> Array:
    """S = ‖grad‖₂; a gradient of zero stays zero."""
    del loss, zeta
    largest = jnp.abs(gradient).max((1, 2, 3))
    scaled = gradient / per_image(jnp.where(largest > 0, largest, 1))  # squares would underflow
    norm = jnp.sqrt((scaled**2).sum((1, 2, 3)))
    return scaled / per_image(jnp.maximum(norm, 1))


def log(gradient: Array, loss: Array, zeta: float | Array) -> Array:
    """S = max(L, zeta): the gradient of log L."""
    return gradient / per_image(jnp.maximum(loss, zeta))


def per_image(v: Array) -> Array:
    """A vector [B] reshaped to broadcast against images [B,H,W,3]."""
    return v[:, None, None, None]


REGULARIZATIONS: dict[str, Callable[[Array, Array, float | Array], Array]] = {
    "penalty": penalty,
    "none": none,
    "l2": l2,
    "log": log,
}
