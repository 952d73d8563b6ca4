"""U-GAT-IT (Kim et al. 2020), as the generator in ``znxlwm/UGATIT-pytorch``, ``networks.py``."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cdmaa_jax.generators import layers
from cdmaa_jax.generators.sizes import check_image_size


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a U-GAT-IT generator; width in channels, image_size in pixels."""

    multiple: ClassVar[int] = 4  # what height and width must be multiples of

    image_size: int = 256
    width: int = 64
    blocks: int = 4
    light: bool = True
    domain: str = "A2B"

    def __post_init__(self):
        check_image_size(self.image_size, self.multiple, least=8)


class _Conv(nnx.Module):
    """``torch.nn.ReflectionPad2d``, then a convolution."""

    def __init__(self, inputs, outputs, size, stride=1, *, rngs):
        self.conv = layers.Conv(inputs, outputs, size, stride, rngs=rngs)
        self.padding = size // 2

    def __call__(self, x):
        return self.conv(layers.reflect_pad(x, self.padding))


class _ResidualBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv1 = _Conv(features, features, 3, rngs=rngs)
        self.conv2 = _Conv(features, features, 3, rngs=rngs)

    def __call__(self, x):
        y = jax.nn.relu(layers.instance_norm(self.conv1(x)))
        return x + layers.instance_norm(self.conv2(y))


class _AdaptiveBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv1 = _Conv(features, features, 3, rngs=rngs)
        self.norm1 = layers.AdaptiveLayerInstanceNorm(features)
        self.conv2 = _Conv(features, features, 3, rngs=rngs)
        self.norm2 = layers.AdaptiveLayerInstanceNorm(features)

    def __call__(self, x, scale, bias):
        y = jax.nn.relu(self.norm1(self.conv1(x), scale, bias))
        return x + self.norm2(self.conv2(y), scale, bias)


class _UpBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv = _Conv(features, features // 2, 3, rngs=rngs)
        self.norm = layers.LayerInstanceNorm(features // 2)

    def __call__(self, x):
        return jax.nn.relu(self.norm(self.conv(layers.upsample_nearest(x))))


class UGATIT(nnx.Module):
    """``(x [B,h,w,3], c [B,0]) -> [B,h,w,3]``; there is one domain, so c is empty and ignored."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        w, f = config.width, 4 * config.width
        self.light, self.side = config.light, config.image_size // 4
        self.stem = _Conv(3, w, 7, rngs=rngs)
        self.down = nnx.List([_Conv(i, 2 * i, 3, 2, rngs=rngs) for i in (w, 2 * w)])
        self.blocks = nnx.List([_ResidualBlock(f, rngs) for _ in range(config.blocks)])
        self.gap = layers.Linear(f, 1, rngs=rngs)
        self.gmp = layers.Linear(f, 1, rngs=rngs)
        self.attention = layers.Conv(2 * f, f, 1, bias=True, rngs=rngs)
        flat = f if config.light else self.side**2 * f
        self.mlp = nnx.List([layers.Linear(flat, f, rngs=rngs), layers.Linear(f, f, rngs=rngs)])
        self.gamma = layers.Linear(f, f, rngs=rngs)
        self.beta = layers.Linear(f, f, rngs=rngs)
        self.adaptive = nnx.List([_AdaptiveBlock(f, rngs) for _ in range(config.blocks)])
        self.up = nnx.List([_UpBlock(i, rngs) for i in (f, 2 * w)])
        self.head = _Conv(w, 3, 7, rngs=rngs)

    def encode(self, x):
        """The features [B,h/4,w/4,4·width] that the attention weighs."""
        for conv in (self.stem, *self.down):
            x = jax.nn.relu(layers.instance_norm(conv(x)))
        for block in self.blocks:
            x = block(x)
        return x

    def attend(self, x):
        """The attended features, and the logits [B,2] that the attention is trained with."""
        average, largest = x.mean((1, 2)), x.max((1, 2))
        logits = jnp.concatenate([self.gap(average), self.gmp(largest)], axis=-1)
        joined = [x * layers.per_channel(pool.kernel[...][:, 0]) for pool in (self.gap, self.gmp)]
        return jax.nn.relu(self.attention(jnp.concatenate(joined, axis=-1))), logits

    def decode(self, x):
        """The image decoded from attended features."""
        y = x.mean((1, 2)) if self.light else self._flatten(x)
        for linear in self.mlp:
            y = jax.nn.relu(linear(y))
        scale, bias = self.gamma(y), self.beta(y)
        for block in self.adaptive:
            x = block(x, scale, bias)
        for stage in self.up:
            x = stage(x)
        return jnp.tanh(self.head(x))

    def _flatten(self, x):
        """Features [B,H,W,C] as vectors [B,CHW], in PyTorch's order."""
        if x.shape[1:3] != (self.side, self.side):
            own = f"{4 * self.side} × {4 * self.side}"
            raise ValueError(f"a U-GAT-IT that is not light takes images of its own size, {own}")
        return x.transpose(0, 3, 1, 2).reshape(len(x), -1)

    def __call__(self, x, c=None):
        return self.decode(self.attend(self.encode(x))[0])
