"""PRNG keys whose draws depend on the key alone.

An attack draws for every image with that image's key, by ``vmap`` over the batch. JAX's other
implementations (``rbg``, ``unsafe_rbg``) would use the first image's key for all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cdmaa_jax.types import Array

IMPLEMENTATION = "threefry2x32"
SEEDS = 2**32
"""The number of seeds: JAX makes keys from 32 bits."""


def seeded(seed: int) -> Array:
    """The typed key of a seed, whatever implementation JAX uses by default."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that JAX would truncate to another one."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"the seed must be a whole number from 0 to {SEEDS - 1}, not {seed}")


def check_count(key: Array, count: int) -> None:
    """Raises ValueError unless there is one key, or one for each of ``count`` images."""
    if key.shape not in ((), (1,), (count,)):
        raise ValueError(f"there are {key.size} keys, but {count} images")


def check_implementation(key: Array) -> None:
    """Raises ValueError for an untyped key, or one whose draws depend on the batch."""
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise ValueError("a key must be a typed one, such as jax.random.key(0)")
    found = jax.random.key_impl(key)
    if str(found) != IMPLEMENTATION:
        raise ValueError(
            f"keys must be of {IMPLEMENTATION}, not {found}, whose draws for an image depend on "
            f"the rest of its batch: jax.random.key(seed, impl={IMPLEMENTATION!r})"
        )
