"""Convolutions and normalizations that compute exactly what PyTorch's do, in NHWC.

Kernels are stored as HWIO; a transposed convolution's as HWOI (PyTorch's IOHW with its axes
reversed in pairs): k is a kernel's side, I and O are the channels of input and output. Nothing here
changes the dtype: parameters and input decide it. Epsilon is 1e-5 throughout, as in every network
ported here.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Float

from cdmaa_jax.generators.convolutions import gather, scatter
from cdmaa_jax.generators.sharing import meet
from cdmaa_jax.scheduling import later, materialize
from cdmaa_jax.types import Array

EPSILON = 1e-5
Given: TypeAlias = Array | np.ndarray
"""Of eager callers; what is returned is JAX's."""
Features: TypeAlias = Float[Given, "B H W C"]
PerChannel: TypeAlias = Float[Given, "C"] | Float[Given, "B 1 1 C"]


def conv2d(
    x: Float[Given, "B H W I"], kernel: Float[Given, "k k I O"], stride: int = 1, padding: int = 0
) -> Float[Array, "B _ _ O"]:
    """``torch.nn.functional.conv2d``."""
    return gather(x, kernel, stride, padding)


def conv_transpose2d(
    x: Float[Given, "B H W I"],
    kernel: Float[Given, "k k O _I"],
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
) -> Float[Array, "B _ _ O"]:
    """``torch.nn.functional.conv_transpose2d``; x has all or the first of the kernel's channels."""
    extent = kernel.shape[0] - 2 * padding + output_padding
    height, width = ((n - 1) * stride + extent for n in x.shape[1:3])
    return scatter(x, kernel, stride, padding, (height, width))


def planes_conv2d(
    c: Float[Given, "B n"], kernel: Float[Given, "k k n O"], size: tuple[int, int], padding: int
) -> Float[Array, "B _ _ O"]:
    """The stride-1 convolution of the constant planes ``c``.

    Convolution is linear, so conv(concat(x, planes)) = conv(x) + conv(planes); under ``vmap`` the
    part that does not depend on the labels is then computed once for all domains. The response to a
    plane of ones is the sum of the taps inside the image, which is separable, and the same for all
    pixels except near the edges.
    """
    rows, columns = (_taps_inside(n, kernel.shape[0], padding) for n in size)
    insides = [_inside(lines) for lines in (rows, columns)]
    few_rows, few_columns = (
        np.delete(lines, range(start + 1, stop), axis=0)
        for lines, (start, stop) in zip((rows, columns), insides, strict=True)
    )
    response = _separable(kernel, few_rows, few_columns, "hi,ijno,wj->hwno")
    y = jnp.einsum("bn,hwno->bhwo", c, response)
    for axis, (start, stop) in enumerate(insides, 1):
        y = _repeat_line(y, axis, start, stop - start)
    return y


def planes_conv_transpose2d(
    c: Float[Given, "B n"],
    kernel: Float[Given, "k k O n"],
    size: tuple[int, int],
    stride: int,
    padding: int,
) -> Float[Array, "B _ _ O"]:
    """The transposed convolution of constant planes ``c``."""
    rows, columns = (_taps_reaching(n, kernel.shape[0], stride, padding) for n in size)
    response = _separable(kernel, rows, columns, "hi,ijon,wj->hwon")
    return jnp.einsum("bn,hwon->bhwo", c, response)


def reflect_pad(x: Features, padding: int) -> Float[Array, "B H+2*{padding} W+2*{padding} C"]:
    """``torch.nn.ReflectionPad2d``."""
    return jnp.pad(x, _margins(padding), mode="reflect")


def upsample_nearest(x: Features) -> Float[Array, "B 2*H 2*W C"]:
    """``torch.nn.Upsample(scale_factor=2, mode="nearest")``."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def instance_norm(
    x: Features, scale: PerChannel | None = None, bias: PerChannel | None = None
) -> Float[Array, "B H W C"]:
    """``torch.nn.InstanceNorm2d`` with instance statistics (biased variance).

    The scale is 1 and the bias 0 if they are None.
    """
    return _normalize(_instance, x, () if scale is None else (scale, bias))


def layer_instance_norm(
    x: Features, rho: Float[Given, "C"], scale: PerChannel, bias: PerChannel
) -> Float[Array, "B H W C"]:
    """U-GAT-IT's mixture rho · IN(x) + (1 - rho) · LN(x), with unbiased variances; then affine."""
    mix = functools.partial(_layer_instance, x.shape[1] * x.shape[2])
    return _normalize(mix, x, (rho, scale, bias))


