"""What norms keep for the gradient."""

import jax
import jax.numpy as jnp
import pytest

from cdmaa_jax.generators import layers


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
