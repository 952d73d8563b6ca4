"""Generators computed in a different precision from that of their inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cdmaa_jax.types import Generator


def in_bfloat16(generator: Generator) -> Generator:
    """The generator with bfloat16 parameters and features; images and outputs keep their dtype.

    So do losses, gradients and their Gram matrix. bfloat16 is faster on GPUs and TPUs that have
    units for it, not on CPUs. Instance norms still compute their statistics in float32.
    """
    params = _narrow_all(generator.params)
    encode = None if generator.encode is None else _InBfloat16(generator.encode)
    return dataclasses.replace(
        generator, apply=_InBfloat16(generator.apply), encode=encode, params=params
    )


def _narrow_all(params: Any) -> Any:
    """The parameters in bfloat16, but for integers and booleans, by one program."""
    leaves, structure = jax.tree.flatten(params)
    half = iter(_narrow_arrays([leaf for leaf in leaves if _is_real(leaf)]))
    mixed = [next(half) if _is_real(leaf) else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, mixed)


@jax.jit
def _narrow_arrays(arrays: list[Any]) -> list[jax.Array]:
    return [jnp.asarray(array, jnp.bfloat16) for array in arrays]


def _narrow(array: Any) -> Any:
    """The array in bfloat16, unless it holds integers or booleans."""
    return jnp.asarray(array, jnp.bfloat16) if _is_real(array) else array


def _is_real(array: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(array), jnp.floating)


@dataclasses.dataclass(frozen=True)
class _InBfloat16:
    """A generator's function, given bfloat16 inputs; equal ones share compiled programs."""

    function: Callable[..., jax.Array]

    def __call__(self, params: Any, x: Any, *conditions: Any) -> jax.Array:
        half = [_narrow(array) for array in (x, *conditions)]
        made = self.function(params, *half)  # one array; else ``losses.outputs`` says what is wrong
        return jax.tree.map(lambda array: array.astype(x.dtype), made)
