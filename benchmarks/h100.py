"""What XLA compiles from an attack for an NVIDIA H100, which need not be present."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from benchmarks import work
from cdmaa_jax.attack import Config
from cdmaa_jax.attack.algorithm import Plan, attack_batch
from cdmaa_jax.attack.compilation import graph_options
from cdmaa_jax.attack.memory import footprint
from cdmaa_jax.attack.numbers import numbers_of, structure_of
from cdmaa_jax.types import Batch, Generator

STEPS = 80
BYTES_PER_SECOND = 3.35e12
"""Memory bandwidth (SXM, HBM3) according to NVIDIA."""
_TARGET = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
"""The properties of an H100, in the form that XLA expects."""


class PluginError(ValueError):
    """JAX lacks what compiles for a GPU."""


_OPTIONS = {"xla_gpu_autotune_level": "0"}
"""No autotuning, which finds the fastest kernels by trying them."""


def compile_attack(models: Sequence[Generator], batch: Batch) -> dict[str, Any]:
    """The program of an attack on a batch, with all images and all generators at once.

    Returns:
      ``text``, the compiled program as XLA prints it; ``bytes``, the memory that it takes, and
      ``planned``, this package's own estimate, without what cuDNN takes for itself.

    Raises:
      PluginError: JAX's CUDA plugin is missing.
    """
    device = SingleDeviceSharding(_device())
    config = Config(steps=STEPS, start=work.START)
    numbers = numbers_of(config, batch.images.dtype, len(models))
    keys = jnp.broadcast_to(jax.random.key(0), (len(batch.images),))
    arguments = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device),
        (tuple(models), batch, keys, numbers),
    )
    chunks = (len(batch.images),) * len(models)
    program = jax.jit(attack_batch, static_argnames=("config", "plan"))
    plan = Plan(chunks, platform="gpu")
    lowered = program.lower(structure_of(config), *arguments, plan=plan)
    compiled = lowered.compile(compiler_options=graph_options(overlap=False) | _OPTIONS)
    memory = compiled.memory_analysis()
    return {
        "text": compiled.as_text(),
        "bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "planned": footprint(config.loss, models, batch).of(chunks),
    }


def _device() -> Any:
    try:
        found = topologies.get_topology_desc(
            "h100", "cuda", target_config=_TARGET, topology="1x1x1"
        )
    except NotImplementedError:
        raise PluginError(
            "JAX's CUDA plugin is missing, which compiles without a GPU, too: "
            f"pip install 'jax[cuda13]=={jax.__version__}'"
        ) from None
    return found.devices[0]
