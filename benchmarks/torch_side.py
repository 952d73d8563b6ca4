"""PyTorch's side of the comparison: commands that a worker process answers."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import memory, peak, work
from benchmarks.torch_attack import (
    COMPILED,
    EAGER,
    GPU_ONLY,
    QUICK,
    QUICK_ON_GPU,
    Attack,
    Variant,
    layout,
)
from benchmarks.torch_layers import Flavour, narrow_convolutions
from benchmarks.torch_models import make_network


class Side:
    """Holds the networks and attacks of one piece of work; each public method is a command."""

    def open(self, folder: str, precision: str = "float32") -> dict[str, Any]:
        """Sets PyTorch up; reports what it runs on and the variants that apply there."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._precision = precision
        set_precision(precision)
        torch.backends.cudnn.benchmark = True
        self._work, self._inputs = work.read(folder), work.read_inputs(folder)
        self._networks: dict[tuple[int, Flavour, bool], Any] = {}
        self._attacks: dict[tuple[str, ...], Attack] = {}
        gpu = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "platform": self._device.type,
            "threads": torch.get_num_threads(),
            "compiler": gpu or bool(cpp_compiler()),
            "eager": list(EAGER),
            "compiled": [*(GPU_ONLY if gpu else ()), *COMPILED],
            "quick": list(QUICK_ON_GPU if gpu else QUICK),
        }

    def run(self, models: Sequence[str], steps: int, variant: str) -> dict[str, Any]:
        """Times one attack; the first call with given arguments compiles, if the variant does."""
        init, attack = self._start(models, variant), self._attack(tuple(models), variant)
        start = self._images("start")
        self._wait()
        begin = time.perf_counter()
        _, losses, weights = attack.run(start, steps)
        self._wait()
        end = time.perf_counter()
        return {
            "init": init,
            "steps": end - begin,
            "losses": losses.tolist(),
            "weights": weights.tolist(),
        }

    def forget(self, variant: str) -> None:
        """Frees what a variant that is no longer run holds, except its compiled code."""
        gone = {**EAGER, **COMPILED, **GPU_ONLY}[variant]
        self._attacks = {k: a for k, a in self._attacks.items() if k[0] != variant}
        kept = [_key(0, a._variant)[1:] for a in self._attacks.values()]
        if _key(0, gone)[1:] not in kept:
            drop = [key for key in self._networks if key[1:] == _key(0, gone)[1:]]
            for key in drop:
                del self._networks[key]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # else the other side's process could not have it

    def matmul(self) -> float:
        """The best FLOP per second of a large matrix product."""
        return peak.torch_rate(self._precision, self._device)

    def forget_peak(self) -> None:
        """Starts the device's peak anew, without what compiling and choosing kernels took."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def memory(self) -> dict[str, Any]:
        """Peak bytes of this process, and of the device if there is one."""
        gpu = self._device.type == "cuda"
        device = torch.cuda.max_memory_allocated() if gpu else None
        return {"process": memory.peak_bytes(), "device": device}

    def _start(self, models: Sequence[str], variant: str) -> float:
        """Seconds of the clean outputs, which come before the first step."""
        attack = self._attack(tuple(models), variant)
        self._wait()
        begin = time.perf_counter()
        attack.init()
        self._wait()
        return time.perf_counter() - begin

    def _attack(self, models: tuple[str, ...], name: str) -> Attack:
        if (name, *models) not in self._attacks:
            variant = {**EAGER, **COMPILED, **GPU_ONLY}[name]
            networks = [self._network(place, variant) for place in self._work.of(models)]
            attack = Attack(networks, variant, self._images("images"), self._autocast)
            self._attacks[name, *models] = attack
        return self._attacks[name, *models]

    def _network(self, place: int, variant: Variant) -> Any:
        key = _key(place, variant)
        if key not in self._networks:
            model = self._work.models[place]
            conditions = torch.from_numpy(self._inputs[f"conditions{place}"])
            state = load_file(model.state)
            network: Any = make_network(
                model.arch, model.config, state, conditions, self._work.size, variant.flavour
            )
            network = network.to(self._device, memory_format=layout(variant))
            if self._precision == "bfloat16":
                narrow_convolutions(network)
            self._networks[key] = network
        return self._networks[key]

    def _images(self, name: str) -> Tensor:
        return torch.from_numpy(self._inputs[name]).permute(0, 3, 1, 2).to(self._device)

    def _autocast(self) -> Any:
        if self._precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def set_precision(precision: str) -> None:
    """Chooses between float32 and TF32 for matrix products and convolutions on a GPU.

    It uses the older settings: once the newer ``fp32_precision`` is set, reading the older ones
    raises, and ``torch.compile`` reads them when it tries out kernels.
    """
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def _key(place: int, variant: Variant) -> tuple[int, Flavour, bool]:
    return place, variant.flavour, variant.channels_last


def cpp_compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would use on a CPU; None if there is none."""
    from torch._inductor import cpp_builder, exc

    try:
        found = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return None
    return shutil.which(found)
