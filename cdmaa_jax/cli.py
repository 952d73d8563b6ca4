"""The command ``cdmaa``: arguments and printing, nothing else.

Figures go to stdout, everything else to stderr. The exit status is 0 if all went well, 1 if
anything failed, 2 for a wrong command line, 128 and the signal's number if interrupted.

What imports JAX is imported in the functions, so that ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from cdmaa_jax.generators.ensembles import Ensemble
    from cdmaa_jax.images.labels import LabelTable
    from cdmaa_jax.photos import Job, Outcome

CACHE_VARIABLE = "CDMAA_CACHE_DIR"
_REQUESTS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_OVERVIEW = """\
Protects photos from face-editing generators: adds a change that the eye hardly
notices and that spoils what the generators make of the photo.

  cdmaa demo                           protects a photo that comes along, and shows the proof
  cdmaa protect photo.jpg --out safe   protects your own
"""
_EXIT_STATUS = """\
Exit status: 0 all went well, 1 something failed or a value cannot be, 2 no such
command or option, 130 interrupted, 143 terminated, 129 its terminal closed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; ``argv`` defaults to the process's arguments. Returns the exit status."""
    if sys.stderr is None:  # as in a process that was started without; nor may a file become it
        sys.stderr = io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_WRONLY), "w"))
    print_any_name()
    try:
        try:
            args = _parser().parse_args(argv)
            return _interruptible(lambda: _run(args))
        finally:
            _print("", end="")  # at the end of the process it would be too late to tell
    except _OutputError as error:
        with suppress(OSError, ValueError):  # or what is left would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error.__cause__, BrokenPipeError):  # whoever read it has had enough
            return 1
        return _fail(f"the output cannot be written: {error}")


def _print(text: str, end: str = "\n") -> None:
    """Prints to stdout, where there is one, at once.

    Raises:
      _OutputError: it cannot be written.
    """
    try:
        print(text, end=end, flush=sys.stdout is not None)
    except OSError as error:
        raise _OutputError(error.strerror) from error


