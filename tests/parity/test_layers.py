"""Each layer against PyTorch's, in value and gradient, over sizes, in float64."""

from __future__ import annotations

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cdmaa_jax.generators import layers
from tests.parity import torch_models

few = settings(max_examples=8)
sizes = st.integers(4, 9)
channels = st.integers(1, 4)
seeds = st.integers(0, 2**16)
strides = st.sampled_from([(3, 1, 1), (7, 1, 3), (4, 2, 1), (3, 2, 1), (1, 1, 0), (4, 2, 0)])


def normal(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def nchw(x):
    return x.permute(0, 3, 1, 2)


def torch_kernel(kernel):
    """PyTorch's gradient in a strided kernel fails for some shapes."""
    return kernel.permute(3, 2, 0, 1).contiguous()


def nhwc(x):
    return x.permute(0, 2, 3, 1)


@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)
def pull(function, cotangent, *arrays):
    y, pullback = jax.vjp(function, *arrays)
    return y, pullback(cotangent)


def agree(ours, theirs, *arrays):
    """Same value, and same gradients in all arrays, of functions of NHWC arrays."""
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    want = theirs(*tensors)
    (cotangent,) = normal(0, want.shape)
    slopes = torch.autograd.grad(want, tensors, torch.from_numpy(cotangent))
    with jax.enable_x64(True):
        have, ours_slopes = pull(ours, cotangent, *arrays)
    assert have.dtype == np.float64
    np.testing.assert_allclose(have, want.detach(), atol=1e-11)
    for a, b in zip(ours_slopes, slopes, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@few
@given(sizes, sizes, channels, channels, strides, seeds)
def test_conv(height, width, inputs, outputs, shape, seed):
    k, stride, padding = shape
    x, kernel = normal(seed, (2, height, width, inputs), (k, k, inputs, outputs))
    agree(
        lambda x, w: layers.conv2d(x, w, stride, padding),
        lambda x, w: nhwc(F.conv2d(nchw(x), torch_kernel(w), None, stride, padding)),
        x,
        kernel,
    )


@few
@given(sizes, sizes, channels, channels, strides, seeds)
def test_transposed_conv(height, width, inputs, outputs, shape, seed):
    k, stride, padding = shape
    x, kernel = normal(seed, (2, height, width, inputs), (k, k, outputs, inputs))
    agree(
        lambda x, w: layers.conv_transpose2d(x, w, stride, padding),
        lambda x, w: nhwc(F.conv_transpose2d(nchw(x), torch_kernel(w), None, stride, padding)),
        x,
        kernel,
    )


def join_planes(x, c):
    """Appends labels c [B,n] as constant planes to the channels of x [B,H,W,C]."""
    planes = jnp.broadcast_to(c[:, None, None, :], (*x.shape[:3], c.shape[1]))
    return jnp.concatenate([x, planes], axis=-1)


@few
@given(sizes, sizes, channels, st.sampled_from([(3, 1), (7, 3), (1, 0)]), seeds)
def test_label_planes(height, width, outputs, shape, seed):
    k, padding = shape
    c, kernel = normal(seed, (2, 3), (k, k, 3, outputs))

    def theirs(c, w):
        planes = torch_models.planes(c, torch.empty(2, 1, height, width))
        return nhwc(F.conv2d(planes, torch_kernel(w), padding=padding))

    agree(lambda c, w: layers.planes_conv2d(c, w, (height, width), padding), theirs, c, kernel)


def test_what_label_planes_come_to_is_not_kept_between_steps():
    conv = layers.Conv(3, 8, 7, 1, 3, planes=2, rngs=nnx.Rngs(0))
    x, c = (jnp.ones(shape, jnp.float32) for shape in ((1, 24, 20, 3), (5, 1, 2)))

    def loss(x, c):
        return (jax.vmap(lambda c: conv(x, c))(c) ** 2).sum()

    def attack(x, c):
        return jax.lax.scan(lambda x, _: (x + jax.grad(loss)(x, c), None), x, length=3)[0]

    program = jax.jit(attack).lower(x, c).compile().as_text()
    (loop,) = re.findall(r"= (\(.*\)) while\(", program)
    assert "f32[1,24,20,3]" in loop
    shapes = [[int(n) for n in shape.split(",")] for shape in re.findall(r"f32\[([\d,]+)\]", loop)]
    assert max(map(math.prod, shapes)) < 5 * 24 * 20 * 8


@few
@given(sizes, sizes, channels, st.sampled_from([(4, 2, 1), (3, 1, 1), (4, 2, 0)]), seeds)
def test_label_planes_transposed(height, width, outputs, shape, seed):
    k, stride, padding = shape
    c, kernel = normal(seed, (2, 3), (k, k, outputs, 3))

    def theirs(c, w):
        planes = torch_models.planes(c, torch.empty(2, 1, height, width))
        return nhwc(F.conv_transpose2d(planes, torch_kernel(w), None, stride, padding))

    def ours(c, w):
        return layers.planes_conv_transpose2d(c, w, (height, width), stride, padding)

    agree(ours, theirs, c, kernel)


@pytest.mark.parametrize("layer", [layers.Conv, layers.ConvTranspose])
def test_planes_are_joined_channels(layer):
    with jax.enable_x64(True):
        joined = layer(5, 4, 3, 1, 1, bias=True, rngs=nnx.Rngs(0))
        split = layer(3, 4, 3, 1, 1, bias=True, planes=2, rngs=nnx.Rngs(0))
        x, c = map(jnp.asarray, normal(0, (2, 6, 5, 3), (2, 2)))
        want = joined(join_planes(x, c))
        np.testing.assert_allclose(split(x, c), want, atol=1e-12)
        parts = (x[..., :1], x[..., 1:])
        np.testing.assert_allclose(split(parts, c), want, atol=1e-12)


def test_label_planes_take_no_stride_and_no_output_padding():
    with pytest.raises(ValueError, match="stride of 1, not 2"):
        layers.Conv(3, 4, 3, 2, 1, planes=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no output padding, not 1"):
        layers.ConvTranspose(3, 4, 3, 2, 1, 1, planes=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("shape", [(3, 1, 1), (4, 2, 1), (3, 2, 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_second_derivatives(shape, transposed):
    """The gradient, in the kernel, of the squared norm of the gradient in x: a gradient penalty."""
    k, stride, padding = shape
    x, kernel = normal(0, (1, 6, 6, 2), (k, k, 2, 2))
    ours = layers.conv_transpose2d if transposed else layers.conv2d
    theirs = F.conv_transpose2d if transposed else F.conv2d

    def penalty(w):
        slope = jax.grad(lambda x: jnp.sum(jnp.tanh(ours(x, w, stride, padding))))(jnp.asarray(x))
        return jnp.sum(slope**2)

    leaf, weight = (torch.from_numpy(a).requires_grad_() for a in (x, kernel))
    y = theirs(nchw(leaf), torch_kernel(weight), None, stride, padding).tanh().sum()
    (slope,) = torch.autograd.grad(y, leaf, create_graph=True)
    (want,) = torch.autograd.grad(slope.square().sum(), weight)
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.grad(penalty)(jnp.asarray(kernel)), want, atol=1e-10)


@few
@given(sizes, sizes, channels, seeds)
def test_instance_norm(height, width, features, seed):
    x, scale, bias = normal(seed, (2, height, width, features), (features,), (features,))

    def ours(x, scale, bias):
        norm = layers.InstanceNorm(features)
        norm.scale[...], norm.bias[...] = scale, bias
        return norm(x)

    agree(ours, lambda x, s, b: nhwc(F.instance_norm(nchw(x), weight=s, bias=b)), x, scale, bias)


@few
@given(sizes, channels, seeds)
def test_batch_norm(size, features, seed):
    x, *affine = normal(seed, (2, size, size + 1, features), *[(features,)] * 4)
    scale, bias, mean, var = *affine[:3], affine[3] ** 2

    def ours(x, scale, bias, mean, var):
        norm = layers.BatchNorm(features)
        norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...] = scale, bias, mean, var
        return norm(x)

    def theirs(x, scale, bias, mean, var):
        y = (nchw(x) - torch_models.planes(mean[None], nchw(x))) * torch.rsqrt(
            var[None, :, None, None] + 1e-5
        )
        return nhwc(y * scale[None, :, None, None] + bias[None, :, None, None])

    agree(ours, theirs, x, scale, bias, mean, var)
    want = F.batch_norm(nchw(torch.from_numpy(x)), *map(torch.from_numpy, (mean, var, scale, bias)))
    np.testing.assert_allclose(
        theirs(*map(torch.from_numpy, (x, scale, bias, mean, var))), nhwc(want), atol=1e-10
    )


@few
@given(sizes, channels, seeds)
def test_layer_instance_norms(size, features, seed):
    x, rho, scale, bias = normal(seed, (2, size, size + 1, features), *[(features,)] * 3)
    x2, images_scale, images_bias = normal(seed, x.shape, (2, features), (2, features))

    def ours(x, rho, scale, bias):
        norm = layers.LayerInstanceNorm(features)
        norm.rho[...], norm.scale[...], norm.bias[...] = rho, scale, bias
        return norm(x)

    def theirs(x, rho, scale, bias):
        norm = torch_models.LayerInstanceNorm(features)
        named = {"rho": rho, "gamma": scale, "beta": bias}
        shaped = {name: value[None, :, None, None] for name, value in named.items()}
        return nhwc(torch.func.functional_call(norm, shaped, (nchw(x),)))

    def ours_adaptive(x, rho, scale, bias):
        norm = layers.AdaptiveLayerInstanceNorm(features)
        norm.rho[...] = rho
        return norm(x, scale, bias)

    def theirs_adaptive(x, rho, scale, bias):
        norm = torch_models.AdaptiveLayerInstanceNorm(features)
        shaped = {"rho": rho[None, :, None, None]}
        return nhwc(torch.func.functional_call(norm, shaped, (nchw(x), scale, bias)))

    agree(ours, theirs, x, rho, scale, bias)
    agree(ours_adaptive, theirs_adaptive, x2, rho, images_scale, images_bias)


@few
@given(sizes, sizes, channels, st.integers(1, 3), seeds)
def test_padding_and_upsampling(height, width, features, padding, seed):
    (x,) = normal(seed, (2, height, width, features))
    agree(
        lambda x: layers.upsample_nearest(layers.reflect_pad(x, padding)),
        lambda x: nhwc(F.interpolate(F.pad(nchw(x), [padding] * 4, "reflect"), scale_factor=2)),
        x,
    )


def test_linear_and_leaky_relu():
    x, kernel = normal(0, (3, 4), (4, 5))

    def ours(x, kernel):
        linear = layers.Linear(4, 5, rngs=nnx.Rngs(0))
        linear.kernel[...] = kernel
        return jax.nn.leaky_relu(linear(x), 0.2)

    agree(ours, lambda x, w: F.leaky_relu(F.linear(x, w.T), 0.2), x, kernel)


@pytest.mark.parametrize("stride", [1, 2])
def test_dtypes_are_kept(stride):
    x, kernel = (jnp.ones(shape, jnp.bfloat16) for shape in ((1, 4, 4, 3), (4, 4, 3, 3)))
    assert layers.conv2d(x, kernel, stride, 1).dtype == jnp.bfloat16
    assert layers.conv_transpose2d(x, kernel, stride, 1).dtype == jnp.bfloat16
    assert layers.instance_norm(x).dtype == jnp.bfloat16
