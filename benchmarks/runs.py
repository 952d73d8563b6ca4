"""The runs of one case of the comparison: checked first, then timed in turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.session import Session, open_ours, open_torch, set_up
from benchmarks.statistics import Samples
from benchmarks.workers import BenchmarkError

CHECKED_STEPS = 2
"""How many first steps must agree; after that, signs decided by rounding have taken effect."""
TOLERANCE = {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 1e-1}
DROPPED = 1.2
"""A variant this many times slower than the best of its kind in the first round is dropped."""


class Runs:
    """The runs of one case: first runs, which compile and are checked, and timed runs."""

    def __init__(self, session: Session, names: list[str]):
        self._session, self._names = session, names
        self._deadline = time.monotonic() + session.options.seconds
        self.samples: dict[str, Samples] = {}
        self.first: dict[str, tuple[int, int, float]] = {}  # attacks, total steps, and seconds
        self.compiled: dict[str, Any] = {}  # what is known of our program
        self.agreement: dict[str, list[float]] = {}
        self.left_out: dict[str, str] = {}

    def warm_up(self) -> None:
        """Compiles our program and every variant, and checks that they agree."""
        options, say = self._session.options, self._session.say
        say(f"  ours: compiling for {options.long} steps")
        reply = self._ours(options.long)
        attacks = reply["attacks"]
        self.first["ours"] = attacks, options.long * attacks, reply["seconds"]
        self.compiled = {
            "stages": reply["stages"],
            "cold_memory": self._session.ours("memory"),
            "graph": reply["graph"],
        }
        self.samples["ours"] = Samples()
        variants, brief = self._variants(), options.quick and by_steps(self._session)
        eager = [name for name in variants if name.startswith("eager")]
        steps = options.short if brief else options.long
        for name in eager:
            self._try_variant(name, steps, reply)
        if brief:
            self._leave_out_slow()
        for name in variants[len(eager) :]:
            self._try_variant(name, steps, reply)

    def time(self) -> None:
        """Times all variants in rounds, each in a different order."""
        options, names = self._session.options, list(self.samples)
        begin = time.monotonic()
        for number in range(options.rounds):
            now = time.monotonic()
            if number >= 2 and now + (now - begin) / number > self._deadline:
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
        found = [*facts["eager"], *compiled]
        return [name for name in found if name in facts["quick"]] if options.quick else found

    def _try_variant(self, name: str, steps: int, ours: Mapping[str, Any]) -> None:
        session, compiled = self._session, name.startswith("compile")
        if compiled and self._short_of_time():
            self.left_out[name] = "out of time"
            return
        session.say(f"  PyTorch, {name}" + (": compiling" if compiled else ""))
        begin = time.monotonic()
        try:
            reply = self._torch(name, steps)
        except BenchmarkError as error:
            if not compiled:
                raise
            session.say(f"  PyTorch, {name}: left out, {error}")
            self.left_out[name] = str(error)
            return
        self.first[name] = 1, steps, reply["init"] + reply["steps"]
        self._compiling = time.monotonic() - begin
        self.agreement[name] = differences(ours["losses"][:steps], reply["losses"])
        check(name, self.agreement[name], session.options.precision)
        self.samples[name] = Samples(limit=reply["steps"] / steps)

    def _leave_out_slow(self) -> None:
        """Skips eager variants whose first runs were much slower than the best eager one."""
        first = {name: s.limit for name, s in self.samples.items() if name.startswith("eager")}
        best = min(first, key=first.__getitem__)
        for name, seconds in first.items():
            times = seconds / first[best]
            if times <= DROPPED:
                continue
            del self.samples[name]
            self._session.torch("forget", variant=name)
            self.left_out[name] = f"its first steps took {times:.1f} times as long as {best}"
            self._session.say(f"  PyTorch, {name}: left out, {self.left_out[name]}")

    def _short_of_time(self) -> bool:
        """Whether a second compiled variant would take the time that the rounds need."""
        tried = any(name.startswith("compile") for name in self.samples)
        left, options = self._deadline - time.monotonic(), self._session.options
        steps = [samples.limit for name, samples in self.samples.items() if name != "ours"]
        rounds = options.rounds * (options.short + options.long) * sum(steps)
        return tried and left < 2 * self._compiling + min(rounds, 0.4 * options.seconds)

    def _sample(self, name: str) -> None:
        """One timed run of a variant, after an untimed one: a process that has waited is slower.

        PyTorch's untimed run is shorter; ours is the same program, which has one length.
        """
        options, samples = self._session.options, self.samples[name]
        if name == "ours":
            self._ours(options.long)
            samples.add_turns(self._ours(options.long)["seconds"], options.long)
            return
        self._torch(name, options.short)
        reply = self._torch(name)
        samples.add_direct(reply["init"], reply["steps"], options.long)

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

    def _torch(self, variant: str, steps: int | None = None) -> Any:
        steps = steps or self._session.options.long
        return self._session.torch("run", models=self._names, steps=steps, variant=variant)


def by_steps(session: Session) -> bool:
    """Whether a few steps suffice to time PyTorch: not on a GPU, which warms up first."""
    return session.facts["torch"]["platform"] == "cpu"


def differences(ours: Any, theirs: Any) -> list[float]:
    """The largest relative difference between losses [T][B][J], for each step."""
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
    session.say("  peak memory")
    options, folder, found = session.options, session.folder, {}
    steps = {"models": list(names), "steps": options.short}
    best = [name for name in (runs.best("eager"), runs.best("compile")) if name]
    with contextlib.ExitStack() as stack:  # the others import while the first one runs
        ours = stack.enter_context(open_ours(options))
        others = {
            name: stack.enter_context(open_torch(options, folder, keep=False)) for name in best
        }
        set_up(ours, options, folder)
        ours("run", **steps | {"steps": options.long})  # the length that is cached
        found["ours"] = ours("memory")
        ours.close()
        for name, worker in others.items():
            worker("open", folder=folder, precision=options.precision)
            worker("run", variant=name, **steps)
            if not by_steps(session):
                worker("forget_peak")
                worker("run", variant=name, **steps)
            found[name] = worker("memory")
            worker.close()
    return found
