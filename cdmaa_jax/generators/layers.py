"""Convolutions and normalizations that compute exactly what PyTorch's do, in NHWC.

Kernels are stored as HWIO; a transposed convolution's as HWOI (PyTorch's IOHW with its axes
reversed in pairs). Nothing here changes the dtype: parameters and input decide it. Epsilon is 1e-5
throughout, as in every network ported here.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

EPSILON = 1e-5
_NHWC = ("NHWC", "HWIO", "NHWC")


def conv2d(x: Any, kernel: Any, stride: int = 1, padding: int = 0) -> jax.Array:
    """``torch.nn.functional.conv2d`` of x [B,H,W,I] with a kernel [k,k,I,O]."""
    if stride == 1:
        return _conv(x, kernel, padding)
    if stride == 2:
        return _halving_conv(x, kernel, padding)
    return _plain_conv(x, kernel, stride, padding)


def conv_transpose2d(x: Any, kernel: Any, stride: int = 1, padding: int = 0) -> jax.Array:
    """``torch.nn.functional.conv_transpose2d`` of x [B,H,W,I] with a kernel [k,k,O,I]."""
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    if stride == 2 and kernel.shape[0] == 4:
        return _unpad(_depth_to_space(_conv(x, _phase_kernel(flipped), 1)), padding)
    reach = kernel.shape[0] - 1 - padding
    if stride == 1:
        return _conv(x, flipped, reach)
    return lax.conv_general_dilated(
        x, flipped, (1, 1), [(reach, reach)] * 2, (stride, stride), dimension_numbers=_NHWC
    )


def planes_conv2d(c: Any, kernel: Any, size: tuple[int, int], padding: int) -> jax.Array:
    """The stride-1 convolution of the constant planes ``c`` [B,n] with a kernel [k,k,n,O].

    Convolution is linear, so conv(join(x, planes)) = conv(x) + conv(planes); what does not depend
    on the labels is then computed once for all domains under ``vmap``. A plane of ones answers with
    the sum of the taps that fall inside the image, which is separable.
    """
    rows, columns = (_taps_inside(n, kernel.shape[0], padding) for n in size)
    response = _separable(kernel, rows, columns, "hi,ijno,wj->hwno")
    return jnp.einsum("bn,hwno->bhwo", c, response)


def planes_conv_transpose2d(
    c: Any, kernel: Any, size: tuple[int, int], stride: int, padding: int
) -> jax.Array:
    """The transposed convolution of constant planes ``c`` [B,n] with a kernel [k,k,O,n]."""
    rows, columns = (_taps_reaching(n, kernel.shape[0], stride, padding) for n in size)
    response = _separable(kernel, rows, columns, "hi,ijon,wj->hwon")
    return jnp.einsum("bn,hwon->bhwo", c, response)


def reflect_pad(x: Any, padding: int) -> jax.Array:
    """``torch.nn.ReflectionPad2d`` of x [B,H,W,C]."""
    return jnp.pad(x, _margins(padding), mode="reflect")


def upsample_nearest(x: Any) -> jax.Array:
    """``torch.nn.Upsample(scale_factor=2, mode="nearest")`` of x [B,H,W,C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def standardize(x: Any, axes: tuple[int, ...], unbiased: bool = False) -> jax.Array:
    """(x - mean) / sqrt(var + 1e-5) over ``axes``; the variance as PyTorch's ``var(unbiased=)``."""
    mean = x.mean(axes, keepdims=True)
    var = x.var(axes, keepdims=True, ddof=int(unbiased))
    return (x - mean) * lax.rsqrt(var + EPSILON)


def instance_norm(x: Any) -> jax.Array:
    """Non-affine ``torch.nn.InstanceNorm2d`` with instance statistics (biased variance)."""
    return standardize(x, (1, 2))


def layer_instance_norm(x: Any, rho: Any) -> jax.Array:
    """U-GAT-IT's mixture rho · IN(x) + (1 - rho) · LN(x), with unbiased variances."""
    rho = per_channel(rho)
    return rho * standardize(x, (1, 2), True) + (1 - rho) * standardize(x, (1, 2, 3), True)


def per_channel(v: Any) -> jax.Array:
    """A vector [C] made ready to meet features [B,H,W,C]."""
    return v[None, None, None, :]


class Conv(nnx.Module):
    """``torch.nn.Conv2d`` with a square kernel and zero padding.

    ``planes`` of the input's last channels are label planes, given as vectors to ``__call__``.
    """

    def __init__(self, inputs, outputs, size, stride=1, padding=0, *, bias=False, planes=0, rngs):
        fan_in = (inputs + planes) * size * size
        self.kernel = _uniform(rngs, (size, size, inputs + planes, outputs), fan_in)
        self.bias = _uniform(rngs, (outputs,), fan_in) if bias else None
        self.stride, self.padding, self.planes = stride, padding, planes

    def __call__(self, x, c=None):
        kernel = self.kernel[...]
        if not self.planes:
            y = conv2d(x, kernel, self.stride, self.padding)
        else:
            y = conv2d(x, kernel[:, :, : -self.planes], self.stride, self.padding)
            y = y + planes_conv2d(c, kernel[:, :, -self.planes :], x.shape[1:3], self.padding)
        return y if self.bias is None else y + per_channel(self.bias[...])


class ConvTranspose(nnx.Module):
    """``torch.nn.ConvTranspose2d`` with a square kernel; ``planes`` as in ``Conv``."""

    def __init__(self, inputs, outputs, size, stride=1, padding=0, *, bias=False, planes=0, rngs):
        fan_in = outputs * size * size  # PyTorch takes the fan from the axis of the outputs
        self.kernel = _uniform(rngs, (size, size, outputs, inputs + planes), fan_in)
        self.bias = _uniform(rngs, (outputs,), fan_in) if bias else None
        self.stride, self.padding, self.planes = stride, padding, planes

    def __call__(self, x, c=None):
        kernel, shape = self.kernel[...], x.shape[1:3]
        if not self.planes:
            y = conv_transpose2d(x, kernel, self.stride, self.padding)
        else:
            share, labels = kernel[..., : -self.planes], kernel[..., -self.planes :]
            y = conv_transpose2d(x, share, self.stride, self.padding)
            y = y + planes_conv_transpose2d(c, labels, shape, self.stride, self.padding)
        return y if self.bias is None else y + per_channel(self.bias[...])


class Linear(nnx.Module):
    """``torch.nn.Linear`` without bias; the kernel is [inputs, outputs]."""

    def __init__(self, inputs, outputs, *, rngs):
        self.kernel = _uniform(rngs, (inputs, outputs), inputs)

    def __call__(self, x):
        return x @ self.kernel[...]


class InstanceNorm(nnx.Module):
    """Affine ``torch.nn.InstanceNorm2d``, always with the instance's own statistics."""

    def __init__(self, features, *, rngs=None):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))

    def __call__(self, x):
        return instance_norm(x) * per_channel(self.scale[...]) + per_channel(self.bias[...])


