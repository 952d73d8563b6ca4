"""Winograd's minimal filtering: convolutions of 2×2 and 3×3 taps with far fewer multiplications.

A tile of m×m outputs comes from n×n inputs, n = m + taps - 1, by one product for each of n² points
at which tile and kernel are evaluated as polynomials: y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin, Gray
2016). The points are ones that round little: the usual 0, ±1, ±2 lose twice to four times as much.
The transposed convolution is the same computation transposed, so it takes the same kernel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _rational(*points: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(point) for point in points)


_POINTS = {  # tile and taps to the points other than infinity
    (2, 3): _rational("0", "1", "-1"),
    (4, 3): _rational("0", "3/4", "-3/4", "3/2", "-3/2"),
    (4, 2): _rational("2/5", "-2/5", "5/4", "-5/4"),
}


class Transforms(NamedTuple):
    """The matrices of F(m, taps), of n = m + taps - 1 points: A [n,m], G [n,taps] and B [n,n]."""

    outputs: np.ndarray
    kernel: np.ndarray
    inputs: np.ndarray


@functools.cache
def transforms(tile: int, taps: int) -> Transforms:
    """The transforms for tiles of ``tile`` outputs by interpolation (Toom and Cook)."""
    points = _POINTS[tile, taps]
    outputs, kernel = (_evaluation(points, count) for count in (tile, taps))
    nodes = [[p - q for q in points if q != p] for p in points]
    scale = np.array([*(math.prod(differences) for differences in nodes), Fraction(1)])
    inputs = np.array([_product_of_roots([q for q in points if q != p]) for p in points])
    last = np.array([_product_of_roots(points)])
    inputs = np.concatenate([np.pad(inputs, [(0, 0), (0, 1)]), last]).T
    as_float = [a.astype(np.float64) for a in (outputs, kernel / scale[:, None], inputs)]
    return Transforms(*as_float)


def _evaluation(points: Sequence[Fraction], count: int) -> np.ndarray:
    """[n,count]: takes coefficients to the values of a polynomial at the points and infinity."""
    finite = [[p**i for i in range(count)] for p in points]
    return np.array([*finite, [Fraction(int(i == count - 1)) for i in range(count)]])


def _product_of_roots(roots: Sequence[Fraction]) -> np.ndarray:
    """The coefficients, lowest first, of the monic polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [a - root * b for a, b in zip(shifted, scaled, strict=True)]
    return np.array(coefficients)


def transform_kernel(kernel: Any, tile: int) -> jax.Array:
    """A kernel [k,k,I,O] at the n² points, [n²,I,O]."""
    matrix = transforms(tile, len(kernel)).kernel
    taps = kernel.reshape(-1, *kernel.shape[2:])
    both = jnp.asarray(np.kron(matrix, matrix), kernel.dtype)  # of rows and of columns at once
    return jnp.einsum("pt,tio->pio", both, taps, precision=lax.Precision.HIGHEST)


def convolve(x: Any, kernel: Any, padding: int, tile: int) -> jax.Array:
    """The stride-1 convolution of x [B,H,W,I] with a kernel [k,k,I,O]."""
    reach = len(kernel) - 1
    height, width = (n + 2 * padding - reach for n in x.shape[1:3])
    counts = -(-height // tile), -(-width // tile)
    full = [count * tile + reach for count in counts]
    ends = [n - have - padding for n, have in zip(full, x.shape[1:3], strict=True)]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), *((padding, end, 0) for end in ends), (0, 0, 0)])
    matrices = transforms(tile, len(kernel))
    spectrum = _on_overlapping_tiles(x, matrices.inputs, tile, counts)
    shape = spectrum.shape
    products = _multiply(spectrum.reshape(shape[0] * shape[1], -1, shape[-1]), kernel, tile, 1)
    y = _from_tiles(products.reshape(*shape[:-1], -1), matrices.outputs)
    return y[:, :height, :width]


