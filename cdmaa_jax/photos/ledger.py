"""What the report in a folder covers, what is left to do, and how the report grows."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cdmaa_jax import disk
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError, Staged, real_path
from cdmaa_jax.evaluation import report
from cdmaa_jax.images.labels import LabelTable, composed
from cdmaa_jax.photos.jobs import Entry, Job, Outcome, failed

REPORT = "report.json"


@dataclass(frozen=True)
class Ledger:
    """The report as it grows.

    Attributes:
      entries: what is protected, by the name of the protected file.
      failed: the photos that could not be protected, and why.
      earlier: copies that were made with other settings, by the name of the protected file.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    failed: list[Entry] = field(default_factory=list)
    earlier: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A photo to protect, the path of its copy, and its labels."""

    source: Path
    target: Path
    labels: dict[str, int] | None


def make_report(
    job: Job,
    photos: Iterable[Entry],
    failed: Iterable[Entry] = (),
    earlier: Iterable[Entry] = (),
) -> dict[str, Any]:
    """The report of a job."""
    return report.build(photos, job.config.threshold, _settings(job), failed, earlier)


def read_job_report(job: Job) -> dict[str, Any] | None:
    """The report in the job's folder, or None if there is none.

    Raises:
      FileError: the file is damaged or is not a report of this program.
    """
    return report.read_report(job.out / REPORT)


def open_ledger(job: Job) -> Ledger:
    """The ledger of the report in the job's folder, if it was made with the same settings.

    Raises:
      FileError: the report cannot be used, or was made with other settings, and ``force`` is off.
    """
    try:
        found = read_job_report(job)
    except FileError:
        if not job.force:
            raise
        found = None
    if found is None:
        return Ledger()
    found["config"] = {**dataclasses.asdict(Config()), **(found.get("config") or {})}
    if job.config.update != "apgd":  # the only one whose copies depend on it
        found["config"]["threshold"] = job.config.threshold
    expected = json.loads(json.dumps(_settings(job)))
    if different := [
        k for k, v in expected.items() if _compared(k, found.get(k)) != _compared(k, v)
    ]:
        if job.force:
            everything = [*found[report.EARLIER], *found["photos"]]
            return Ledger(earlier=_entries_with_copies(job, everything))
        what = f"it tells of photos made {_difference(found, job, different)}"
        raise FileError(job.out / REPORT, what, "choose another --out, or overwrite with --force")
    return Ledger(
        _entries_with_copies(job, report.dated(found)),
        earlier=_entries_with_copies(job, found[report.EARLIER]),
    )


def plan(photos: Sequence[Path], job: Job, ledger: Ledger) -> Iterator[Task | Outcome]:
    """A task for each photo, or its outcome if it is done already or cannot be done."""
    claims = _claims(photos, job, ledger)
    names = {_folded(entry["protected"]) for entry in claims.values()}
    sources = {identity for photo in photos for identity in _identities(photo)}
    for photo in photos:
        try:
            entry = claims.get(photo)
            if entry is not None and is_as_recorded(job.out / entry["protected"], entry):
                yield Outcome(photo, "skipped", entry)
                continue
            target = job.out / (entry["protected"] if entry else _free_name(photo, job, names))
            names.add(_folded(target.name))
            if os.path.exists(target):  # it may be the copy of a photo that can no longer be read
                disk.sha256_of(photo)
            labels = recorded_labels(photo, job.labels)
            _check_target(photo, target, sources, job)
            yield Task(photo, target, labels)
        except FileError as error:
            yield failed(photo, error)


def note(outcome: Outcome, ledger: Ledger) -> Outcome:
    """Records a failure in the ledger, and returns the outcome."""
    if (failure := outcome.failure()) is not None:
        ledger.failed.append(failure)
    return outcome


def record(entries: Sequence[Entry], copies: Sequence[Staged], job: Job, ledger: Ledger) -> None:
    """Moves the report, and then the protected photos of a batch, into place.

    In this order, after any interruption every photo on disk is listed in the report.
    """
    if not entries:
        return
    for entry in entries:
        ledger.entries[entry["protected"]] = entry
        ledger.earlier.pop(entry["protected"], None)
    disk.commit([_stage_report(job, ledger), *copies])


def finish(job: Job, ledger: Ledger) -> None:
    """Writes the failures into the report, if any photo was protected at all."""
    if ledger.entries:
        disk.commit([_stage_report(job, ledger)])


def recorded_labels(photo: Path, table: LabelTable | None) -> dict[str, int] | None:
    """The labels of a photo in the form its entry lists them.

    Raises:
      FileError: the table has no line for the photo.
    """
    return None if table is None else dict(zip(table.attributes, table.row(photo), strict=True))


def _settings(job: Job) -> dict[str, Any]:
    """What a protected photo depends on, besides the photo, its labels, and rounding."""
    return {
        "ensemble": report.describe(job.ensemble),
        "config": dataclasses.asdict(job.config),
        "seed": job.seed,
        "canonical_size": job.canonical_size,
        "aligned": job.aligned,
        "precision": job.precision,
    }


def _entries_with_copies(job: Job, entries: Iterable[Entry]) -> dict[str, Entry]:
    """The entries whose copies still exist, by the copies' names."""
    return {e["protected"]: e for e in entries if (job.out / e["protected"]).is_file()}


