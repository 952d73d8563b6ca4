"""The comparison: the same work on both sides, checked, then timed in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import flops, work
from benchmarks.machine import machine
from benchmarks.statistics import Samples, images_per_second, summary
from benchmarks.workers import BenchmarkError, Worker

CHECKED_STEPS = 2
"""How many first steps must agree; a step later, signs that rounding decides have had their say."""
TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 1e-1}
DROPPED = 1.3
"""A variant that is this much slower than the best of its kind in the first round is dropped."""
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""Lets glibc keep what PyTorch frees, which its eager steps on a CPU are a tenth faster for."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared and how long.

    Attributes:
      size: of the photos in pixels; None for an ensemble's own.
      batch: photos.
      models: architectures with random weights at official widths, unless ``ensemble``.
      ensemble: names of ensembles or checkpoint directories instead.
      changes: for an architecture, fields of its configuration that are not the official ones.
      alone: each generator alone, too.
      quick: fewer variants and rounds, to be done by ``seconds``.
      precision: "float32", "tf32" or "bfloat16".
      threads: cores for both sides; None for all.
      short, long: the two numbers of steps from whose times a step's is taken.
      rounds: at most.
      seconds: no round is begun that would end later, but two always are.
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
    """Two workers on one piece of work, and where their files are."""

    options: Options
    folder: str
    work: work.Work
    ours: Worker
    torch: Worker
    facts: dict[str, Any]
    say: Say
    deadline: float


def compare(options: Options, say: Say) -> dict[str, Any]:
    """Everything that ``python -m benchmarks compare`` reports, for JSON.

    Raises:
      BenchmarkError: a side fails, or the sides do not do the same work.
    """
    deadline = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder:
        prepared = prepare(options, folder, say)
        with contextlib.ExitStack() as stack:
            session = open_session(options, folder, prepared, stack, say, deadline)
            peak = measure_peak(session)
            cases = [compare_models(session, names, peak) for names in groups(session)]
            report = {
                "benchmark": "compare",
                "settings": settings_of(options, prepared),
                "machine": machine(),
                "versions": session.facts,
                "matmul_flops_per_second": peak,
                "cases": cases,
            }
    return report | {key: cases[0][key] for key in ("ratio_vs_eager", "ratio_vs_compile")}


def prepare(options: Options, folder: str, say: Say) -> work.Work:
    """Writes the work to the folder, in a process that ends."""
    say("writing the generators' weights for both sides (about 15 s at official width)")
    with Worker("prepare", options.threads) as worker:
        shared = {"folder": folder, "size": options.size, "batch": options.batch}
        if options.ensemble:
            worker("prepare_ensemble", names=options.ensemble, **shared)
        else:
            worker("prepare_random", models=options.models, changes=options.changes, **shared)
    return work.read(folder)


def open_session(
    options: Options,
    folder: str,
    prepared: work.Work,
    stack: contextlib.ExitStack,
    say: Say,
    deadline: float,
) -> Session:
    """Starts both sides."""
    ours = stack.enter_context(open_ours(options, folder))
    torch = stack.enter_context(open_torch(options, folder))
    facts = {
        "ours": ours("open", folder=folder, precision=options.precision, cache=cache(folder)),
        "torch": torch("open", folder=folder, precision=options.precision),
    }
    if facts["ours"]["platform"] == "cpu" and options.precision == "tf32":
        raise BenchmarkError("--precision tf32 needs a GPU; on a CPU there is no TF32")
    if (facts["ours"]["platform"] == "cpu") != (facts["torch"]["platform"] == "cpu"):
        raise BenchmarkError(
            f"JAX runs on {facts['ours']['platform']} and PyTorch on {facts['torch']['platform']}; "
            "install both for the same device, or set JAX_PLATFORMS=cpu and CUDA_VISIBLE_DEVICES="
        )
    return Session(options, folder, prepared, ours, torch, facts, say, deadline)


def open_ours(options: Options, folder: str) -> Worker:
    """A process with JAX."""
    return Worker("jax", options.threads)


def open_torch(options: Options, folder: str, keep: bool = True) -> Worker:
    """A process with PyTorch whose compiled code goes to the folder, by default ``ALLOCATOR``."""
    code = {"TORCHINDUCTOR_CACHE_DIR": str(Path(folder, "torch"))}
    return Worker("torch", options.threads, code | (ALLOCATOR if keep else {}))


def cache(folder: str) -> str:
    """Where our compiled programs are kept while the benchmark runs."""
    return str(Path(folder, "jax"))


def groups(session: Session) -> list[list[str]]:
    """The models that are attacked together, case by case."""
    names = [model.name for model in session.work.models]
    alone = session.options.alone and len(names) > 1
    return [names, *([name] for name in names if alone)]


def settings_of(options: Options, prepared: work.Work) -> dict[str, Any]:
    """What was asked for and what it came to."""
    models = [
        {"name": m.name, "arch": m.arch, "config": m.config, "domains": m.domains}
        for m in prepared.models
    ]
    return dataclasses.asdict(options) | {"size": prepared.size, "generators": models}


def measure_peak(session: Session) -> dict[str, float]:
    """The best FLOP per second of a large matrix product in each framework."""
    session.say("measuring the matmul peak")
    return {"ours": session.ours("matmul"), "torch": session.torch("matmul")}


def compare_models(session: Session, names: Sequence[str], peak: Mapping[str, float]) -> Any:
    """One case: the models together, checked and timed."""
    title = " + ".join(names)
    session.say(f"{title}: compiling and checking")
    runs = Runs(session, list(names))
    runs.warm_up()
    session.say(f"{title}: the sides agree; timing")
    runs.time()
    memory = measure_memory(session, names, runs)
    return case(session, names, runs, peak, memory)


class Runs:
    """The runs of one case: first ones, which compile and are checked, and timed ones."""

    def __init__(self, session: Session, names: list[str]):
        self._session, self._names = session, names
        self.samples: dict[str, Samples] = {}
        self.first: dict[str, float] = {}
        self.stages: dict[str, float] = {}
        self.agreement: dict[str, list[float]] = {}
        self.left_out: dict[str, str] = {}
        self.cold_memory: dict[str, Any] = {}

    def warm_up(self) -> None:
        """Compiles both programs of ours and every variant, and checks that they agree."""
        options, say = self._session.options, self._session.say
        say(f"  ours: compiling for {options.long} and {options.short} steps")
        reply = self._ours(options.long)
        self.first["ours"], self.stages = reply["seconds"], reply["stages"]
        self.cold_memory = self._session.ours("memory")
        self._ours(options.short)
        self.samples["ours"] = Samples()
        for name in self._variants():
            self._try_variant(name, reply)

    def time(self) -> None:
        """Round after round, each in another order."""
        options, names = self._session.options, list(self.samples)
        begin = time.monotonic()
        for number in range(options.rounds):
            now = time.monotonic()
            if number >= 2 and now + (now - begin) / number > self._session.deadline:
                self._session.say(f"  out of time after {number} rounds")
                break
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                self._sample(name)
            if number == 0:
                names = self._keep_best(names)

    def best(self, kind: str) -> str | None:
        """The fastest variant whose name begins with ``kind``."""
        named = {n: s for n, s in self.samples.items() if n.startswith(kind) and s.kept}
        found = {n: s.step() for n, s in named.items()}
        return min(found, key=found.__getitem__) if found else None

    def _variants(self) -> list[str]:
        facts, options = self._session.facts["torch"], self._session.options
        compiled = list(facts["compiled"]) if options.compile else []
        if compiled and not facts["compiler"]:
            self._session.say("  no C++ compiler was found (g++), so torch.compile is left out")
            self.left_out |= dict.fromkeys(compiled, "no C++ compiler")
            compiled = []
        if options.quick:
            compiled = [name for name in compiled if name in facts["quick"]]
        return [*facts["eager"], *compiled]

    def _try_variant(self, name: str, ours: Mapping[str, Any]) -> None:
        session, compiled = self._session, name.startswith("compile")
        if compiled and self._short_of_time():
            self.left_out[name] = "out of time"
            return
        session.say(f"  PyTorch, {name}" + (": compiling" if compiled else ""))
        begin = time.monotonic()
        try:
            reply = self._torch(name)
        except BenchmarkError as error:
            if not compiled:
                raise
            session.say(f"  PyTorch, {name}: left out, {error}")
            self.left_out[name] = str(error)
            return
        self.first[name] = reply["init"] + reply["steps"]
        self._compiling = time.monotonic() - begin
        self.agreement[name] = differences(ours["losses"], reply["losses"])
        check(name, self.agreement[name], session.options.precision)
        self.samples[name] = Samples(limit=reply["steps"] / session.options.long)

    def _short_of_time(self) -> bool:
        """Whether a second compiled variant would take the time that the rounds need."""
        tried = any(name.startswith("compile") for name in self.samples)
        left = self._session.deadline - time.monotonic()
        return tried and left < 2 * self._compiling + 0.4 * self._session.options.seconds

    def _sample(self, name: str) -> None:
        options, samples = self._session.options, self.samples[name]
        if name != "ours":
            reply = self._torch(name)
            samples.add_direct(reply["init"], reply["steps"], options.long)
            return
        short, long = self._ours(options.short), self._ours(options.long)
        samples.add_pair((options.short, short["seconds"]), (options.long, long["seconds"]))

    def _keep_best(self, names: list[str]) -> list[str]:
        kept = []
        for name in names:
            best = self.best(name.split(",")[0])
            limit = DROPPED * self.samples[best].fastest() if best else float("inf")
            if name == "ours" or self.samples[name].fastest() <= limit:
                kept.append(name)
                continue
            self.samples[name].kept = False
            self._session.torch("forget", variant=name)
            self._session.say(f"  PyTorch, {name}: dropped after one round, slower than {best}")
        return kept

    def _ours(self, steps: int) -> Any:
        return self._session.ours("run", models=self._names, steps=steps)

    def _torch(self, variant: str) -> Any:
        steps = self._session.options.long
        return self._session.torch("run", models=self._names, steps=steps, variant=variant)


def differences(ours: Any, theirs: Any) -> list[float]:
    """The largest relative difference between losses [T][B][J] in each step."""
    return [
        max(
            abs(a - b) / max(abs(a), abs(b), 1e-30)
            for x, y in zip(one, other, strict=True)
            for a, b in zip(x, y, strict=True)
        )
        for one, other in zip(ours, theirs, strict=True)
    ]


def check(name: str, found: Sequence[float], precision: str) -> None:
    """Raises ``BenchmarkError`` if the losses of the first steps differ by more than is allowed."""
    tolerance = TOLERANCE[precision]
    for step, difference in enumerate(found[:CHECKED_STEPS]):
        if not difference <= tolerance:  # also for NaN
            raise BenchmarkError(
                f"the sides do not do the same work: losses of step {step} differ by "
                f"{difference:.1e} of their size (at most {tolerance:.0e} is allowed) "
                f"between ours and PyTorch, {name}"
            )


def measure_memory(session: Session, names: Sequence[str], runs: Runs) -> dict[str, Any]:
    """The peak memory of fresh processes: ours with its program cached, and the best variants."""
    session.say("  peak memory, in fresh processes")
    options, folder, found = session.options, session.folder, {}
    opened = {"folder": folder, "precision": options.precision}
    steps = {"models": list(names), "steps": options.short}
    with open_ours(options, folder) as worker:
        worker("open", cache=cache(folder), **opened)
        worker("run", **steps)
        found["ours"] = worker("memory")
    for name in filter(None, (runs.best("eager"), runs.best("compile"))):
        with open_torch(options, folder, keep=False) as worker:
            worker("open", **opened)
            worker("run", variant=name, **steps)
            found[name] = worker("memory")
    return found


def case(
    session: Session,
    names: Sequence[str],
    runs: Runs,
    peak: Mapping[str, float],
    memory: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of one case."""
    counted = count(session, names)
    rows = {
        name: row(session, samples, counted, max(peak.values())) | extra(runs, name, memory)
        for name, samples in runs.samples.items()
    }
    ours = rows.pop("ours")
    best = {kind: runs.best(kind) for kind in ("eager", "compile")}
    ratios = {
        f"ratio_vs_{kind}": None if name is None else ratio(rows[name], ours)
        for kind, name in best.items()
    }
    return {
        "models": list(names),
        "agreement": {"steps": CHECKED_STEPS, "relative_difference": runs.agreement},
        "flops": counted,
        "ours": ours | {"stages": runs.stages, "cold_memory": runs.cold_memory},
        "torch": rows,
        "left_out": runs.left_out,
        "best_eager": best["eager"],
        "best_compile": best["compile"],
        **ratios,
    }


