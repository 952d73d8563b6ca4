"""Compiles and calls attack programs: XLA options, ahead-of-time compilation shared between
threads, turns to run in, and freeing what compilation leaves behind.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.backend import get_default_device

from cdmaa_jax import processor
from cdmaa_jax.allocator import release_memory

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_ON_CPU = {
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
    "xla_backend_optimization_level": "1",
    "xla_disable_hlo_passes": "reshape-mover,simplify-while-loops",
}
"""By default XLA schedules early what can run concurrently. Convolutions cannot, so their prepared
inputs wait in memory: an attack takes twice the memory, and no less time. LLVM's higher levels take
a fifth longer to compile loops that are memory-bound at any level. The disabled passes change
little, but each change reruns all simplification: ten times, where two suffice."""
_UNDIVIDED = {
    "xla_disable_hlo_passes": f"{_ON_CPU['xla_disable_hlo_passes']},cpu-parallel-task-assigner",
}
"""For devices of a CPU that share a batch: no loop over elements is divided among threads. Each
core has its own images, so that takes less time, and no queue of tasks overflows (see
``in_turn``)."""
_PRODUCTS_BY_EIGEN = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION,LIBRARY_FUSION_TYPE_REDUCE"
    ),
}
"""The operations that XLA delegates to YNNPACK by default, except matrix products."""
_ON_GPU = {
    "xla_gpu_enable_command_buffer": (
        "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONVOLUTION,"
        "WHILE,CONDITIONAL"
    ),
}
"""For ``call_as_graph``: all steps become one graph. By default convolutions are launched one by
one, between graphs of the other operations, and the host waits for the min-norm solver."""
_OVERLAPPING = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}
"""Kernels of a graph run concurrently unless one reads what another writes."""


def cached(function: Callable[..., T]) -> Callable[..., T]:
    """``functools.cache`` that returns the same object to concurrent threads.

    Programs need this: a thread would not recognize one that another has prepared as its own.
    """
    known, lock = functools.cache(function), threading.RLock()

    @functools.wraps(function)
    def locked(*arguments: Any) -> T:
        with lock:
            return known(*arguments)

    return locked


def compiler_options(platform: str, sharing: bool = False) -> dict[str, str]:
    """XLA's options for a platform, without those that this version refuses.

    Args:
      platform: the devices' platform.
      sharing: whether several devices share a batch.
    """
    if platform != "cpu":
        return {}
    by_eigen = _known(_PRODUCTS_BY_EIGEN) if processor.is_x86_without_avx512() else {}
    return _known(_ON_CPU | (_UNDIVIDED if sharing else {})) | by_eigen


@functools.cache
def can_share_cpu() -> bool:
    """Whether several devices of a CPU can share a batch: whether ``_UNDIVIDED`` has its effect.

    XLA's passes may be renamed, and it ignores names that it does not know.
    """
    undivided = not _divides(compiler_options("cpu", sharing=True))
    return undivided and (processor.cores() == 1 or _divides(compiler_options("cpu")))


def _divides(options: dict[str, str]) -> bool:
    """Whether XLA's CPU backend divides a large loop among threads."""
    with jax.default_device(jax.devices("cpu")[0]):
        lowered = jax.jit(jax.lax.tanh, compiler_options=options).lower(
            jax.ShapeDtypeStruct((2**20,), np.float32)
        )
        return '"outer_dimension_partitions":["' in (lowered.compile().as_text() or "")


def graph_options(overlap: bool) -> dict[str, str]:
    """XLA's options for a program that a GPU runs as one graph.

    With ``overlap``, independent kernels run concurrently, which takes more memory.
    """
    return _known(_ON_GPU | (_OVERLAPPING if overlap else {}))


def _known(options: dict[str, str]) -> dict[str, str]:
    """The options without those that this version of XLA refuses, which are warned of."""
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: str) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except (RuntimeError, ValueError) as error:
        _LOG.warning("an attack goes without the option %s=%s: %s", name, value, error)
        return False
    return True


_READY: dict[Any, Future[None]] = {}
_CHANGES = threading.Lock()  # held to read or change ``_READY``


