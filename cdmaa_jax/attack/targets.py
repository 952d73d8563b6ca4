"""The models as seen by an attack on one batch: views, outputs, references and losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Number
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from cdmaa_jax.attack.losses import (
    LOSSES,
    Losses,
    PixelWeights,
    Seen,
    face_map,
    unit_largest,
    unit_mean,
)
from cdmaa_jax.types import Array, Batch, Conditions, Generator, Images, Keys


class Target(NamedTuple):
    """One model and what its outputs are compared with.

    Attributes:
      generator: the model.
      conditions: the condition vector of each domain.
      references: what the loss observes of it for the clean images: with most losses its outputs
        [B,K,h,w,3].
      pixel_weights: for a loss that weighs pixels.
    """

    generator: Generator
    conditions: Conditions
    references: Float[Array, "B _K ..."]
    pixel_weights: PixelWeights | None = None


def see(generator: Generator, images: Images, keys: Keys) -> Seen:
    """Images as a generator sees them; the keys are for random views.

    A view is mapped over single images, so that its draw for one cannot depend on the others or on
    its position in the batch.
    """
    view = generator.view
    if view is None:
        return images
    return jax.vmap(lambda image, key: view(image[None], key)[0])(images, keys)


def make_target(
    loss: str,
    generator: Generator,
    clean: Images,
    conditions: Conditions,
    keys: Keys,
    pixel_weights: Float[Array, "B H W"] | None = None,
) -> Target:
    """A model and its references, for clean images.

    ``pixel_weights`` are for a loss that weighs pixels; if None, the face of an aligned crop counts
    more.
    """
    references = observe(loss, generator, clean, conditions, keys)
    seen = weigh(loss, generator, clean, keys, pixel_weights)
    return Target(generator, conditions, references, seen)


def observe(
    loss: str, generator: Generator, images: Images, conditions: Conditions, keys: Keys
) -> Float[Array, "B _K ..."]:
    """The observation that a loss makes of a generator for images."""
    seen = see(generator, images, keys)
    return LOSSES[loss].observe(generator, seen, conditions).astype(images.dtype)


def weigh(
    loss: str,
    generator: Generator,
    clean: Images,
    keys: Keys,
    pixel_weights: Float[Array, "B H W"] | None,
) -> PixelWeights | None:
    """The weights of the pixels that a generator sees; None if the loss weighs no pixels.

    ``pixel_weights`` are as for ``make_target``.
    """
    if not LOSSES[loss].weighs_pixels:
        return None
    if pixel_weights is None:
        pixel_weights = jnp.broadcast_to(face_map(*clean.shape[1:3]), clean.shape[:3])
    return see_weights(generator, pixel_weights.astype(clean.dtype), keys)


def see_weights(generator: Generator, weights: Float[Array, "B H W"], keys: Keys) -> PixelWeights:
    """Pixel weights mapped to the pixels that a generator sees, of mean 1.

    They go through its view as a grey image, black for 0 and white for each image's largest weight.
    """
    grey = 2 * unit_largest(weights) - 1
    seen = see(generator, jnp.repeat(grey[..., None], 3, axis=-1), keys)
    return unit_mean(jnp.maximum(seen.mean(-1) + 1, 0))


def fit_conditions(conditions: Any, images: Images) -> Conditions:
    """Condition vectors [B,K,n] or [1,K,n] as [B,K,n] in the images' dtype."""
    conditions = jnp.asarray(conditions).astype(images.dtype)
    return jnp.broadcast_to(conditions, (len(images), *conditions.shape[1:]))


def domain_losses(loss: str, target: Target, images: Images, keys: Keys) -> Losses:
    """L of every domain, equation (29); of one if the loss does not depend on the domain."""
    return compare(loss, target, observe(loss, target.generator, images, target.conditions, keys))


