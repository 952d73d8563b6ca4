"""StarGAN (Choi et al. 2018), as the generator in ``yunjey/stargan``, ``model.py``."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdmaa_jax.generators import layers
from cdmaa_jax.generators.attributes import flip_exclusive_hair, source_vectors
from cdmaa_jax.generators.sizes import check_image_size
from cdmaa_jax.types import Labels

OFFICIAL_ATTRIBUTES = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of a StarGAN generator; width in channels, image_size in pixels."""

    multiple: ClassVar[int] = 4  # what height and width must be multiples of

    image_size: int = 128
    attributes: tuple[str, ...] = OFFICIAL_ATTRIBUTES
    width: int = 64
    blocks: int = 6

    def __post_init__(self):
        check_image_size(self.image_size, self.multiple, least=8)


class _ResidualBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.conv1 = layers.Conv(features, features, 3, 1, 1, rngs=rngs)
        self.norm1 = layers.InstanceNorm(features)
        self.conv2 = layers.Conv(features, features, 3, 1, 1, rngs=rngs)
        self.norm2 = layers.InstanceNorm(features)

    def __call__(self, x):
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(y))


class _Stage(nnx.Module):
    def __init__(self, conv, features):
        self.conv = conv
        self.norm = layers.InstanceNorm(features)

    def __call__(self, x, c=None):
        return jax.nn.relu(self.norm(self.conv(x, c)))


class StarGAN(nnx.Module):
    """``(x [B,h,w,3], c [B,n]) -> [B,h,w,3]``; c is the target's labels in {0,1}."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        w, n = config.width, len(config.attributes)
        self.stem = _Stage(layers.Conv(3, w, 7, 1, 3, planes=n, rngs=rngs), w)
        self.down = nnx.List(
            [_Stage(layers.Conv(f, 2 * f, 4, 2, 1, rngs=rngs), 2 * f) for f in (w, 2 * w)]
        )
        self.blocks = nnx.List([_ResidualBlock(4 * w, rngs) for _ in range(config.blocks)])
        self.up = nnx.List(
            [
                _Stage(layers.ConvTranspose(f, f // 2, 4, 2, 1, rngs=rngs), f // 2)
                for f in (4 * w, 2 * w)
            ]
        )
        self.head = layers.Conv(w, 3, 7, 1, 3, rngs=rngs)

    def __call__(self, x, c):
        x = self.stem(x, c)
        for stage in (*self.down, *self.blocks, *self.up):
            x = stage(x)
        return jnp.tanh(self.head(x))


def conditions(config: Config, labels: Labels | None) -> np.ndarray:
    """Condition vectors [B,K,n] in {0,1}: an edit replaces the hair colour or flips its attribute.

    Without labels every attribute is taken as absent, so that each edit sets only its own.
    """
    source = source_vectors(labels, config.attributes)
    targets = [flip_exclusive_hair(source, config.attributes, i) for i in range(source.shape[1])]
    return np.stack(targets, axis=1)
