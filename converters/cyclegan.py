"""CycleGAN's table: ``ResnetGenerator`` in ``junyanz/pytorch-CycleGAN-and-pix2pix``.

A file, ``latest_net_G.pth``, is a bare state dict.
"""

from __future__ import annotations

import dataclasses
import itertools

from cdmaa_jax.generators import norms
from cdmaa_jax.generators.cyclegan import Config
from converters.tables import (
    Given,
    Shapes,
    Table,
    ask_domain,
    ask_image_size,
    build,
    channels,
    closest,
    conv,
    count,
    norm_of_kind,
    with_statistics,
)

SIGNATURE = "model.1.weight"
PARTS: tuple[str, ...] = ()


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict; ``attributes`` name the one domain.

    The keys show the norm, zero padding and dropout; reflection and replication look alike, and the
    official code uses reflection by default.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    base = build(
        Config,
        image_size=ask_image_size(given, (256,)),
        width=channels(shapes, SIGNATURE, 0, "model.4.weight", 1),
        blocks=count(shapes, "model.*.conv_block."),
        domain=ask_domain(given, Config.domain),
    )
    padded = "replicate" if given.padding == "replicate" else "reflect"
    options = itertools.product(norms.KINDS, (padded, "zero"), (False, True))
    names = ("norm", "padding", "dropout")
    configs = [dataclasses.replace(base, **dict(zip(names, o, strict=True))) for o in options]
    return with_statistics(closest(configs, table, shapes), given)


def table(config: Config) -> Table:
    """One row for each tensor."""
    up = 10 + config.blocks
    return (
        *_stage(config, "model.1", "model.2", "stem"),
        *_stage(config, "model.4", "model.5", "down.0"),
        *_stage(config, "model.7", "model.8", "down.1"),
        *(row for i in range(config.blocks) for row in _block(config, i)),
        *_stage(config, f"model.{up}", f"model.{up + 1}", "up.0"),
        *_stage(config, f"model.{up + 3}", f"model.{up + 4}", "up.1"),
        *conv(f"model.{up + 7}", "head", bias=True),
    )


def _block(config: Config, index: int) -> Table:
    """Padding is a separate layer, except with zeros; dropout follows the first ReLU."""
    key, path = f"model.{10 + index}.conv_block", f"blocks.{index}"
    pad = int(config.padding != "zero")
    second = pad + 3 + config.dropout + pad
    return (
        *_stage(config, f"{key}.{pad}", f"{key}.{pad + 1}", path, "1"),
        *_stage(config, f"{key}.{second}", f"{key}.{second + 1}", path, "2"),
    )


def _stage(config: Config, conv_key: str, norm_key: str, path: str, number: str = "") -> Table:
    """A convolution and its norm; the convolution has a bias where ``norms.has_bias`` says so."""
    conv_path, norm_path = f"{path}.conv{number}", f"{path}.norm{number}"
    return (
        *conv(conv_key, conv_path, bias=norms.has_bias(config.norm)),
        *norm_of_kind(config.norm, norm_key, norm_path, f"{conv_path}.bias"),
    )
