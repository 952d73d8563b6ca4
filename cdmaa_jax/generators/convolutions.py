"""Convolutions and their transposes, in NHWC, in the form that is fastest on the backend.

``gather``, a convolution from large images to small ones, and ``scatter``, a transposed one, are
each other's transpose in the images, so gradients of any order need only these two. Both take the
kernel as [k,k,L,S], of the large and the small images' channels.

GPU and TPU use XLA's own convolutions; kernel gradients, which only training needs, have one form
for all. XLA's CPU backend comes near the machine's limit only for stride 1, input channels in
multiples of four and nonzero padding, and falls to a tenth of it otherwise. On CPU, stride-2
convolutions become stride-1 ones of 2×2 blocks, or matrix products if kernels are larger than
images, and convolutions of many channels with kernels of 3×3, or 2×2 blocks, use Winograd's
algorithm, unless a program computes them only once: it takes longer to compile.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cdmaa_jax import hoisting, processor
from cdmaa_jax.generators import winograd
from cdmaa_jax.scheduling import later, materialize
from cdmaa_jax.tracing import is_once

_NHWC = ("NHWC", "HWIO", "NHWC")
_WINOGRAD_CHANNELS = 64  # with fewer channels the transforms cost more than they save
_FEW_CHANNELS = 16
_FEW_INPUTS = 32  # input channels up to which planes are faster, for few output channels
_LARGE_TILES_ON_BLOCKS = 160  # 4×4 tiles from which they beat 2×2, for large kernels on blocks
_SEVERAL_TILES = 48  # 4×4 tiles from which tiles of blocks beat patches of small images
_MANY_TILES = 256  # tiles of one image from which a product per image costs no more
_MANY_PLANE_VALUES = 5 * 2**19  # of the planes of all images from which one at a time pays
_MANY_WEIGHTS = 2**22  # of a kernel that is folded again for its transpose, rather than kept
_BLOCK_CHANNELS = 128  # channels of blocks from which Winograd pays


class _Limits(NamedTuple):
    """What depends on the library of matrix products.

    Attributes:
      large_tiles: 4×4 output tiles from which they are faster than 2×2 tiles.
      transposed_channels: channels of blocks from which Winograd pays in transposed convolutions.
      many_values: transformed values of all tiles from which one image at a time pays.
      many_values_of_transposed: the same for transposed convolutions of blocks.
    """

    large_tiles: int
    transposed_channels: int
    many_values: int
    many_values_of_transposed: float


_OLD = _Limits(
    large_tiles=80,
    transposed_channels=256,
    many_values=12 * 2**20,
    many_values_of_transposed=math.inf,
)
_NEW = _Limits(
    large_tiles=64,
    transposed_channels=_BLOCK_CHANNELS,
    many_values=8 * 2**20,
    many_values_of_transposed=8 * 2**20,
)


def _limits() -> _Limits:
    """``_NEW`` for the YNNPACK of JAX 0.11, which reads kernels in less time; else ``_OLD``."""
    is_new = jaxlib.version.__version_info__ >= (0, 11)
    return _NEW if is_new and not processor.is_x86_without_avx512() else _OLD


def gather(x: Any, kernel: Any, stride: int, padding: int) -> jax.Array:
    """``torch.nn.functional.conv2d`` of x [B,H,W,L] with a kernel [k,k,L,S]."""
    options = {"stride": stride, "padding": padding, "computed_once": is_once()}
    return _gather_p.bind(x, kernel, channels=kernel.shape[3], **options)


def scatter(y: Any, kernel: Any, stride: int, padding: int, size: tuple[int, int]) -> jax.Array:
    """``torch.nn.functional.conv_transpose2d`` of y [B,h,w,S], kernel [k,k,L,S]: [B,*size,L].

    The transpose of ``gather`` from images of ``size`` to images of h × w pixels. If y has fewer
    channels than the kernel, they are the first ones, and the others are zero.
    """
    options = {"stride": stride, "padding": padding, "computed_once": is_once()}
    return _scatter_p.bind(y, kernel, size=tuple(size), **options)


def _kernel_slope(large: Any, small: Any, stride: int, padding: int, size: int) -> jax.Array:
    """The kernel's gradient [k,k,L,S]; one of ``large`` and ``small`` is the output's cotangent.

    One matrix product per tap; for many taps and few channels XLA's transpose is faster.
    """
    if size > 4:
        shape = (size, size, large.shape[3], small.shape[3])
        plain = functools.partial(_plain, large, stride=stride, padding=padding)
        return jax.linear_transpose(plain, jax.ShapeDtypeStruct(shape, large.dtype))(small)[0]
    large = _pad(large, padding)
    reach = [(n - 1) * stride + 1 for n in small.shape[1:3]]
    taps = [
        jnp.einsum(
            "bhwl,bhws->ls",
            large[:, i : i + reach[0] : stride, j : j + reach[1] : stride],
            small,
        )
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(taps).reshape(size, size, *taps[0].shape)


def _plain(
    x: Any,
    kernel: Any,
    stride: int,
    padding: int,
    channels: int | None = None,
    computed_once: bool = False,
) -> jax.Array:
    del computed_once
    pad, kernel = [(padding, padding)] * 2, kernel[..., :channels]
    return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=_NHWC)


def _plain_transposed(
    y: Any,
    kernel: Any,
    stride: int,
    padding: int,
    size: tuple[int, int],
    computed_once: bool = False,
) -> jax.Array:
    del computed_once
    kernel = kernel[..., : y.shape[3]]
    large = jax.ShapeDtypeStruct((len(y), *size, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: _plain(x, kernel, stride, padding), large)(y)[0]


def _gather_on_cpu(
    x: Any, kernel: Any, stride: int, padding: int, channels: int, computed_once: bool
) -> jax.Array:
    """Computes all of the kernel's channels, then slices: cheaper than slicing the kernel."""
    return _gather_all_on_cpu(x, kernel, stride, padding, computed_once)[..., :channels]


