"""CycleGAN (Zhu et al. 2017): ``ResnetGenerator`` in ``junyanz/pytorch-CycleGAN-and-pix2pix``."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from cdmaa_jax.generators import layers, norms
from cdmaa_jax.generators.sizes import check_image_size

PADDINGS = {"reflect": "reflect", "replicate": "edge", "zero": "constant"}
"""A residual block's padding to its mode in ``jax.numpy.pad``."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and options of a CycleGAN generator; width in channels, image_size in pixels.

    ``norm`` and ``statistics`` are as in ``norms``; ``padding`` is that of the residual blocks.
    ``dropout`` says that the blocks were built with dropout layers, which change the numbers in
    the official keys; dropout itself is always off.
    """

    multiple: ClassVar[int] = 4  # what height and width must be multiples of

    image_size: int = 256
    width: int = 64
    blocks: int = 9
    norm: str = "instance"
    statistics: str = "instance"
    padding: str = "reflect"
    dropout: bool = False
    domain: str = "A2B"

    def __post_init__(self):
        norms.check(self.norm, self.statistics)
        if self.padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}")
        check_image_size(self.image_size, self.multiple, least=8)

    def norm_of(self, features):
        """A normalization of ``features`` channels."""
        return norms.make(self.norm, self.statistics, features)


class _Stage(nnx.Module):
    def __init__(self, conv, norm):
        self.conv = conv
        self.norm = norm

    def __call__(self, x):
        return jax.nn.relu(self.norm(self.conv(x)))


class _ResidualBlock(nnx.Module):
    def __init__(self, features, config, rngs):
        bias = norms.has_bias(config.norm)
        self.mode = PADDINGS[config.padding]
        self.conv1 = layers.Conv(features, features, 3, bias=bias, rngs=rngs)
        self.norm1 = config.norm_of(features)
        self.conv2 = layers.Conv(features, features, 3, bias=bias, rngs=rngs)
        self.norm2 = config.norm_of(features)

    def pad(self, x):
        return jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode=self.mode)

    def __call__(self, x):
        y = jax.nn.relu(self.norm1(self.conv1(self.pad(x))))
        return x + self.norm2(self.conv2(self.pad(y)))


class CycleGAN(nnx.Module):
    """``(x [B,h,w,3], c [B,0]) -> [B,h,w,3]``; there is one domain, so c is empty and ignored."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        w, bias, norm = config.width, norms.has_bias(config.norm), config.norm_of
        self.stem = _Stage(layers.Conv(3, w, 7, bias=bias, rngs=rngs), norm(w))
        self.down = nnx.List(
            [
                _Stage(layers.Conv(f, 2 * f, 3, 2, 1, bias=bias, rngs=rngs), norm(2 * f))
                for f in (w, 2 * w)
            ]
        )
        self.blocks = nnx.List([_ResidualBlock(4 * w, config, rngs) for _ in range(config.blocks)])
        self.up = nnx.List(
            [
                _Stage(
                    layers.ConvTranspose(f, f // 2, 3, 2, 1, 1, bias=bias, rngs=rngs), norm(f // 2)
                )
                for f in (4 * w, 2 * w)
            ]
        )
        self.head = layers.Conv(w, 3, 7, bias=True, rngs=rngs)

    def encode(self, x):
        """The features [B,h/4,w/4,4·width] after the residual blocks."""
        x = self.stem(layers.reflect_pad(x, 3))
        for stage in (*self.down, *self.blocks):
            x = stage(x)
        return x

    def __call__(self, x, c=None):
        x = self.encode(x)
        for stage in self.up:
            x = stage(x)
        return jnp.tanh(self.head(layers.reflect_pad(x, 3)))
