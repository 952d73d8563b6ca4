"""PRNG keys whose draws depend on the key alone.

An attack draws for every image with that image's key, by ``vmap`` over the batch. JAX's other
implementations (``rbg``, ``unsafe_rbg``) would use the first image's key for all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cdmaa_jax.types import Array

IMPLEMENTATION = "threefry2x32"


def seeded(seed: int) -> Array:
    """The typed key of a seed, whatever implementation JAX uses by default."""
    return jax.random.key(seed, impl=IMPLEMENTATION)


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
