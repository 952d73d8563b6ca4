"""The commands: each turns its arguments into calls to the package and prints the result.

Each returns the exit status.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdmaa_jax.cli.demo import PICTURE, make_job, write_original, write_picture
from cdmaa_jax.cli.facts import facts_as_text, gather_facts
from cdmaa_jax.cli.output import say, show
from cdmaa_jax.cli.progress import Watch, watched
from cdmaa_jax.cli.text import report_as_text

if TYPE_CHECKING:
    from cdmaa_jax.attack.config import Config
    from cdmaa_jax.generators.ensembles import Ensemble
    from cdmaa_jax.images.labels import LabelTable
    from cdmaa_jax.photos import Job, Outcome


def demo(args: argparse.Namespace) -> int:
    """Protects the bundled photo and draws the report's picture."""
    from cdmaa_jax import photos

    original = write_original(args.out, args.force)
    job = make_job(original, _load(["demo"]), args.force)
    outcomes = watched(partial(photos.protect_photos, [original], job, _starting), 1, "protecting")
    outcome = outcomes[0]
    if outcome.entry is None:
        return _print_result(job, outcomes, args)
    picture = args.out / PICTURE
    if outcome.status == "done" or not picture.exists():
        say(f"drawing {PICTURE}")
        write_picture(job, outcome.entry)
    status = _print_result(job, outcomes, args)
    say(f"look at {picture}")
    return status


def protect(args: argparse.Namespace) -> int:
    """Protects photos."""
    from cdmaa_jax import photos
    from cdmaa_jax.generators.ensembles import is_for_demonstration

    found = photos.find_photos(args.photos, args.out)
    ensemble = _load(args.ensemble)
    if is_for_demonstration(ensemble):
        say("these generators are for demonstration; name those that you fear with --ensemble")
    canonical, aligned = args.canonical_size, args.aligned
    default = photos.default_canonical_size(ensemble, aligned)
    job = photos.Job(
        ensemble=ensemble,
        out=args.out,
        config=_config(args),
        canonical_size=default if canonical is None else canonical,
        seed=args.seed,
        aligned=aligned,
        labels=_labels(args, ensemble, found),
        batch_size=args.batch_size,
        chunk=args.chunk,
        precision=args.precision,
        max_pixels=args.max_pixels,
        force=args.force,
    )
    begin = partial(photos.protect_photos, found, job, _starting)
    outcomes = watched(begin, len(found), "protecting")
    if earlier := (photos.read_job_report(job) or {}).get("earlier"):
        say(
            f"copies in {args.out} made with other settings: {len(earlier)}; the report lists "
            "them without figures"
        )
    return _print_result(job, outcomes, args)


def evaluate(args: argparse.Namespace) -> int:
    """Measures protected photos."""
    from cdmaa_jax import photos
    from cdmaa_jax.attack.config import Config
    from cdmaa_jax.evaluation import report

    threshold = Config(threshold=args.threshold).threshold
    pairs = photos.match_photos(args.originals, args.protected)
    ensemble = _load(args.ensemble)
    labels = _labels(args, ensemble, [original for original, _ in pairs])
    steps = photos.evaluate_photos(
        pairs, ensemble, labels, args.batch_size, args.max_pixels, args.aligned
    )
    outcomes = watched(lambda _: steps, len(pairs), "measuring")
    made_with = {"ensemble": report.describe(ensemble), "aligned": args.aligned}
    entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
    _print_report(report.build(entries, threshold, made_with, _failures(outcomes)), args.json)
    return _status(outcomes)


def reproduce(args: argparse.Namespace) -> int:
    """Measures the paper's tables and figures."""
    from cdmaa_jax.disk import read_bytes
    from cdmaa_jax.experiments.reproduce import WHAT, Request, reproduce

    options = {field.name: getattr(args, field.name) for field in dataclasses.fields(Request)}
    options["what"] = WHAT if "all" in args.what else tuple(dict.fromkeys(args.what))
    request = Request(**options | {"ensemble": _load(args.ensemble)})
    watch = Watch(request)
    try:
        written = list(reproduce(request, watch.listener()))
    finally:
        watch.close()
    path, text = written[-1]  # the claims, which include all other results
    show(read_bytes(path.with_suffix(".json")).decode() if args.json else text)
    say(f"look at {', '.join(str(path) for path, _ in written)}")
    return 0


def info(args: argparse.Namespace) -> int:
    """Prints what is installed."""
    facts = gather_facts(args.ensemble)
    show(json.dumps(facts, indent=2) if args.json else facts_as_text(facts))
    return 0


def _config(args: argparse.Namespace) -> Config:
    from cdmaa_jax.attack.config import Config

    names = (field.name for field in dataclasses.fields(Config))
    return Config(**{name: getattr(args, name) for name in names if hasattr(args, name)})


def _load(names: Sequence[str]) -> Ensemble:
    from cdmaa_jax.generators.ensembles import load_ensemble

    ensemble = load_ensemble(names)
    gc.freeze()  # compiling collects garbage often; it can skip what exists now
    say(f"ensemble {ensemble.name}: {', '.join(g.name for g in ensemble.generators)}")
    return ensemble


def _labels(
    args: argparse.Namespace, ensemble: Ensemble, found: Sequence[Path]
) -> LabelTable | None:
    from cdmaa_jax import photos
    from cdmaa_jax.disk import FileError
    from cdmaa_jax.images.labels import read_labels

    if args.labels is None:
        return None
    table = read_labels(args.labels)
    photos.check_labels(table, ensemble)
    if not any(table.has(photo) for photo in found):
        what = "it has no line for any of the photos"
        raise FileError(args.labels, what, "check the names in it, or leave out --labels")
    return table


def _starting(count: int) -> None:
    photos = "1 photo" if count == 1 else f"{count} photos"
    say(f"protecting {photos}; the first time, compiling for this machine takes a minute or so")


def _failures(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    return [failure for o in outcomes if (failure := o.failure()) is not None]


def _status(outcomes: Sequence[Outcome]) -> int:
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _print_result(job: Job, outcomes: Sequence[Outcome], args: argparse.Namespace) -> int:
    """Prints the figures of this run's photos, and returns the exit status."""
    from cdmaa_jax import photos

    entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
    _print_report(photos.make_report(job, entries, _failures(outcomes)), args.json)
    return _status(outcomes)


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show(json.dumps(report, indent=2, allow_nan=False))
    elif report["photos"]:
        show(report_as_text(report))