def compare(loss: str, target: Target, observed: Float[Array, "B K ..."]) -> Losses:
    """L of every domain, from the observations."""
    return LOSSES[loss].distance(observed, target.references, target.pixel_weights)


def check_images(images: Any) -> None:
    """Raises ValueError unless images are [B,H,W,3], at least one, in float32 or float64."""
    if not (hasattr(images, "shape") and hasattr(images, "dtype")):
        raise ValueError(f"images must be an array, not a {type(images).__name__}")
    shape, dtype = images.shape, images.dtype
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise ValueError(f"images must be of shape [B,H,W,3], at least one, not {shape}")
    if dtype in (np.float32, np.float64):
        return
    if jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be float32 or float64, not {dtype}, in which gradients "
            "vanish; in_bfloat16 makes generators compute in half of the bits"
        )
    raise ValueError(
        f"images must be float32 or float64, in [-1, 1], not {dtype}; scale photos as "
        "pixels / 127.5 - 1"
    )


def check_batch(loss: str, ensemble: Sequence[Generator], batch: Batch) -> None:
    """Raises ValueError unless a batch's arrays have the shapes that generators and loss take."""
    check_images(batch.images)
    count = len(batch.images)
    check_conditions(ensemble, batch.conditions, count)
    check_pixel_weights(loss, batch.images, batch.pixel_weights)
    mask = batch.mask
    kind = getattr(mask, "shape", None), getattr(mask, "dtype", None)
    if mask is not None and kind != ((count,), np.bool_):
        raise ValueError(
            f"the mask of a batch must be an array of booleans [B], for {count} images"
        )


def check_pixel_weights(loss: str, images: Any, weights: Any) -> None:
    """Raises ValueError unless weights are None, or [B,H,W] for a loss that weighs pixels."""
    if weights is None:
        return
    if not LOSSES[loss].weighs_pixels:
        raise ValueError(f"the loss {loss} takes no weights of pixels; face-weighted does")
    shape = getattr(weights, "shape", None)
    if shape != images.shape[:3]:
        found = type(weights).__name__ if shape is None else list(shape)
        raise ValueError(
            f"weights of pixels must be [B,H,W], {list(images.shape[:3])}, not {found}"
        )


def check_conditions(ensemble: Sequence[Generator], conditions: Any, count: int) -> None:
    """Raises ValueError unless there is an array [B,K,n] or [1,K,n] for each generator."""
    if not hasattr(conditions, "__len__"):
        raise ValueError(f"conditions must be a list of arrays, not {conditions!r}")
    if len(conditions) != len(ensemble):
        raise ValueError(
            f"there are conditions for {len(conditions)} of {len(ensemble)} generators"
        )
    for model, each in zip(ensemble, conditions, strict=True):
        shape = each.shape if hasattr(each, "shape") else jnp.asarray(each).shape
        if len(shape) != 3 or shape[0] not in (1, count) or not shape[1]:
            raise ValueError(
                f"conditions must be a list of arrays, that of {model.name} [B,K,n] for {count} "
                f"images, or [1,K,n], not {list(shape)}"
            )


def as_tuple(ensemble: Any) -> tuple[Generator, ...]:
    """One generator or a sequence of them as a tuple.

    Raises:
      ValueError: it is neither, the sequence is empty, or a generator's parameters are no arrays.
    """
    models = tuple(ensemble) if isinstance(ensemble, Iterable) else (ensemble,)
    if not models:
        raise ValueError("the ensemble is empty; give at least one generator")
    for model in models:
        if not isinstance(model, Generator):
            raise ValueError(
                "an ensemble is a Generator or a sequence of them, such as "
                f"load_ensemble(...).generators; {type(model).__name__} is no Generator"
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
            if not hasattr(leaf, "dtype") and not isinstance(leaf, Number):
                name = f"params{jax.tree_util.keystr(path)} of {model.name}"
                raise ValueError(f"{name} must be an array, not a {type(leaf).__name__}")
    return models