def _compared(key: str, setting: Any) -> Any:
    """What of a setting counts: of an ensemble its generators, not what its folder is called."""
    return setting.get("generators") if key == "ensemble" and isinstance(setting, dict) else setting


def _difference(found: Mapping[str, Any], job: Job, different: Sequence[str]) -> str:
    """Describes a setting that differs, in words for an error message."""
    if "aligned" in different:  # the canonical size depends on it
        return "without --aligned" if job.aligned else "with --aligned"
    if different[0] != "config":
        return f"with another {different[0].replace('_', ' ')}"
    ours, theirs = dataclasses.asdict(job.config), found.get("config") or {}
    names = [name for name in ours if theirs.get(name) != ours[name]]
    if not names:
        return "with other options"
    name = names[0]
    return f"with {name.replace('_', ' ')} {theirs.get(name)}, not {ours[name]}"


def _claims(photos: Sequence[Path], job: Job, ledger: Ledger) -> dict[Path, Entry]:
    """The entry of each photo that the report covers with the same name, content and labels."""
    claims: dict[Path, Entry] = {}
    unclaimed = list(ledger.entries.values())
    for photo in photos:
        candidates = [entry for entry in unclaimed if entry["file"] == photo.name]
        with suppress(FileError):  # it is raised again, and reported, when the photo is planned
            for entry in candidates:
                if entry["sha256"] == disk.sha256_of(photo) and entry["labels"] == recorded_labels(
                    photo, job.labels
                ):
                    claims[photo] = entry
                    unclaimed.remove(entry)
                    break
    return claims


def is_as_recorded(path: Path, entry: Entry) -> bool:
    """Whether a copy exists and has the content that its entry records."""
    return path.is_file() and disk.sha256_of(path) == entry["protected_sha256"]


def _identities(path: Path) -> list[Any]:
    """Identifiers of a file: any two paths to it share one, however their names differ."""
    with suppress(OSError):
        found = path.stat()
        return [real_path(path), *([(found.st_dev, found.st_ino)] if found.st_ino else [])]
    return [real_path(path)]


def _check_target(photo: Path, target: Path, sources: set[Any], job: Job) -> None:
    """Raises FileError if the protected copy of a photo cannot be written to ``target``."""
    if disk.is_too_long(target.name):
        raise FileError(photo, "its copy's name would be too long", "shorten its name")
    if not sources.isdisjoint(_identities(target)):
        raise FileError(photo, "its protected copy would replace a photo", "choose another --out")
    if target.is_dir():
        raise FileError(target, "it is a folder", "choose another --out")
    if os.path.lexists(target) and not job.force:
        what = (
            f"it exists, and is not known as the copy of {photo.name} with these settings: it may "
            "be another picture, or a copy made otherwise or changed since"
        )
        remedy = "rename the photo or choose another --out; --force overwrites it"
        raise FileError(target, what, remedy)


def _free_name(photo: Path, job: Job, names: set[str]) -> str:
    """``NAME.png``, or ``NAME-2.png`` and so on if another photo of this run has that name."""
    stem = job.names.get(photo, photo.stem)
    number, name = 1, f"{stem}.png"
    while _folded(name) in names:
        number += 1
        name = f"{stem}-{number}.png"
    return name


def _folded(name: str) -> str:
    """A normalized name, equal for names that some file systems treat as the same."""
    return composed(name).casefold()


def _stage_report(job: Job, ledger: Ledger) -> Staged:
    contents = (ledger.entries.values(), ledger.failed, ledger.earlier.values())
    text = report.to_json(make_report(job, *contents))
    return disk.stage(job.out / REPORT, text.encode())
