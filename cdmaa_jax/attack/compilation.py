"""How the programs of an attack are compiled, and called without what that leaves behind."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
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
_ON_GPU = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION,"
        "WHILE,CONDITIONAL"
    ),
}
"""For ``call_as_graph``: all steps become one graph. By default convolutions are launched one by
one, between graphs of what else there is, and the host waits for the min-norm solver."""
_OVERLAPPING = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}
"""Kernels of a graph run side by side unless one needs what another writes."""


def compiler_options(platform: str) -> dict[str, str]:
    """XLA's options for a platform; none where this JAX does not know them."""
    return _known(_ON_CPU) if platform == "cpu" else {}


def graph_options(overlap: bool) -> dict[str, str]:
    """XLA's options for a program that a GPU is to run as one graph.

    If its kernels may ``overlap``, independent ones run side by side, in more memory.
    """
    return _known(_ON_GPU | (_OVERLAPPING if overlap else {}))


def _known(options: dict[str, str]) -> dict[str, str]:
    """The options, or none where this JAX does not know them."""
    return options if _are_known(tuple(options.items())) else {}


@functools.cache
def _are_known(options: tuple[tuple[str, str], ...]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except (RuntimeError, ValueError):
        return False
    return True


_READY: dict[Any, Future[None]] = {}
_CHANGES = threading.Lock()  # of which programs are ready, or being made so


def call(program: Any, *arguments: Any, **options: Any) -> Any:
    """``program(*arguments, **options)`` of a jitted function, when ``prepare`` has compiled it."""
    prepare(program, *arguments, **options).result()
    return program(*arguments, **options)


_RUNS: Counter[Any] = Counter()  # as a graph, of what is called so
_NO_GRAPHS: set[Any] = set()  # of what no graph can be made here


def call_as_graph(program: Any, plain: Any, *arguments: Any, **options: Any) -> Any:
    """``call`` of a program that a GPU runs as one graph, or of ``plain`` if that fails.

    cuDNN loads its kernels when they first run, and may not while XLA records a graph; so in the
    first call they run one by one.
    """
    key = (program, *_signature((arguments, options)))
    if key in _NO_GRAPHS:
        return call(plain, *arguments, **options)
    prepare(program, *arguments, **options).result()
    if _RUNS[key] > 1:
        return program(*arguments, **options)
    try:
        with contextlib.nullcontext() if _RUNS[key] else _without_graphs():
            result = jax.block_until_ready(program(*arguments, **options))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        _NO_GRAPHS.add(key)
        return call(plain, *arguments, **options)
    _RUNS[key] += 1
    return result


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """XLA makes no graphs while there is a profiler, here one that looks at nothing."""
    options = jax.profiler.ProfileOptions()
    for name in ("host_tracer_level", "device_tracer_level", "python_tracer_level"):
        setattr(options, name, 0)
    with tempfile.TemporaryDirectory() as folder:
        try:
            jax.profiler.start_trace(folder, profiler_options=options)
        except RuntimeError:  # there is one already, the caller's own
            yield
            return
        try:
            yield
        finally:
            jax.profiler.stop_trace()


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
