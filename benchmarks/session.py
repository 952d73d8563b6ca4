"""The options of a benchmark, and the processes that run it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.workers import BenchmarkError, Worker

PRECISIONS = ("float32", "tf32", "bfloat16")
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Lets glibc keep what PyTorch frees, which makes eager steps on a CPU a tenth faster."""
LENGTHS_ON_GPU = {"short": 16, "long": 80}
"""Steps on a GPU take milliseconds; a few would be lost in the overhead of a run."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared, and for how long.

    Attributes:
      size: photo size in pixels; None for an ensemble's own size.
      batch: number of photos.
      models: architectures with random weights at official widths, unless ``ensemble``.
      ensemble: names of ensembles or checkpoint directories, instead of ``models``.
      changes: for an architecture, fields of its configuration that are not the official ones.
      alone: also each generator alone.
      quick: fewer variants and rounds, to finish within ``seconds``.
      precision: "float32", "tf32" or "bfloat16".
      threads: cores for both sides; None for all.
      short, long: steps of a warm-up run and of a timed run.
      rounds: the most rounds.
      seconds: no round of a case starts that would end later, but two rounds always run.
      compile: whether ``torch.compile`` is run.
    """

    size: int | None = 128
    batch: int = 1
    models: tuple[str, ...] = work.ARCHITECTURES
    ensemble: tuple[str, ...] = ()
    changes: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    alone: bool = False
    quick: bool = False
    precision: str = "float32"
    threads: int | None = None
    short: int = 2
    long: int = 6
    rounds: int = 5
    seconds: float = 3600.0
    compile: bool = True


@dataclasses.dataclass
class Session:
    """Two workers on the same work, and the folder of their files."""

    options: Options
    folder: str
    work: work.Work
    ours: Worker
    torch: Worker
    facts: dict[str, Any]
    say: Say


def prepare(options: Options, folder: str, say: Say) -> work.Work:
    """Writes the work to the folder, in a separate process that ends afterwards."""
    say("writing the generators' weights for both sides (about 15 s at official width)")
    with Worker("prepare", options.threads, {"JAX_PLATFORMS": "cpu"}) as worker:
        shared = {"folder": folder, "size": options.size, "batch": options.batch}
        if options.ensemble:
            worker("prepare_ensemble", names=options.ensemble, **shared)
        else:
            worker("prepare_random", models=options.models, changes=options.changes, **shared)
    return work.read(folder)


def open_session(options: Options, folder: str, stack: contextlib.ExitStack, say: Say) -> Session:
    """Starts both sides, which import their frameworks while the work is written."""
    ours = stack.enter_context(open_ours(options))
    torch = stack.enter_context(open_torch(options, folder))
    prepared = prepare(options, folder, say)
    facts = {
        "ours": set_up(ours, options, folder),
        "torch": torch("open", folder=folder, precision=options.precision),
    }
    check_precision(options.precision, facts["ours"]["platform"])
    if (facts["ours"]["platform"] == "cpu") != (facts["torch"]["platform"] == "cpu"):
        raise BenchmarkError(
            f"JAX runs on {facts['ours']['platform']} and PyTorch on {facts['torch']['platform']}; "
            "install both for the same device, or set JAX_PLATFORMS=cpu and CUDA_VISIBLE_DEVICES="
        )
    if facts["ours"]["platform"] != "cpu":
        longest = max(LENGTHS_ON_GPU["long"], options.long)
        options = dataclasses.replace(options, short=LENGTHS_ON_GPU["short"], long=longest)
    return Session(options, folder, prepared, ours, torch, facts, say)


def check_precision(precision: str | None, platform: str) -> None:
    """Refuses a precision that a device does not have.

    Raises:
      BenchmarkError: it is TF32, on a CPU.
    """
    if precision == "tf32" and platform == "cpu":
        raise BenchmarkError("--precision tf32 needs a GPU; on a CPU there is no TF32")


def open_ours(options: Options, environment: Mapping[str, str] | None = None) -> Worker:
    """A process with JAX."""
    return Worker("jax", options.threads, environment)


def open_torch(options: Options, folder: str, keep: bool = True) -> Worker:
    """A PyTorch process whose compiled code goes to the folder, by default with ``ALLOCATOR``."""
    own = {
        "TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "torch")),
        "PYTHONWARNINGS": "ignore::FutureWarning",  # the compiler warns about itself
    }
    return Worker("torch", options.threads, own | (ALLOCATOR if keep else {}))


def set_up(ours: Worker, options: Options, folder: str) -> dict[str, Any]:
    """Gives a JAX process the work and a place for compiled programs; returns what it runs on."""
    kept = str(Path(folder, "jax"))
    return ours("open", folder=folder, precision=options.precision, cache=kept)


def settings_of(options: Options, prepared: work.Work) -> dict[str, Any]:
    """The options, with the resulting size and generators."""
    models = [
        {"name": m.name, "arch": m.arch, "config": m.config, "domains": m.domains}
        for m in prepared.models
    ]
    return dataclasses.asdict(options) | {"size": prepared.size, "generators": models}
