"""The models as the attack of one batch sees them: views, outputs, references and losses."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.types import Array, Generator


class Target(NamedTuple):
    """One model and what its outputs are compared with.

    Attributes:
      generator: the model.
      conditions: [B,K,n], the condition vector of each domain.
      references: [B,K,h,w,3], its outputs for the clean images.
    """

    generator: Generator
    conditions: Array
    references: Array


def see(generator: Generator, images: Array, keys: Array) -> Array:
    """What a generator sees of images [B,H,W,3], [B,h,w,3]; ``keys`` [B] are for random views.

    A view is mapped over the images one by one, so that what it draws for one cannot depend on the
    others or on its place among them.
    """
    view = generator.view
    if view is None:
        return images
    return jax.vmap(lambda image, key: view(image[None], key)[0])(images, keys)


def edit(generator: Generator, images: Array, conditions: Array, keys: Array) -> Array:
    """A generator's outputs [B,K,h,w,3] for images [B,H,W,3] in domains [B,K,n].

    The map over domains is over the condition alone: what does not depend on it, an encoder, is
    computed once per image.

    Raises:
      ValueError: an output has another shape than what the generator was given.
    """
    seen = see(generator, images, keys)
    outputs = jax.vmap(generator, in_axes=(None, 1), out_axes=1)(seen, conditions)
    expected = (*conditions.shape[:2], *seen.shape[1:])
    if outputs.shape != expected:
        raise ValueError(
            f"{generator.name} maps images {list(seen.shape)} to outputs "
            f"{[outputs.shape[0], *outputs.shape[2:]]}; both must have the same shape [B,h,w,3]"
        )
    return outputs.astype(images.dtype)


def fit_conditions(conditions: Any, images: Array) -> Array:
    """Condition vectors [B,K,n] or [1,K,n] as [B,K,n] in the images' type."""
    conditions = jnp.asarray(conditions).astype(images.dtype)
    return jnp.broadcast_to(conditions, (len(images), *conditions.shape[1:]))


def domain_losses(loss: str, target: Target, images: Array, keys: Array) -> Array:
    """L of every domain, [B,K], equation (29)."""
    outputs = edit(target.generator, images, target.conditions, keys)
    return LOSSES[loss](outputs, target.references)


def evaluate_losses(
    ensemble: Generator | Sequence[Generator],
    clean: Any,
    adversarial: Any,
    conditions: Sequence[Any],
    *,
    loss: str = "mse",
    seed: int = 0,
) -> list[Array]:
    """L of every model, image and domain, equation (29), in one compiled program.

    Args:
      ensemble: one generator or J of them.
      clean: [B,H,W,3], what the reference outputs are made from.
      adversarial: [B,H,W,3], the protected images.
      conditions: [B,K_j,n_j] or [1,K_j,n_j] for each generator.
      loss: a name in ``LOSSES``.
      seed: of the views that are random; both images are seen through the same draw.

    Returns:
      J arrays [B,K_j].
    """
    models = as_tuple(ensemble)
    clean, adversarial = jnp.asarray(clean), jnp.asarray(adversarial)
    fitted = tuple(fit_conditions(c, clean) for c in conditions)
    return _evaluate(loss, models, clean, adversarial, fitted, jax.random.key(seed))


@functools.partial(jax.jit, static_argnames="loss")
def _evaluate(
    loss: str,
    models: tuple[Generator, ...],
    clean: Array,
    adversarial: Array,
    conditions: tuple[Array, ...],
    key: Array,
) -> list[Array]:
    keys = jnp.broadcast_to(key, (len(clean),))
    targets = [
        Target(model, c, edit(model, clean, c, keys))
        for model, c in zip(models, conditions, strict=True)
    ]
    return [domain_losses(loss, target, adversarial, keys) for target in targets]


def as_tuple(ensemble: Generator | Sequence[Generator]) -> tuple[Generator, ...]:
    """One generator or a sequence of them as a tuple.

    Raises:
      ValueError: the sequence is empty.
    """
    models = (ensemble,) if isinstance(ensemble, Generator) else tuple(ensemble)
    if not models:
        raise ValueError("the ensemble is empty; give at least one generator")
    return models
