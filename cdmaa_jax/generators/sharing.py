"""Combining values that all domains share with values of each domain.

Generators are mapped over domains by ``vmap``, which computes an encoder's features, for example,
once. Their gradient is then a sum over domains. JAX makes it a reduction, which takes XLA's CPU
backend ten times as long as the equivalent additions; ``meet`` emits those additions.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def meet(x: Any, own: Any) -> jax.Array:
    """x itself; under ``vmap``, a copy per domain if ``own`` is mapped and x is not."""
    return _meet_p.bind(x, own)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _spread(x: Any, count: int) -> jax.Array:
    """``count`` copies of x along a new first axis."""
    return jnp.broadcast_to(x, (count, *x.shape))


def _spread_forward(x, count):
    return _spread(x, count), None


def _spread_backward(count, _, slope):
    # Axes kept: XLA would push their removal through the sum, one addition at a time.
    return (functools.reduce(operator.add, [slope[i : i + 1] for i in range(count)])[0],)


_spread.defvjp(_spread_forward, _spread_backward)

_meet_p = Primitive("meet")
_meet_p.def_impl(lambda x, own: x)
_meet_p.def_abstract_eval(lambda x, own: x)
mlir.register_lowering(_meet_p, lambda ctx, x, own: [x])
ad.defjvp(_meet_p, lambda tangent, x, own: meet(tangent, own), None)
ad.primitive_transposes[_meet_p] = lambda slope, x, own: (slope, None)


def _map(arguments: Any, axes: Any) -> tuple[jax.Array, Any]:
    (x, own), (axis, own_axis) = arguments, axes
    if axis is not None or own_axis is None:
        return x, axis
    return _spread(x, own.shape[own_axis]), 0


batching.primitive_batchers[_meet_p] = _map
