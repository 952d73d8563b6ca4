"""STGAN (Liu et al. 2019), laid out as in ``bluestyle97/STGAN-pytorch``, ``models/stgan.py``."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdmaa_jax.generators import layers
from cdmaa_jax.generators.attributes import flip_exclusive_hair, source_vectors
from cdmaa_jax.generators.sizes import check_image_size
from cdmaa_jax.types import Labels

SLOPE = 0.2
OFFICIAL_ATTRIBUTES = (
    "Bangs", "Blond_Hair", "Brown_Hair", "Bushy_Eyebrows", "Eyeglasses", "Male",
    "Mouth_Slightly_Open", "Mustache", "Pale_Skin", "Young",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of an STGAN generator; widths in channels, image_size in pixels."""

    image_size: int = 128
    attributes: tuple[str, ...] = OFFICIAL_ATTRIBUTES
    width: int = 64
    layers: int = 5
    shortcut_layers: int = 3
    use_stu: bool = True
    stu_kernel_size: int = 3
    one_more_conv: bool = True

    def __post_init__(self):
        if self.layers < 2:
            raise ValueError("layers must be at least 2")
        if self.stu_kernel_size % 2 == 0:
            raise ValueError("stu_kernel_size must be odd to keep the size")
        if not 0 <= self.shortcut_layers < self.layers:
            raise ValueError("shortcut_layers must be at least 0 and below layers")
        check_image_size(self.image_size, self.multiple)

    @property
    def multiple(self):
        """What height and width must be multiples of."""
        return 2**self.layers


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

    def __call__(self, x, c=None):
        return jax.nn.relu(self.norm(self.conv(x, c)))


class _Gate(nnx.Module):
    def __init__(self, features, size, rngs):
        self.conv = layers.Conv(2 * features, features, size, 1, (size - 1) // 2, rngs=rngs)
        self.norm = layers.BatchNorm(features)

    def __call__(self, x, state):
        return self.norm(self.conv((x, state)))


class _SelectiveTransferUnit(nnx.Module):
    """A convolutional GRU on a shortcut; its state comes from the deeper level."""

    def __init__(self, features, planes, size, rngs):
        self.upsample = layers.ConvTranspose(
            2 * features, features, 4, 2, 1, planes=planes, rngs=rngs
        )
        self.reset_gate = _Gate(features, size, rngs)
        self.update_gate = _Gate(features, size, rngs)
        self.hidden = _Gate(features, size, rngs)

    def __call__(self, x, state, c):
        state_hat = self.upsample(state, c)
        reset = jax.nn.sigmoid(self.reset_gate(x, state_hat))
        update = jax.nn.sigmoid(self.update_gate(x, state_hat))
        new_state = reset * state_hat
        hidden = jnp.tanh(self.hidden(x, new_state))
        return (1 - update) * state_hat + update * hidden, new_state


class _Head(nnx.Module):
    def __init__(self, inputs, width, one_more_conv, rngs):
        features = width // 4 if one_more_conv else 3
        self.conv = layers.ConvTranspose(inputs, features, 4, 2, 1, rngs=rngs)
        self.norm = layers.BatchNorm(features) if one_more_conv else None
        self.last = layers.ConvTranspose(features, 3, 3, 1, 1, rngs=rngs) if one_more_conv else None

    def __call__(self, x):
        x = self.conv(x)
        if self.norm is not None and self.last is not None:
            x = self.last(jax.nn.relu(self.norm(x)))
        return jnp.tanh(x)


class STGAN(nnx.Module):
    """``(x [B,h,w,3], c [B,n]) -> [B,h,w,3]``; c is target labels - source labels."""

    def __init__(self, config: Config, rngs: nnx.Rngs | None):
        n, width, depth = len(config.attributes), config.width, config.layers
        features = [width * 2**i for i in range(depth)]
        self.shortcut_layers = config.shortcut_layers
        self.encoder = nnx.List(
            [_Encoder(i, o, rngs) for i, o in zip([3, *features], features, strict=False)]
        )
        self.decoder: nnx.List = nnx.List([])
        for i in range(depth - 1):
            inputs = features[-1] if i == 0 else features[depth - i]
            shortcut = features[depth - 1 - i] if 0 < i <= self.shortcut_layers else 0
            planes = n if i == 0 else 0
            outputs = features[depth - 1 - i]
            self.decoder.append(_Decoder(inputs + shortcut, outputs, planes, rngs))
        joined = width if self.shortcut_layers == depth - 1 else 0
        self.head = _Head(2 * width + joined, width, config.one_more_conv, rngs)
        levels = range(depth - 2, depth - 2 - self.shortcut_layers, -1)
        self.stu = nnx.List(
            [
                _SelectiveTransferUnit(features[i], n, config.stu_kernel_size, rngs)
                for i in (levels if config.use_stu else ())
            ]
        )

    def encode(self, x):
        """The features of every level, the latent last."""
        levels = []
        for block in self.encoder:
            x = block(x)
            levels.append(x)
        return levels

    def __call__(self, x, c):
        levels = self.encode(x)
        stages = [*self.decoder, self.head]
        out, state = stages[0](levels[-1], c), levels[-1]
        for i, stage in enumerate(stages[1:], start=1):
            if i <= self.shortcut_layers:
                shortcut = levels[-1 - i]
                if self.stu:
                    shortcut, state = self.stu[i - 1](shortcut, state, c)
                    out = jnp.concatenate([out, shortcut], axis=-1)
                else:
                    out = (out, shortcut)
            out = stage(out)
        return out


def conditions(config: Config, labels: Labels | None) -> np.ndarray:
    """Condition vectors [B,K,n] in {-1,0,1}: each edit's target minus the source labels.

    Without labels every attribute is taken as absent, so that each edit adds its own.
    """
    source = source_vectors(labels, config.attributes)
    targets = [flip_exclusive_hair(source, config.attributes, i) for i in range(source.shape[1])]
    return np.stack(targets, axis=1) - source[:, None]
