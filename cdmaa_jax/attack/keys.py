"""PRNG keys whose draws depend on the key alone.

An attack draws for every image with that image's key, by ``vmap`` over the batch. JAX's other
implementations (``rbg``, ``unsafe_rbg``) would use the first image's key for all of them.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from cdmaa_jax.types import Array

IMPLEMENTATION = "threefry2x32"
SEEDS = 2**32
"""The number of seeds: JAX makes keys from 32 bits."""


def seeded(seed: int) -> Array:
    """The typed key of a seed, whatever implementation JAX uses by default."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def check_seed(seed: Any) -> None:
    """Raises ValueError for a seed that JAX would truncate to another one, unless it is traced."""
    if isinstance(seed, jax.core.Tracer):
        return
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < SEEDS:
        raise ValueError(f"the seed must be a whole number from 0 to {SEEDS - 1}, not {seed!r}")


def key_of_each(key: Any, count: int) -> Array:
    """The typed keys [count] of images that have one key, or one each.

    Raises:
      ValueError: it is no typed key; its draws depend on the batch; or there are other keys than
        one, or one for each image.
    """
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError("a key must be a typed one, such as jax.random.key(0)")
    found = jax.random.key_impl(key)
    if str(found) != IMPLEMENTATION:
        raise ValueError(
            f"keys must be of {IMPLEMENTATION}, not {found}, whose draws for an image depend on "
            f"the rest of its batch: jax.random.key(seed, impl={IMPLEMENTATION!r})"
        )
    if key.shape not in ((), (1,), (count,)):
        what = "one key" if count == 1 else f"one key, or one for each of the {count} images"
        raise ValueError(f"there must be {what}, not keys of shape {key.shape}")
    return jnp.broadcast_to(key, (count,))
