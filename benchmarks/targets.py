"""The accelerators that programs are compiled for without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

_H100 = """
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


@dataclasses.dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
      title: the device, with its article.
      platform: as ``jax.Device.platform`` of the device.
      plugin: the extra of ``jax`` that compiles for it.
      bytes_per_second: the bandwidth of its memory, according to its maker.
      precisions: those in which it is used.
      topology: the arguments of ``topologies.get_topology_desc``.
      environment: variables by which its plugin looks for no device, and locks none.
    """

    title: str
    platform: str
    plugin: str
    bytes_per_second: float
    precisions: tuple[str, ...]
    topology: Mapping[str, Any]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


TARGETS = {
    "h100": Target(
        title="an H100",
        platform="gpu",
        plugin="cuda13",
        bytes_per_second=3.35e12,  # SXM, HBM3
        precisions=("tf32", "bfloat16"),
        topology={
            "topology_name": "h100",
            "platform": "cuda",
            "target_config": _H100,
            "topology": "1x1x1",
        },
    ),
    "v5e": Target(
        title="a TPU v5e",
        platform="tpu",
        plugin="tpu",
        bytes_per_second=819e9,
        precisions=("default", "bfloat16"),
        topology={
            "topology_name": "v5e:1x1x1",
            "platform": "tpu",
            "chips_per_host_bounds": (1, 1, 1),
        },
        environment={
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-1",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        },
    ),
}
