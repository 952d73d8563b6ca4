"""AttGAN (He et al. 2019), as the generator in ``elvisyjlin/AttGAN-PyTorch``, ``attgan.py``."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdmaa_jax.generators import layers
from cdmaa_jax.generators.attributes import flip_consistent, source_vectors
from cdmaa_jax.generators.sizes import check_image_size
from cdmaa_jax.types import Labels

SLOPE = 0.01
MAX_WIDTH = 1024
OFFICIAL_ATTRIBUTES = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses",
    "Male", "Mouth_Slightly_Open", "Mustache", "No_Beard", "Pale_Skin", "Young",
)  # fmt: skip
INTENSITY = 0.5


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of an AttGAN generator; widths in channels, image_size in pixels."""

    image_size: int = 128
    attributes: tuple[str, ...] = OFFICIAL_ATTRIBUTES
    encoder_width: int = 64
    decoder_width: int = 64
    encoder_layers: int = 5
    decoder_layers: int = 5
    shortcut_layers: int = 1
    inject_layers: int = 0

    def __post_init__(self):
        for name in ("shortcut_layers", "inject_layers"):
            if not 0 <= getattr(self, name) < self.decoder_layers:
                raise ValueError(f"{name} must be at least 0 and below decoder_layers")
        if self.encoder_layers != self.decoder_layers:
            raise ValueError(
                "encoder_layers and decoder_layers must be equal to give the size back"
            )
        check_image_size(self.image_size, self.multiple)

    @property
    def multiple(self):
        """What height and width must be multiples of."""
        return 2**self.encoder_layers


class _Encoder(nnx.Module):
    def __init__(self, inputs, outputs, rngs):
        self.conv = layers.Conv(inputs, outputs, 4, 2, 1, rngs=rngs)
        self.norm = layers.BatchNorm(outputs)

    def __call__(self, x):
        return jax.nn.leaky_relu(self.norm(self.conv(x)), SLOPE)


class _Decoder(nnx.Module):
    def __init__(self, inputs, outputs, planes, rngs):
        self.conv = layers.ConvTranspose(inputs, outputs, 4, 2, 1, planes=planes, rngs=rngs)
        self.norm = layers.BatchNorm(outputs)

    def __call__(self, x, c):
        return jax.nn.relu(self.norm(self.conv(x, c)))


class AttGAN(nnx.Module):
    """``(x [B,h,w,3], c [B,n]) -> [B,h,w,3]``; c is the whole target state in [-1, 1]."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        n, depth = len(config.attributes), config.decoder_layers
        widths = [min(config.encoder_width * 2**i, MAX_WIDTH) for i in range(config.encoder_layers)]
        self.encoder = nnx.List(
            [_Encoder(i, o, rngs) for i, o in zip([3, *widths], widths, strict=False)]
        )
        self.shortcut_layers, self.inject_layers = config.shortcut_layers, config.inject_layers
        self.decoder: nnx.List = nnx.List([])
        inputs, planes = widths[-1], n
        for i in range(depth - 1):
            outputs = min(config.decoder_width * 2 ** (depth - 1 - i), MAX_WIDTH)
            self.decoder.append(_Decoder(inputs, outputs, planes, rngs))
            inputs = outputs + (widths[depth - 2 - i] if i < self.shortcut_layers else 0)
            planes = n if i < self.inject_layers else 0
        self.head = layers.ConvTranspose(inputs, 3, 4, 2, 1, bias=True, planes=planes, rngs=rngs)

    def encode(self, x):
        """The features of every level, the latent last."""
        levels = []
        for block in self.encoder:
            x = block(x)
            levels.append(x)
        return levels

    def decode(self, levels, c):
        """The image decoded from all levels' features and the labels c [B,n]."""
        x = levels[-1]
        for i, block in enumerate(self.decoder):
            x = block(x, c)
            if i < self.shortcut_layers:
                x = (x, levels[len(self.decoder) - 1 - i])
        return jnp.tanh(self.head(x, c))

    def __call__(self, x, c):
        return self.decode(self.encode(x), c)


def conditions(config: Config, labels: Labels | None) -> np.ndarray:
    """Condition vectors [B,K,n]: the target state at ±0.5, the edited attribute at ±1.

    Without labels every attribute is taken as absent, so that each edit adds its own.
    """
    source = source_vectors(labels, config.attributes)
    n = source.shape[1]
    targets = np.stack([flip_consistent(source, config.attributes, i) for i in range(n)], axis=1)
    vectors = (targets * 2 - 1) * np.float32(INTENSITY)
    vectors[:, np.arange(n), np.arange(n)] /= np.float32(INTENSITY)
    return vectors