class BatchNorm(nnx.Module):
    """``torch.nn.BatchNorm2d``: running statistics, unless ``use_running_average`` is False.

    Then (in training) the batch's own are used and the running ones move by a tenth towards them.
    """

    def __init__(self, features, *, rngs=None):
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))
        self.mean = nnx.BatchStat(jnp.zeros((features,)))
        self.var = nnx.BatchStat(jnp.ones((features,)))
        self.use_running_average = True

    def __call__(self, x):
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * var
        factor = self.scale[...] * lax.rsqrt(var + EPSILON)
        return x * per_channel(factor) + per_channel(self.bias[...] - mean * factor)


class LayerInstanceNorm(nnx.Module):
    """U-GAT-IT's affine ILN."""

    def __init__(self, features, *, rngs=None):
        self.rho = nnx.Param(jnp.zeros((features,)))
        self.scale = nnx.Param(jnp.ones((features,)))
        self.bias = nnx.Param(jnp.zeros((features,)))

    def __call__(self, x):
        y = layer_instance_norm(x, self.rho[...])
        return y * per_channel(self.scale[...]) + per_channel(self.bias[...])


class AdaptiveLayerInstanceNorm(nnx.Module):
    """U-GAT-IT's adaILN: scale and bias [B,C] come from the image."""

    def __init__(self, features, *, rngs=None):
        self.rho = nnx.Param(jnp.full((features,), 0.9))

    def __call__(self, x, scale, bias):
        y = layer_instance_norm(x, self.rho[...])
        return y * scale[:, None, None] + bias[:, None, None]


def _uniform(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """PyTorch's default initialization of convolutions and linear layers."""
    bound = 1 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: Any, kernel: Any, padding: int) -> jax.Array:
    """A stride-1 convolution whose gradients, of any order, are forward convolutions and matmuls.

    XLA's CPU backend is fast for those, and for input channels in fours; it is tens of times slower
    for others.
    """
    spare = -x.shape[3] % 4
    x = jnp.pad(x, [(0, 0)] * 3 + [(0, spare)])
    return _plain_conv(x, jnp.pad(kernel, [(0, 0), (0, 0), (0, spare), (0, 0)]), 1, padding)


def _conv_forward(x: Any, kernel: Any, padding: int) -> tuple[jax.Array, tuple[Any, Any]]:
    return _conv(x, kernel, padding), (x, kernel)


