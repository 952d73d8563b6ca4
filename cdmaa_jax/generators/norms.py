"""The normalizations that CycleGAN and pix2pix choose from: ``get_norm_layer`` in their code.

``instance`` has no parameters and leaves the bias to the convolution before it; ``batch`` has a
scale and a bias; ``none`` does nothing. The authors test in training mode on one image at a time
(their ``--eval`` is off by default), where batch normalization uses the statistics of that image:
``statistics="instance"``. With ``--eval`` it uses the running statistics: ``"running"``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cdmaa_jax.generators import layers

KINDS = ("instance", "batch", "none")
STATISTICS = ("instance", "running")


def check(kind: str, statistics: str) -> None:
    """Rejects options that do not exist.

    Raises:
      ValueError: a name is unknown, or there are no running statistics to use.
    """
    if kind not in KINDS:
        raise ValueError(f"norm must be one of {', '.join(KINDS)}")
    if statistics not in STATISTICS:
        raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}")
    if statistics == "running" and kind != "batch":
        raise ValueError("only a batch norm has running statistics")


def has_bias(kind: str) -> bool:
    """Whether the convolution before the normalization has a bias."""
    return kind == "instance"


def make(kind: str, statistics: str, features: int) -> Callable[[Any], Any]:
    """The normalization of features [B,H,W,C]: a module, or a function without parameters."""
    if kind == "batch":
        module = layers.BatchNorm if statistics == "running" else PerImageBatchNorm
        return module(features)
    return layers.instance_norm if kind == "instance" else identity


def identity(x: Any) -> Any:
    """No normalization."""
    return x


class PerImageBatchNorm(layers.BatchNorm):
    """``torch.nn.BatchNorm2d`` in training mode, with every image a batch of its own.

    The running statistics are kept for conversion back to PyTorch, but not used.
    """

    def __call__(self, x):
        return layers.instance_norm(x, self.scale[...], self.bias[...])
