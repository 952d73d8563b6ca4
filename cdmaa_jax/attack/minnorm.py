"""The shortest vector in the convex hull of some gradients: equations (12) and (13).

Only the Gram matrix of the gradients is needed. The solver is a Frank-Wolfe method: each iteration
moves weight from one gradient to another by exact line search (the pairwise step of Lacoste-Julien
and Jaggi 2015), then moves towards the minimum on the current face of the simplex. The plain method
converges slowly if the minimum is on a face; this one ends there after a few iterations.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from cdmaa_jax.types import Array

Gram: TypeAlias = Float[Array, "J J"]
Weights: TypeAlias = Float[Array, "J"]
MAX_ITERATIONS = 16
"""The bound on iterations, per gradient, since rounding can keep a solution moving.

Four gradients take about 3 iterations in all, sixteen 15; 64 of very different lengths take 128.
"""
ROUNDING = 8
"""The assumed error of slopes, in machine epsilons of the sum of their terms' magnitudes."""


def min_norm_weights(gradients: Float[Array, "B J ..."]) -> Float[Array, "B J"]:
    """The weights of the shortest convex combination, per image.

    Args:
      gradients: [B,J,...], of any scale. If the lengths of an image's differ by more than a factor
        of 1e6, float32 rounds too coarsely for the combination to be sure to ascend along all.

    Returns:
      [B,J], non-negative, summing to one; uniform where all gradients are zero or one is NaN. They
      cannot be differentiated in reverse mode for more than two gradients.

    Raises:
      ValueError: there are no gradients.
    """
    if 0 in gradients.shape:
        raise ValueError(f"gradients must be [B,J,...], at least one, not {gradients.shape}")
    vectors = gradients.reshape(*gradients.shape[:2], -1)
    return jax.vmap(solve)(jax.vmap(gram)(vectors))


def gram(vectors: Float[Array, "J N"]) -> Gram:
    """The Gram matrix of J vectors, scaled so that its largest entry is one.

    Gradients of an attack are about 1e-6, so they are scaled before their squares can underflow.
    """
    scaled = vectors / _positive(jnp.abs(vectors).max())
    products = jnp.matmul(scaled, scaled.T, precision=lax.Precision.HIGHEST)
    return products / _positive(jnp.diagonal(products).max())


def solve(gram: Gram) -> Weights:
    """The weights on the simplex that minimize aᵀ·gram·a; uniform if the matrix is zero."""
    count = gram.shape[0]
    uniform = jnp.full((count,), 1 / count, gram.dtype)
    if count == 1:
        return uniform
    weights = _solve_pair(gram) if count == 2 else _frank_wolfe(gram)
    return jnp.where(jnp.diagonal(gram).max() > 0, weights, uniform)


def _solve_pair(gram: Float[Array, "2 2"]) -> Float[Array, "2"]:
    curvature = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]
    first = (gram[1, 1] - gram[0, 1]) / _positive(curvature)
    first = jnp.where(curvature > 0, jnp.clip(first, 0, 1), 0.5)
    return jnp.stack([first, 1 - first])


def _frank_wolfe(gram: Gram) -> Weights:
    def goes_on(carry: tuple[Weights, Int[Array, ""]]) -> Bool[Array, ""]:
        weights, iteration = carry
        return ~_is_optimal(gram, weights) & (iteration < MAX_ITERATIONS * len(gram))

    def iterate(carry: tuple[Weights, Int[Array, ""]]) -> tuple[Weights, Int[Array, ""]]:
        weights, iteration = carry
        return _correct(gram, _transfer(gram, weights)), iteration + 1

    shortest = _one_hot(jnp.argmin(jnp.diagonal(gram)), gram)
    return lax.while_loop(goes_on, iterate, (shortest, jnp.zeros((), jnp.int32)))[0]


def _is_optimal(gram: Gram, weights: Weights) -> Bool[Array, ""]:
    """Whether all vertices in use have the least slope of all, up to rounding."""
    slopes = _product(gram, weights)
    target = jnp.argmin(slopes)
    rounding = ROUNDING * jnp.finfo(gram.dtype).eps * _product(jnp.abs(gram), weights)
    excess = slopes - slopes[target] - (rounding + rounding[target])
    return ~((weights > 0) & (excess > 0)).any()


def _transfer(gram: Gram, weights: Weights) -> Weights:
    """The pairwise step: to the steepest vertex, from the one whose step shortens w most."""
    slopes = _product(gram, weights)
    target = jnp.argmin(slopes)
    descent = slopes - slopes[target]
    curvature = gram[target, target] - 2 * gram[target] + jnp.diagonal(gram)
    useful = (descent > 0) & (curvature > 0)
    amounts = jnp.where(useful, jnp.minimum(descent / _positive(curvature), weights), 0)
    source = jnp.argmax(amounts * (2 * descent - amounts * curvature))
    change = _one_hot(target, weights) - _one_hot(source, weights)
    return _on_simplex(weights + amounts[source] * change)


def _correct(gram: Gram, weights: Weights) -> Weights:
    """Moves towards the shortest vector in the affine hull of the vertices in use, by line search.

    It stops at that point or at the simplex's boundary; an inaccurate solution of the system costs
    time, not correctness.
    """
    change = _affine_minimum(gram, weights > 0) - weights
    reach = jnp.where(change < 0, weights / _positive(-change), jnp.inf)
    slope = -(change * _product(gram, weights)).sum()
    curvature = (change * _product(gram, change)).sum()
    best = jnp.where(curvature > 0, slope / _positive(curvature), 0)
    amount = jnp.clip(best, 0, jnp.minimum(reach.min(), 1))
    return _on_simplex(jnp.where(reach > amount, weights + amount * change, 0))


def _affine_minimum(gram: Gram, used: Bool[Array, "J"]) -> Weights:
    """The weights, of any sign, of the shortest affine combination of the vertices in use."""
    ones = used.astype(gram.dtype)
    noise = len(gram) * jnp.finfo(gram.dtype).eps
    ridge = jnp.diag(jnp.where(used, noise * jnp.diagonal(gram), 1))
    solution = _solve_positive(gram * ones[:, None] * ones[None, :] + ridge, ones)
    return solution / _nonzero(solution.sum())


def _solve_positive(matrix: Float[Array, "J J"], vector: Float[Array, "J"]) -> Float[Array, "J"]:
    """The solution of a small positive definite system, by elimination without pivots."""
    table = jnp.concatenate([matrix, vector[:, None]], axis=1)
    for i in range(len(matrix)):
        row = table[i] / _nonzero(table[i, i])
        table = (table - table[:, i, None] * row[None, :]).at[i].set(row)
    return table[:, -1]


def _on_simplex(weights: Weights) -> Weights:
    weights = jnp.maximum(weights, 0)
    return weights / weights.sum()


def _product(gram: Gram, weights: Weights) -> Float[Array, "J"]:
    return (gram * weights[None, :]).sum(1)


def _one_hot(index: Int[Array, ""], like: Float[Array, "J ..."]) -> Weights:
    return (jnp.arange(like.shape[0]) == index).astype(like.dtype)


def _positive(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The value where it is positive, else 1: a safe divisor."""
    return jnp.where(value > 0, value, 1)


def _nonzero(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(value != 0, value, 1)
