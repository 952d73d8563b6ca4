"""STGAN's table: ``Generator`` in ``bluestyle97/STGAN-pytorch``, ``models/stgan.py``.

A file written by training has the state dict under ``state_dict``.
"""

from __future__ import annotations

import re

from cdmaa_jax.generators.stgan import OFFICIAL_ATTRIBUTES, Config
from converters.tables import (
    ConversionError,
    Given,
    Shapes,
    Table,
    ask_attributes,
    ask_image_size,
    batch_norm,
    build,
    channels,
    conv,
    count,
    shape,
)

SIGNATURE = "encoder.0.0.weight"
PARTS = ("state_dict",)
_GATES = ("reset_gate", "update_gate", "hidden")


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    width = channels(shapes, SIGNATURE, 0, "encoder.0.1.weight", 0)
    depth = max(count(shapes, "encoder.*."), count(shapes, "decoder.*."))
    latent, joined = f"encoder.{depth - 1}.0.weight", "decoder.0.0.weight"
    attributes = shape(shapes, joined)[0] - width * 2 ** (depth - 1)
    source = f"{latent} and {joined}"
    use_stu = any(key.startswith("stu.") for key in shapes)
    return build(
        Config,
        image_size=ask_image_size(given, (128,)),
        attributes=ask_attributes(given, OFFICIAL_ATTRIBUTES, attributes, source),
        width=width,
        layers=depth,
        shortcut_layers=_shortcuts(shapes, width, depth),
        use_stu=use_stu,
        stu_kernel_size=_kernel_size(shapes) if use_stu else Config.stu_kernel_size,
        one_more_conv=any(re.match(rf"decoder\.{depth - 1}\.[13]\.", key) for key in shapes),
    )


def table(config: Config) -> Table:
    """One row for each tensor."""
    last = config.layers - 1
    units = config.shortcut_layers if config.use_stu else 0
    return (
        *(row for i in range(config.layers) for row in _block(f"encoder.{i}", f"encoder.{i}")),
        *(row for i in range(units) for row in _unit(f"stu.{i}")),
        *(row for i in range(last) for row in _block(f"decoder.{i}", f"decoder.{i}")),
        *_head(f"decoder.{last}", config.one_more_conv),
    )


def _shortcuts(shapes: Shapes, width: int, depth: int) -> int:
    """The number of decoder layers whose input is three times their level's width, not twice."""
    joined = 0
    for i in range(1, depth):
        key, level = f"decoder.{i}.0.weight", width * 2 ** (depth - 1 - i)
        inputs = shape(shapes, key)[0]
        if inputs not in (2 * level, 3 * level):
            raise ConversionError(
                f"tensor {key} takes {inputs} channels, not {2 * level} or {3 * level}"
            )
        joined += inputs == 3 * level
    return joined


def _kernel_size(shapes: Shapes) -> int:
    key = "stu.0.reset_gate.0.weight"
    height, width = shape(shapes, key)[2:]
    if height != width or width % 2 == 0:
        raise ConversionError(
            f"tensor {key} has a kernel of {height} by {width}, not square and odd"
        )
    return width


def _block(key: str, path: str) -> Table:
    return (*conv(f"{key}.0", f"{path}.conv"), *batch_norm(f"{key}.1", f"{path}.norm"))


def _unit(name: str) -> Table:
    gates = (row for gate in _GATES for row in _block(f"{name}.{gate}", f"{name}.{gate}"))
    return (*conv(f"{name}.upsample", f"{name}.upsample"), *gates)


def _head(key: str, one_more_conv: bool) -> Table:
    if not one_more_conv:
        return conv(f"{key}.0", "head.conv")
    return (*_block(key, "head"), *conv(f"{key}.3", "head.last"))
