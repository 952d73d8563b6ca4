"""pix2pix (Isola et al. 2017): ``UnetGenerator`` in ``junyanz/pytorch-CycleGAN-and-pix2pix``."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from cdmaa_jax.generators import layers, norms
from cdmaa_jax.generators.sizes import check_image_size

SLOPE = 0.2
MAX_FACTOR = 8
"""The largest width of a level, relative to the first."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes and options of a pix2pix generator; width in channels, image_size in pixels.

    ``layers`` is how often the size is halved: 8 in ``unet_256``, 7 in ``unet_128``. ``norm`` and
    ``statistics`` are as in ``norms``. The authors' dropout, which leaves no trace in a file, is
    off, so that outputs are deterministic.
    """

    image_size: int = 256
    width: int = 64
    layers: int = 8
    norm: str = "batch"
    statistics: str = "instance"
    domain: str = "A2B"

    def __post_init__(self):
        norms.check(self.norm, self.statistics)
        if self.layers < 2:
            raise ValueError("layers must be at least 2")
        check_image_size(self.image_size, self.multiple)

    @property
    def multiple(self):
        """What height and width must be multiples of."""
        return 2**self.layers

    @property
    def features(self):
        """The channels of every level on the way down."""
        return tuple(self.width * min(2**i, MAX_FACTOR) for i in range(self.layers))

    def norm_of(self, features):
        """A normalization of ``features`` channels."""
        return norms.make(self.norm, self.statistics, features)


class _Stage(nnx.Module):
    """A convolution and the normalization of its output, if any."""

    def __init__(self, conv, norm=norms.identity):
        self.conv = conv
        self.norm = norm

    def __call__(self, x):
        return self.norm(self.conv(x))


class Pix2Pix(nnx.Module):
    """``(x [B,h,w,3], c [B,0]) -> [B,h,w,3]``; there is one domain, so c is empty and ignored."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        bias, norm, features = norms.has_bias(config.norm), config.norm_of, config.features
        deepest = config.layers - 1
        self.down: nnx.List = nnx.List([])
        for i, (inputs, outputs) in enumerate(zip((3, *features), features, strict=False)):
            conv = layers.Conv(inputs, outputs, 4, 2, 1, bias=bias, rngs=rngs)
            self.down.append(_Stage(conv, norm(outputs)) if 0 < i < deepest else _Stage(conv))
        self.up: nnx.List = nnx.List([])
        for i in range(deepest, 0, -1):
            inputs = features[i] if i == deepest else 2 * features[i]
            outputs = features[i - 1]
            up = layers.ConvTranspose(inputs, outputs, 4, 2, 1, bias=bias, rngs=rngs)
            self.up.append(_Stage(up, norm(outputs)))
        self.head = layers.ConvTranspose(2 * features[0], 3, 4, 2, 1, bias=True, rngs=rngs)

    def encode(self, x):
        """The features of every level, the latent last.

        All but the latent are taken after the activation: the official one works in place, before
        the skip connection reads its input. (The output would be the same without it, since a ReLU
        follows.)
        """
        levels = [self.down[0](x)]
        for stage in self.down[1:]:
            levels[-1] = jax.nn.leaky_relu(levels[-1], SLOPE)
            levels.append(stage(levels[-1]))
        return levels

    def __call__(self, x, c=None):
        *skips, x = self.encode(x)
        for stage, skip in zip(self.up, reversed(skips), strict=True):
            x = jnp.concatenate([skip, stage(jax.nn.relu(x))], axis=-1)
        return jnp.tanh(self.head(jax.nn.relu(x)))
