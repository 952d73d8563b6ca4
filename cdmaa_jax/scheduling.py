"""Values that tell XLA when to compute something.

``lax.optimization_barrier`` is too weak for that. XLA moves a barrier out of a loop together with
its operands, and removes all barriers before it fuses and schedules operations: they only prevent
joint simplification. Here the value itself is made to depend on what has to come first. Finite
values stay the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def later(x: Any, after: Any) -> jax.Array:
    """x, available only once ``after`` has been computed.

    If ``after`` changes in every iteration of a loop, values derived from x are computed in the
    loop, rather than hoisted and kept in memory. If it is the last result of a large computation,
    that computation's memory is free before values derived from x are allocated.

    Args:
      x: an array.
      after: an array of the same type that broadcasts against x, of any values.
    """
    least = jnp.finfo(after.dtype).min
    return jnp.maximum(x, jnp.where(after < least, after, least))


def materialize(x: Any, number: Any = None) -> jax.Array:
    """x, computed once on a CPU, not again for each of its uses.

    XLA's CPU backend duplicates cheap operations into their users, but not a division. x is divided
    by a 1 that XLA cannot recognize, since it is computed from x itself or, if computing x twice
    would be expensive, from ``number``, a scalar of any value, even NaN.
    """
    value = x if number is None else (number > 0).astype(x.dtype)
    return x / jnp.minimum(1 + value**2, 1)
