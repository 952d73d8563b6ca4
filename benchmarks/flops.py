"""The arithmetic of the algorithm, counted by hand: each convolution and linear layer.

A multiply-add is two operations. Norms, activations, the loss and the min-norm solver are left out;
they are below two per cent. A layer's inputs are channels of an image (the same in every domain),
of a domain, or label planes (constants). Two counts follow:

- ``shared``, of the algorithm: what depends on the image alone once per image, labels never.
- ``joined``, of the networks as published with all domains in one batch: encoders once per image,
  but joined channels are convolved in full for every domain.

A step is the forward pass and the input gradient, which costs the same; weights have no gradient.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

MAX_WIDTH = 1024


@dataclasses.dataclass(frozen=True)
class Layer:
    """One convolution or linear layer.

    Attributes:
      name: for tables.
      taps: kernel height × width × the positions where it is applied; for a transposed
        convolution, these are the input's pixels.
      outputs: output channels.
      image, domain, labels: input channels of each kind.
      copies: input channels that only scale others by constants, which one kernel can absorb.
    """

    name: str
    taps: int
    outputs: int
    image: int = 0
    domain: int = 0
    labels: int = 0
    copies: int = 0

    def shared(self, domains: int) -> int:
        """Operations of the forward pass for one image, without repeated work."""
        return 2 * self.taps * self.outputs * (self.image + domains * self.domain)

    def joined(self, domains: int) -> int:
        """Operations of the forward pass for one image, joined channels convolved in full."""
        times = domains if self.domain or self.labels else 1
        inputs = self.image + self.domain + self.labels + self.copies
        return 2 * self.taps * self.outputs * times * inputs


def layers(arch: str, config: Mapping[str, Any], size: int, labels: int) -> list[Layer]:
    """The layers of a generator at an image size, with ``labels`` entries in a condition."""
    return list(_LAYERS[arch](SimpleNamespace(**config), size, labels))


def step(arch: str, config: Mapping[str, Any], size: int, domains: int, labels: int) -> int:
    """Operations of one step of one model for one image, as ``shared`` counts."""
    return 2 * sum(layer.shared(domains) for layer in layers(arch, config, size, labels))


def start(arch: str, config: Mapping[str, Any], size: int, domains: int, labels: int) -> int:
    """Operations of the clean outputs, once per image and attack."""
    return step(arch, config, size, domains, labels) // 2


def step_joined(arch: str, config: Mapping[str, Any], size: int, domains: int, labels: int) -> int:
    """Operations of one step of one model for one image, as ``joined`` counts."""
    return 2 * sum(layer.joined(domains) for layer in layers(arch, config, size, labels))


def _stargan(config: Any, size: int, labels: int) -> Iterator[Layer]:
    w = config.width
    yield Layer("stem", 49 * size**2, w, image=3, labels=labels)
    yield Layer("down.0", 16 * (size // 2) ** 2, 2 * w, domain=w)
    yield Layer("down.1", 16 * (size // 4) ** 2, 4 * w, domain=2 * w)
    for i in range(2 * config.blocks):
        yield Layer(f"blocks.{i // 2}.conv{i % 2 + 1}", 9 * (size // 4) ** 2, 4 * w, domain=4 * w)
    yield Layer("up.0", 16 * (size // 4) ** 2, 2 * w, domain=4 * w)
    yield Layer("up.1", 16 * (size // 2) ** 2, w, domain=2 * w)
    yield Layer("head", 49 * size**2, 3, domain=w)


def _attgan(config: Any, size: int, labels: int) -> Iterator[Layer]:
    depth = config.decoder_layers
    widths = [min(config.encoder_width * 2**i, MAX_WIDTH) for i in range(depth)]
    yield from _encoder([3, *widths], size)
    outputs = [min(config.decoder_width * 2 ** (depth - 1 - i), MAX_WIDTH) for i in range(depth)]
    outputs[-1] = 3
    joined = {"image": widths[-1], "labels": labels}
    for i, count in enumerate(outputs):
        yield Layer(f"decoder.{i}", 16 * (size >> (depth - i)) ** 2, count, **joined)
        joined = {"domain": count}
        joined |= {"image": widths[depth - 2 - i]} if i < config.shortcut_layers else {}
        joined |= {"labels": labels} if i < config.inject_layers else {}


def _stgan(config: Any, size: int, labels: int) -> Iterator[Layer]:
    depth, w = config.layers, config.width
    widths = [w * 2**i for i in range(depth)]
    yield from _encoder([3, *widths], size)
    units = config.shortcut_layers if config.use_stu else 0
    for i in range(units):
        features, kind = widths[depth - 2 - i], "domain" if i else "image"
        yield from _transfer_unit(i, features, size >> (depth - 1 - i), kind, config, labels)
    last = w // 4 if config.one_more_conv else 3
    joined = {"image": widths[-1], "labels": labels}
    for i, count in enumerate([*widths[:0:-1], last]):
        yield Layer(f"decoder.{i}", 16 * (size >> (depth - i)) ** 2, count, **joined)
        joined = {"domain": count}
        if i < config.shortcut_layers:
            kind = "domain" if units else "image"
            joined[kind] = joined.get(kind, 0) + widths[depth - 2 - i]
    if config.one_more_conv:
        yield Layer("last", 9 * size**2, 3, domain=last)


def _transfer_unit(
    i: int, features: int, size: int, state: str, config: Any, labels: int
) -> Iterator[Layer]:
    upsampled = {state: 2 * features}
    yield Layer(f"stu.{i}.upsample", 16 * (size // 2) ** 2, features, labels=labels, **upsampled)
    taps = config.stu_kernel_size**2 * size**2
    for gate in ("reset", "update", "hidden"):
        yield Layer(f"stu.{i}.{gate}", taps, features, image=features, domain=features)


def _encoder(widths: list[int], size: int) -> Iterator[Layer]:
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        yield Layer(f"encoder.{i}", 16 * (size >> (i + 1)) ** 2, outputs, image=inputs)


def _ugatit(config: Any, size: int, labels: int) -> Iterator[Layer]:
    del labels
    w, f, small = config.width, 4 * config.width, (size // 4) ** 2
    yield Layer("stem", 49 * size**2, w, image=3)
    yield Layer("down.0", 9 * (size // 2) ** 2, 2 * w, image=w)
    yield Layer("down.1", 9 * small, f, image=2 * w)
    for i in range(4 * config.blocks):
        yield Layer(f"block {i // 2}, conv{i % 2 + 1}", 9 * small, f, image=f)
    yield Layer("attention", small, f, image=f, copies=f)
    yield Layer("mlp.0", 1, f, image=f if config.light else f * small)
    for name in ("mlp.1", "gamma", "beta"):
        yield Layer(name, 1, f, image=f)
    yield Layer("up.0", 9 * (size // 2) ** 2, 2 * w, image=f)
    yield Layer("up.1", 9 * size**2, w, image=2 * w)
    yield Layer("head", 49 * size**2, 3, image=w)


_LAYERS: dict[str, Callable[[Any, int, int], Iterator[Layer]]] = {
    "stargan": _stargan,
    "attgan": _attgan,
    "stgan": _stgan,
    "ugatit": _ugatit,
}
