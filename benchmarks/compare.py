"""The comparison: the same work on both sides, checked, then timed in turns."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import flops, work
from benchmarks.machine import machine
from benchmarks.runs import CHECKED_STEPS, Runs, measure_memory
from benchmarks.session import Options, Say, Session, open_session, settings_of
from benchmarks.statistics import Samples, images_per_second, summary


def compare(
    options: Options, say: Say, keep: Callable[[Any], None] = lambda report: None
) -> dict[str, Any]:
    """Everything that ``python -m benchmarks compare`` reports, for JSON.

    ``keep(report)`` is called with the cases so far whenever one is timed, and again when its
    memory is measured.

    Raises:
      BenchmarkError: a side fails, or the sides do not do the same work.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as folder,
        contextlib.ExitStack() as stack,
    ):
        session = open_session(options, folder, stack, say)
        peak, report = measure_peak(session), {}
        cases: list[Any] = []
        for names in groups(session):
            for found in compare_models(session, names, peak):
                report = report_of(session, peak, [*cases, found])
                keep(report)
            cases = report["cases"]
    return report


def report_of(
    session: Session, peak: Mapping[str, float], cases: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report of some cases; the ratios of the first case stand for the comparison."""
    report = {
        "benchmark": "compare",
        "settings": settings_of(session.options, session.work),
        "machine": machine(),
        "versions": session.facts,
        "matmul_flops_per_second": peak,
        "cases": list(cases),
    }
    return report | {key: cases[0][key] for key in ("ratio_vs_eager", "ratio_vs_compile")}


def report_by_precision(
    benchmark: str, options: Options, prepared: work.Work, precisions: Sequence[str]
) -> dict[str, Any]:
    """The report of a benchmark that runs in several precisions, before it has run in any."""
    return {
        "benchmark": benchmark,
        "settings": settings_of(options, prepared) | {"precision": list(precisions)},
        "machine": machine(),
        "flops": count(prepared, [model.name for model in prepared.models]),
        "precisions": {},
    }


def groups(session: Session) -> list[list[str]]:
    """The models that are attacked together, case by case."""
    names = [model.name for model in session.work.models]
    alone = session.options.alone and len(names) > 1
    return [names, *([name] for name in names if alone)]


def measure_peak(session: Session) -> dict[str, float]:
    """The best FLOP per second of a large matrix product in each framework."""
    session.say("measuring the matmul peak")
    return {"ours": session.ours("matmul"), "torch": session.torch("matmul")}


def compare_models(
    session: Session, names: Sequence[str], peak: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """One case, the models together: checked and timed, and then with its memory, too."""
    title = " + ".join(names)
    session.say(f"{title}: compiling and checking")
    runs = Runs(session, list(names))
    runs.warm_up()
    session.say(f"{title}: the sides agree; timing")
    runs.time()
    yield case(session, names, runs, peak, {})
    yield case(session, names, runs, peak, measure_memory(session, names, runs))


def case(
    session: Session,
    names: Sequence[str],
    runs: Runs,
    peak: Mapping[str, float],
    memory: Mapping[str, Any],
) -> dict[str, Any]:
    """The figures of one case."""
    counted = count(session.work, names)
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
        "ours": ours | runs.compiled,
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
    """What is measured once: memory, and the time of the first run in excess of later runs."""
    compiled = name == "ours" or name.startswith("compile")
    (attacks, steps, seconds), samples = runs.first[name], runs.samples[name]
    beyond = max(0.0, seconds - attacks * samples.start() - steps * samples.step())
    return {
        "compile_seconds": beyond if compiled else None,
        "memory": memory.get(name),
    }


def ratio(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> float:
    """Their seconds per image-iteration over ours."""
    key = "seconds_per_image_iteration"
    return theirs[key]["median"] / ours[key]["median"]


def count(prepared: work.Work, names: Sequence[str]) -> dict[str, int]:
    """Operations for one image: a step, the clean outputs, and a step as ``joined`` counts."""
    models = [model for model in prepared.models if model.name in names]
    facts = [(m.arch, m.config, prepared.size, m.domains, labels(m)) for m in models]
    counts = {"step": flops.step, "start": flops.start, "step_joined": flops.step_joined}
    return {name: sum(f(*fact) for fact in facts) for name, f in counts.items()}


def labels(model: work.Model) -> int:
    """The entries of a condition vector."""
    return len(model.config.get("attributes", ()))
