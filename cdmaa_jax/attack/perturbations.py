"""The variable that the update rule moves, per image or shared, and the images that follow from it.

Every part of a step except the images' own gradients works on this variable, [V,H,W,3]: V is B if
each image has its own perturbation, and 1 if all share one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Bool, Float, ScalarLike

from cdmaa_jax.types import Array, Batch, Images

Moved: TypeAlias = Float[Array, "V H W 3"]


class Perturbation(NamedTuple):
    """The bounds of the moved variable, and how it maps to the images of a batch and back.

    Attributes:
      lower: its least value.
      upper: its largest.
      start: ``start(noise)``, before it is put inside the bounds.
      place: ``place(moved)``, the images x_t.
      pool: ``pool(values [B,...]) -> [V,...]``, from images to what is moved.
    """

    lower: Moved
    upper: Moved
    start: Callable[[Images], Moved]
    place: Callable[[Moved], Images]
    pool: Callable[[Array], Array]

    def project(self, moved: Moved) -> Moved:
        """The nearest value inside the bounds."""
        return optax.projections.projection_box(moved, self.lower, self.upper)


def image(batch: Batch, radius: ScalarLike, axis: str | None) -> Perturbation:
    """Every image moves on its own; the variable is x_t itself."""
    del axis
    lower, upper = bounds(batch.images, radius)
    return Perturbation(lower, upper, lambda noise: batch.images + noise, _same, _same)


def universal(batch: Batch, radius: ScalarLike, axis: str | None) -> Perturbation:
    """One δ for all images, x_t = x + δ inside their bounds (CMUA, Huang et al. 2022).

    δ follows the mean over the images: their gradients and losses are averaged per model before
    anything else is done with them, since the loss of a model is now that mean, and the shortest
    combination of the models' gradients should increase all of these means. Padding does not count.
    """
    largest = jnp.full((1, *batch.images.shape[1:]), radius, batch.images.dtype)
    within = functools.partial(_add_within, batch.images, *bounds(batch.images, radius))
    first = functools.partial(_first, axis=axis)
    return Perturbation(
        -largest, largest, first, within, functools.partial(_mean, batch.mask, axis=axis)
    )


def bounds(clean: Images, radius: ScalarLike) -> tuple[Images, Images]:
    """The bounds within a radius of images and in [-1, 1], rounded inwards.

    No derivatives are taken through them, since rounding has none.
    """
    clean, radius = lax.stop_gradient((clean, radius))
    lower = jnp.nextafter(clean - radius, jnp.ones_like(clean))
    upper = jnp.nextafter(clean + radius, -jnp.ones_like(clean))
    return jnp.clip(lower, -1, clean), jnp.clip(upper, clean, 1)


def _same(values: Array) -> Array:
    return values


def _add_within(
    clean: Images, lower: Images, upper: Images, shared: Float[Array, "1 H W 3"]
) -> Images:
    return optax.projections.projection_box(clean + shared, lower, upper)


def _first(noise: Images, axis: str | None) -> Float[Array, "1 H W 3"]:
    """The first image's noise, from the first device if several share the batch."""
    if axis is None:
        return noise[:1]
    return lax.psum(jnp.where(lax.axis_index(axis) == 0, noise[:1], 0), axis)


def _mean(
    mask: Bool[Array, "B"] | None, values: Float[Array, "B *rest"], axis: str | None
) -> Float[Array, "1 *rest"]:
    """The mean over the images that are not padding, on all devices."""
    if mask is None:
        mask = jnp.ones(len(values), bool)
    counted = mask.reshape(-1, *(1,) * (values.ndim - 1))
    total = jnp.where(counted, values, 0).sum(0, keepdims=True)
    count = mask.sum(dtype=values.dtype)
    if axis is not None:
        total, count = lax.psum((total, count), axis)
    return total / jnp.maximum(count, 1)


PERTURBATIONS: dict[str, Callable[[Batch, ScalarLike, str | None], Perturbation]] = {
    "image": image,
    "universal": universal,
}
"""``make(batch, radius, axis)`` by name; ``axis`` names the devices that share the batch."""