def _instance(mean: Any, var: Any, scale: Any = 1, bias: Any = 0) -> tuple[jax.Array, jax.Array]:
    return _rsqrt(var) * scale, jnp.zeros_like(mean) + bias


def _layer_instance(
    pixels: int, mean: Any, var: Any, rho: Any, scale: Any, bias: Any
) -> tuple[jax.Array, jax.Array]:
    """The moments of an image are combined from those of its channels."""
    base = mean[..., :1]
    distance = (mean - base).mean(3, keepdims=True)
    square = (var + (mean - base) ** 2).mean(3, keepdims=True)
    whole, whole_var = base + distance, jnp.maximum(square - distance**2, 0)
    instance, layer = (
        share * _rsqrt(v * (count / (count - 1)))
        for share, v, count in (
            (rho, var, pixels),
            (1 - rho, whole_var, pixels * mean.shape[3]),
        )
    )
    return (instance + layer) * scale, layer * (mean - whole) * scale + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalize(map_of: Callable[..., Any], x: Any, options: tuple[Any, ...]) -> jax.Array:
    """A norm of x [B,H,W,C] as an affine map of each channel.

    The map is (x - mean) · factor + offset, where ``map_of(mean, var, *options)`` gives factor and
    offset from the moments over an image's pixels; all are [B,1,1,C]. The backward pass keeps one
    large array: x, or on CPU x - mean, which the variance needs anyway. Half-precision floats are
    normalized in float32.
    """
    return _normalize_forward(map_of, x, options)[0]


def _normalize_forward(map_of, x, options):
    wide = _wide(x)
    mean, var, kept = lax.platform_dependent(
        wide, cpu=_moments_in_two_passes, default=_moments_in_one_pass
    )
    factor, offset = _map(map_of)(mean, var, options)
    y = _distance(kept, mean) * factor + offset
    return y.astype(x.dtype), (kept.astype(x.dtype), mean, var, options)


def _normalize_backward(map_of, saved, slope):
    kept, mean, var, options = saved
    (factor, _), pull = jax.vjp(_map(map_of), mean, var, options)
    slope, distance, count = _wide(slope), _distance(_wide(kept), mean), math.prod(kept.shape[1:3])
    total, along = (v.sum((1, 2), keepdims=True) for v in (slope, slope * distance))
    of_mean, of_var, of_options = pull((along, total))
    constant = (of_mean - factor * total) / count
    factor, of_distance, constant = map(_materialized, (factor, 2 / count * of_var, constant))
    of_x = _materialized(slope * factor + of_distance * distance + constant)
    return of_x.astype(kept.dtype), of_options


def _map(map_of: Callable[..., Any]) -> Callable[..., Any]:
    """``map_of`` with options per channel, or per image and channel, in the moments' dtype."""

    def with_options(mean: Any, var: Any, options: tuple[Any, ...]) -> Any:
        alike = (jnp.broadcast_to(v, mean.shape).astype(mean.dtype) for v in options)
        return map_of(mean, var, *alike)

    return with_options


_normalize.defvjp(_normalize_forward, _normalize_backward)


