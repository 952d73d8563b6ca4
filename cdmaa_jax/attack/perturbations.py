"""What the update rule moves, and the images that follow from it: one per image, or one for all.

Every part of a step but the images' own gradients works on what is moved, [V,H,W,3]: V is B where
each image has its own perturbation, and 1 where all share one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax import lax

from cdmaa_jax.types import Array, Batch


class Perturbation(NamedTuple):
    """What is moved, and how it meets the images of a batch.

    Attributes:
      lower: [V,H,W,3], its least value.
      upper: [V,H,W,3], its largest.
      start: ``start(noise [B,H,W,3]) -> [V,H,W,3]``, before it is put inside the bounds.
      place: ``place(moved [V,H,W,3]) -> [B,H,W,3]``, the images x_t.
      pool: ``pool(values [B,...]) -> [V,...]``, from images to what is moved.
    """

    lower: Array
    upper: Array
    start: Callable[[Array], Array]
    place: Callable[[Array], Array]
    pool: Callable[[Array], Array]

    def project(self, moved: Array) -> Array:
        """The nearest that is inside the bounds."""
        return optax.projections.projection_box(moved, self.lower, self.upper)


def image(batch: Batch, radius: Any, axis: str | None) -> Perturbation:
    """Every image moves on its own; what is moved is x_t itself."""
    del axis
    lower, upper = bounds(batch.images, radius)
    return Perturbation(lower, upper, lambda noise: batch.images + noise, _same, _same)


def universal(batch: Batch, radius: Any, axis: str | None) -> Perturbation:
    """One δ for all images, x_t = x + δ inside their bounds (CMUA, Huang et al. 2022).

    What is moved follows the mean over the images: their gradients and losses are averaged, model
    by model, before anything else is done with them, for the loss of a model is now that mean, and
    the shortest combination of the models' gradients should lengthen all of those means. Padding
    does not count.
    """
    none = jnp.zeros((1, *batch.images.shape[1:]), batch.images.dtype)
    lower, upper = bounds(none, radius)
    within = functools.partial(_add_within, batch.images, *bounds(batch.images, radius))
    first = functools.partial(_first, axis=axis)
    return Perturbation(
        lower, upper, first, within, functools.partial(_mean, batch.mask, axis=axis)
    )


def bounds(clean: Array, radius: Any) -> tuple[Array, Array]:
    """What is within a radius of images [B,H,W,3] and in [-1, 1], rounded inwards.

    Derivatives are not taken through it, which rounding has none of.
    """
    clean, radius = lax.stop_gradient((clean, radius))
    lower = jnp.nextafter(clean - radius, jnp.ones_like(clean))
    upper = jnp.nextafter(clean + radius, -jnp.ones_like(clean))
    return jnp.clip(lower, -1, clean), jnp.clip(upper, clean, 1)


def _same(values: Array) -> Array:
    return values


def _add_within(clean: Array, lower: Array, upper: Array, shared: Array) -> Array:
    return optax.projections.projection_box(clean + shared, lower, upper)


def _first(noise: Array, axis: str | None) -> Array:
    """The first image's noise, of the first device where several share the batch."""
    if axis is None:
        return noise[:1]
    return lax.psum(jnp.where(lax.axis_index(axis) == 0, noise[:1], 0), axis)


def _mean(mask: Array, values: Array, axis: str | None) -> Array:
    """The mean over the images that are not padding, on all devices."""
    counted = mask.reshape(-1, *(1,) * (values.ndim - 1))
    total = jnp.where(counted, values, 0).sum(0, keepdims=True)
    count = mask.sum(dtype=values.dtype)
    if axis is not None:
        total, count = lax.psum((total, count), axis)
    return total / jnp.maximum(count, 1)


PERTURBATIONS: dict[str, Callable[[Batch, Any, str | None], Perturbation]] = {
    "image": image,
    "universal": universal,
}
"""Name to ``make(batch, radius, axis)``; ``axis`` names the devices that share the batch."""