def row(session: Session, samples: Samples, counted: Mapping[str, int], peak: float) -> Any:
    """The figures of one side or variant."""
    step, batch = samples.step(), session.work.batch
    rate = batch * counted["step"] / step
    return {
        "seconds_per_image_iteration": summary([s / batch for s in samples.steps], step / batch),
        "start_seconds": summary(samples.starts, samples.start()),
        "start_in_steps": samples.start() / step,
        "images_per_second_at_80_steps": images_per_second(samples, batch, 80),
        "flops_per_second": rate,
        "share_of_matmul_peak": rate / peak,
        "rounds": len(samples.steps),
        "dropped": not samples.kept,
    }


def extra(runs: Runs, name: str, memory: Mapping[str, Any]) -> dict[str, Any]:
    """What is measured once: the time of the first run beyond that of later ones, and memory."""
    compiled = name == "ours" or name.startswith("compile")
    beyond = max(0.0, runs.first[name] - runs.samples[name].whole())
    return {
        "compile_seconds": beyond if compiled else None,
        "memory": memory.get(name),
    }


def ratio(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> float:
    """Their seconds per image-iteration over ours."""
    key = "seconds_per_image_iteration"
    return theirs[key]["median"] / ours[key]["median"]


def count(session: Session, names: Sequence[str]) -> dict[str, int]:
    """The operations for one image: of a step, of the clean outputs, and of a step joined."""
    models = [model for model in session.work.models if model.name in names]
    facts = [(m.arch, m.config, session.work.size, m.domains, labels(m)) for m in models]
    counts = {"step": flops.step, "start": flops.start, "step_joined": flops.step_joined}
    return {name: sum(f(*fact) for fact in facts) for name, f in counts.items()}


def labels(model: work.Model) -> int:
    """The entries of a condition vector."""
    return len(model.config.get("attributes", ()))