def _moments_in_two_passes(x: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and x - mean."""
    mean = x.mean((1, 2), keepdims=True)
    distance = materialize(x - mean)
    return mean, (distance**2).mean((1, 2), keepdims=True), distance


def _materialized(x: Any) -> jax.Array:
    """x, which XLA's CPU backend would otherwise recompute for each use, or for each pixel."""
    return lax.platform_dependent(x, cpu=materialize, default=lambda x: x)


def _moments_in_one_pass(x: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean, variance and x itself.

    Squares distances to one pixel: squares of the values may be large beside the variance.
    """
    base, count = x[:, x.shape[1] // 2, x.shape[2] // 2][:, None, None], x.shape[1] * x.shape[2]
    mean, square = (v.sum((1, 2), keepdims=True) / count for v in (x, (x - base) ** 2))
    return mean, jnp.maximum(square - (mean - base) ** 2, 0), x


def _distance(kept: Any, mean: Any) -> jax.Array:
    """x - mean, from what the backward pass keeps."""
    return lax.platform_dependent(kept, mean, cpu=lambda kept, _: kept, default=jnp.subtract)


def _wide(x: Any) -> jax.Array:
    """Half-precision floats as float32; others unchanged."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _rsqrt(var: Any) -> jax.Array:
    return lax.rsqrt(var + EPSILON)


def per_channel(v: Float[Array, "C"]) -> Float[Array, "1 1 1 C"]:
    """A vector shaped to broadcast against features."""
    return v[None, None, None, :]


class Conv(nnx.Module):
    """``torch.nn.Conv2d`` with a square kernel and zero padding.

    The last ``planes`` channels of the input are constant label planes, which ``__call__`` takes as
    vectors [B,planes]. An input that is a concatenation may be given as a tuple of its parts: the
    contribution of parts that depend on no label is then computed once for all domains.

    On a CPU the contribution of the planes is recomputed in every step of an attack, which is
    faster than reading it back from memory.

    Raises:
      ValueError: there are planes and the stride is not 1.
    """

    def __init__(self, inputs, outputs, size, stride=1, padding=0, *, bias=False, planes=0, rngs):
        if planes and stride != 1:
            raise ValueError(f"label planes take a stride of 1, not {stride}")
        fan_in = (inputs + planes) * size * size
        self.kernel = _uniform(rngs, (size, size, inputs + planes, outputs), fan_in)
        self.bias = _uniform(rngs, (outputs,), fan_in) if bias else None
        self.stride, self.padding, self.planes = stride, padding, planes

    def __call__(self, x, c=None):
        kernel, parts = self.kernel[...], x if isinstance(x, tuple) else (x,)
        if self.planes:
            height, width = parts[0].shape[1:3]
            middle = lax.stop_gradient(parts[0])[0, height // 2, width // 2, 0]
            c = lax.platform_dependent(c, middle, cpu=later, default=_first)
            labels = planes_conv2d(c, kernel[:, :, -self.planes :], (height, width), self.padding)
            kernel = kernel[:, :, : -self.planes]
        shares = jnp.split(kernel, _joints(parts), axis=2)
        pairs = zip(parts, shares, strict=True)
        terms = [conv2d(part, share, self.stride, self.padding) for part, share in pairs]
        y = _add([*terms, labels] if self.planes else terms)
        if self.planes:  # or a norm would recompute the planes' part for mean and x - mean
            y = lax.platform_dependent(y, middle, cpu=materialize, default=_first)
        return y if self.bias is None else y + per_channel(self.bias[...])


class ConvTranspose(nnx.Module):
    """``torch.nn.ConvTranspose2d`` with a square kernel; ``planes`` and tuples as in ``Conv``.

    Raises:
      ValueError: there are planes and an output padding.
    """

    def __init__(
        self,
        inputs,
        outputs,
        size,
        stride=1,
        padding=0,
        output_padding=0,
        *,
        bias=False,
        planes=0,
        rngs,
    ):
        if planes and output_padding:
            raise ValueError(f"label planes take no output padding, not {output_padding}")
        fan_in = outputs * size * size  # PyTorch takes the fan-in from the outputs' axis
        self.kernel = _uniform(rngs, (size, size, outputs, inputs + planes), fan_in)
        self.bias = _uniform(rngs, (outputs,), fan_in) if bias else None
        self.numbers, self.planes = (stride, padding, output_padding), planes

    def __call__(self, x, c=None):
        kernel, *parts = self.kernel[...], *(x if isinstance(x, tuple) else (x,))
        shape = parts[0].shape[1:3]
        shares = jnp.split(kernel, _joints(parts), axis=3)  # the last includes the planes' taps
        pairs = zip(parts, shares, strict=True)
        terms = [conv_transpose2d(part, share, *self.numbers) for part, share in pairs]
        if self.planes:
            labels = kernel[..., -self.planes :]
            terms.append(planes_conv_transpose2d(c, labels, shape, *self.numbers[:2]))
        y = _add(terms)
        return y if self.bias is None else y + per_channel(self.bias[...])


class Linear(nnx.Module):
    """``torch.nn.Linear`` without bias; the kernel is [inputs, outputs]."""

    def __init__(self, inputs, outputs, *, rngs):
        self.kernel = _uniform(rngs, (inputs, outputs), inputs)

    def __call__(self, x):
        return x @ self.kernel[...]


class InstanceNorm(nnx.Module):
    """Affine ``torch.nn.InstanceNorm2d``, always with the instance's own statistics."""

    def __init__(self, features):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))

    def __call__(self, x):
        return instance_norm(x, self.scale[...], self.bias[...])


class BatchNorm(nnx.Module):
    """``torch.nn.BatchNorm2d``: running statistics, unless ``use_running_average`` is False.

    Then (in training) the batch's own are used; the running ones move a tenth of the way to them.
    """

    def __init__(self, features):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.use_running_average = True

    def __call__(self, x):
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            count = math.prod(x.shape[:3])
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * var * (count / (count - 1))
        factor = self.scale[...] * lax.rsqrt(var + EPSILON)
        return x * per_channel(factor) + per_channel(self.bias[...] - mean * factor)


class LayerInstanceNorm(nnx.Module):
    """U-GAT-IT's affine ILN."""

    def __init__(self, features):
        self.rho = nnx.Param(jnp.zeros((features,)))
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))

    def __call__(self, x):
        return layer_instance_norm(x, self.rho[...], self.scale[...], self.bias[...])


