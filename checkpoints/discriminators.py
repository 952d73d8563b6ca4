"""The critics that generators are trained against; ``measure`` has one as its classifier."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cdmaa_jax.generators import layers

SLOPE = 0.2


class Critic(nnx.Module):
    """StarGAN's patch critic: ``x [B,s,s,3] -> (realness [B,p,p,1], attribute logits [B,n])``."""

    def __init__(self, size: int, attributes: int, width: int, depth: int, rngs: nnx.Rngs):
        features = [3] + [width * 2**i for i in range(depth)]
        self.convs = nnx.List(
            [
                layers.Conv(i, o, 4, 2, 1, bias=True, rngs=rngs)
                for i, o in itertools.pairwise(features)
            ]
        )
        self.realness = layers.Conv(features[-1], 1, 3, 1, 1, rngs=rngs)
        self.attributes = layers.Conv(features[-1], attributes, size // 2**depth, rngs=rngs)

    def __call__(self, x: Any) -> tuple[jax.Array, jax.Array]:
        for conv in self.convs:
            x = jax.nn.leaky_relu(conv(x), SLOPE)
        return self.realness(x), self.attributes(x)[:, 0, 0]


class Normalized(nnx.Module):
    """A layer whose kernel is divided by its largest singular value (spectral normalization).

    One power iteration per update; with ``use_running_average`` the stored vector is not updated.
    """

    def __init__(self, layer: Any, rngs: nnx.Rngs):
        self.layer = layer
        outputs = layer.kernel[...].shape[-1]
        self.u = nnx.BatchStat(jax.random.normal(rngs.params(), (outputs,)))
        self.use_running_average = True

    def __call__(self, x: Any) -> jax.Array:
        kernel = self.layer.kernel[...]
        matrix, u = kernel.reshape(-1, kernel.shape[-1]), self.u[...]
        v = _unit(jax.lax.stop_gradient(matrix) @ u)
        u = _unit(v @ jax.lax.stop_gradient(matrix))
        if not self.use_running_average:
            self.u[...] = u
        sigma = v @ matrix @ u
        y = self._linear(x, kernel / sigma)
        bias = getattr(self.layer, "bias", None)
        return y if bias is None else y + bias[...]

    def _linear(self, x: Any, kernel: Any) -> jax.Array:
        if kernel.ndim == 2:
            return x @ kernel
        return layers.conv2d(x, kernel, self.layer.stride, self.layer.padding)


class AttentionCritic(nnx.Module):
    """U-GAT-IT's critic with class activation maps: ``x -> (realness [B,p,p,1], logits [B,2])``."""

    def __init__(self, width: int, depth: int, rngs: nnx.Rngs):
        features = [3] + [width * 2**i for i in range(depth)]
        strides = [2] * (depth - 1) + [1]
        pairs = zip(features, features[1:], strides, strict=False)
        self.convs = nnx.List(
            [
                Normalized(layers.Conv(i, o, 4, s, 0, bias=True, rngs=rngs), rngs)
                for i, o, s in pairs
            ]
        )
        f = features[-1]
        self.gap = Normalized(layers.Linear(f, 1, rngs=rngs), rngs)
        self.gmp = Normalized(layers.Linear(f, 1, rngs=rngs), rngs)
        self.attention = layers.Conv(2 * f, f, 1, bias=True, rngs=rngs)
        self.realness = Normalized(layers.Conv(f, 1, 4, rngs=rngs), rngs)

    def __call__(self, x: Any) -> tuple[jax.Array, jax.Array]:
        for conv in self.convs:
            x = jax.nn.leaky_relu(conv(layers.reflect_pad(x, 1)), SLOPE)
        logits = jnp.concatenate([self.gap(x.mean((1, 2))), self.gmp(x.max((1, 2)))], axis=-1)
        maps = [x * pool.layer.kernel[...][:, 0] for pool in (self.gap, self.gmp)]
        x = jax.nn.leaky_relu(self.attention(jnp.concatenate(maps, axis=-1)), SLOPE)
        return self.realness(layers.reflect_pad(x, 1)), logits


def _unit(v: Any) -> jax.Array:
    return v / (jnp.linalg.norm(v) + 1e-12)