def _conv_backward(padding: int, saved: tuple[Any, Any], slope: Any) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    reach = kernel.shape[0] - 1 - padding
    return _conv(slope, turned, reach), _kernel_slope(x, kernel, slope, padding)


def _kernel_slope(x: Any, kernel: Any, slope: Any, padding: int) -> jax.Array:
    """The gradient [k,k,I,O] of a stride-1 convolution's kernel.

    A matmul for each tap; for many taps and few channels XLA's own transposition is faster.
    """
    size = kernel.shape[0]
    if size > 4:
        return jax.vjp(lambda w: _plain_conv(x, w, 1, padding), kernel)[1](slope)[0]
    x = _pad(x, padding)
    height, width = slope.shape[1:3]
    taps = [
        jnp.einsum("bhwi,bhwo->io", x[:, i : i + height, j : j + width], slope)
        for i in range(size)
        for j in range(size)
    ]
    return jnp.stack(taps).reshape(kernel.shape)


_conv.defvjp(_conv_forward, _conv_backward)


def _plain_conv(x: Any, kernel: Any, stride: int, padding: int) -> jax.Array:
    pad = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=_NHWC)


def _separable(kernel: Any, rows: Any, columns: Any, subscripts: str) -> jax.Array:
    rows, columns = (jnp.asarray(taps, kernel.dtype) for taps in (rows, columns))
    return jnp.einsum(subscripts, rows, kernel, columns)


def _taps_inside(size: int, taps: int, padding: int) -> np.ndarray:
    """[out,k]: 1 where tap i of a stride-1 convolution reads inside a line of ``size`` pixels."""
    outputs = np.arange(size + 2 * padding - taps + 1)
    read = outputs[:, None] + np.arange(taps)[None] - padding
    return (read >= 0) & (read < size)


def _taps_reaching(size: int, taps: int, stride: int, padding: int) -> np.ndarray:
    """[out,k]: 1 where a pixel of the line writes through tap i of a transposed convolution."""
    outputs = np.arange((size - 1) * stride - 2 * padding + taps)
    source = outputs[:, None] + padding - np.arange(taps)[None]
    return (source % stride == 0) & (source >= 0) & (source < size * stride)


def _margins(padding: int) -> list[tuple[int, int]]:
    return [(0, 0), (padding, padding), (padding, padding), (0, 0)]


def _pad(x: Any, padding: int) -> jax.Array:
    return jnp.pad(x, _margins(padding))


def _unpad(x: Any, padding: int) -> jax.Array:
    return x[:, padding : x.shape[1] - padding, padding : x.shape[2] - padding]


def _halving_conv(x: Any, kernel: Any, padding: int) -> jax.Array:
    """A stride-2 convolution as a stride-1 convolution of 2×2 blocks."""
    size = kernel.shape[0]
    even = size + size % 2
    sides = [(n + 2 * padding - size) // 2 for n in x.shape[1:3]]
    ends = [2 * side + even - n - padding for side, n in zip(sides, x.shape[1:3], strict=True)]
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, [(0, 0, 0), *((padding, end, 0) for end in ends), (0, 0, 0)])
    kernel = jnp.pad(kernel, [(0, even - size)] * 2 + [(0, 0)] * 2)
    return _conv(_space_to_depth(x), _fold_kernel(kernel), 0)


def _space_to_depth(x: Any) -> jax.Array:
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(b, h // 2, w // 2, 4 * c)


def _depth_to_space(x: Any) -> jax.Array:
    b, h, w, c = x.shape
    blocks = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(b, 2 * h, 2 * w, c // 4)


def _fold_kernel(kernel: Any) -> jax.Array:
    """A stride-2 kernel [2m,2m,I,O] as the stride-1 kernel [m,m,4I,O] on 2×2 blocks."""
    m, (inputs, outputs) = kernel.shape[0] // 2, kernel.shape[2:]
    folded = kernel.reshape(m, 2, m, 2, inputs, outputs).transpose(0, 2, 1, 3, 4, 5)
    return folded.reshape(m, m, 4 * inputs, outputs)


def _phase_kernel(flipped: Any) -> jax.Array:
    """A transposed 4×4 stride-2 convolution as one 2×2 convolution onto 2×2 blocks [2,2,I,4O].

    ``flipped`` is [4,4,I,O]. Output row 2i + r of the padded result gathers input row i - 1 + d
    through row 2(1 - d) + r of the kernel, that is row 3 - that of the flipped one.
    """
    _, _, inputs, outputs = flipped.shape
    rows = flipped.reshape(2, 2, 2, 2, inputs, outputs)[:, ::-1, :, ::-1]
    return rows.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)
