"""What XLA compiles from an attack for an accelerator that need not be present."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks import work
from benchmarks.targets import TARGETS, Target
from cdmaa_jax.attack import Config
from cdmaa_jax.attack.algorithm import Plan, attack_batch
from cdmaa_jax.attack.compilation import graph_options
from cdmaa_jax.attack.memory import footprint
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.types import Batch, Generator

STEPS = 80
_WITHOUT_AUTOTUNING = {"xla_gpu_autotune_level": "0"}
"""Autotuning finds the fastest kernels by trying them."""


class PluginError(ValueError):
    """JAX's plugin for a device is missing, or fails."""


def compile_attack(target: str, models: Sequence[Generator], batch: Batch) -> dict[str, Any]:
    """The program of an attack on a batch, with all images and all generators at once.

    Args:
      target: a name in ``TARGETS``.
      models: the generators.
      batch: the batch.

    Returns:
      ``text``, the compiled program as XLA prints it; ``seconds``, what compiling it took;
      ``bytes``, the memory that it takes, and ``planned``, this package's own estimate, without
      what cuDNN takes for itself.

    Raises:
      PluginError: JAX's plugin for the device is missing, or fails.
    """
    chosen = TARGETS[target]
    device = SingleDeviceSharding(_device(chosen))
    config = Config(steps=STEPS, start=work.START)
    numbers = numbers_of(config, batch.images.dtype, len(models))
    keys = jnp.broadcast_to(jax.random.key(0), (len(batch.images),))
    arguments = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        (tuple(models), batch, keys, numbers),
    )
    chunks = (len(batch.images),) * len(models)
    program = jax.jit(attack_batch, static_argnames=("config", "plan"))
    plan = Plan(chunks, platform=chosen.platform)
    lowered = program.lower(structure_of(config), *arguments, plan=plan)
    on_gpu = chosen.platform == "gpu"
    options = graph_options(overlap=False) | _WITHOUT_AUTOTUNING if on_gpu else {}
    begin = time.perf_counter()
    compiled = lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    data = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {
        "text": compiled.as_text(),
        "seconds": seconds,
        "bytes": data + memory.generated_code_size_in_bytes,
        "planned": footprint(config.loss, models, batch, chosen.platform).of(chunks),
    }


def _device(target: Target) -> Any:
    try:
        return topologies.get_topology_desc(**target.topology).devices[0]
    except (NotImplementedError, RuntimeError) as error:
        raise PluginError(
            f"JAX's plugin for {target.title}, which compiles without one, too, is missing or "
            f"fails ({error}): pip install 'jax[{target.plugin}]=={jax.__version__}'"
        ) from None