def print_any_name() -> None:
    """Lets names that the terminal's encoding lacks be printed, escaped, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cdmaa", description=_OVERVIEW, epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_demo, _add_protect, _add_evaluate, _add_reproduce, _add_info):
        add(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="protect a photo that comes along, and show the proof",
        description="Protects a portrait that comes with scikit-image against the bundled "
        "generators. Writes original.png, protected.png, report.json and report.png, the picture "
        "to look at. Needs no download; takes a minute or so, less when run again.",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument(
        "--out", type=Path, default=Path("cdmaa-demo"), metavar="DIR", help="default: cdmaa-demo"
    )
    _add_force(demo)
    _add_common(demo)


def _add_protect(commands: Any) -> None:
    protect = commands.add_parser(
        "protect",
        help="protect photos",
        description="Writes a protected copy of every photo, a PNG of the same size, and "
        "report.json, which says how well each generator is spoiled. Running again skips what is "
        "done.",
    )
    protect.set_defaults(run=_protect)
    protect.add_argument(
        "photos", nargs="+", type=Path, metavar="PHOTO_OR_FOLDER",
        help="JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF; of a folder all pictures directly in it",
    )  # fmt: skip
    protect.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    _add_ensemble(protect)
    _add_labels(protect)
    _add_batch_size(protect)
    protect.add_argument(
        "--chunk", type=int, metavar="N",
        help="photos of a batch that a generator takes at once; default: what suits the device",
    )  # fmt: skip
    protect.add_argument(
        "--precision", choices=("float32", "tf32", "bfloat16"), metavar="NAME",
        help="of the generators when they are attacked: float32, tf32, or bfloat16, the fastest "
        "on a GPU; default: the device's own, tf32 on a GPU",
    )  # fmt: skip
    protect.add_argument("--seed", type=int, default=0, help="of the attack's start; default: 0")
    protect.add_argument(
        "--canonical-size", type=int, metavar="PIXELS",
        help="size of the face at which the change is found; default: three times the "
        "generators', the generators' with --aligned",
    )  # fmt: skip
    _add_aligned(protect)
    _add_max_pixels(protect)
    _add_force(protect)
    _add_common(protect)
    _add_config(protect)


def _add_evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure protected photos that exist",
        description="Prints how well the protected copies of photos are protected, or what a "
        "site has left of that: give what can be downloaded from it. In folders, a copy has its "
        "original's name but for the suffix, or a report.json says which it is. Give the "
        "--ensemble, --labels and --aligned that the photos were protected with.",
    )
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("originals", type=Path, metavar="ORIGINALS", help="a photo or a folder")
    evaluate.add_argument("protected", type=Path, metavar="PROTECTED", help="a photo or a folder")
    _add_ensemble(evaluate)
    _add_labels(evaluate)
    _add_batch_size(evaluate)
    _add_threshold(evaluate)
    _add_aligned(evaluate)
    _add_max_pixels(evaluate)
    _add_common(evaluate)


_RESULTS = (
    "table1", "table2", "table3", "table4",
    "figure2", "figure4", "figure5", "figure6", "figure7", "related",
)  # fmt: skip


def _add_reproduce(commands: Any) -> None:
    reproduce = commands.add_parser(
        "reproduce",
        help="measure the paper's tables and figures",
        description="Protects photos in every way that a table of the paper compares, measures "
        "the saved files, and writes JSON, Markdown and pictures, with intervals and beside the "
        "paper's own figures. Running again goes on where it was.",
    )
    reproduce.set_defaults(run=_reproduce)
    reproduce.add_argument(
        "what", nargs="+", choices=(*_RESULTS, "all"), metavar="WHAT",
        help=f"one or more of {', '.join(_RESULTS)}; or all",
    )  # fmt: skip
    reproduce.add_argument(
        "--photos", type=Path, required=True, metavar="DIR",
        help="a folder of portraits, CelebA's img_align_celeba or any other",
    )  # fmt: skip
    reproduce.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to write")
    _add_ensemble(reproduce)
    reproduce.add_argument(
        "--attributes", type=Path, metavar="FILE",
        help="labels of the photos: a CSV with a column 'file', or list_attr_celeba.txt; that is "
        "found by itself beside CelebA's photos",
    )  # fmt: skip
    reproduce.add_argument(
        "--partition", type=Path, metavar="FILE",
        help="CelebA's list_eval_partition.txt, found by itself beside the photos: only the test "
        "photos are used",
    )  # fmt: skip
    reproduce.add_argument(
        "--images", type=int, default=100, metavar="N",
        help="how many photos, the first by name; default: 100",
    )  # fmt: skip
    reproduce.add_argument(
        "--tune-photos", type=Path, metavar="DIR",
        help="other photos, for the related methods that are tuned before they are tested; "
        "default: those of --photos that come after the tested ones; --attributes must have them, "
        "too",
    )  # fmt: skip
    reproduce.add_argument("--steps", type=int, default=80, metavar="N", help="T; default: 80")
    reproduce.add_argument(
        "--seed", type=int, default=0, help="of the attacks' start and the intervals; default: 0"
    )
    reproduce.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="photos at once; default: 10, on a GPU or TPU 100",
    )
    _add_aligned(reproduce)
    _add_common(reproduce)


def _add_aligned(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--aligned", action="store_true",
        help="the photos are face crops already, as data sets have them: look at all of each",
    )  # fmt: skip


def _add_info(commands: Any) -> None:
    info = commands.add_parser(
        "info",
        help="list devices, versions, architectures and ensembles",
        description="Prints devices, versions, architectures, and the ensembles with their "
        "generators, edits, and the attributes that labels must have for them.",
    )
    info.set_defaults(run=_info)
    info.add_argument(
        "--ensemble", nargs="+", metavar="NAME_OR_DIR",
        help="only this one: a name, or directories that cdmaa-convert wrote",
    )  # fmt: skip
    _add_common(info)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.add_argument(
        "--no-cache", action="store_true",
        help=f"keep no compiled programs (they are kept in the user's cache folder, or in "
        f"${CACHE_VARIABLE})",
    )  # fmt: skip


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="overwrite files that are in the way; never an input"
    )


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ensemble", nargs="+", default=["demo"], metavar="NAME_OR_DIR",
        help="a named ensemble (see cdmaa info), or directories that cdmaa-convert wrote; "
        "default: demo; give it last",
    )  # fmt: skip


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", type=Path, metavar="FILE",
        help="attributes of the photos: a CSV with a column 'file', or list_attr_celeba.txt",
    )  # fmt: skip


def _add_batch_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="photos at once; default: 8"
    )


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-pixels", type=int, default=100_000_000, metavar="N",
        help="refuse larger photos; default: 100000000",
    )  # fmt: skip


def _add_threshold(parser: Any) -> None:
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="L",
        help="an edit whose mean squared change exceeds this is spoiled; default: 0.05",
    )  # fmt: skip


def _add_config(parser: argparse.ArgumentParser) -> None:
    """The options of ``Config``, whose defaults and choices are repeated here to start fast.

    All but ``perturbation``: a universal one is fitted, and only then added to photos.
    """
    group = parser.add_argument_group(
        "attack", "defaults are those of the CDMAA paper; lengths are in units of [-1, 1]"
    )

    def choice(option: str, values: str, text: str) -> None:
        first, *rest = values.split()
        group.add_argument(
            option, choices=(first, *rest), default=first, metavar="NAME",
            help=f"{text}: {', '.join((f'{first} (default)', *rest))}",
        )  # fmt: skip

    def number(option: str, kind: type, default: float, text: str) -> None:
        group.add_argument(
            option, type=kind, default=default, metavar="N", help=f"{text}; default: {default}"
        )

    number("--steps", int, 80, "steps of the attack")
    number("--epsilon", float, 0.05, "largest change of a colour channel; 0.05 is 6 of 255")
    number("--step-size", float, 0.01, "change in one step")
    choice("--update", "i-fgsm fgsm pgd mi-fgsm apgd", "update rule")
    choice("--across-domains", "uniform single iterative mgda", "how a model's edits are joined")
    choice("--across-models", "mgda single iterative uniform weighted", "how the models are joined")
    group.add_argument(
        "--model-weights", type=float, nargs="+", metavar="N",
        help="for weighted: the share of each generator, in the order of --ensemble, of any sum",
    )  # fmt: skip
    choice("--regularization", "penalty none l2 log", "of the models' gradients")
    number("--zeta", float, 1e-8, "least loss that the regularization reckons with")
    choice("--start", "jitter uniform", "where the attack starts")
    choice("--loss", "mse face-weighted latent", "what is maximized, of the edits or the latent")
    _add_threshold(group)


def _run(args: argparse.Namespace) -> int:
    """Runs a command; an error that a user can mend is one line."""
    from cdmaa_jax.disk import FileError

    _quiet()
    try:
        with _use_cache(args):
            _check_devices()
            return args.run(args)
    except (FileError, ValueError, OSError) as error:  # ValueError: options and checkpoints
        return _fail(error)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        return _fail("the device's memory is full; give a smaller --chunk or --batch-size")


def _check_devices() -> None:
    """Raises ValueError where JAX cannot compute on what it was told to."""
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter of a platform without its plugin
        asked = os.environ.get("JAX_PLATFORMS")
        why = f"JAX_PLATFORMS is {asked!r}; unset it, or install that" if asked else str(error)
        raise ValueError(f"JAX finds no device to compute on: {why}") from error


def _demo(args: argparse.Namespace) -> int:
    from cdmaa_jax import disk, photos
    from cdmaa_jax.attack.config import Config

    disk.make_folder(args.out)
    original, where = args.out / "original.png", args.out / "report.png"
    if where.exists() and not args.force and not _is_of_demo(args.out / photos.REPORT, original):
        raise _in_the_way(where)
    _write_demo_photo(original, args.force)
    ensemble = _load(["demo"])
    job = photos.Job(
        ensemble=ensemble,
        out=args.out,
        config=Config(),
        canonical_size=photos.default_canonical_size(ensemble),
        force=args.force,
        names={original: "protected"},
    )
    outcomes = _watched(photos.protect_photos([original], job, _starting), 1, "protecting")
    entry = outcomes[0].entry
    if entry is None:
        return _print_result(job, outcomes, args)
    if outcomes[0].status == "done" or not where.exists():
        _say("drawing report.png")
        drawn = photos.draw_picture(
            original, args.out / "protected.png", entry, ensemble, job.config.threshold
        )
        disk.write_whole(where, drawn)
    status = _print_result(job, outcomes, args)
    _say(f"look at {where}")
    return status


def _write_demo_photo(path: Path, force: bool) -> None:
    """The portrait of Eileen Collins that comes with scikit-image (public domain, NASA)."""
    import skimage.data

    from cdmaa_jax import disk
    from cdmaa_jax.images import files

    data = files.encode_png(files.Photo(skimage.data.astronaut()))
    if path.exists() and disk.read_bytes(path) == data:
        return
    if path.exists() and not force:
        raise _in_the_way(path)
    disk.write_whole(path, data)


def _is_of_demo(path: Path, original: Path) -> bool:
    """Whether a report tells of the demo's photo, so that the picture beside it is ours, too."""
    from cdmaa_jax.disk import FileError
    from cdmaa_jax.evaluation.report import read_report

    try:
        found = read_report(path)
    except FileError:
        return False
    return any(entry["file"] == original.name for entry in (found or {}).get("photos", ()))


