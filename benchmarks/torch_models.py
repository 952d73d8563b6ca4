"""The four generators in PyTorch, written for speed with frozen weights and fixed conditions.

Built from the official code's state dicts, so both sides have the same weights. What a good
engineer would do once before an attack is done here: batch normalization is folded into the
convolutions, all domains are one batch, and encoders see each image once. ``Flavour`` describes
the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_layers import (
    Conv,
    Flavour,
    InstanceNorm,
    Joined,
    LayerInstanceNorm,
    Reader,
    folded,
)


class StarGAN(nn.Module):
    """Keys ``main.*``."""

    blocks: Any

    def __init__(self, config, read: Reader, conditions, size: int, flavour: Flavour):
        super().__init__()
        up = 9 + config.blocks

        def conv(index, *args, **options):
            return Conv(read(f"main.{index}.weight"), None, *args, **options)

        def norm(key):
            return InstanceNorm(flavour.native_norm, read(f"{key}.weight"), read(f"{key}.bias"))

        parts = [("image", 3), ("labels", conditions.shape[2])]
        self.stem = Joined(conv(0, 1, 3), parts, conditions, size, flavour.split)
        self.stem_norm = norm("main.1")
        self.down = nn.ModuleList(
            nn.Sequential(conv(i, 2, 1), norm(f"main.{i + 1}")) for i in (3, 6)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                module
                for j in (0, 3)
                for module in (conv(f"{i}.main.{j}", 1, 1), norm(f"main.{i}.main.{j + 1}"))
            )
            for i in range(9, up)
        )
        self.up = nn.ModuleList(
            nn.Sequential(conv(i, 2, 1, transposed=True), norm(f"main.{i + 1}"))
            for i in (up, up + 3)
        )
        self.head = conv(up + 6, 1, 3)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        for stage in self.down:
            x = F.relu(stage(x))
        for conv1, norm1, conv2, norm2 in self.blocks:
            x = x + norm2(conv2(F.relu(norm1(conv1(x)))))
        for stage in self.up:
            x = F.relu(stage(x))
        return torch.tanh(self.head(x))


class AttGAN(nn.Module):
    """Keys ``enc_layers.*`` and ``dec_layers.*``."""

    encoder: Any
    decoder: Any

    def __init__(self, config, read: Reader, conditions, size: int, flavour: Flavour):
        super().__init__()
        depth, n = config.decoder_layers, conditions.shape[2]
        self.shortcuts = config.shortcut_layers
        self.encoder = nn.ModuleList(
            folded(read, f"enc_layers.{i}.layers.0", f"enc_layers.{i}.layers.1")
            for i in range(depth)
        )
        widths = [conv.weight.shape[0] for conv in self.encoder]
        self.decoder = nn.ModuleList()
        parts = [("image", widths[-1]), ("labels", n)]
        for i in range(depth):
            key, norm = f"dec_layers.{i}.layers.0", f"dec_layers.{i}.layers.1"
            conv = folded(read, key, norm if i < depth - 1 else None, transposed=True)
            joined = Joined(conv, parts, conditions, size // 2 ** (depth - i), flavour.split)
            self.decoder.append(joined)
            parts = [("domain", conv.weight.shape[1])]
            parts += [("image", widths[depth - 2 - i])] if i < config.shortcut_layers else []
            parts += [("labels", n)] if i < config.inject_layers else []

    def forward(self, x):
        levels = []
        for conv in self.encoder:
            x = F.leaky_relu(conv(x), 0.01)
            levels.append(x)
        x = self.decoder[0](x)
        for i, joined in enumerate(self.decoder[1:]):
            x = F.relu(x)
            x = joined(x, levels[-2 - i]) if i < self.shortcuts else joined(x)
        return torch.tanh(x)


class TransferUnit(nn.Module):
    """STGAN's convolutional GRU on a shortcut; both gates are one convolution."""

    def __init__(self, read: Reader, key: str, state: str, conditions, size: int, flavour: Flavour):
        super().__init__()
        upsample = Conv(read(f"{key}.upsample.weight"), None, 2, 1, transposed=True)
        features = upsample.weight.shape[1]
        names = ("reset_gate", "update_gate", "hidden")
        reset, update, hidden = (folded(read, f"{key}.{n}.0", f"{key}.{n}.1") for n in names)
        weight, bias = (
            torch.cat([getattr(g, name) for g in (reset, update)]) for name in ("weight", "bias")
        )
        gates = Conv(weight, bias, 1, reset.padding)
        parts = [(state, 2 * features), ("labels", conditions.shape[2])]
        self.upsample = Joined(upsample, parts, conditions, size // 2, flavour.split)
        parts = [("image", features), ("domain", features)]
        self.gates = Joined(gates, parts, conditions, size, flavour.split)
        self.hidden = Joined(hidden, parts, conditions, size, flavour.split)

    def forward(self, x, state):
        hat = self.upsample(state)
        reset, update = torch.sigmoid(self.gates(x, hat)).chunk(2, 1)
        state = reset * hat
        return torch.lerp(hat, torch.tanh(self.hidden(x, state)), update), state


class STGAN(nn.Module):
    """Keys ``encoder.*``, ``decoder.*`` and ``stu.*``."""

    encoder: Any
    decoder: Any
    units: Any

    def __init__(self, config, read: Reader, conditions, size: int, flavour: Flavour):
        super().__init__()
        depth, units = config.layers, config.shortcut_layers if config.use_stu else 0
        self.shortcuts = config.shortcut_layers
        self.encoder = nn.ModuleList(
            folded(read, f"encoder.{i}.0", f"encoder.{i}.1") for i in range(depth)
        )
        widths = [conv.weight.shape[0] for conv in self.encoder]
        self.units = nn.ModuleList(
            TransferUnit(
                read,
                f"stu.{i}",
                "domain" if i else "image",
                conditions,
                size // 2 ** (depth - 1 - i),
                flavour,
            )
            for i in range(units)
        )
        self.decoder = nn.ModuleList()
        parts = [("image", widths[-1]), ("labels", conditions.shape[2])]
        for i in range(depth):
            normed = read.has(f"decoder.{i}.1.weight")
            conv = folded(
                read, f"decoder.{i}.0", f"decoder.{i}.1" if normed else None, transposed=True
            )
            place = size // 2 ** (depth - i)
            self.decoder.append(Joined(conv, parts, conditions, place, flavour.split))
            parts = [("domain", conv.weight.shape[1])]
            if i < config.shortcut_layers:
                parts.append(("domain" if units else "image", widths[depth - 2 - i]))
        last = f"decoder.{depth - 1}.3.weight"
        self.last = Conv(read(last), None, 1, 1, transposed=True) if read.has(last) else None

    def forward(self, x):
        levels = []
        for conv in self.encoder:
            x = F.leaky_relu(conv(x), 0.2)
            levels.append(x)
        state, out = x, self.decoder[0](x)
        for i, joined in enumerate(self.decoder[1:], start=1):
            parts = [F.relu(out)]
            if i <= self.shortcuts:
                parts.append(levels[-1 - i])
            if i <= len(self.units):
                parts[1], state = self.units[i - 1](parts[1], state)
            out = joined(*parts)
        return torch.tanh(out if self.last is None else self.last(F.relu(out)))


class Attention(nn.Module):
    """Two maps scaled by constant weights, joined and convolved; one convolution if ``split``."""

    scales: Tensor | None

    def __init__(self, read: Reader, split: bool):
        super().__init__()
        weight, bias = read("conv1x1.weight"), read("conv1x1.bias")
        scales = [read(f"{key}.weight")[:, :, None, None] for key in ("gap_fc", "gmp_fc")]
        if split:
            weight = (weight * torch.cat(scales, 1)).unflatten(1, (2, -1)).sum(1)
        self.conv = Conv(weight, bias)
        self.register_buffer("scales", None if split else torch.cat(scales, 1))

    def forward(self, x):
        if self.scales is None:
            return self.conv(x)
        return self.conv(torch.cat([x, x], 1) * self.scales)


class UGATIT(nn.Module):
    """Keys ``DownBlock.*``, ``gap_fc``, ``FC.*``, ``UpBlock1_*.*`` and ``UpBlock2.*``."""

    blocks: Any
    adaptive: Any
    up: Any
    linear: Any

    def __init__(self, config, read: Reader, conditions, size: int, flavour: Flavour):
        super().__init__()
        self.light = config.light

        def conv(key, stride=1):
            weight = read(f"{key}.weight")
            return Conv(weight, None, stride, reflect=weight.shape[2] // 2)

        self.down = nn.ModuleList(conv(f"DownBlock.{i}", 1 + (i > 1)) for i in (1, 5, 9))
        keys = [f"DownBlock.{12 + i}.conv_block" for i in range(config.blocks)]
        self.blocks = nn.ModuleList(nn.ModuleList([conv(f"{k}.1"), conv(f"{k}.5")]) for k in keys)
        self.norm = InstanceNorm(flavour.native_norm)
        self.attention = Attention(read, flavour.split)
        self.linear = nn.ParameterList(
            nn.Parameter(read(f"{key}.weight"), requires_grad=False)
            for key in ("FC.0", "FC.2", "gamma", "beta")
        )
        self.adaptive = nn.ModuleList(
            nn.ModuleList(
                module
                for j in (1, 2)
                for module in (
                    conv(f"{key}.conv{j}"),
                    LayerInstanceNorm(read(f"{key}.norm{j}.rho")),
                )
            )
            for key in (f"UpBlock1_{i + 1}" for i in range(config.blocks))
        )
        self.up = nn.ModuleList(
            nn.ModuleList([conv(f"UpBlock2.{i}"), _affine_norm(read, f"UpBlock2.{i + 1}")])
            for i in (2, 7)
        )
        self.head = conv("UpBlock2.11")

    def forward(self, x):
        for conv in self.down:
            x = F.relu(self.norm(conv(x)))
        for conv1, conv2 in self.blocks:
            x = x + self.norm(conv2(F.relu(self.norm(conv1(x)))))
        x = F.relu(self.attention(x))
        scale, bias = self.style(x.mean((2, 3)) if self.light else x.flatten(1))
        for conv1, norm1, conv2, norm2 in self.adaptive:
            y = F.relu(norm1(conv1(x), scale, bias))
            x = x + norm2(conv2(y), scale, bias)
        for conv, norm in self.up:
            x = F.relu(norm(conv(F.interpolate(x, scale_factor=2.0))))
        return torch.tanh(self.head(x))

    def style(self, y):
        """The scale and the bias [B,C,1,1] of the adaptive norms."""
        first, second, gamma, beta = self.linear
        y = F.relu(F.linear(F.relu(F.linear(y, first)), second))
        return F.linear(y, gamma)[:, :, None, None], F.linear(y, beta)[:, :, None, None]


def _affine_norm(read: Reader, key: str) -> LayerInstanceNorm:
    return LayerInstanceNorm(*(read(f"{key}.{name}") for name in ("rho", "gamma", "beta")))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "stargan": StarGAN,
    "attgan": AttGAN,
    "stgan": STGAN,
    "ugatit": UGATIT,
}


def make_network(
    arch: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    conditions: Tensor,
    size: int,
    flavour: Flavour,
) -> nn.Module:
    """``x [B,3,size,size] -> [B·K,3,size,size]`` for conditions [1,K,n] or [B,K,n]; frozen.

    Raises:
      KeyError, ValueError: the state dict lacks a tensor or has one that is not used.
    """
    read = Reader(state)
    network = NETWORKS[arch](SimpleNamespace(**config), read, conditions, size, flavour)
    read.finish()
    return network.eval().requires_grad_(False)
