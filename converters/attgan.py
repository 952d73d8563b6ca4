"""AttGAN's table: ``Generator`` in ``elvisyjlin/AttGAN-PyTorch``, ``attgan.py``.

A file has the state dict under ``G``.
"""

from __future__ import annotations

import itertools

from cdmaa_jax.generators.attgan import OFFICIAL_ATTRIBUTES, Config
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

SIGNATURE = "enc_layers.0.layers.0.weight"
PARTS = ("G",)
_ENCODER = "enc_layers.{}.layers.0.weight"
_DECODER = "dec_layers.{}.layers.0.weight"


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    depth = max(count(shapes, "enc_layers.*."), count(shapes, "dec_layers.*."))
    levels = [_outputs(shapes, _ENCODER.format(i), 0) for i in range(depth)]
    outputs = [_outputs(shapes, _DECODER.format(i), 1) for i in range(depth - 1)]
    decoders = [shape(shapes, _DECODER.format(i)) for i in range(depth)]
    attributes = decoders[0][0] - levels[-1]
    source = f"{_ENCODER.format(depth - 1)} and {_DECODER.format(0)}"
    shortcut, inject = _joined(levels, decoders, attributes, given)
    return build(
        Config,
        image_size=ask_image_size(given, (128, 256, 384)),
        attributes=ask_attributes(given, OFFICIAL_ATTRIBUTES, attributes, source),
        encoder_width=levels[0],
        decoder_width=outputs[-1] // 2 if outputs else levels[0],
        encoder_layers=depth,
        decoder_layers=depth,
        shortcut_layers=shortcut,
        inject_layers=inject,
    )


def table(config: Config) -> Table:
    """One row for each tensor."""
    depth = config.decoder_layers
    return (
        *(row for i in range(depth) for row in _block(f"enc_layers.{i}", f"encoder.{i}")),
        *(row for i in range(depth - 1) for row in _block(f"dec_layers.{i}", f"decoder.{i}")),
        *conv(f"dec_layers.{depth - 1}.layers.0", "head", bias=True),
    )


def _block(key: str, path: str) -> Table:
    return (
        *conv(f"{key}.layers.0", f"{path}.conv"),
        *batch_norm(f"{key}.layers.1", f"{path}.norm"),
    )


def _outputs(shapes: Shapes, key: str, axis: int) -> int:
    return channels(shapes, key, axis, key.replace(".0.weight", ".1.weight"), 0)


def _joined(
    levels: list[int], decoders: list[tuple[int, ...]], attributes: int, given: Given
) -> tuple[int, int]:
    """The numbers of shortcuts and injections that explain all decoder layers' inputs."""
    depth = len(decoders)
    extra = [decoders[i][0] - decoders[i - 1][1] for i in range(1, depth)]

    def explains(shortcut: int, inject: int) -> bool:
        return all(
            extra[i] == (i < shortcut) * levels[depth - 2 - i] + (i < inject) * attributes
            for i in range(depth - 1)
        )

    found = [pair for pair in itertools.product(range(depth), repeat=2) if explains(*pair)]
    if not found:
        raise ConversionError(_unexplained(levels, decoders, attributes))
    chosen = [
        (shortcut, inject)
        for shortcut, inject in found
        if given.shortcut_layers in (None, shortcut) and given.inject_layers in (None, inject)
    ]
    if len(chosen) != 1:
        raise ConversionError(
            "(shortcut layers, inject layers) of "
            + " or ".join(str(pair) for pair in found)
            + " fit the tensors; give --shortcut-layers and --inject-layers"
        )
    return chosen[0]


def _unexplained(levels: list[int], decoders: list[tuple[int, ...]], attributes: int) -> str:
    """Names the first decoder layer whose inputs nothing explains."""
    for i in range(1, len(decoders)):
        outputs, level = decoders[i - 1][1], levels[-1 - i]
        allowed = [outputs + extra for extra in (0, level, attributes, level + attributes)]
        if decoders[i][0] not in allowed:
            return (
                f"tensor {_DECODER.format(i)} takes {decoders[i][0]} channels where "
                f"{_DECODER.format(i - 1)} gives {outputs}: "
                f"not one of {', '.join(str(n) for n in sorted(set(allowed)))}"
            )
    return "tensors dec_layers.*.layers.0.weight: a shortcut or an injection skips a layer"
