"""How the programs of an attack are compiled, and called without what that leaves behind."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future
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


_READY: dict[Any, Future[None]] = {}
_CHANGES = threading.Lock()  # of which programs are ready, or being made so


def call(program: Any, *arguments: Any, **options: Any) -> Any:
    """``program(*arguments, **options)`` of a jitted function, when ``prepare`` has compiled it."""
    prepare(program, *arguments, **options).result()
    return program(*arguments, **options)


def prepare(program: Any, *arguments: Any, **options: Any) -> Future[None]:
    """Compiles a jitted function for arguments, unless that was done or another thread is at it.

    The memory that compilation has freed goes back to the system before the program takes its own:
    a fifth of the peak.

    Returns:
      a future that is done when the program is compiled.

    Raises:
      Exception: whatever compilation raises; the future of another thread's raises it too.
    """
    key = (program, *_signature((arguments, options)))
    with _CHANGES:
        is_ours = key not in _READY
        ready = _READY.setdefault(key, Future())
    if not is_ours:
        return ready
    try:
        release_memory()
        program.lower(*arguments, **options).compile()
        release_memory()
    except BaseException as error:
        with _CHANGES:
            del _READY[key]
        ready.set_exception(error)
        raise
    ready.set_result(None)
    return ready


def _signature(tree: Any) -> tuple[Any, ...]:
    """What of a program's arguments it is compiled for."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, *((x.shape, x.dtype) if hasattr(x, "dtype") else x for x in leaves)
