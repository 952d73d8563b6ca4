"""The layers of the PyTorch side: frozen weights, domains in one batch, label planes as constants.

Layout NCHW; K domains of B images are a batch of B·K, with the domains of an image side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Flavour:
    """How a network is run; results differ only in rounding.

    Attributes:
      split: a convolution over image features, domain features and label planes becomes a sum of
        three: the first computed once per image, the last once for the attack. Otherwise the
        channels are joined, as in the official code.
      native_norm: instance normalization by ``F.instance_norm``; otherwise in a way that keeps
        ``channels_last``: ``F.group_norm`` or, on a GPU, where that does not, from the moments.
    """

    split: bool = False
    native_norm: bool = True


class Reader:
    """Takes every tensor of a state dict once; ``finish`` raises if a relevant one is left."""

    def __init__(self, state: Mapping[str, Tensor]):
        self._state = dict(state)

    def __call__(self, key: str) -> Tensor:
        return self._state.pop(key)

    def has(self, key: str) -> bool:
        return key in self._state

    def finish(self) -> None:
        left = [key for key in self._state if not key.endswith(_STATISTICS)]
        if left:
            raise ValueError(f"the network does not use {', '.join(left)}")


class Conv(nn.Module):
    """A convolution or transposed convolution; ``reflect`` pads by reflection first."""

    def __init__(self, weight, bias=None, stride=1, padding=0, *, transposed=False, reflect=0):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.transposed = stride, padding, transposed
        self.reflect = reflect

    def forward(self, x):
        if self.reflect:
            x = F.pad(x, (self.reflect,) * 4, mode="reflect")
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, self.weight, self.bias, self.stride, self.padding)


def narrow_convolutions(network: nn.Module) -> None:
    """Rounds the weights of all convolutions to bfloat16, as autocast would in every step.

    Autocast keeps a step's rounded weights only if they are trained.
    """
    for module in network.modules():
        if isinstance(module, Conv):
            module.to(torch.bfloat16)


class Joined(nn.Module):
    """A convolution over joined channels: of an image ("image"), of a domain, or label planes.

    Called with the parts [B,C,h,w] or [B·K,C,h,w] in order, without the planes; returns [B·K,...].
    ``conditions`` are [B,K,n] or [1,K,n]; ``size`` is the height and width of the input.
    """

    planes: Tensor
    constant: Tensor | None
    conv: Any
    convs: Any

    def __init__(self, conv: Conv, parts: Sequence[tuple[str, int]], conditions, size, split):
        super().__init__()
        self.kinds = [kind for kind, _ in parts]
        self.domains, self.split = conditions.shape[1], split
        planes = conditions.flatten(0, 1)[:, :, None, None].expand(-1, -1, size, size)
        if not split:
            self.conv = conv
            self.register_buffer("planes", planes.contiguous() if "labels" in self.kinds else None)
            return
        weights = conv.weight.split([count for _, count in parts], 0 if conv.transposed else 1)
        self.convs = nn.ModuleList(
            Conv(w.contiguous(), None, conv.stride, conv.padding, transposed=conv.transposed)
            for w in weights
        )
        self.register_buffer("constant", self._constant(planes, conv.bias))

    def _constant(self, planes, bias):
        """What depends on neither images nor features: the labels' part and the bias."""
        constant = None if bias is None else bias[None, :, None, None]
        if "labels" in self.kinds:
            share = self.convs[self.kinds.index("labels")](planes)
            return share if constant is None else share + constant
        return constant

    def forward(self, *parts: Tensor) -> Tensor:
        given = iter(parts)
        return self._sum(given) if self.split else self._join(given)

    def _join(self, given):
        found: list[Tensor] = []
        for kind in self.kinds:
            if kind == "labels":
                count = len(found[0]) // len(self.planes)
                found.append(self.planes if count == 1 else self.planes.repeat(count, 1, 1, 1))
            else:
                part = next(given)
                found.append(spread(part, self.domains) if kind == "image" else part)
        return self.conv(torch.cat(found, 1))

    def _sum(self, given):
        shares = []
        for kind, conv in zip(self.kinds, self.convs, strict=True):
            if kind == "image":
                shares.append(conv(next(given)).unflatten(0, (-1, 1)))
            elif kind == "domain":
                shares.append(self._of_domains(conv(next(given))))
        if self.constant is not None:
            shares.append(self._of_domains(self.constant).to(shares[0].dtype))
        return sum(shares[1:], shares[0]).flatten(0, 1)

    def _of_domains(self, x):
        """[B·K,...] as [B,K,...]; [1,...], which is the same for all, as [1,1,...]."""
        return x.unflatten(0, (-1, self.domains if len(x) > 1 else 1))


