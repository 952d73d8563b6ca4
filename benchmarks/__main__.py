"""``python -m benchmarks``: how fast this package is, alone and compared with PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import cold, compare, footprint, kernels, photos, program, report, scale, work
from benchmarks.runs import CHECKED_STEPS
from benchmarks.session import PRECISIONS, Options, Say
from benchmarks.targets import TARGETS
from benchmarks.workers import BenchmarkError
from cdmaa_jax import disk
from cdmaa_jax.cli.output import OutputError, discard_output, show
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.processor import cores

QUICK = {"quick": True, "rounds": 5, "long": 3, "seconds": 460.0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark; returns 0 if it was measured, else 1 after one line that says why."""
    options = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, end)
    try:
        check_places(options)
        options.run(options, progress())
    except (BenchmarkError, disk.FileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OutputError as error:
        discard_output()
        print(f"error: the output cannot be written: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def end(number: int, frame: Any) -> NoReturn:
    """Ends the process for a signal, after temporary folders are removed."""
    sys.exit(128 + number)


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = OneLineParser(
        prog="python -m benchmarks",
        description="How fast this package is, beside PyTorch and by itself.",
        epilog="benchmarks/README.md says what is measured and how. The same commands are for "
        "GPUs, but no comparison has been run to its end on one yet.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_compare(commands)
    add_compile(commands)
    add_memory(commands)
    add_scale(commands)
    add_photos(commands)
    add_kernels(commands)
    add_program(commands)
    add_plot(commands)
    return top


def add_compare(commands: Any) -> None:
    """The options of ``compare``."""
    command = commands.add_parser(
        "compare",
        help="CDMAA here and in PyTorch, eager and compiled: same weights, same work, one run",
    )
    command.set_defaults(run=run_compare)
    add_work(command)
    command.add_argument("--alone", action="store_true", help="each generator alone, too")
    command.add_argument(
        "--quick", action="store_true", help="some ten minutes at 128 px, batch 1, on two cores"
    )
    command.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes minutes"
    )
    command.add_argument("--rounds", type=positive, help="how often each is timed (7, quick: 5)")
    command.add_argument(
        "--steps", type=checkable, help="of a timed run (8, quick: 3; on a GPU at least 80)"
    )


def add_compile(commands: Any) -> None:
    """The options of ``compile``."""
    command = commands.add_parser(
        "compile",
        help="how long compilation takes, with an empty cache and with the persistent one",
    )
    command.set_defaults(run=run_compile)
    add_work(command)


def add_memory(commands: Any) -> None:
    """The options of ``memory``."""
    command = commands.add_parser(
        "memory", help="how much memory an attack takes, in a fresh process, and was planned for"
    )
    command.set_defaults(run=run_memory)
    add_work(command)
    command.add_argument(
        "--chunk", type=positive, help="photos that each generator takes at once (what fits)"
    )


def add_scale(commands: Any) -> None:
    """The options of ``scale``."""
    command = commands.add_parser(
        "scale", help="how the cost grows with steps, batch, domains, models and photo size"
    )
    command.set_defaults(run=run_scale)
    add_work(command)
    command.add_argument(
        "--axes",
        nargs="+",
        choices=scale.AXES,
        default=list(scale.AXES),
        help="what is varied (all, which takes an hour at the official widths on two cores)",
    )
    command.add_argument("--png", type=Path, metavar="FILE", help="draw the curves")


def add_photos(commands: Any) -> None:
    """The options of ``photos``."""
    command = commands.add_parser(
        "photos",
        help="how fast cdmaa protect is, from files to files, and how long the device works",
    )
    command.set_defaults(run=run_photos)
    default = photos.Options()
    command.add_argument(
        "--photos", type=positive, default=default.photos, help="how many (%(default)s)"
    )
    command.add_argument(
        "--megapixels", type=megapixels, default=default.megapixels, help="of each (%(default)g)"
    )
    command.add_argument(
        "--batch", type=positive, default=default.batch, help="attacked at once (%(default)s)"
    )
    command.add_argument(
        "--steps", type=positive, default=default.steps, help="of the attack (%(default)s)"
    )
    command.add_argument(
        "--ensemble",
        nargs="+",
        default=list(default.ensemble),
        help="named ones, or checkpoints (demo)",
    )
    command.add_argument(
        "--precision", choices=PRECISIONS, help="of the generators (the device's default)"
    )
    command.add_argument(
        "--rounds", type=positive, default=default.rounds, help="how often (%(default)s)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")


def add_kernels(commands: Any) -> None:
    """The options of ``kernels``."""
    command = commands.add_parser(
        "kernels", help="on a GPU: the time of convolutions and of all else, by precision"
    )
    command.set_defaults(run=run_kernels)
    add_work(command, precision=False)
    add_precisions(command)


def add_program(commands: Any) -> None:
    """The options of ``program``."""
    command = commands.add_parser(
        "program",
        help="what XLA compiles for a GPU or TPU, without one: kernels and bytes of a step, memory",
    )
    command.set_defaults(run=run_program)
    add_work(command, precision=False)
    command.add_argument(
        "--target", choices=tuple(TARGETS), default="h100", help="NVIDIA H100 or TPU v5e (h100)"
    )
    usual = "; ".join(f"{name}: {' '.join(one.precisions)}" for name, one in TARGETS.items())
    command.add_argument(
        "--precision",
        nargs="+",
        choices=(*PRECISIONS, "default"),
        help=f"of the generators, or the device's default ({usual})",
    )


def add_precisions(command: argparse.ArgumentParser) -> None:
    """Which precisions are measured."""
    command.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["tf32", "bfloat16"],
        help="of the generators (tf32 bfloat16)",
    )


def add_plot(commands: Any) -> None:
    """The options of ``plot``."""
    command = commands.add_parser("plot", help="draw what compare or scale wrote")
    command.set_defaults(run=run_plot)
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="their --json files")
    command.add_argument("--out", type=Path, required=True, metavar="PNG", help="the picture")


