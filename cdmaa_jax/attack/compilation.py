"""How the programs of an attack are compiled."""

from __future__ import annotations

import functools

import jax

_ON_CPU = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
"""By default XLA starts early what can run side by side; two convolutions cannot, and what they are
prepared with then waits in memory: an attack takes twice as much, and no less time."""


@functools.cache
def compiler_options(platform: str) -> dict[str, str]:
    """XLA's options for a platform; none where this JAX does not know them."""
    if platform != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_ON_CPU).lower().compile()
    except (RuntimeError, ValueError):
        return {}
    return _ON_CPU
