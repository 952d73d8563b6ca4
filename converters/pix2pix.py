"""pix2pix's table: ``UnetGenerator`` in ``junyanz/pytorch-CycleGAN-and-pix2pix``.

A file, ``latest_net_G.pth``, is a bare state dict, whose levels are nested in each other.
"""

from __future__ import annotations

import dataclasses
import itertools

from cdmaa_jax.generators import norms
from cdmaa_jax.generators.pix2pix import Config
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
    norm_of_kind,
    with_statistics,
)

SIGNATURE = "model.model.0.weight"
PARTS: tuple[str, ...] = ()


def infer(shapes: Shapes, given: Given) -> Config:
    """Reads the configuration from the shapes of a state dict; ``attributes`` name the one domain.

    Raises:
      ConversionError: a tensor is missing, or an answer that only the caller has.
    """
    base = build(
        Config,
        image_size=ask_image_size(given, (256,)),
        width=channels(shapes, SIGNATURE, 0, f"{_level(1)}.1.weight", 1),
        layers=_depth(shapes),
        domain=ask_domain(given, Config.domain),
    )
    configs = [dataclasses.replace(base, norm=norm) for norm in norms.KINDS]
    return with_statistics(closest(configs, table, shapes), given)


def table(config: Config) -> Table:
    """One row for each tensor."""
    bias, deepest = norms.has_bias(config.norm), config.layers - 1
    rows = [*conv("model.model.0", "down.0.conv", bias)]
    for i in range(1, config.layers):
        key, down, up = _level(i), f"down.{i}", f"up.{deepest - i}"
        rows += conv(f"{key}.1", f"{down}.conv", bias)
        if i < deepest:
            rows += _norm(config, f"{key}.2", down)
        conv_up = 3 if i == deepest else 5  # no norm and no level inside
        rows += conv(f"{key}.{conv_up}", f"{up}.conv", bias)
        rows += _norm(config, f"{key}.{conv_up + 1}", up)
    return (*rows, *conv("model.model.3", "head", bias=True))


def _level(index: int) -> str:
    """The key of the layers of level ``index``, from 1; level 0 encloses them."""
    return "model.model.1.model" + ".3.model" * (index - 1)


def _depth(shapes: Shapes) -> int:
    """The number of levels, each nested in the one before."""
    return next(
        i for i in itertools.count(2) if not any(key.startswith(f"{_level(i)}.") for key in shapes)
    )


def _norm(config: Config, key: str, path: str) -> Table:
    return norm_of_kind(config.norm, key, f"{path}.norm", f"{path}.conv.bias")
