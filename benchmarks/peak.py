"""What the machine can do at most: the speed of a large matrix product, in FLOP per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

REPEATS = 5
SIZES = {"cpu": 4096}
LARGE = 8192


def best_rate(size: int, multiply: Callable[[], Any], wait: Callable[[Any], Any]) -> float:
    """The best FLOP per second of ``multiply``, a product of two square matrices of that size."""
    wait(multiply())
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        wait(multiply())
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def jax_rate(precision: str) -> float:
    """JAX's, on its first device, under the matmul precision that is set."""
    import jax
    import jax.numpy as jnp

    size = SIZES.get(jax.devices()[0].platform, LARGE)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return best_rate(size, lambda: product(a), jax.block_until_ready)


def torch_rate(precision: str, device: Any) -> float:
    """PyTorch's, on a device, under the TF32 setting that is set."""
    import torch

    size = SIZES.get(device.type, LARGE)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(size, size, device=device).to(dtype)

    def wait(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    with torch.no_grad():
        return best_rate(size, lambda: a @ a, wait)