def _in_the_way(path: Path) -> Exception:
    from cdmaa_jax.disk import FileError

    return FileError(path, "it exists", "choose another --out, or overwrite with --force")


def _protect(args: argparse.Namespace) -> int:
    from cdmaa_jax import photos

    found = photos.find_photos(args.photos, args.out)
    ensemble = _load(args.ensemble)
    canonical, aligned = args.canonical_size, args.aligned
    default = photos.default_canonical_size(ensemble, aligned)
    job = photos.Job(
        ensemble=ensemble,
        out=args.out,
        config=_config(args),
        canonical_size=default if canonical is None else canonical,
        seed=args.seed,
        aligned=aligned,
        labels=_labels(args, ensemble),
        batch_size=args.batch_size,
        chunk=args.chunk,
        precision=args.precision,
        max_pixels=args.max_pixels,
        force=args.force,
    )
    outcomes = _watched(photos.protect_photos(found, job, _starting), len(found), "protecting")
    if earlier := (photos.read_job_report(job) or {}).get("earlier"):
        _say(f"{len(earlier)} copies in {args.out} are of other settings, and have no figures here")
    return _print_result(job, outcomes, args)


def _evaluate(args: argparse.Namespace) -> int:
    from cdmaa_jax import photos
    from cdmaa_jax.attack.config import Config
    from cdmaa_jax.evaluation import report

    threshold = Config(threshold=args.threshold).threshold
    pairs = photos.match_photos(args.originals, args.protected)
    ensemble = _load(args.ensemble)
    labels = _labels(args, ensemble)
    steps = photos.evaluate_photos(
        pairs, ensemble, labels, args.batch_size, args.max_pixels, args.aligned
    )
    outcomes = _watched(steps, len(pairs), "measuring")
    made_with = {"ensemble": report.describe(ensemble), "aligned": args.aligned}
    entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
    _print_report(report.build(entries, threshold, made_with, _failures(outcomes)), args.json)
    return _status(outcomes)


