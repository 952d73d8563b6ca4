"""The shortest vector in the convex hull of some gradients: equations (12) and (13).

Only the Gram matrix of the gradients is needed. The solver is the pairwise Frank-Wolfe method
(Lacoste-Julien and Jaggi 2015): each step moves weight from one gradient to another by exact line
search, so that, unlike the plain method's, it converges linearly on the faces of the simplex too.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from cdmaa_jax.types import Array

MAX_ITERATIONS = 512
"""A bound that only degenerate Gram matrices in float64 come near; four models take about 15."""


def min_norm_weights(gradients: Array) -> Array:
    """The weights of the shortest convex combination, per image.

    Args:
      gradients: [B,J,...], of any scale.

    Returns:
      [B,J], non-negative, summing to one; uniform where all gradients are zero.
    """
    return jax.vmap(lambda vectors: solve(gram(vectors)))(
        gradients.reshape(*gradients.shape[:2], -1)
    )


def gram(vectors: Array) -> Array:
    """The Gram matrix [J,J] of vectors [J,N], scaled so that its largest entry is one.

    Gradients of an attack are about 1e-6, so they are scaled before their squares can underflow.
    """
    scaled = vectors / _positive(jnp.abs(vectors).max())
    products = jnp.matmul(scaled, scaled.T, precision=lax.Precision.HIGHEST)
    return products / _positive(jnp.diagonal(products).max())


def solve(gram: Array) -> Array:
    """The weights [J] on the simplex that minimize aᵀ·gram·a; uniform if gram [J,J] is zero."""
    count = gram.shape[0]
    uniform = jnp.full((count,), 1 / count, gram.dtype)
    if count == 1:
        return uniform
    weights = _solve_pair(gram) if count == 2 else _frank_wolfe(gram)
    return jnp.where(jnp.diagonal(gram).max() > 0, weights, uniform)


def _solve_pair(gram: Array) -> Array:
    curvature = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]
    first = (gram[1, 1] - gram[0, 1]) / _positive(curvature)
    first = jnp.where(curvature > 0, jnp.clip(first, 0, 1), 0.5)
    return jnp.stack([first, 1 - first])


class _Move(NamedTuple):
    """A transfer of ``amount`` from weight ``source`` to weight ``target``."""

    source: Array
    target: Array
    amount: Array


def _frank_wolfe(gram: Array) -> Array:
    def improves(carry: tuple[Array, _Move, Array]) -> Array:
        _, move, iteration = carry
        return (move.amount > 0) & (iteration < MAX_ITERATIONS)

    def improve(carry: tuple[Array, _Move, Array]) -> tuple[Array, _Move, Array]:
        weights, move, iteration = carry
        weights = _apply(weights, move)
        return weights, _best_move(gram, weights), iteration + 1

    shortest = _one_hot(jnp.argmin(jnp.diagonal(gram)), gram)
    start = (shortest, _best_move(gram, shortest), jnp.zeros((), jnp.int32))
    weights, _, _ = lax.while_loop(improves, improve, start)
    return weights / weights.sum()


def _best_move(gram: Array, weights: Array) -> _Move:
    """The transfer to the steepest vertex that shortens the combination most; 0 if none does."""
    slopes = _product(gram, weights)
    target = jnp.argmin(slopes)
    descent = slopes - slopes[target]
    noise = 4 * jnp.finfo(gram.dtype).eps * _product(jnp.abs(gram), weights)
    curvature = gram[target, target] - 2 * gram[target] + jnp.diagonal(gram)
    useful = (weights > 0) & (curvature > 0) & (descent > noise + noise[target])
    amounts = jnp.where(useful, jnp.minimum(descent / _positive(curvature), weights), 0)
    source = jnp.argmax(amounts * (2 * descent - amounts * curvature))
    return _Move(source, target, amounts[source])


def _apply(weights: Array, move: _Move) -> Array:
    source, target = _one_hot(move.source, weights), _one_hot(move.target, weights)
    return jnp.maximum(weights + move.amount * (target - source), 0)


def _product(gram: Array, weights: Array) -> Array:
    return (gram * weights[None, :]).sum(1)


def _one_hot(index: Array, like: Array) -> Array:
    return (jnp.arange(like.shape[0]) == index).astype(like.dtype)


def _positive(value: Array) -> Array:
    """The value where it is positive and 1 elsewhere, to divide by."""
    return jnp.where(value > 0, value, 1)
