"""The loss L of eq. (4): an observation of a model, and its distance from the clean image's.

A ``Loss`` holds both functions. Observations of the clean image are computed once per attack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from cdmaa_jax.types import Array, Conditions, Generator

Seen: TypeAlias = Float[Array, "B h w 3"]
Outputs: TypeAlias = Float[Array, "B K h w 3"]
Features: TypeAlias = Float[Array, "B K *features"]
PixelWeights: TypeAlias = Float[Array, "B h w"]
Losses: TypeAlias = Float[Array, "B K"]
FACE_CENTRE = (0.53, 0.50)
FACE_RADII = (0.37, 0.28)
"""The ellipse that holds a face, y before x, in units of the side of the generators' square input.

``images.squares`` places the square so that a detected face, eyebrows to chin, spans its middle two
thirds, 0.04 below the centre. In the mean of 191 portraits cropped this way, the eyes are at 0.46,
the mouth is at 0.73, and the skin ends at 0.15 (hair), 0.90 (chin), 0.22 and 0.78. In the centre
square of CelebA's aligned photos the eyes are at 0.51 and the mouth is at 0.74."""
FACE_EDGE = 0.25
"""Half the width of the ellipse's soft edge, in radii."""
BACKGROUND = 0.1
"""The weight outside the face, relative to 1 inside: a choice of this package."""


class Loss(NamedTuple):
    """The quantity that an attack maximizes for one model.

    Attributes:
      observe: ``observe(generator, seen [B,h,w,3], conditions [B,K,n]) -> [B,K,...]``, of what the
        generator sees; K is 1 for what does not depend on the condition.
      distance: ``distance(observed [B,K,...], reference [B,K,...], weights) -> [B,K]``, the loss L.
      weighs_pixels: whether ``weights`` are [B,h,w], of mean 1 per image; they are None otherwise.
    """

    observe: Callable[[Generator, Seen, Conditions], Array]
    distance: Callable[[Array, Array, Any], Losses]
    weighs_pixels: bool = False


def outputs(generator: Generator, seen: Seen, conditions: Conditions) -> Outputs:
    """A generator's outputs for images that it sees and the conditions of all domains.

    Only the condition is mapped over domains: whatever does not depend on it, such as an encoder,
    is computed once per image.

    Raises:
      ValueError: an output is no array, or of another shape than what the generator was given.
    """
    images = jax.vmap(generator, in_axes=(None, 1), out_axes=1)(seen, conditions)
    if not isinstance(images, jax.Array):
        raise ValueError(
            f"{generator.name} returns a {type(images).__name__}; its apply must return the "
            "images alone, an array [B,h,w,3]"
        )
    if images.shape != (*conditions.shape[:2], *seen.shape[1:]):
        raise ValueError(
            f"{generator.name} maps images {list(seen.shape)} to outputs "
            f"{[images.shape[0], *images.shape[2:]]}; both must have the same shape [B,h,w,3]"
        )
    return images


def latent(generator: Generator, seen: Seen, conditions: Conditions) -> Float[Array, "B 1 ..."]:
    """The latent of what a generator sees; it does not depend on the domain.

    A generator whose first layer takes the condition, such as StarGAN, has no such encoder.

    Raises:
      ValueError: the generator has none, or it returns no array with a row for each image.
    """
    del conditions
    if generator.encode is None:
        raise ValueError(
            f"{generator.name} has no encoder, which the loss latent needs: leave {generator.name} "
            "out, or choose another loss"
        )
    features = generator.encode(generator.params, seen)
    if not isinstance(features, jax.Array) or features.shape[:1] != seen.shape[:1]:
        raise ValueError(f"the encode of {generator.name} must return an array [B,...]")
    return features[:, None]


def mean_squared_error(outputs: Outputs, references: Outputs, weights: None = None) -> Losses:
    """The mean of the squared difference over height, width and channels.

    Equation (4) is printed without the square; the threshold of 0.05 is for the squared error.
    Images are in [-1, 1], so L is at most 4.
    """
    return ((outputs - references) ** 2).mean((-3, -2, -1))


def weighted_squared_error(outputs: Outputs, references: Outputs, weights: PixelWeights) -> Losses:
    """``mean_squared_error`` with pixel weights of mean 1: more for the face (Lv 2021)."""
    return (weights[:, None, :, :, None] * (outputs - references) ** 2).mean((-3, -2, -1))


def mean_squared_features(features: Features, references: Features, weights: None = None) -> Losses:
    """The mean of the squared difference over all features (Dong and Xie 2021).

    It is in units of the features. Encoders that end in a normalization have features about as
    large as images; the shares of models whose units differ more than that are not comparable.
    """
    return ((features - references) ** 2).mean(tuple(range(2, features.ndim)))


def face_map(height: int, width: int) -> Float[Array, "{height} {width}"]:
    """Pixel weights: 1 in the face of an aligned crop, ``BACKGROUND`` around it.

    Smooth, sampled at pixel centres, and not normalized.
    """
    y = (jnp.arange(height, dtype=float) + 0.5) / height - FACE_CENTRE[0]
    x = (jnp.arange(width, dtype=float) + 0.5) / width - FACE_CENTRE[1]
    radius = jnp.hypot(y[:, None] / FACE_RADII[0], x[None, :] / FACE_RADII[1])
    inside = jnp.clip((1 + FACE_EDGE - radius) / (2 * FACE_EDGE), 0, 1)
    inside = inside**2 * (3 - 2 * inside)
    return BACKGROUND + (1 - BACKGROUND) * inside


def unit_largest(weights: PixelWeights) -> PixelWeights:
    """Pixel weights scaled to a maximum of 1 per image; all 1 if all of an image's are 0."""
    largest = weights.max((1, 2), keepdims=True)
    return jnp.where(largest > 0, weights / jnp.where(largest > 0, largest, 1), 1)


def unit_mean(weights: PixelWeights) -> PixelWeights:
    """Pixel weights scaled to mean 1 per image, so that L stays comparable."""
    scaled = unit_largest(weights)
    return scaled / scaled.mean((1, 2), keepdims=True)


LOSSES: dict[str, Loss] = {
    "mse": Loss(outputs, mean_squared_error),
    "face-weighted": Loss(outputs, weighted_squared_error, weighs_pixels=True),
    "latent": Loss(latent, mean_squared_features),
}
"""Losses by name; a new entry becomes an option (see ``cdmaa_jax.attack``)."""