def add_work(command: argparse.ArgumentParser, precision: bool = True) -> None:
    """The generators, the photos and the precision."""
    command.add_argument(
        "--size",
        type=positive,
        help="of the photos in pixels (128; with --ensemble, what suits it)",
    )
    command.add_argument("--batch", type=positive, default=1, help="photos (%(default)s)")
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--models",
        nargs="+",
        choices=work.ARCHITECTURES,
        default=list(work.ARCHITECTURES),
        help="generators of the official widths with random weights (all four)",
    )
    which.add_argument("--ensemble", nargs="+", default=[], help="named ones, or checkpoints")
    command.add_argument(
        "--set",
        nargs="+",
        default=[],
        type=change,
        metavar="ARCH.FIELD=NUMBER",
        help="another configuration than the official one, stargan.width=32",
    )
    if precision:
        command.add_argument(
            "--precision",
            choices=PRECISIONS,
            default="float32",
            help="of both sides' generators; losses and Gram matrix are float32 (%(default)s)",
        )
    command.add_argument("--threads", type=positive, help="cores for either side (all)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all figures to it")


def run_compare(options: argparse.Namespace, say: Say) -> None:
    """Compares, writes the file and prints the tables."""
    check_threads(options.threads)
    keep = functools.partial(write_json, options.json)
    found = compare.compare(compare_options(options), say, keep)
    show(report.text(found))


def run_compile(options: argparse.Namespace, say: Say) -> None:
    """Compiles twice, writes the file and prints the times."""
    check_threads(options.threads)
    found = cold.measure(compare_options(options), say)
    write_json(options.json, found)
    show(cold.text(found))


