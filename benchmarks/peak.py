"""What the machine can do at most: the speed of a large matrix product, in FLOP per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

SIZES = {"cpu": (2048, 4096)}
"""Two cores reach their peak with the smaller one, many cores need the larger one."""
LARGE = (8192,)
SECONDS = 1.5
"""How long a product is repeated; it is at least once."""


def best_rate(
    sizes: Sequence[int],
    square: Callable[[int], Callable[[], Any]],
    wait: Callable[[Any], Any],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The best FLOP per second of products of square matrices.

    Args:
      sizes: of the matrices.
      square: makes, for a size, the function that multiplies.
      wait: for what that function returned.
      clock: seconds.
    """
    return max(2 * size**3 / _least_seconds(square(size), wait, clock) for size in sizes)


def _least_seconds(
    multiply: Callable[[], Any], wait: Callable[[Any], Any], clock: Callable[[], float]
) -> float:
    wait(multiply())
    seconds: list[float] = []
    while sum(seconds) < SECONDS:
        begin = clock()
        wait(multiply())
        seconds.append(clock() - begin)
    return min(seconds)


def jax_rate(precision: str, sizes: Sequence[int] | None = None) -> float:
    """JAX's, on its first device, under the matmul precision that is set.

    Of matrices of these ``sizes``; of those that a device of its kind needs for its peak if None.
    """
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    product = jax.jit(lambda a: a @ a)

    def square(size: int) -> Callable[[], Any]:
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        return lambda: product(a)

    sizes = sizes or SIZES.get(jax.devices()[0].platform, LARGE)
    return best_rate(sizes, square, jax.block_until_ready)


def torch_rate(precision: str, device: Any) -> float:
    """PyTorch's, on a device, under the TF32 setting that is set."""
    import torch

    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def square(size: int) -> Callable[[], Any]:
        a = torch.randn(size, size, device=device).to(dtype)
        return lambda: a @ a

    def wait(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        return best_rate(SIZES.get(device.type, LARGE), square, wait)
