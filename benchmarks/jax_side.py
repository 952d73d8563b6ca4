"""This package's side of the comparison: commands that a worker process answers."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import memory, peak, work
from cdmaa_jax import kept
from cdmaa_jax.attack import Config, compilation, run
from cdmaa_jax.attack.memory import footprint, plan_chunks
from cdmaa_jax.attack.targets import fit_conditions
from cdmaa_jax.generators.checkpoint import load_generator
from cdmaa_jax.generators.precision import in_bfloat16
from cdmaa_jax.types import Batch, Generator

MATMUL = {
    "float32": "highest", "tf32": "tensorfloat32", "bfloat16": "tensorfloat32", "default": None,
}  # fmt: skip


class Side:
    """Holds the generators of one piece of work; each public method is a command."""

    def open(self, folder: str, precision: str = "float32", cache: str | None = None) -> Any:
        """Sets JAX up; reports what it runs on. ``cache`` is a folder for compiled programs."""
        jax.config.update("jax_default_matmul_precision", MATMUL[precision])
        if cache is not None:
            jax.config.update("jax_compilation_cache_dir", cache)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
            self._keeping = contextlib.ExitStack()  # until the process ends
            self._keeping.enter_context(kept.programs_in(Path(cache)))
        self._precision, self._folder = precision, folder
        self._work, self._inputs = work.read(folder), work.read_inputs(folder)
        self._generators: dict[int, Generator] = {}
        self._stages: dict[str, float] = {}
        self._compiled: set[Any] = set()
        compilation.PATIENCE = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        device = jax.devices()[0]
        return {
            "jax": jax.__version__,
            "device": device.device_kind,
            "platform": device.platform,
        }

    def run(
        self,
        models: Sequence[str],
        steps: int,
        batch: int | None = None,
        domains: int | None = None,
        size: int | None = None,
        chunk: int | None = None,
    ) -> dict[str, Any]:
        """Times one attack; the first call with given arguments compiles.

        On a GPU, that call compiles twice and runs two attacks: kernel by kernel, and as a graph.

        Args:
          models: names of the models to attack together.
          steps: T.
          batch: how many photos; all photos of the work if None.
          domains: at most how many domains of each model; all if None.
          size: photo size in pixels; that of the work if None.
          chunk: how many photos each model takes at once; chosen to fit the memory if None.
        """
        places = self._work.of(models)
        generators = [self._generator(place) for place in places]
        inputs = self._batch(places, batch, domains, size)
        self._stages.clear()
        attacks = self._runs_until_timed((tuple(models), steps, batch, domains, size, chunk))
        begin = time.perf_counter()
        for _ in range(attacks):
            config, key = Config(steps=steps, start=work.START), jax.random.key(0)
            result = jax.block_until_ready(run(config, generators, inputs, key, chunk=chunk))
        seconds = time.perf_counter() - begin
        return {
            "seconds": seconds,
            "attacks": attacks,
            "losses": np.asarray(result.losses).tolist(),
            "weights": np.asarray(result.weights).tolist(),
            "stages": dict(self._stages),
            "graph": compilation.has_graphs() if jax.devices()[0].platform == "gpu" else None,
        }

    def plan(self, models: Sequence[str], chunk: int | None = None) -> dict[str, Any]:
        """How many photos each model takes at once, and the bytes that this should take."""
        places = self._work.of(models)
        generators = [self._generator(place) for place in places]
        inputs, loss = self._batch(places, None, None, None), Config().loss
        device = jax.devices()[0]
        chunks = plan_chunks(loss, generators, inputs, device, chunk)
        needed = footprint(loss, generators, inputs, device.platform)
        return {"chunks": list(chunks), "bytes": needed.of(chunks)}

    def profile(self, models: Sequence[str], steps: int) -> list[tuple[str, int, float]]:
        """For one attack on a GPU: each kernel's name, number of runs and total seconds.

        Kernels run one by one: no graph is made, and generators take turns if a chunk is given.
        """
        generators = [self._generator(place) for place in self._work.of(models)]
        inputs = self._batch(self._work.of(models), None, None, None)
        config, key = Config(steps=steps, start=work.START), jax.random.key(0)

        def attack() -> None:
            chunk = len(inputs.images)
            jax.block_until_ready(run(config, generators, inputs, key, chunk=chunk))

        compilation.PATIENCE = math.inf
        attack()  # compiles
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                attack()
            (file,) = Path(folder).rglob("*.xplane.pb")
            return kernels_of(jax.profiler.ProfileData.from_file(str(file)))

    def program(self, target: str, models: Sequence[str]) -> dict[str, Any]:
        """What XLA compiles for a device from an attack on the whole batch of the work at once."""
        from benchmarks import ahead

        places = self._work.of(models)
        batch = self._batch(places, None, None, None)
        conditions = tuple(fit_conditions(c, batch.images) for c in batch.conditions)
        batch = dataclasses.replace(batch, conditions=conditions)
        return ahead.compile_attack(target, [self._generator(place) for place in places], batch)

    def matmul(self) -> float:
        """The best FLOP per second of a large matrix product."""
        return peak.jax_rate(self._precision)

    def memory(self) -> dict[str, Any]:
        """Peak bytes of this process, and of the device if it reports them."""
        stats = jax.devices()[0].memory_stats() or {}
        return {"process": memory.peak_bytes(), "device": stats.get("peak_bytes_in_use")}

    def _generator(self, place: int) -> Generator:
        if place not in self._generators:
            generator = load_generator(self._work.models[place].checkpoint)
            self._generators[place] = as_precise(generator, self._precision)
        return self._generators[place]

    def _batch(
        self, places: list[int], batch: int | None, domains: int | None, size: int | None
    ) -> Batch:
        images = self._inputs["images"]
        if batch is not None or size is not None:
            images = work.photos(size or self._work.size, batch or self._work.batch)
        conditions = (jnp.asarray(self._inputs[f"conditions{place}"]) for place in places)
        return Batch(
            images=jnp.asarray(images),
            conditions=tuple(c[:, :domains] for c in conditions),
            mask=jnp.ones(len(images), bool),
        )

    def _runs_until_timed(self, arguments: Any) -> int:
        """How many attacks must run before all later ones are equally fast."""
        is_first = arguments not in self._compiled
        self._compiled.add(arguments)
        return 2 if is_first and jax.devices()[0].platform == "gpu" else 1

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        name = event.rsplit("/", 1)[-1]
        self._stages[name] = self._stages.get(name, 0) + duration_secs


def kernels_of(data: Any) -> list[tuple[str, int, float]]:
    """Each GPU kernel's name, number of runs and seconds in a profile."""
    events = [
        event
        for plane in data.planes
        if plane.name.startswith("/device:GPU")
        for line in plane.lines
        if line.name.startswith("Stream")
        for event in line.events
    ]
    times: dict[str, list[float]] = {}
    for event in events:
        times.setdefault(event.name, []).append(event.duration_ns / 1e9)
    return [(name, len(each), sum(each)) for name, each in times.items()]


def as_precise(generator: Generator, precision: str) -> Generator:
    """The generator, in bfloat16 if requested; losses and the Gram matrix stay in float32."""
    return in_bfloat16(generator) if precision == "bfloat16" else generator
