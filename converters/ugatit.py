"""U-GAT-IT's table: ``ResnetGenerator`` in ``znxlwm/UGATIT-pytorch``, ``networks.py``.

A file has one generator for each direction, under ``genA2B`` and ``genB2A``.
"""

from __future__ import annotations

import math

from cdmaa_jax.generators.ugatit import Config
from converters.tables import (
    ConversionError,
    Given,
    Layout,
    Shapes,
    Table,
    Tensor,
    ask_domain,
    ask_image_size,
    build,
    channels,
    conv,
    count,
    linear,
    shape,
)

SIGNATURE = "DownBlock.1.weight"
PARTS = ("genA2B", "genB2A")


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict; ``attributes`` name the one domain.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    width = channels(shapes, SIGNATURE, 0, "DownBlock.5.weight", 1)
    flat = shape(shapes, "FC.0.weight", 2)[1]
    return build(
        Config,
        image_size=_image_size(flat, 4 * width) or ask_image_size(given, (256,)),
        width=width,
        blocks=max(count(shapes, "DownBlock.*.conv_block."), count(shapes, "UpBlock1_*.")),
        light=flat == 4 * width,
        domain=ask_domain(given, Config.domain),
    )


def table(config: Config) -> Table:
    """One row for each tensor."""
    blocks = range(config.blocks)
    return (
        *conv("DownBlock.1", "stem.conv"),
        *conv("DownBlock.5", "down.0.conv"),
        *conv("DownBlock.9", "down.1.conv"),
        *(row for i in blocks for row in _block(f"DownBlock.{12 + i}.conv_block", f"blocks.{i}")),
        *linear("gap_fc", "gap"),
        *linear("gmp_fc", "gmp"),
        *conv("conv1x1", "attention", bias=True),
        *linear("FC.0", "mlp.0"),
        *linear("FC.2", "mlp.1"),
        *linear("gamma", "gamma"),
        *linear("beta", "beta"),
        *(row for i in blocks for row in _adaptive_block(f"UpBlock1_{i + 1}", f"adaptive.{i}")),
        *_up_block(2, "up.0"),
        *_up_block(7, "up.1"),
        *conv("UpBlock2.11", "head.conv"),
    )


def _image_size(flat: int, features: int) -> int | None:
    """The image size that fits the full model's first linear layer; None for the light model."""
    if flat == features:
        return None
    side = math.isqrt(flat // features)
    if side**2 * features != flat:
        raise ConversionError(
            f"tensor FC.0.weight takes {flat} values, not {features} or {features} times a square"
        )
    return 4 * side


def _block(key: str, path: str) -> Table:
    return (*conv(f"{key}.1", f"{path}.conv1.conv"), *conv(f"{key}.5", f"{path}.conv2.conv"))


def _adaptive_block(key: str, path: str) -> Table:
    return (
        *conv(f"{key}.conv1", f"{path}.conv1.conv"),
        Tensor(f"{key}.norm1.rho", f"{path}.norm1.rho", Layout.CHANNELS),
        *conv(f"{key}.conv2", f"{path}.conv2.conv"),
        Tensor(f"{key}.norm2.rho", f"{path}.norm2.rho", Layout.CHANNELS),
    )


def _up_block(index: int, path: str) -> Table:
    norm = f"UpBlock2.{index + 1}"
    return (
        *conv(f"UpBlock2.{index}", f"{path}.conv.conv"),
        Tensor(f"{norm}.rho", f"{path}.norm.rho", Layout.CHANNELS),
        Tensor(f"{norm}.gamma", f"{path}.norm.scale", Layout.CHANNELS),
        Tensor(f"{norm}.beta", f"{path}.norm.bias", Layout.CHANNELS),
    )