_TURNS = threading.RLock()  # held while a program runs on a CPU


def call(program: Any, *arguments: Any, **options: Any) -> Any:
    """``program(*arguments, **options)`` of a jitted function, compiled first by ``prepare``.

    Run by ``in_turn``.
    """
    prepare(program, *arguments, **options).result()
    return in_turn(program, *arguments, **options)


def in_turn(compute: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """``compute(*arguments, **options)``; on a CPU one thread at a time, until arrays are ready.

    Where large generators' gradients are computed in two threads at once, XLA's CPU backend (JAX
    0.10.2 to 0.12.0) computes parts of them wrongly. Its threads are Eigen's, whose queues hold
    1024 tasks; if one is full, the thread that schedules a task runs it at once, and Eigen's
    convolutions, which do not expect that, overwrite what they have not used yet. Each program that
    runs occupies a thread, and each of its loops over elements that is divided among threads leaves
    a task in a queue, which no thread is free to take out. Programs that take turns lose no time,
    since they would share the same cores. A program of several CPU devices, which itself runs in
    several threads, is compiled with ``_UNDIVIDED``.
    """
    if get_default_device().platform != "cpu":
        return compute(*arguments, **options)
    with _TURNS:
        return jax.block_until_ready(compute(*arguments, **options))


PATIENCE = 10.0
"""Seconds that an attack runs kernel by kernel before its graph is made, which takes as long."""
_RUN_FOR: dict[Any, float] = {}  # seconds run kernel by kernel, for each graph's key
_VERIFIED: set[Any] = set()  # keys of graphs that have run
_NO_GRAPHS: set[Any] = set()  # keys of graphs that cannot run


def call_as_graph(graph: Any, plain: Any, *arguments: Any, **options: Any) -> Any:
    """``call`` of one of two equivalent GPU programs, ``graph`` as one graph of kernels.

    ``plain`` runs first: a few attacks finish before a second program is compiled, and cuDNN sets
    up its kernels on their first run, which fails while a graph is being recorded. If the graph's
    first run fails even so, or lacks memory, ``plain`` is used from then on; a later failure is
    raised.
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


def has_graphs() -> bool:
    """Whether attacks have run as graphs, and none has failed to."""
    return bool(_VERIFIED) and not _NO_GRAPHS


def _call_plain(key: Any, plain: Any, arguments: Any, options: Any) -> Any:
    prepare(plain, *arguments, **options).result()
    begin = time.monotonic()
    result = jax.block_until_ready(plain(*arguments, **options))
    _RUN_FOR[key] = _RUN_FOR.get(key, 0) + time.monotonic() - begin
    return result


def prepare(program: Any, *arguments: Any, **options: Any) -> Future[None]:
    """Compiles a jitted function for arguments, unless this or another thread has done or begun it.

    Memory freed by compilation, a fifth of the peak, is returned to the system before the program
    allocates its own.

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
        if get_default_device().platform == "cpu":
            _forget_names(lowered)
        lowered.compile()
        release_memory()
    except BaseException as error:
        with _CHANGES:
            del _READY[key]
        ready.set_exception(error)
        raise
    ready.set_result(None)
    return ready


def _forget_names(lowered: Any) -> None:
    """Strips the names and source lines of JAX's operations from a program.

    XLA's CPU backend holds a program's text in memory while it runs, and five copies while it is
    loaded from the cache, when an attack's memory peaks; a tenth of the text is this debug
    information. Profiles then show XLA's operations instead. The cache key does not depend on it.
    JAX promises none of what this takes: without it a program takes more memory, and works.
    """
    try:
        from jax.extend.mlir.passmanager import PassManager

        module = lowered.compiler_ir("stablehlo")
        with module.context:
            PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    except Exception as error:
        _LOG.info("a program keeps its debug information: %s", error)


def _signature(tree: Any) -> tuple[Any, ...]:
    """The key of a compiled program: its arguments, matmul precision and device."""
    leaves, structure = jax.tree.flatten(tree)
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    shapes = ((x.shape, x.dtype) if hasattr(x, "dtype") else x for x in leaves)
    return precision, get_default_device(), structure, *shapes