def _reproduce(args: argparse.Namespace) -> int:
    from cdmaa_jax.disk import read_bytes
    from cdmaa_jax.experiments.reproduce import Request, reproduce

    what = _RESULTS if "all" in args.what else tuple(dict.fromkeys(args.what))
    names = (
        "photos", "out", "images", "seed", "steps", "batch_size", "attributes", "partition",
        "aligned", "tune_photos",
    )  # fmt: skip
    options = {name: getattr(args, name) for name in names}
    request = Request(what=what, ensemble=_load(args.ensemble), **options)
    watch = _Watch(request)
    try:
        written = list(reproduce(request, watch.listener()))
    finally:
        watch.close()
    path, text = written[-1]  # the claims, and all other results
    _print(read_bytes(path.with_suffix(".json")).decode() if args.json else text)
    _say(f"look at {', '.join(str(path) for path, _ in written)}")
    return 0


def _info(args: argparse.Namespace) -> int:
    facts = _facts(args.ensemble)
    _print(json.dumps(facts, indent=2) if args.json else _facts_as_text(facts))
    return 0


def _config(args: argparse.Namespace) -> Any:
    import dataclasses

    from cdmaa_jax.attack.config import Config

    names = (field.name for field in dataclasses.fields(Config))
    return Config(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def _load(names: Sequence[str]) -> Ensemble:
    from cdmaa_jax.generators.ensembles import load_ensemble

    ensemble = load_ensemble(names)
    gc.freeze()  # what is there now stays; compiling collects garbage often
    _say(f"ensemble {ensemble.name}: {', '.join(g.name for g in ensemble.generators)}")
    return ensemble


def _labels(args: argparse.Namespace, ensemble: Ensemble) -> LabelTable | None:
    from cdmaa_jax import photos
    from cdmaa_jax.images.labels import read_labels

    if args.labels is None:
        return None
    table = read_labels(args.labels)
    photos.check_labels(table, ensemble)
    return table


def _starting(count: int) -> None:
    photos = "1 photo" if count == 1 else f"{count} photos"
    _say(f"protecting {photos}; the first time, compiling for this machine takes a minute or so")


def _watched(outcomes: Iterator[Outcome], total: int, verb: str) -> list[Outcome]:
    """Runs through outcomes with a progress bar, and says which photos failed."""
    from tqdm import tqdm

    start, seen = time.monotonic(), []
    with tqdm(total=total, desc=verb, unit="photo", file=sys.stderr, disable=None) as bar:
        for outcome in outcomes:
            seen.append(outcome)
            bar.update()
            if outcome.error is not None:
                _fail(outcome.error)
            for note in (outcome.entry or {}).get("notes", ()):
                _say(f"{outcome.source}: {note}")
    _say(_count(seen, time.monotonic() - start))
    return seen


def _count(outcomes: Sequence[Outcome], seconds: float) -> str:
    words = {"done": "done", "skipped": "done before", "failed": "failed"}
    counts = {status: sum(o.status == status for o in outcomes) for status in words}
    parts = [f"{n} {words[status]}" for status, n in counts.items() if n or status == "done"]
    if counts["done"]:
        parts[-1] += f" in {seconds:.1f} s ({counts['done'] / seconds:.2f} photos/s)"
    return ", ".join(parts)


def _failures(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    return [{"file": o.source.name, "error": o.error} for o in outcomes if o.error is not None]


def _status(outcomes: Sequence[Outcome]) -> int:
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _print_result(job: Job, outcomes: Sequence[Outcome], args: argparse.Namespace) -> int:
    """Prints the figures of the photos of this run."""
    from cdmaa_jax import photos

    entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
    _print_report(photos.make_report(job, entries, _failures(outcomes)), args.json)
    return _status(outcomes)


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print(json.dumps(report, indent=2, allow_nan=False))
    elif report["photos"]:
        _print(f"{_table(_model_rows(report))}\n\n{_table(_photo_rows(report))}")


def _model_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "model", "edit", "avg L", f"L > {report['threshold']:g}"
    for name, model in report["models"].items():
        yield name, "all", f"{model['avg_l']:.4f}", f"{model['attack_rate']:.1%}"
        for domain, figures in model["domains"].items() if len(model["domains"]) > 1 else ():
            yield "", domain, f"{figures['avg_l']:.4f}", f"{figures['attack_rate']:.1%}"


def _photo_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "photo", "face", "edits spoiled", "largest change", "PSNR", "SSIM"
    without = "aligned" if report.get("aligned") else "none: centre"
    for photo in report["photos"]:
        values = [loss for model in photo["models"].values() for loss in model.values()]
        spoiled = sum(loss > report["threshold"] for loss in values)
        psnr = "equal" if photo["psnr"] is None else f"{photo['psnr']:.1f} dB"
        yield (
            photo["protected"],
            "found" if photo["face"] else without,
            f"{spoiled} of {len(values)}",
            f"{round(photo['linf'] * 127.5)} of 255",
            psnr,
            f"{photo['ssim']:.4f}",
        )


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as text; words to the left, what has a digit in it to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [i > 0 and any(c.isdigit() for c in rows[1][i]) for i in range(len(widths))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join((lines[0], "-" * max(map(len, lines)), *lines[1:]))


def _facts(names: Sequence[str] | None) -> dict[str, Any]:
    import jax

    from cdmaa_jax.evaluation.report import versions
    from cdmaa_jax.generators import ensembles, registry

    architectures = registry.ARCHITECTURES.values()
    every: dict[str, tuple[str, Sequence[str]]] = {
        name: (os.fspath(path), [name]) for name, path in ensembles.named_ensembles().items()
    }
    if names is not None:
        every = {"+".join(names): (", ".join(names), names)}
    return {
        "versions": versions(),
        "devices": [{"platform": d.platform, "kind": d.device_kind} for d in jax.devices()],
        "cache": _cache_for_people(),
        "architectures": {entry.name: entry.title for entry in architectures},
        "ensembles": {
            name: {"path": path, "generators": _members(ensembles, members)}
            for name, (path, members) in every.items()
        },
    }


def _members(ensembles: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": record.name,
            "architecture": record.architecture,
            "image_size": record.image_size,
            "domains": list(record.domains),
            "attributes": list(getattr(record.config, "attributes", ())),
        }
        for record in ensembles.read_ensemble_metadata(names)
    ]


def _facts_as_text(facts: dict[str, Any]) -> str:
    lines = ["devices"]
    lines += [f"  {device['platform']}: {device['kind']}" for device in facts["devices"]]
    lines += ["versions", *(f"  {name} {version}" for name, version in facts["versions"].items())]
    lines += ["architectures", *(f"  {n} ({t})" for n, t in facts["architectures"].items())]
    lines += ["compiled programs are kept in", f"  {facts['cache']}", "ensembles"]
    for name, ensemble in facts["ensembles"].items():
        lines.append(f"  {name} ({ensemble['path']})")
        for member in ensemble["generators"]:
            edits = ", ".join(member["domains"])
            lines.append(f"    {member['name']}, {member['image_size']} px: {edits}")
            if member["attributes"]:
                lines.append(f"      labels: {', '.join(member['attributes'])}")
    return "\n".join(lines if facts["ensembles"] else [*lines, "  none in this installation"])


def _cache_folder() -> Path:
    chosen = os.environ.get(CACHE_VARIABLE) or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdmaa-jax"


def _cache_for_people() -> str:
    try:
        return os.fspath(_cache_folder())
    except RuntimeError:
        return f"nowhere: there is no home folder; set {CACHE_VARIABLE}"


def _use_cache(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Keeps compiled programs between runs; where that cannot be, does without."""
    import jax

    from cdmaa_jax import kept
    from cdmaa_jax.disk import FileError, make_folder

    if args.no_cache or args.run is _info:
        return kept.programs_in(None)
    try:
        folder = _cache_folder()
        make_folder(folder)
    except RuntimeError:  # there is no home
        _say(f"compiled programs are not kept: set {CACHE_VARIABLE} to a folder for them")
        return kept.programs_in(None)
    except FileError as error:
        _say(f"compiled programs are not kept: {error.path}: {error.what}")
        return kept.programs_in(None)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return _cached_in(folder)


@contextmanager
def _cached_in(folder: Path) -> Iterator[None]:
    from cdmaa_jax import kept

    with kept.programs_in(folder), kept.mended(folder):
        yield


def _quiet() -> None:
    """Keeps the libraries' own notices from a user's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "jax", "jax._src.xla_bridge"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _interruptible(work: Callable[[], int]) -> int:
    """Runs ``work`` so that an interrupt ends the process at once, with nothing half-written.

    JAX returns to Python only when a whole batch is done. So the work has a thread of its own, and
    this one waits for signals.
    """
    result: list[int | BaseException] = []

    def target() -> None:
        try:
            result.append(work())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=target, daemon=True)
    try:
        with _terminable():
            thread.start()
            while thread.is_alive():
                thread.join(0.5)
    except KeyboardInterrupt as interrupt:
        _abandon(interrupt)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _abandon(interrupt: KeyboardInterrupt) -> NoReturn:
    """Ends the process, between two files."""
    number = interrupt.number if isinstance(interrupt, _Terminated) else signal.SIGINT
    for other in (signal.SIGINT, *_REQUESTS):  # impatience must not end it before
        signal.signal(other, signal.SIG_IGN)
    from cdmaa_jax import disk

    with disk.LOCK:
        try:
            disk.discard_unfinished()
            sys.stderr.write("\n")
            _fail("interrupted; what is done is kept, run again to go on")
        finally:  # even if nobody can be told any more
            os._exit(128 + number)


@contextmanager
def _terminable() -> Iterator[None]:
    """A request to terminate is an interrupt too, and so is the end of the terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: object) -> NoReturn:
        raise _Terminated(number)

    requests = [n for n in _REQUESTS if signal.getsignal(n) is not signal.SIG_IGN]  # as by nohup
    previous = {number: signal.signal(number, terminate) for number in requests}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(text: object) -> None:
    _to_stderr(f"cdmaa: {text}")


def _fail(error: object) -> int:
    _to_stderr(f"cdmaa: error: {' '.join(str(error).split())}")
    return 1


def _to_stderr(line: str) -> None:
    """Prints a line, above the progress bar where there is one."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)
    sys.stderr.flush()


class _Watch:
    """Progress bars of ``cdmaa reproduce``: first of photos, then of all the work."""

    def __init__(self, request: Any) -> None:
        photos = request.images * (2 if "related" in request.what else 1)
        self._bar = self._new_bar(photos, "cropping", "photo")
        self._name = ""
        self._start = time.monotonic()

    def listener(self) -> Any:
        """What ``reproduce`` tells its progress to."""
        from cdmaa_jax.experiments.reproduce import Listener

        return Listener(_say, self._photo, self._plan, self._begin, self._progress)

    def close(self) -> None:
        self._bar.close()

    def _photo(self, error: Exception | None) -> None:
        if error is None:
            self._bar.update()
        else:
            _fail(error)

    def _plan(self, works: Any) -> None:
        from cdmaa_jax.experiments.forecast import Forecast

        self._bar.close()
        self._forecast = Forecast(works)
        self._done = {work.name: work.done for work in works}
        total = sum(work.total for work in works)
        self._bar = self._new_bar(
            total, "measuring", "photo",
            "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {elapsed}{postfix}",
        )  # fmt: skip
        if left := sum(work.done < work.total for work in works):
            _say(
                f"{left} columns to measure; each kind is first compiled for this machine, which "
                "takes a while"
            )
        self._start = time.monotonic()

    def _begin(self, name: str) -> None:
        self._name = name
        self._bar.set_description(name)

    def _progress(self, count: int) -> None:
        """Pieces of the work are done, the first of them perhaps in an earlier run."""
        self._bar.update(count)
        before = min(count, self._done[self._name])
        self._done[self._name] -= before
        self._forecast.record(self._name, count - before)
        left = self._forecast.seconds_left(time.monotonic() - self._start)
        if left is not None:
            self._bar.set_postfix_str(f"about {_duration(left)} left")

    @staticmethod
    def _new_bar(total: int, what: str, unit: str, form: str | None = None) -> Any:
        from tqdm import tqdm

        return tqdm(
            total=total, desc=what, unit=unit, file=sys.stderr, disable=None, bar_format=form
        )


def _duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class _OutputError(Exception):
    """What was to be printed on stdout could not be."""


class _Terminated(KeyboardInterrupt):
    """The process was asked to end, by the signal of a ``number``."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required") and "--ensemble" in sys.argv:
            message += " (what follows --ensemble belongs to it: give it last)"
        self.exit(2, f"cdmaa: error: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the version; looks it up only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import importlib.metadata

        try:
            version = importlib.metadata.version("cdmaa-jax")
        except importlib.metadata.PackageNotFoundError:
            version = "from a checkout that is not installed"
        _print(f"cdmaa-jax {version}")
        parser.exit()
