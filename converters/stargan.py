"""StarGAN's table: ``Generator`` in ``yunjey/stargan``, ``model.py``.

A file is a bare state dict.
"""

from __future__ import annotations

from cdmaa_jax.generators.stargan import OFFICIAL_ATTRIBUTES, Config
from converters.tables import (
    Given,
    Shapes,
    Table,
    ask_attributes,
    ask_image_size,
    build,
    channels,
    conv,
    count,
    instance_norm,
    shape,
)

SIGNATURE = "main.0.weight"
PARTS: tuple[str, ...] = ()


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    width = channels(shapes, SIGNATURE, 0, "main.3.weight", 1)
    inputs = shape(shapes, SIGNATURE)[1]
    return build(
        Config,
        image_size=ask_image_size(given, (128, 256)),
        attributes=ask_attributes(given, OFFICIAL_ATTRIBUTES, inputs - 3, SIGNATURE),
        width=width,
        blocks=count(shapes, "main.*.main."),
    )


def table(config: Config) -> Table:
    """One row for each tensor."""
    up = 9 + config.blocks
    return (
        *_stage(0, "stem"),
        *_stage(3, "down.0"),
        *_stage(6, "down.1"),
        *(row for i in range(config.blocks) for row in _block(9 + i, f"blocks.{i}")),
        *_stage(up, "up.0"),
        *_stage(up + 3, "up.1"),
        *conv(f"main.{up + 6}", "head"),
    )


def _stage(index: int, path: str) -> Table:
    return (
        *conv(f"main.{index}", f"{path}.conv"),
        *instance_norm(f"main.{index + 1}", f"{path}.norm"),
    )


def _block(index: int, path: str) -> Table:
    key = f"main.{index}.main"
    return (
        *conv(f"{key}.0", f"{path}.conv1"),
        *instance_norm(f"{key}.1", f"{path}.norm1"),
        *conv(f"{key}.3", f"{path}.conv2"),
        *instance_norm(f"{key}.4", f"{path}.norm2"),
    )