def spread(x: Tensor, domains: int) -> Tensor:
    """Repeats features [B,...] for each of K domains, [B·K,...]."""
    return x if domains == 1 else x.repeat_interleave(domains, 0)


class InstanceNorm(nn.Module):
    """Instance normalization; affine if given a scale and a bias."""

    def __init__(self, native, scale=None, bias=None):
        super().__init__()
        self.native = native
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x):
        if self.native:
            return F.instance_norm(x, weight=self.scale, bias=self.bias, eps=EPSILON)
        if not x.is_cuda:
            return F.group_norm(x, x.shape[1], self.scale, self.bias, EPSILON)
        return normalize(x, self.scale, self.bias)


def normalize(x: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    """Instance normalization as one affine map, in the layout and the type of x [N,C,h,w]."""
    var, mean = torch.var_mean(x.float(), (2, 3), keepdim=True, correction=0)
    factor = torch.rsqrt(var + EPSILON)
    if scale is None or bias is None:
        return (x * factor - mean * factor).to(x.dtype)
    factor = scale[:, None, None] * factor
    return (x * factor + (bias[:, None, None] - mean * factor)).to(x.dtype)


class LayerInstanceNorm(nn.Module):
    """U-GAT-IT's mixture of both norms as one affine map; layer moments from channel moments."""

    def __init__(self, rho, scale=None, bias=None):
        super().__init__()
        self.rho = nn.Parameter(rho, requires_grad=False)
        self.scale = None if scale is None else nn.Parameter(scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x, scale=None, bias=None):
        scale, bias = (self.scale, self.bias) if scale is None else (scale, bias)
        pixels = x.shape[2] * x.shape[3]
        var, mean = torch.var_mean(x.float(), (2, 3), keepdim=True, correction=0)
        whole = mean.mean(1, keepdim=True)
        whole_var = (var + (mean - whole) ** 2).mean(1, keepdim=True)
        count = pixels * x.shape[1]
        instance = self.rho * torch.rsqrt(var * (pixels / (pixels - 1)) + EPSILON)
        layer = (1 - self.rho) * torch.rsqrt(whole_var * (count / (count - 1)) + EPSILON)
        factor = scale * (instance + layer)
        return (x * factor + (bias - scale * (instance * mean + layer * whole))).to(x.dtype)


def folded(read: Reader, key: str, norm: str | None, *, transposed: bool = False) -> Conv:
    """A convolution with the batch normalization after it, by running statistics, folded in."""
    weight = read(f"{key}.weight")
    bias = read(f"{key}.bias") if read.has(f"{key}.bias") else None
    if norm is not None:
        factor = read(f"{norm}.weight") * torch.rsqrt(read(f"{norm}.running_var") + EPSILON)
        shift = read(f"{norm}.bias") - read(f"{norm}.running_mean") * factor
        weight = weight * (
            factor[None, :, None, None] if transposed else factor[:, None, None, None]
        )
        bias = shift if bias is None else bias * factor + shift
    size = weight.shape[2]
    halving = size == 4
    padding = 1 if halving else (size - 1) // 2
    return Conv(weight, bias, 2 if halving else 1, padding, transposed=transposed)
