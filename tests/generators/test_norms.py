"""What norms store for the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cdmaa_jax.generators import layers

OFFSETS = (0.0, 30.0, -1e3)


def check_moments_in_one_pass(offset):
    """Checks those of values of this mean, on JAX's default device."""
    x = np.random.default_rng(0).normal(offset, 1, (2, 40, 40, 3)).astype(np.float32)
    mean, var, kept = layers._moments_in_one_pass(jnp.asarray(x))
    expected = x.astype(float)
    np.testing.assert_allclose(mean[:, 0, 0], expected.mean((1, 2)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(var[:, 0, 0], expected.var((1, 2)), rtol=1e-3)
    np.testing.assert_array_equal(kept, x)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of how XLA compiles for CPUs")
def test_a_layer_keeps_one_array_for_the_gradient():
    def loss(x, kernels):
        for kernel in kernels:
            x = jax.nn.relu(layers.instance_norm(layers.conv2d(x, kernel, 1, 1)))
        return x.sum()

    def memory(depth):
        kernels = [jnp.full((3, 3, 32, 32), 0.01)] * depth
        program = jax.jit(jax.grad(loss)).lower(x, kernels).compile()
        return program.memory_analysis().temp_size_in_bytes

    x = jax.ShapeDtypeStruct((4, 64, 64, 32), jnp.float32)
    arrays = (memory(4) - memory(2)) / 2 / (4 * x.size)
    assert 1 <= arrays < 1.1


@pytest.mark.parametrize("offset", OFFSETS)
def test_moments_in_one_pass_need_no_gpu_to_be_right(offset):
    check_moments_in_one_pass(offset)


def test_half_floats_are_normalized_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 1, (1, 64, 64, 2)), jnp.bfloat16)
    found = layers.instance_norm(x)
    assert found.dtype == jnp.bfloat16
    expected = layers.instance_norm(x.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))


def test_a_batch_norm_moves_its_statistics_as_pytorch_does():
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 5, 6)).astype(np.float32)
    theirs = torch.nn.BatchNorm2d(6)
    expected = theirs(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    ours = layers.BatchNorm(6)
    ours.use_running_average = False
    np.testing.assert_allclose(ours(jnp.asarray(x)), expected.detach(), atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean, rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var, rtol=1e-5)