def _gather_all_on_cpu(
    x: Any, kernel: Any, stride: int, padding: int, computed_once: bool
) -> jax.Array:
    taps, small = kernel.shape[0], kernel.shape[3]
    sides = [(n + 2 * padding - taps) // stride + 1 for n in x.shape[1:3]]
    if stride == 1:
        if tile := 0 if computed_once else _tile(kernel, len(x), sides):
            plain = functools.partial(winograd.convolve, kernel=kernel, padding=padding, tile=tile)
            return _in_caches(plain, x, kernel, tile, sides)
        return _direct(x, kernel, padding)
    if stride != 2:
        return _plain(x, kernel, stride, padding)
    if taps == 4 and _is_kernel_larger(len(x), sides, small):
        x = _columns(winograd.fit(x, padding, [2 * n + 2 for n in sides]))
        return x @ kernel.reshape(-1, small)
    folded = _fold(kernel)

    def blocks(x: Any) -> list[jax.Array]:
        return _blocks(winograd.fit(x, padding, [2 * (n + folded.shape[0] - 1) for n in sides]))

    tile = _tile_on_blocks(folded, len(x), sides, _BLOCK_CHANNELS)
    if computed_once or not tile:
        return _direct(jnp.concatenate(blocks(x), axis=3), folded, 0)

    def convolve(x: Any, points: Any) -> jax.Array:
        transform = _transform_of_large(kernel, tile)
        return winograd.convolve(blocks(x), folded, 0, tile, points, transform)

    return _in_caches(convolve, x, folded, tile, sides)


def _scatter_on_cpu(
    y: Any, kernel: Any, stride: int, padding: int, size: tuple[int, int], computed_once: bool
) -> jax.Array:
    taps, (large, small) = kernel.shape[0], kernel.shape[2:]
    y = jnp.pad(y, [(0, 0)] * 3 + [(0, small - y.shape[3])])  # cheaper than slicing the kernel
    if stride == 1 and padding < taps:
        if tile := 0 if computed_once else _tile(kernel, len(y), y.shape[1:3]):
            convolve = functools.partial(
                winograd.convolve_transposed, kernel=kernel, padding=padding, tile=tile
            )
            return _in_caches(convolve, y, kernel, tile, y.shape[1:3])
        return _direct(y, _turn(kernel), taps - 1 - padding)
    if stride != 2:
        return _plain_transposed(y, kernel, stride, padding, size)
    if taps == 4 and _is_kernel_larger(len(y), y.shape[1:3], small):
        return winograd.fit(_add_columns(_to_columns(y, kernel), large), -padding, size)
    folded = _fold(kernel)
    if folded.size >= _MANY_WEIGHTS:
        folded = later(folded, y[0, 0, 0, 0])
    limits = _limits()
    tile = _tile_on_blocks(folded, len(y), y.shape[1:3], limits.transposed_channels)
    if tile and not computed_once:
        convolve = functools.partial(
            winograd.convolve_transposed,
            kernel=folded,
            padding=0,
            tile=tile,
            transform=_transform_of_large(kernel, tile),
            rows=2,
        )
        limit = limits.many_values_of_transposed
        rows = _in_caches(convolve, y, folded, tile, y.shape[1:3], limit)
    else:
        rows = _rows(_direct(y, _turn(folded), folded.shape[0] - 1))
    return winograd.fit(_depth_to_space(rows), -padding, size)


def _tile(kernel: Any, count: int, sides: Any) -> int:
    """The side of Winograd's output tiles for ``count`` images; 0 if it does not pay."""
    taps, _, *channels = kernel.shape
    if taps != 3 or min(channels) < _WINOGRAD_CHANNELS or min(sides) < 4:
        return 0
    return 4 if _tiles(count, sides) >= _limits().large_tiles else 2


def _tile_on_blocks(folded: Any, count: int, sides: Any, channels: int) -> int:
    """The tile side for a convolution of blocks; 0 if Winograd does not pay, as below ``channels``.

    Larger tiles take fewer products, but more points, to which a large kernel is slow to transform.
    """
    is_small = min(sides) < 12 and _tiles(count, sides) < _SEVERAL_TILES
    if len(folded) != 2 or min(folded.shape[2:]) < channels or is_small:
        return 0
    is_large = 25 * math.prod(folded.shape[2:]) > winograd.MANY_VALUES
    return 2 if is_large and _tiles(count, sides) < _LARGE_TILES_ON_BLOCKS else 4


def _transform_of_large(kernel: Any, tile: int) -> Callable[..., jax.Array] | None:
    """A transform of a large kernel, which has 2×2 tiles, from its unfolded form; else None."""
    if tile != 2 or len(kernel) != 4:
        return None
    return lambda _, *arguments: winograd.transform_kernel_of_blocks(kernel, *arguments)


def _tiles(count: int, sides: Any) -> int:
    """The number of 4×4 output tiles of ``count`` images."""
    return count * -(-sides[0] // 4) * -(-sides[1] // 4)


def _in_caches(
    convolve: Callable[..., jax.Array],
    x: Any,
    kernel: Any,
    tile: int,
    sides: Any,
    limit: float | None = None,
) -> jax.Array:
    """``convolve(x, points=…)`` of x [B,...] by Winograd; ``sides`` are those of the small images.

    Takes one image at a time if the tiles of all have so many values, by default ``many_values``,
    that they would not fit the caches, and one image has enough to keep a matrix product busy.
    """
    limit = _limits().many_values if limit is None else limit
    tiles = _tiles(1, sides)
    values = len(x) * tiles * (len(kernel) + 3) ** 2 * sum(kernel.shape[2:])
    if len(x) == 1 or tiles < _MANY_TILES or values < limit:
        return convolve(x, points=None)
    points = winograd.transform_kernel(kernel, tile, after=x[0, 0, 0, 0])
    return lax.map(lambda image: convolve(image[None], points=points)[0], x)


def _is_kernel_larger(count: int, sides: Any, channels: int) -> bool:
    """Whether reading the kernel costs more than writing all patches of ``count`` small images."""
    return 4 * sides[0] * sides[1] <= channels and _tiles(count, sides) < _SEVERAL_TILES


def _direct(x: Any, kernel: Any, padding: int) -> jax.Array:
    """A stride-1 convolution, fitted to the fast path of XLA's CPU backend.

    That path takes input channels in multiples of four and nonzero padding; for few output
    channels, only an unchanged size. Other results are cropped from it.
    """
    if kernel.shape[0] == 1 and padding == 0:
        return x @ kernel[0, 0]
    is_narrow = kernel.shape[3] < _FEW_CHANNELS and kernel.shape[0] % 2 == 1
    if is_narrow and kernel.shape[2] <= _FEW_INPUTS:
        return _by_planes(x, kernel, padding)
    spare = -x.shape[3] % 4
    x = jnp.pad(x, [(0, 0)] * 3 + [(0, spare)])
    kernel = jnp.pad(kernel, [(0, 0), (0, 0), (0, spare), (0, 0)])
    same = kernel.shape[0] // 2
    if is_narrow:
        extra, margin = max(padding - same, 0), max(same - padding, 0)
        x = lax.optimization_barrier(_pad(x, extra))  # or XLA would merge it into the conv
        y = _plain(x, kernel, 1, same)
        return y[:, margin : y.shape[1] - margin, margin : y.shape[2] - margin]
    if padding:
        return _plain(x, kernel, 1, padding)
    y = lax.conv_general_dilated(x, kernel, (1, 1), [(0, 0), (1, 1)], dimension_numbers=_NHWC)
    return y[:, :, 1:-1]


def _by_planes(x: Any, kernel: Any, padding: int) -> jax.Array:
    """A stride-1 convolution to few channels: one matrix product to a plane per tap and channel.

    The planes are then shifted by their taps and summed. Both are fast, though channels are few, as
    long as the planes fit the caches; if they do not, images are taken one by one.
    """
    taps, channels = kernel.shape[0], kernel.shape[2]
    x = _pad(x, padding)
    if len(x) > 1 and math.prod(x.shape[:3]) * taps**2 * kernel.shape[3] > _MANY_PLANE_VALUES:
        return lax.map(lambda image: _by_planes(image[None], kernel, 0)[0], x)
    rows = kernel.transpose(0, 1, 3, 2).reshape(-1, channels)
    planes = lax.dot_general(rows, x, (((1,), (3,)), ((), ())))
    planes = planes.reshape(taps, taps, -1, *x.shape[:3])  # [k,k,O,B,H,W]
    height, width = (n - taps + 1 for n in x.shape[1:3])

    def plane(i: int, j: int) -> jax.Array:
        """One tap's planes, axes kept: XLA would push their removal through the sum, add by add."""
        return planes[i : i + 1, j : j + 1, :, :, i : i + height, j : j + width]

    every = [plane(i, j) for i, j in itertools.product(range(taps), repeat=2)]
    y = functools.reduce(operator.add, every)
    return jnp.transpose(y[0, 0], (1, 2, 3, 0))


def _turn(kernel: Any) -> jax.Array:
    """The kernel of the transposed stride-1 convolution."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _fold(kernel: Any) -> jax.Array:
    """A stride-2 kernel [2m,2m,L,S], or a tap smaller, as a kernel on 2×2 blocks, [m,m,4L,S]."""
    odd = kernel.shape[0] % 2
    kernel = jnp.pad(kernel, [(0, odd)] * 2 + [(0, 0)] * 2)
    m, (large, small) = kernel.shape[0] // 2, kernel.shape[2:]
    folded = kernel.reshape(m, 2, m, 2, large, small).transpose(0, 2, 1, 3, 4, 5)
    return folded.reshape(m, m, 4 * large, small)


def _blocks(x: Any) -> list[jax.Array]:
    """The 2×2 blocks of x [B,H,W,C], each of their two rows as channels: two [B,H/2,W/2,2C]."""
    b, h, w, c = x.shape
    pairs = x.reshape(b, h // 2, 2, w // 2, 2 * c)
    return [pairs[:, :, 0], pairs[:, :, 1]]


def _rows(blocks: Any) -> jax.Array:
    """Blocks [B,h,w,4C] split into their two rows, interleaved: [B,2h,w,2C]."""
    b, h, w, c = blocks.shape
    return jnp.stack(jnp.split(blocks, 2, axis=3), axis=2).reshape(b, 2 * h, w, c // 2)


def _depth_to_space(rows: Any) -> jax.Array:
    """Rows of blocks [B,H,w,2C] as pixels: [B,H,2w,C]."""
    b, h, w, c = rows.shape
    return rows.reshape(b, h, 2 * w, c // 2)


def _columns(x: Any) -> jax.Array:
    """The 4×4 patches, two pixels apart, of x [B,2h+2,2w+2,L]: [B,h,w,16L]."""
    x, (height, width) = materialize(x), (n - 3 for n in x.shape[1:3])
    taps = [x[:, i : i + height : 2, j : j + width : 2] for i in range(4) for j in range(4)]
    return jnp.concatenate(taps, axis=-1)


def _to_columns(y: Any, kernel: Any) -> jax.Array:
    """Patches [B,h,w,16L] from pixels [B,h,w,S], by a kernel [4,4,L,S].

    A product first packs its second factor into another order. The kernel therefore comes first
    for few pixels, and for Eigen, which takes twice as long to pack it as to multiply.
    """
    kernel = kernel.reshape(-1, kernel.shape[3])
    are_few = math.prod(y.shape[:3]) <= winograd.FEW_ROWS
    if not are_few and not processor.is_x86_without_avx512():
        return lax.dot_general(y, kernel, (((3,), (1,)), ((), ())))
    columns = lax.dot_general(kernel, y, (((1,), (3,)), ((), ())))
    return jnp.moveaxis(lax.optimization_barrier(columns), 0, 3)


def _add_columns(columns: Any, channels: int) -> jax.Array:
    """The transpose of ``_columns``: patches [B,h,w,16L] added up, [B,2h+2,2w+2,L]."""
    b, h, w, _ = columns.shape
    taps = columns.reshape(b, h, w, 4, 4, channels)
    rows = jnp.stack([_overlap(taps[..., i, :, :], taps[..., i + 2, :, :], 1) for i in (0, 1)], 2)
    # Materialized: fused, the rows would be summed once for each of four columns.
    rows = lax.optimization_barrier(rows.reshape(b, 2 * h + 2, w, 4, channels))
    both = jnp.stack([_overlap(rows[..., i, :], rows[..., i + 2, :], 2) for i in (0, 1)], 3)
    return both.reshape(b, 2 * h + 2, 2 * w + 2, channels)


def _overlap(first: jax.Array, second: jax.Array, axis: int) -> jax.Array:
    """The sum of two arrays, the second shifted by one along an axis."""
    return winograd.shift(first, axis, 0, 1) + winograd.shift(second, axis, 1, 0)


def _pad(x: Any, padding: int) -> jax.Array:
    return jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])


def _primitive(
    name: str, on_cpu: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array]
) -> Primitive:
    """A primitive of images and a kernel, with one form on CPUs and another elsewhere.

    A form is traced when a program is lowered, once for all equal calls, and not kept: traces and
    their derivatives hold only one equation per convolution. ``vmap`` over images merges the mapped
    axis into the batch, so that the choice of a form sees the number of images.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(**options: Any) -> Any:
        return jax.jit(functools.partial(primitive.bind, **options))

    def compute(images: Any, kernel: Any, **options: Any) -> jax.Array:
        with jax.disable_jit(False):  # without jit the primitive would recurse here forever
            return compiled(**options)(images, kernel)

    def shape(images: Any, kernel: Any, **options: Any) -> Any:
        both = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (images, kernel)]
        return images.update(shape=_result_shape(elsewhere, *both, **options))

    def mapped(arguments: Any, axes: Any, **options: Any) -> tuple[jax.Array, int]:
        (images, kernel), (axis, kernel_axis) = arguments, axes
        if kernel_axis is not None:
            return jax.vmap(functools.partial(elsewhere, **options), axes)(images, kernel), 0
        images = jnp.moveaxis(images, axis, 0)
        joined = primitive.bind(images.reshape(-1, *images.shape[2:]), kernel, **options)
        return joined.reshape(len(images), -1, *joined.shape[1:]), 0

    primitive.def_impl(compute)
    primitive.def_abstract_eval(shape)
    batching.primitive_batchers[primitive] = mapped
    hoisting.register(primitive, elsewhere)
    for platform, form in ((None, elsewhere), ("cpu", on_cpu)):
        rule = mlir.lower_fun(form, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform, inline=False)
    return primitive


@functools.cache
def _result_shape(form: Callable[..., jax.Array], *both: Any, **options: Any) -> tuple[int, ...]:
    return jax.eval_shape(functools.partial(form, **options), *both).shape


def _gather_to_images(slope, x, kernel, channels, **options):
    return _scatter_p.bind(slope, kernel, size=tuple(x.aval.shape[1:3]), **options)


def _gather_to_kernel(slope, x, kernel, stride, padding, **_):
    return _of_all(kernel, _kernel_slope(x, slope, stride, padding, kernel.aval.shape[0]))


def _scatter_to_images(slope, y, kernel, size, **options):
    return _gather_p.bind(slope, kernel, channels=y.aval.shape[3], **options)


def _scatter_to_kernel(slope, y, kernel, stride, padding, **_):
    return _of_all(kernel, _kernel_slope(slope, y, stride, padding, kernel.aval.shape[0]))


def _of_all(kernel, slope):
    """The gradient of a kernel's first channels, padded with zeros to all."""
    return jnp.pad(slope, [(0, 0)] * 3 + [(0, kernel.aval.shape[3] - slope.shape[3])])


_gather_p = _primitive("gather_convolution", _gather_on_cpu, _plain)
_scatter_p = _primitive("scatter_convolution", _scatter_on_cpu, _plain_transposed)
ad.defbilinear(_gather_p, _gather_to_images, _gather_to_kernel)
ad.defbilinear(_scatter_p, _scatter_to_images, _scatter_to_kernel)
