"""How the programs of an attack are compiled, and called without what that leaves behind."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import jax
from jax.extend.mlir.passmanager import PassManager

from cdmaa_jax import processor
from cdmaa_jax.allocator import release_memory

T = TypeVar("T")
_ON_CPU = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_backend_optimization_level": "1",
    "xla_disable_hlo_passes": "reshape-mover,simplify-while-loops",
}
"""By default XLA starts early what can run side by side; two convolutions cannot, and what they are
prepared with then waits in memory: an attack takes twice as much, and no less time. LLVM's higher
levels compile a fifth longer for loops that wait for memory at any level. The passes left out
change little, but after each change all simplification runs again: ten times, where two suffice."""
_PRODUCTS_BY_EIGEN = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION,LIBRARY_FUSION_TYPE_REDUCE"
    ),
}
"""Of what XLA leaves to YNNPACK by default all but matrix products."""
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


def cached(function: Callable[..., T]) -> Callable[..., T]:
    """``functools.cache``, of which threads that come together get one and the same value.

    Of programs that matters: what one thread prepares another would not recognize as its own.
    """
    known, lock = functools.cache(function), threading.RLock()

    @functools.wraps(function)
    def locked(*arguments: Any) -> T:
        with lock:
            return known(*arguments)

    return locked


def default_device() -> jax.Device:
    """The device that programs run on where none is chosen: JAX's, or what its user set."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    if chosen is None:
        return jax.devices()[0]
    return jax.devices(chosen)[0] if isinstance(chosen, str) else chosen


def compiler_options(platform: str) -> dict[str, str]:
    """XLA's options for a platform; none where this JAX does not know them."""
    if platform != "cpu":
        return {}
    by_eigen = _known(_PRODUCTS_BY_EIGEN) if processor.is_x86_without_avx512() else {}
    return _known(_ON_CPU) | by_eigen


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


_LOG = logging.getLogger(__name__)
_READY: dict[Any, Future[None]] = {}
_CHANGES = threading.Lock()  # of which programs are ready, or being made so


def call(program: Any, *arguments: Any, **options: Any) -> Any:
    """``program(*arguments, **options)`` of a jitted function, when ``prepare`` has compiled it."""
    prepare(program, *arguments, **options).result()
    return program(*arguments, **options)


PATIENCE = 10.0
"""Seconds that an attack runs kernel by kernel before a graph is made of it: what that takes."""
_RUN_FOR: dict[Any, float] = {}  # kernel by kernel, the seconds of what is called as a graph
_VERIFIED: set[Any] = set()  # of that, what has run as a graph
_NO_GRAPHS: set[Any] = set()  # and what cannot


def call_as_graph(graph: Any, plain: Any, *arguments: Any, **options: Any) -> Any:
    """``call`` of two programs that do the same on a GPU, ``graph`` as one graph of kernels.

    ``plain`` comes first: few attacks are over sooner than a second program is compiled. And cuDNN
    sets up its kernels as they first run, which fails while a graph of them is recorded. Where that
    fails even so, or takes more memory than there is, ``plain`` it stays.
    """
    key = (graph, *_signature((arguments, options)))
    spent = _RUN_FOR.get(key)
    if key in _NO_GRAPHS or spent is None or spent < PATIENCE:
        return _call_plain(key, plain, arguments, options)
    if key in _VERIFIED:
        return graph(*arguments, **options)
    try:
        result = jax.block_until_ready(call(graph, *arguments, **options))
    except jax.errors.JaxRuntimeError as error:
        _LOG.warning("an attack runs without a CUDA graph, more slowly: %s", error)
        _NO_GRAPHS.add(key)
        return _call_plain(key, plain, arguments, options)
    _VERIFIED.add(key)
    return result


def _call_plain(key: Any, plain: Any, arguments: Any, options: Any) -> Any:
    prepare(plain, *arguments, **options).result()
    begin = time.monotonic()
    result = jax.block_until_ready(plain(*arguments, **options))
    _RUN_FOR[key] = _RUN_FOR.get(key, 0) + time.monotonic() - begin
    return result


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
        lowered = program.lower(*arguments, **options)
        if default_device().platform == "cpu":
            _forget_names(lowered.compiler_ir("stablehlo"))
        lowered.compile()
        release_memory()
    except BaseException as error:
        with _CHANGES:
            del _READY[key]
        ready.set_exception(error)
        raise
    ready.set_result(None)
    return ready


def _forget_names(module: Any) -> None:
    """Takes from a program the names of JAX's operations and the lines that they come from.

    XLA's CPU backend holds a program's text in memory while it runs, and five times while it is
    read in from the cache, where an attack has its peak; a tenth of it are these. Profiles then
    show the operations that XLA made of them. The cache's key does not depend on them.
    """
    with module.context:
        PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)


def _signature(tree: Any) -> tuple[Any, ...]:
    """What a program is compiled for: its arguments, and where it runs."""
    leaves, structure = jax.tree.flatten(tree)
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    shapes = ((x.shape, x.dtype) if hasattr(x, "dtype") else x for x in leaves)
    return precision, default_device(), structure, *shapes
