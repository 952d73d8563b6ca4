"""The machine's peak speed: that of a large matrix product, in FLOP per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

SIZES = {"cpu": (2048, 4096)}
"""Two cores reach their peak with the smaller size; many cores need the larger one."""
LARGE = (8192, 16384)
SECONDS = 1.5
"""How long a product is repeated; it runs at least once."""


def best_rate(
    sizes: Sequence[int],
    square: Callable[[int], Callable[[], Any]],
    wait: Callable[[Any], Any],
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The best FLOP per second of products of square matrices.

    Args:
      sizes: widths of the matrices.
      square: returns the function that multiplies matrices of a given size.
      wait: waits for the result of that function.
      clock: returns the time in seconds.
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


def jax_rate(precision: str) -> float:
    """JAX's rate on its first device, at the current matmul precision."""
    import jax
    import jax.numpy as jnp

    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    product = jax.jit(lambda a: a @ a)

    def square(size: int) -> Callable[[], Any]:
        a = jax.random.normal(jax.random.key(0), (size, size), dtype)
        return lambda: product(a)

    sizes = SIZES.get(jax.devices()[0].platform, LARGE)
    return best_rate(sizes, square, jax.block_until_ready)


def torch_rate(precision: str, device: Any) -> float:
    """PyTorch's rate on a device, with the current TF32 setting."""
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
