"""Winograd's minimal filtering: convolutions of 2×2 and 3×3 taps with far fewer multiplications.

A tile of m×m outputs takes n×n inputs, n = m + taps - 1, and one product at each of n² points at
which tile and kernel are evaluated as polynomials: y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A (Lavin, Gray
2016). The points are chosen to round little: the usual 0, ±1, ±2 lose two to four times as much.
The transposed convolution is the same computation transposed, so it takes the same kernel.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cdmaa_jax import processor
from cdmaa_jax.scheduling import later


def _rational(*points: str) -> tuple[Fraction, ...]:
    return tuple(Fraction(point) for point in points)


_POINTS = {  # (tile, taps) to the points other than infinity
    (2, 3): _rational("1", "-1", "0"),
    (4, 3): _rational("3/4", "-3/4", "3/2", "-3/2", "0"),
    (2, 2): _rational("1", "-1"),
    (4, 2): _rational("2/5", "-2/5", "5/4", "-5/4"),
}
MANY_VALUES = 5 * 2**20  # transformed values above which they no longer fit a CPU's caches
_CACHED_VALUES = 3 * 2**20  # transformed values that do fit
_LONG_SUM = 512  # contraction length from which a kernel-first product is worth its transpose
_LARGE_KERNEL = 1000  # kernel values per tile from which a kernel counts as large
FEW_ROWS = 32  # up to which YNNPACK packs the rows in less time than the kernel's transpose


class Transforms(NamedTuple):
    """The matrices of F(m, taps), n = m + taps - 1 points: A [n,m], G [n,taps] and B [n,n]."""

    outputs: np.ndarray
    kernel: np.ndarray
    inputs: np.ndarray


@functools.cache
def transforms(tile: int, taps: int) -> Transforms:
    """The transforms for tiles of ``tile`` outputs, by Toom-Cook interpolation."""
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
    """[n,count]: maps a polynomial's coefficients to its values at the points and infinity."""
    finite = [[p**i for i in range(count)] for p in points]
    return np.array([*finite, [Fraction(int(i == count - 1)) for i in range(count)]])