def run_memory(options: argparse.Namespace, say: Say) -> None:
    """Runs a step in a fresh process, writes the file and prints its memory."""
    check_threads(options.threads)
    found = footprint.measure(compare_options(options), options.chunk, say)
    write_json(options.json, found)
    show(footprint.text(found))


def run_scale(options: argparse.Namespace, say: Say) -> None:
    """Measures, writes the file, prints the explanation and draws the curves."""
    check_threads(options.threads)
    if options.batch != 1:
        raise BenchmarkError(
            "scale takes no --batch: it varies the batch itself, and the rest is of one photo"
        )
    draw = plots(options.png).draw_growth if options.png else None
    keep = functools.partial(write_json, options.json)
    found = scale.measure(compare_options(options), say, options.axes, keep)
    try:
        show(scale.text(found))
    finally:
        if draw:
            picture(draw, found, options.png)


def run_photos(options: argparse.Namespace, say: Say) -> None:
    """Protects photos, writes the file and prints the rate."""
    names = [field.name for field in dataclasses.fields(photos.Options)]
    asked = {name: getattr(options, name) for name in names}
    try:
        asked["ensemble"] = tuple(asked["ensemble"])
        found = photos.measure(photos.Options(**asked), say)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    write_json(options.json, found)
    show(photos.text(found))


def run_kernels(options: argparse.Namespace, say: Say) -> None:
    """Times kernels, writes the file and prints the table."""
    run_by_precision(kernels, options, say)


def run_program(options: argparse.Namespace, say: Say) -> None:
    """Compiles for a GPU or TPU, writes the file and prints the table."""
    options.precision = options.precision or TARGETS[options.target].precisions
    run_by_precision(program, options, say, target=options.target)


def run_by_precision(benchmark: Any, options: argparse.Namespace, say: Say, **more: Any) -> None:
    """Measures each requested precision, writes the file and prints the table."""
    check_threads(options.threads)
    precisions, options.precision = options.precision, "float32"
    keep = functools.partial(write_json, options.json)
    found = benchmark.measure(compare_options(options), precisions, say, keep, **more)
    show(benchmark.text(found))


def run_plot(options: argparse.Namespace, say: Say) -> None:
    """Draws comparisons side by side, or growth, whose axes may come from several files."""
    found = [read_json(path) for path in options.files]
    kinds = {one["benchmark"] for one in found}
    if kinds not in ({"compare"}, {"scale"}):
        raise BenchmarkError("plot takes files of compare, or files of scale")
    drawn = plots(options.out)
    try:
        if kinds == {"compare"}:
            picture(drawn.draw_comparisons, found, options.out)
        else:
            picture(drawn.draw_growth, scale.join(found), options.out)
    except (LookupError, TypeError, AttributeError) as error:
        names, what = ", ".join(map(str, options.files)), "not a file that a benchmark wrote"
        raise BenchmarkError(f"{names}: {what} ({type(error).__name__}: {error})") from error
    say(f"{options.out} written")


def picture(draw: Callable[[Any, Path], None], found: Any, path: Path) -> None:
    """Draws and writes a picture."""
    try:
        draw(found, path)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: not written, {error}") from error


def plots(path: Path) -> Any:
    """The module that draws, which needs matplotlib, if it can draw such a file."""
    try:
        module = importlib.import_module("benchmarks.plots")
        module.check_suffix(path)
    except ImportError as error:
        raise BenchmarkError(f"a picture needs {error.name}: pip install '.[benchmark]'") from error
    except ValueError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    return module