class AdaptiveLayerInstanceNorm(nnx.Module):
    """U-GAT-IT's adaILN: scale and bias [B,C] come from the image."""

    def __init__(self, features):
        self.rho = nnx.Param(jnp.full((features,), 0.9))

    def __call__(self, x, scale, bias):
        return layer_instance_norm(x, self.rho[...], scale[:, None, None], bias[:, None, None])


def _uniform(rngs: nnx.Rngs | None, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """PyTorch's default for convolutions and linear layers; zeros if there are no ``rngs``."""
    if rngs is None:
        return nnx.Param(jnp.zeros(shape))
    bound = 1 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))


def _joints(parts: Any) -> list[int]:
    """The channels at which concatenated parts meet."""
    return list(itertools.accumulate(part.shape[-1] for part in parts))[:-1]


def _add(terms: Sequence[Any]) -> jax.Array:
    """The sum of terms, some of which the domains may share."""
    return functools.reduce(lambda a, b: meet(a, b) + meet(b, a), terms)


def _separable(kernel: Any, rows: Any, columns: Any, subscripts: str) -> jax.Array:
    rows, columns = (jnp.asarray(taps, kernel.dtype) for taps in (rows, columns))
    return jnp.einsum(subscripts, rows, kernel, columns)


def _taps_inside(size: int, taps: int, padding: int) -> np.ndarray:
    """[out,k]: 1 where tap i of a stride-1 convolution reads inside a line of ``size`` pixels."""
    outputs = np.arange(size + 2 * padding - taps + 1)
    read = outputs[:, None] + np.arange(taps)[None] - padding
    return (read >= 0) & (read < size)


def _inside(taps: np.ndarray) -> tuple[int, int]:
    """Start and end of the lines that read no padding; 0 and 1 if there are none."""
    (inside,) = np.nonzero(taps.all(axis=1))
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 1)


def _repeat_line(x: jax.Array, axis: int, place: int, count: int) -> jax.Array:
    """x with line ``place`` along an axis repeated ``count`` times, by operations XLA fuses."""
    before, line, behind = jnp.split(x, [place, place + 1], axis)
    shape = [*line.shape[:axis], count, *line.shape[axis + 1 :]]
    return jnp.concatenate([before, jnp.broadcast_to(line, shape), behind], axis)


def _first(x: Any, _: Any) -> Any:
    return x


def _taps_reaching(size: int, taps: int, stride: int, padding: int) -> np.ndarray:
    """[out,k]: 1 where a pixel of the line writes through tap i of a transposed convolution."""
    outputs = np.arange((size - 1) * stride - 2 * padding + taps)
    source = outputs[:, None] + padding - np.arange(taps)[None]
    return (source % stride == 0) & (source >= 0) & (source < size * stride)


def _margins(padding: int) -> list[tuple[int, int]]:
    return [(0, 0), (padding, padding), (padding, padding), (0, 0)]