def _product_of_roots(roots: Sequence[Fraction]) -> np.ndarray:
    """The coefficients, lowest first, of the monic polynomial with these roots."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [a - root * b for a, b in zip(shifted, scaled, strict=True)]
    return np.array(coefficients)


def transform_kernel(kernel: Any, tile: int, after: Any, rows: slice = slice(None)) -> jax.Array:
    """A kernel [k,k,I,O] at the n² points, or in some of their n rows: [n · rows,I,O].

    Computed only after the number ``after``: it is slower to read back than to recompute.
    """
    matrix = transforms(tile, len(kernel)).kernel
    taps = kernel.reshape(-1, *kernel.shape[2:])
    both = np.einsum("pi,qj->qpij", matrix[rows], matrix)  # rows and columns at once
    both = both.reshape(-1, len(taps)).astype(kernel.dtype)
    return jnp.einsum("pt,tio->pio", later(both, after), taps, precision=lax.Precision.HIGHEST)


def transform_kernel_of_blocks(
    kernel: Any, tile: int, after: Any, rows: slice = slice(None)
) -> jax.Array:
    """``transform_kernel`` of [4,4,L,S] folded to 2×2 blocks, [2,2,4L,S], by additions.

    For a large kernel, which is slower to copy into folded order than to read several times.
    """
    matrix, (large, small) = transforms(tile, 2).kernel, kernel.shape[2:]
    taps = later(kernel, after).reshape(2, 2, 2, 2, large, small)  # [row, subrow, col, subcol]
    columns = [[_combine(row, list(taps[:, :, j])) for j in (0, 1)] for row in matrix[rows]]
    points = zip(*(_product(matrix, each) for each in columns), strict=True)
    return jnp.stack([at for each in points for at in each]).reshape(-1, 4 * large, small)


def convolve(
    x: jax.Array | Sequence[jax.Array],
    kernel: Any,
    padding: int,
    tile: int,
    points: Any = None,
    transform: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """The stride-1 convolution of x [B,H,W,I] with a kernel [k,k,I,O].

    x may be given as the parts that concatenate to it along the channels. ``points`` is the kernel
    already transformed by ``transform``, or by default ``transform_kernel``.
    """
    matrices, reach = transforms(tile, len(kernel)), len(kernel) - 1
    parts = list(x) if isinstance(x, Sequence) else [x]
    height, width = (n + 2 * padding - reach for n in parts[0].shape[1:3])
    counts = -(-height // tile), -(-width // tile)
    full = [count * tile + reach for count in counts]

    def to_points(x: jax.Array, axis: int, count: int) -> list[jax.Array]:
        extent = (count - 1) * tile + 1
        taps = [lax.slice_in_dim(x, i, i + extent, tile, axis) for i in range(tile + reach)]
        return _product(matrices.inputs.T, taps)

    def from_points(products: Sequence[jax.Array], axis: int) -> list[jax.Array]:
        return _product(matrices.outputs.T, products)

    parts = [fit(part, padding, full) for part in parts]
    way = _Way(to_points, from_points, contracted=1)
    x = _by_points(parts, kernel, tile, counts, way, points, transform)
    return x[:, :height, :width]


def convolve_transposed(
    y: jax.Array,
    kernel: Any,
    padding: int,
    tile: int,
    points: Any = None,
    transform: Callable[..., jax.Array] | None = None,
    rows: int = 1,
) -> jax.Array:
    """The transpose of ``convolve``: y [B,H,W,O] to [B,H',W',I], H' = H + k - 1 - 2 · padding.

    With ``rows``, I holds the channels of a column of ``rows`` pixels, one after the other; they
    come out as [B,rows · H',W',I / rows].
    """
    matrices = transforms(tile, len(kernel))
    height, width = (n + len(kernel) - 1 - 2 * padding for n in y.shape[1:3])
    counts = [-(-n // tile) for n in y.shape[1:3]]

    def to_points(y: jax.Array, axis: int, count: int) -> list[jax.Array]:
        taps = [lax.slice_in_dim(y, i, count * tile, tile, axis) for i in range(tile)]
        return _product(matrices.outputs, taps)

    def from_points(products: Sequence[jax.Array], axis: int) -> list[jax.Array]:
        parts = _product(matrices.inputs, products)
        own = [shift(part, axis, 0, 1) for part in parts[:tile]]
        for i, part in enumerate(parts[tile:]):
            own[i] = own[i] + shift(part, axis, 1, 0)  # reaches into the next tile
        return own

    y = fit(y, 0, [count * tile for count in counts])
    way = _Way(to_points, from_points, contracted=2)
    x = _by_points([y], kernel, tile, counts, way, points, transform, rows)
    return x[:, rows * padding : rows * (padding + height), padding : padding + width]


class _Way(NamedTuple):
    """A convolution, or its transpose, between pixels and points.

    Attributes:
      to_points: ``to_points(x, axis, count)``: the values of ``count`` tiles along an axis at the
        points, one array per point.
      from_points: ``from_points(products, axis)``: from one array per point to one array per pixel
        of a tile.
      contracted: the kernel's axis that the products sum over.
    """

    to_points: Callable[[jax.Array, int, int], Sequence[jax.Array]]
    from_points: Callable[[Sequence[jax.Array], int], Sequence[jax.Array]]
    contracted: int


def _by_points(
    parts: Sequence[jax.Array],
    kernel: Any,
    tile: int,
    counts: Sequence[int],
    way: _Way,
    points: Any,
    transform: Callable[..., jax.Array] | None,
    rows: int = 1,
) -> jax.Array:
    """Transforms along rows and columns, multiplies by the kernel at each point, transforms back.

    The kernel is transformed after a value from the middle of the first row, which is not one of
    the padding's zeros. If the points do not all fit the caches, as many rows as fit are taken at
    a time. Row transforms are materialized: fused, they would be recomputed for each column point.
    """
    side = tile + len(kernel) - 1
    tiles = len(parts[0]) * math.prod(counts)
    transformed = math.prod(kernel.shape[2:]) if points is None else 0
    step = _rows_at_once(side, side * (tiles * sum(kernel.shape[2:]) + transformed))
    through_rows = _through_rows(parts, way, counts[0], step)
    transform, products, after = transform or transform_kernel, [], None

    @jax.jit  # traced once per shape
    def through_columns(part: jax.Array, at: jax.Array) -> jax.Array:
        part = jnp.concatenate(way.to_points(part, 3, counts[1]))  # [n · rows,B,*counts,C]
        product = _multiply(part.reshape(len(at), tiles, -1), at, way.contracted)
        values = _in_parts(product.reshape(*part.shape[:-1], -1), side)
        return _interleave(way.from_points(values, 3), 3)

    for first in range(0, side, step):
        some = slice(first, first + step)
        part = lax.optimization_barrier(through_rows(first))
        if after is None:
            after = part[0, 0, part.shape[2] // 2, part.shape[3] // 2, 0]
        if points is None:
            at = transform(kernel, tile, after, some)
        else:
            of_columns = points.reshape(side, side, *kernel.shape[2:])  # [columns,rows,I,O]
            at = of_columns[:, some].reshape(-1, *kernel.shape[2:])
        part = lax.optimization_barrier(through_columns(part, at))
        products += _in_parts(part, len(part))
    shares = [jnp.split(product, rows, axis=-1) for product in products]
    own = [way.from_points(share, 2) for share in zip(*shares, strict=True)]
    x = _interleave([x for each in zip(*own, strict=True) for x in each], 2)[0]
    return lax.optimization_barrier(x)  # or XLA would sum each part separately for a mean


def _multiply(images: jax.Array, kernel: jax.Array, contracted: int) -> jax.Array:
    """images [n,T,C] times a kernel [n,I,O] at each point, summed over I or O: [n,T,O] or [n,T,I].

    A large kernel's transpose is slow to pack, for YNNPACK only beside few rows: there the kernel
    comes first, and the product is transposed.
    """
    alike = ((0,), (0,))
    _, tiles, length = images.shape
    is_large = math.prod(kernel.shape[1:]) >= _LARGE_KERNEL * tiles
    by_eigen = processor.is_x86_without_avx512()
    pays = length >= _LONG_SUM if by_eigen else tiles <= FEW_ROWS
    if contracted == 2 and is_large and pays:
        product = lax.dot_general(kernel, images, (((2,), (2,)), alike))
        return jnp.swapaxes(lax.optimization_barrier(product), 1, 2)
    return lax.dot_general(images, kernel, (((2,), (contracted,)), alike))


def _through_rows(
    parts: Sequence[jax.Array], way: _Way, count: int, step: int
) -> Callable[[int], jax.Array]:
    """A function from a row's index to ``step`` rows of points, [rows,B,count,W,C].

    XLA recomputes an operand for each column point unless it is a concatenation. A single row is
    therefore split along the channels and concatenated again.
    """
    if step > 1:
        rows = way.to_points(jnp.concatenate(parts, axis=-1)[None], 2, count)
        return lambda first: jnp.concatenate(rows[first : first + step])
    shares = parts if len(parts) > 1 else _halves(parts[0])
    each = [way.to_points(share[None], 2, count) for share in shares]
    return lambda first: jnp.concatenate([rows[first] for rows in each], axis=-1)


def _halves(x: jax.Array) -> list[jax.Array]:
    """x [B,H,W,C] in two along C, at a vector boundary."""
    return jnp.split(x, [x.shape[-1] // 32 * 16], axis=-1)


def _rows_at_once(side: int, values: int) -> int:
    """How many rows of points, of ``values`` values each, fit the caches; pairs stay together."""
    fit = max(_CACHED_VALUES // values, 1)
    return side if side * values <= MANY_VALUES else max(fit - fit % 2, 1)


def _in_parts(x: jax.Array, count: int) -> list[jax.Array]:
    """An array split into ``count`` parts along its first axis."""
    size = len(x) // count
    return [lax.slice_in_dim(x, i, i + size) for i in range(0, len(x), size)]


def _interleave(parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """The parts interleaved along an axis."""
    shape = parts[0].shape
    return jnp.stack(parts, axis + 1).reshape(*shape[:axis], -1, *shape[axis + 1 :])


def _product(matrix: np.ndarray, terms: Sequence[jax.Array]) -> list[jax.Array]:
    """matrix @ terms in half the operations: rows of points ±p are equal except for signs."""
    columns, rows = _mirrored(matrix.T), _mirrored(matrix)
    terms = list(terms)
    for i, j in columns:  # to their sum and their difference
        terms[i], terms[j] = terms[i] + terms[j], terms[i] - terms[j]
    halved = _butterfly(_butterfly(matrix.T, columns).T, rows)
    products = [_combine(row, terms) for row in halved]
    for i, j in rows:
        products[i], products[j] = products[i] + products[j], products[i] - products[j]
    return products


def _mirrored(rows: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of rows that are equal except for signs."""
    pairs = itertools.combinations(range(len(rows)), 2)
    return [(i, j) for i, j in pairs if np.array_equal(abs(rows[i]), abs(rows[j]))]


def _butterfly(rows: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """The rows, each pair replaced by half its sum and half its difference."""
    rows = rows.copy()
    for i, j in pairs:
        rows[i], rows[j] = (rows[i] + rows[j]) / 2, (rows[i] - rows[j]) / 2
    return rows


def _combine(coefficients: Any, terms: Sequence[jax.Array]) -> jax.Array:
    """Σ coefficient · term, skipping zeros and multiplications by ±1."""
    pairs = [(float(c), term) for c, term in zip(coefficients, terms, strict=True) if c]
    pairs.sort(key=lambda pair: pair[0], reverse=True)  # positive coefficients first
    (first, term), *others = pairs
    total = term if first == 1 else first * term
    for c, term in others:
        product = term if abs(c) == 1 else abs(c) * term
        total = total + product if c > 0 else total - product
    return total


def fit(x: Any, before: int, size: Any) -> jax.Array:
    """x [B,H,W,C] after ``before`` zeros (cropped if negative), cut or padded to ``size``."""
    ends = [n - have - before for n, have in zip(size, x.shape[1:3], strict=True)]
    edges = [(0, 0, 0), *((before, end, 0) for end in ends), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), edges)


def shift(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """An array with ``before`` and ``after`` zeros around it along an axis."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