def convolve_transposed(y: Any, kernel: Any, padding: int, tile: int) -> jax.Array:
    """The transpose of ``convolve``: y [B,H,W,O] to [B,H',W',I], H' = H + k - 1 - 2 · padding."""
    height, width = (n + len(kernel) - 1 - 2 * padding for n in y.shape[1:3])
    ends = [-n % tile for n in y.shape[1:3]]
    zero = jnp.zeros((), y.dtype)
    y = lax.pad(y, zero, [(0, 0, 0), *((0, end, 0) for end in ends), (0, 0, 0)])
    matrices = transforms(tile, len(kernel))
    spectrum = _on_tiles(y, matrices.outputs)
    shape = spectrum.shape
    products = _multiply(spectrum.reshape(shape[0] * shape[1], -1, shape[-1]), kernel, tile, 2)
    x = _from_overlapping_tiles(products.reshape(*shape[:-1], -1), matrices.inputs, tile)
    return x[:, padding : padding + height, padding : padding + width]


def _multiply(spectrum: jax.Array, kernel: Any, tile: int, axis: int) -> jax.Array:
    """[n²,tiles,C] times the kernel, whose axis of that C is ``axis``, at every point."""
    # Tied to the images, or XLA would keep all kernels' points in memory throughout a loop, from
    # where they are slower to read than to make.
    kernel, spectrum = lax.optimization_barrier((kernel, spectrum))
    points = transform_kernel(kernel, tile)
    return lax.dot_general(spectrum, points, (((2,), (axis,)), ((0,), (0,))))


def _on_overlapping_tiles(
    x: jax.Array, matrix: np.ndarray, tile: int, counts: tuple[int, int]
) -> jax.Array:
    """Bᵀ d B of every tile of x [B,H,W,C]: [n,n,B,*counts,C]."""

    def along(x: jax.Array, axis: int, count: int, to: int) -> jax.Array:
        reach = (count - 1) * tile + 1
        taps = [lax.slice_in_dim(x, i, i + reach, tile, axis) for i in range(len(matrix))]
        return jnp.stack([_combine(column, taps) for column in matrix.T], to)

    # Materialized between the two, since fusing them would compute the first n times.
    return along(lax.optimization_barrier(along(x, 1, counts[0], 0)), 3, counts[1], 1)


def _from_overlapping_tiles(spectrum: jax.Array, matrix: np.ndarray, tile: int) -> jax.Array:
    """The transpose: tiles [n,n,B,rows,columns,C] added where they overlap, [B,H,W,C]."""

    def along(taps: Sequence[jax.Array], axis: int) -> jax.Array:
        parts = [_combine(row, taps) for row in matrix]
        own = [shift(part, axis, 0, 1) for part in parts[:tile]]
        for i, part in enumerate(parts[tile:]):
            own[i] = own[i] + shift(part, axis, 1, 0)  # reaches into the next tile
        return _interleave(own, axis)

    columns = along(_slices(spectrum, 1), 3)
    return along(_slices(lax.optimization_barrier(columns), 0), 1)


def _on_tiles(y: jax.Array, matrix: np.ndarray) -> jax.Array:
    """A y Aᵀ of every tile of y [B,H,W,C]: [n,n,B,H/m,W/m,C]."""
    tile = matrix.shape[1]

    def along(y: jax.Array, axis: int, to: int) -> jax.Array:
        taps = [lax.slice_in_dim(y, i, y.shape[axis], tile, axis) for i in range(tile)]
        return jnp.stack([_combine(row, taps) for row in matrix], to)

    return along(lax.optimization_barrier(along(y, 1, 0)), 3, 1)


def _from_tiles(spectrum: jax.Array, matrix: np.ndarray) -> jax.Array:
    """The transpose: Aᵀ m A of every tile, [n,n,B,rows,columns,C] to [B,H,W,C]."""

    def along(taps: Sequence[jax.Array], axis: int) -> jax.Array:
        return _interleave([_combine(column, taps) for column in matrix.T], axis)

    columns = along(_slices(spectrum, 1), 3)
    return along(_slices(lax.optimization_barrier(columns), 0), 1)


def _slices(x: jax.Array, axis: int) -> list[jax.Array]:
    """An array's slices along an axis, without it; no transposed copy is made, as by swapping."""
    return [lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])]


def _interleave(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """One array of what alternates along an axis."""
    shape = parts[0].shape
    return jnp.stack(parts, axis + 1).reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _combine(coefficients: Any, terms: Sequence[jax.Array]) -> jax.Array:
    """Σ coefficient · term, without the zeros."""
    pairs = [(float(c), term) for c, term in zip(coefficients, terms, strict=True) if c]
    products = [term if c == 1 else c * term for c, term in pairs]
    return functools.reduce(lambda a, b: a + b, products)


def shift(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """An array with so many zeros before and after it along an axis."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
