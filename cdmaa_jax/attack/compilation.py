"""How the programs of an attack are compiled, and called without what that leaves behind."""

from __future__ import annotations

import functools
from typing import Any

import jax

from cdmaa_jax.allocator import release_memory

_ON_CPU = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_backend_optimization_level": "1",
}
"""By default XLA starts early what can run side by side; two convolutions cannot, and what they are
prepared with then waits in memory: an attack takes twice as much, and no less time. LLVM's higher
levels compile a fifth longer for loops that wait for memory at any level."""


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


_READY: set[Any] = set()


def call(program: Any, *arguments: Any, **options: Any) -> Any:
    """``program(*arguments, **options)`` of a jitted function.

    Where it has yet to be compiled for them, that is done first, and the memory that compilation
    has freed goes back to the system before the program takes its own: a fifth of the peak.
    """
    key = (program, *_signature((arguments, options)))
    if key not in _READY:
        release_memory()
        program.lower(*arguments, **options).compile()
        release_memory()
        _READY.add(key)
    return program(*arguments, **options)


def _signature(tree: Any) -> tuple[Any, ...]:
    """What of a program's arguments it is compiled for."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((x.shape, x.dtype) if hasattr(x, "dtype") else x for x in leaves)