def read_json(path: Path) -> Any:
    """Reads the figures that a benchmark wrote."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: not a file that a benchmark wrote ({error})") from error
    wanted = {"compare": "cases", "scale": "axes"}
    kind = found.get("benchmark") if isinstance(found, dict) else None
    if not isinstance(kind, str) or (kind in wanted and not found.get(wanted[kind])):
        raise BenchmarkError(f"{path}: not a file that a benchmark wrote")
    return found


def compare_options(options: argparse.Namespace) -> Options:
    """The comparison that the arguments ask for."""
    check_models(options)
    check_changes(options)
    given = vars(options)
    quick = QUICK if given.get("quick") else {}
    chosen = {"rounds": given.get("rounds"), "long": given.get("steps")}
    return Options(
        size=options.size or (None if options.ensemble else 128),
        batch=options.batch,
        models=tuple(options.models),
        ensemble=tuple(options.ensemble),
        changes=gather(options.set),
        alone=given.get("alone", False),
        precision=options.precision,
        threads=options.threads,
        compile=not given.get("no_compile"),
        **({"rounds": 7, "long": 8} | quick | {k: v for k, v in chosen.items() if v}),
    )


def gather(changes: Sequence[tuple[str, str, int]]) -> dict[str, dict[str, int]]:
    """The changes of each architecture's configuration."""
    found: dict[str, dict[str, int]] = {}
    for arch, field, value in changes:
        found.setdefault(arch, {})[field] = value
    return found


def check_models(options: argparse.Namespace) -> None:
    """Refuses an architecture that is given twice."""
    for arch, count in Counter(options.models).items():
        if count > 1:
            raise BenchmarkError(f"--models: {arch} is given twice; give it once")


def check_changes(options: argparse.Namespace) -> None:
    """Refuses changes of generators that are not attacked, and of what is no number of theirs."""
    if not options.set:
        return
    from cdmaa_jax.generators.registry import architecture  # imports JAX, which this process avoids

    for arch, field, value in options.set:
        if options.ensemble or arch not in options.models:
            raise BenchmarkError(f"--set {arch}.{field}: {arch} is not among the generators")
        fields = dataclasses.fields(architecture(arch).config)
        known = [each.name for each in fields if str(each.type) in ("int", "bool")]
        known.remove("image_size")  # of --size
        if field not in known:
            raise BenchmarkError(f"--set {arch}.{field}: {arch} has {', '.join(known)}")
        if value == 0 and field.endswith(("width", "size")):
            raise BenchmarkError(f"--set {arch}.{field}: it is 0; give at least 1")


def check_places(options: argparse.Namespace) -> None:
    """Refuses, before measuring, files that could not be written afterwards."""
    for name in ("json", "png", "out"):
        if (path := getattr(options, name, None)) is not None:
            disk.check_place(path, f"choose another --{name}")


def change(text: str) -> tuple[str, str, int]:
    """Splits ``stargan.width=32`` into its parts."""
    name, _, value = text.partition("=")
    arch, _, field = name.partition(".")
    if arch not in work.ARCHITECTURES or not field or not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not like stargan.width=32")
    return arch, field, int(value)


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def checkable(text: str) -> int:
    """A number of steps that includes those in which both sides must agree."""
    if not text.isdecimal() or int(text) < CHECKED_STEPS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number of at least {CHECKED_STEPS}: so many are checked"
        )
    return int(text)


def megapixels(text: str) -> float:
    """A number of megapixels that a photo can have."""
    with contextlib.suppress(ValueError):
        if 0.01 <= (value := float(text)) <= 100:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.01 to 100")


def check_threads(threads: int | None) -> None:
    """Refuses more cores than there are."""
    if threads is not None and threads > cores():
        raise BenchmarkError(f"--threads is {threads}, but this process may use {cores()} cores")


def write_json(path: Path | None, found: Any) -> None:
    """Writes the figures to the requested file, if any."""
    if path is not None:
        disk.write_whole(path, (json.dumps(found, indent=1) + "\n").encode())


def progress() -> Say:
    """Prints a line with the time since the start to stderr."""
    begin = time.monotonic()

    def say(line: str) -> None:
        with contextlib.suppress(OSError):  # nobody may read it any more
            print(f"[{time.monotonic() - begin:5.0f} s] {line}", file=sys.stderr)

    return say


if __name__ == "__main__":
    sys.exit(main())
