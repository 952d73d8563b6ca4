"""Photos to batches to the attack to files, with a report that grows with every batch.

Nothing is half-written: a batch's photos and the report that tells of them wait beside their places
until all are whole. What the report already tells of, made with the same settings from the same
photo, is not made again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from cdmaa_jax import disk
from cdmaa_jax.attack.config import Config
from cdmaa_jax.disk import FileError, Staged, real_path
from cdmaa_jax.evaluation import picture, report
from cdmaa_jax.evaluation.measure import Pair, edits_of_pairs, measure, see_pair
from cdmaa_jax.generators.checkpoint import Metadata
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.generators.precision import in_bfloat16
from cdmaa_jax.generators.registry import architecture
from cdmaa_jax.images import files
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import Photo, read_photo
from cdmaa_jax.images.labels import LabelTable
from cdmaa_jax.images.squares import GREY_LEVEL, Look, look, see, write_back
from cdmaa_jax.protection import check_seed, protect
from cdmaa_jax.types import Generator, Labels

REPORT = "report.json"
BATCH_SIZE = 8
_PRECISIONS = {
    "float32": "highest",
    "tf32": "tensorfloat32",
    "bfloat16": "tensorfloat32",  # of what is float32 all the same
}
Entry = dict[str, Any]
Perturb = Callable[["Job", np.ndarray, Labels | None, int], np.ndarray]
"""``attack(job, images [B,N,N,3], labels, batch_size)``: the protected images, within epsilon."""


def find_photos(paths: Iterable[Path], out: Path | None = None) -> list[Path]:
    """The photos that files and folders name, each once, in the order given, folders by name.

    A folder stands for the pictures directly in it, told by their suffix.

    Args:
      paths: files, taken whatever their suffix, and folders.
      out: the folder to write into; what a report in it calls protected is left out of folders.

    Raises:
      FileError: a folder holds no picture or cannot be read.
    """
    made = {real_path(out / name) for name in _recorded_copies(out).values()} if out else set()
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = [photo for photo in files.pictures_in(path) if real_path(photo) not in made]
        else:
            inside = [path]
        for photo in inside:
            found.setdefault(real_path(photo), photo)
    return list(found.values())


def match_photos(originals: Path, protected: Path) -> list[tuple[Path, Path | None]]:
    """Originals, each with its protected copy, or None where there is none.

    Two files are a pair. In folders, a report of this program says which belong together;
    otherwise files do that have the same name but for the suffix.

    Raises:
      FileError: one is missing, or nothing or too much matches.
    """
    for path in (originals, protected):
        if not path.exists():
            raise FileError(path, "there is no such file or folder", "check the name")
    if originals.is_file() and protected.is_file():
        return [(originals, protected)]
    known = _recorded_copies(protected) if protected.is_dir() else {}
    copies = _by_stem(find_photos([protected]))
    pairs = [
        (original, _copy_of(original, protected, known, copies))
        for original in find_photos([originals], protected if protected.is_dir() else None)
    ]
    if all(copy is None for _, copy in pairs):
        raise FileError(protected, f"no name in it matches one in {originals}", "check the names")
    return pairs


def default_canonical_size(ensemble: Ensemble, aligned: bool = False) -> int:
    """Three times the largest native size of the generators, in pixels; of crops just that.

    The change is to outlive the resizing of a photo to the generators' size, and finer ones do so
    better; still finer ones do not, in as many steps.
    """
    native = max(generator.image_size for generator in ensemble.generators)
    return native if aligned else 3 * native


def protect_photos(
    photos: Sequence[Path], job: Job, starting: Callable[[int], None] | None = None
) -> Iterator[Outcome]:
    """Protects photos one batch after the other, and tells of each as it is done.

    The report in the job's folder is complete after every batch.

    Args:
      photos: each once.
      job: what to do with them.
      starting: called before the first batch with the number of photos to protect, if any.

    Raises:
      FileError: the folder or the report in it cannot be used, or the disk is full.
      ValueError: the options do not fit each other or the labels.
    """
    _check(job)
    disk.make_folder(job.out)
    with disk.locked(job.out):
        yield from _protected(photos, job, starting)


def _protected(
    photos: Sequence[Path], job: Job, starting: Callable[[int], None] | None
) -> Iterator[Outcome]:
    """``protect_photos``, in a folder that is this run's alone."""
    ledger = _open_ledger(job)
    todo: list[_Task] = []
    for outcome in _planned(photos, job, ledger):
        if isinstance(outcome, _Task):
            todo.append(outcome)
        else:
            yield _noted(outcome, ledger)
    size = min(job.batch_size, max(1, len(photos if job.same_batches else todo)))
    waiting = iter(todo)
    if todo and starting is not None:
        starting(len(todo))
    while chunk := list(islice(waiting, size)):
        for outcome in _protect_batch(chunk, size, job, ledger):
            yield _noted(outcome, ledger)
    _finish(job, ledger)


def evaluate_photos(
    pairs: Sequence[tuple[Path, Path | None]],
    ensemble: Ensemble,
    labels: LabelTable | None = None,
    batch_size: int = BATCH_SIZE,
    max_pixels: int = files.MAX_PIXELS,
    aligned: bool = False,
) -> Iterator[Outcome]:
    """Measures protected copies that exist, and tells of each.

    Args:
      pairs: an original and its protected copy, of the same size, or None: a failure.
      ensemble: the generators.
      labels: of the originals.
      batch_size: pairs that are measured at once.
      max_pixels: larger photos are refused.
      aligned: whether the photos are face crops already.

    Raises:
      ValueError: a number is not positive.
    """
    check_positive(batch_size=batch_size, max_pixels=max_pixels)
    size = min(batch_size, max(1, len(pairs)))
    for first in range(0, len(pairs), size):
        made: list[_Made] = []
        for original, copy in pairs[first : first + size]:
            try:
                made.append(_compared(original, copy, ensemble, labels, max_pixels, aligned))
            except FileError as error:
                yield Outcome(original, "failed", error=str(error))
        entries = _measured(made, ensemble, labels, size)
        for one, entry in zip(made, entries, strict=True):
            yield Outcome(one.source, "done", entry)


def draw_picture(
    original: Path, protected: Path, entry: Entry, ensemble: Ensemble, threshold: float
) -> bytes:
    """The picture of one photo's report, a PNG file.

    Args:
      original: the photo.
      protected: its protected copy.
      entry: what the report says of it, from which the square and L are taken.
      ensemble: the generators.
      threshold: of L, beyond which an edit counts as spoilt.

    Raises:
      FileError: a file cannot be read.
    """
    before, after = read_photo(original).pixels, read_photo(protected).pixels
    square = Box(**entry["square"])
    pair = see_pair(before, after, Look(None, square), ensemble.generators)
    panels = [
        _panel(generator, _title(generator, metadata), pair, entry["models"][generator.name])
        for generator, metadata in zip(ensemble.generators, ensemble.metadata, strict=True)
    ]
    drawn = picture.draw_report(before, after, square, panels, threshold, entry["psnr"])
    return picture.encode(drawn)


def make_report(
    job: Job,
    photos: Iterable[Entry],
    failed: Iterable[Entry] = (),
    earlier: Iterable[Entry] = (),
) -> dict[str, Any]:
    """The report of a job."""
    return report.build(photos, job.config.threshold, _settings(job), failed, earlier)


def read_job_report(job: Job) -> dict[str, Any] | None:
    """The report in the job's folder, None if there is none. Raises as ``protect_photos``."""
    return report.read_report(job.out / REPORT)


def _recorded_copies(folder: Path) -> dict[tuple[str | None, str], str]:
    """Originals to the names of their copies, from the report in a folder, if any.

    By name and SHA-256, and by None and SHA-256 for those that were renamed.
    """
    try:
        found = report.read_report(folder / REPORT)
    except FileError:
        return {}
    entries = found or {"photos": [], report.EARLIER: []}
    return {
        (name, entry["sha256"]): entry["protected"]
        for entry in (*entries[report.EARLIER], *entries["photos"])
        for name in (entry["file"], None)
    }


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(path.stem, []).append(path)
    return stems


def _copy_of(
    original: Path,
    protected: Path,
    known: Mapping[tuple[str | None, str], str],
    copies: Mapping[str, list[Path]],
) -> Path | None:
    recorded = _recorded_copy(original, known)
    if recorded is not None and (protected / recorded).exists():
        return protected / recorded
    candidates = [path for path in copies.get(original.stem, []) if not _is_same(path, original)]
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        raise FileError(original, f"{names} all match it", "evaluate the two files alone")
    return candidates[0] if candidates else None


def _recorded_copy(original: Path, known: Mapping[tuple[str | None, str], str]) -> str | None:
    """The copy that a report tells of, if it does."""
    if not known:
        return None
    try:
        content = _sha256(original)
    except FileError:  # raised again, and told, when it is measured
        return None
    return known.get((original.name, content), known.get((None, content)))


def _is_same(path: Path, other: Path) -> bool:
    return real_path(path) == real_path(other)


def _sha256(path: Path) -> str:
    return hashlib.sha256(disk.read_bytes(path)).hexdigest()


def _check(job: Job) -> None:
    """Raises ValueError where options do not fit each other or the labels."""
    check_positive(
        batch_size=job.batch_size, canonical_size=job.canonical_size, max_pixels=job.max_pixels
    )
    check_seed(job.seed)
    if job.config.epsilon < GREY_LEVEL:
        raise ValueError(
            f"epsilon {job.config.epsilon:g} is below one grey level, {GREY_LEVEL:.4f}: "
            "the protected file would be the original"
        )
    if job.labels is not None:
        check_labels(job.labels, job.ensemble)


def check_positive(**numbers: int) -> None:
    """Raises ValueError for a number below 1, by its name."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {number}")


def check_labels(table: LabelTable, ensemble: Ensemble) -> None:
    """Raises FileError where a table lacks attributes that a generator needs."""
    example = {name: np.zeros(1, np.int32) for name in table.attributes}
    for generator in ensemble.generators:
        try:
            generator.conditions(example)
        except ValueError as error:
            what = f"{generator.name} cannot use it: {error}"
            raise FileError(table.path, what, "add them, or leave out --labels") from error


def _settings(job: Job) -> dict[str, Any]:
    return report.settings(
        job.ensemble, job.config, job.seed, job.canonical_size, job.aligned, job.precision
    )


def _open_ledger(job: Job) -> _Ledger:
    """What the report in the folder tells of, if it was made with the same settings."""
    try:
        found = read_job_report(job)
    except FileError:
        if not job.force:
            raise
        found = None
    if found is None:
        return _Ledger()
    found["config"] = {**dataclasses.asdict(Config()), **(found.get("config") or {})}
    expected = json.loads(json.dumps(_settings(job)))
    if different := [key for key, value in expected.items() if found.get(key) != value]:
        if job.force:
            return _Ledger(earlier=_there(job, [*found[report.EARLIER], *found["photos"]]))
        what = f"it tells of photos made with {_difference(found, job, different[0])}"
        raise FileError(job.out / REPORT, what, "choose another --out, or overwrite with --force")
    return _Ledger(_there(job, report.dated(found)), earlier=_there(job, found[report.EARLIER]))


def _there(job: Job, entries: Iterable[Entry]) -> dict[str, Entry]:
    """Those of entries whose copies are there, by the copies' names."""
    return {e["protected"]: e for e in entries if (job.out / e["protected"]).is_file()}


def _difference(found: Mapping[str, Any], job: Job, key: str) -> str:
    """The setting that differs, for people."""
    if key != "config":
        return f"another {key.replace('_', ' ')}"
    ours, theirs = dataclasses.asdict(job.config), found.get(key) or {}
    names = [name for name in ours if theirs.get(name) != ours[name]]
    if not names:
        return "other options"
    name = names[0]
    return f"{name.replace('_', ' ')} {theirs.get(name)}, not {ours[name]}"


def _planned(photos: Sequence[Path], job: Job, ledger: _Ledger) -> Iterator[_Task | Outcome]:
    """A task for each photo, or its outcome where it is done already or cannot be done."""
    claims = _claims(photos, job, ledger)
    names = {_folded(entry["protected"]) for entry in claims.values()}
    sources = {identity for photo in photos for identity in _identities(photo)}
    for photo in photos:
        try:
            entry = claims.get(photo)
            if entry is not None and _is_there(job.out / entry["protected"], entry):
                yield Outcome(photo, "skipped", entry)
                continue
            target = job.out / (entry["protected"] if entry else _free_name(photo, job, names))
            names.add(_folded(target.name))
            if os.path.exists(target):  # perhaps it was made of what can be read no more
                _sha256(photo)
                _labels_of(photo, job.labels)
            _check_target(photo, target, sources, job)
            yield _Task(photo, target, _labels_of(photo, job.labels))
        except FileError as error:
            yield Outcome(photo, "failed", error=str(error))


def _identities(path: Path) -> list[Any]:
    """What tells that two paths lead to one file, however their names are written."""
    with suppress(OSError):
        found = path.stat()
        return [real_path(path), *([(found.st_dev, found.st_ino)] if found.st_ino else [])]
    return [real_path(path)]


def _check_target(photo: Path, target: Path, sources: set[Any], job: Job) -> None:
    if disk.is_too_long(target.name):
        raise FileError(photo, "its copy's name would be too long", "shorten its name")
    if not sources.isdisjoint(_identities(target)):
        raise FileError(photo, "its protected copy would replace a photo", "choose another --out")
    if target.is_dir():
        raise FileError(target, "it is a folder", "choose another --out")
    if target.exists() and not job.force:
        what = f"it exists and is a copy of another {photo.name} or by other settings, or changed"
        remedy = "rename the photo, choose another --out, or overwrite with --force"
        raise FileError(target, what, remedy)


def _claims(photos: Sequence[Path], job: Job, ledger: _Ledger) -> dict[Path, Entry]:
    """The entry of each photo that the report tells of already: same name, content and labels."""
    claims: dict[Path, Entry] = {}
    unclaimed = list(ledger.entries.values())
    for photo in photos:
        candidates = [entry for entry in unclaimed if entry["file"] == photo.name]
        with suppress(FileError):  # raised again, and told, when it is the photo's turn
            for entry in candidates:
                if entry["sha256"] == _sha256(photo) and entry["labels"] == _labels_of(
                    photo, job.labels
                ):
                    claims[photo] = entry
                    unclaimed.remove(entry)
                    break
    return claims


def _labels_of(photo: Path, table: LabelTable | None) -> dict[str, int] | None:
    return None if table is None else dict(zip(table.attributes, table.row(photo), strict=True))


def _is_there(path: Path, entry: Entry) -> bool:
    return path.is_file() and _sha256(path) == entry["protected_sha256"]


def _free_name(photo: Path, job: Job, names: set[str]) -> str:
    """``NAME.png``, or ``NAME-2.png`` and so on where that is another photo's of this run."""
    stem = job.names.get(photo, photo.stem)
    number, name = 1, f"{stem}.png"
    while _folded(name) in names:
        number += 1
        name = f"{stem}-{number}.png"
    return name


def _folded(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _protect_batch(
    tasks: Sequence[_Task], size: int, job: Job, ledger: _Ledger
) -> Iterator[Outcome]:
    seen: list[_Seen] = []
    for task in tasks:
        try:
            seen.append(_seen(task, job))
        except FileError as error:
            yield Outcome(task.source, "failed", error=str(error))
    if not seen:
        return
    made: list[_Made] = []
    full: FileError | None = None
    try:
        for one, perturbation in zip(seen, _perturbations(seen, size, job), strict=True):
            try:
                made.append(_made(one, perturbation, job))
            except FileError as error:
                full = error if disk.is_of_no_room(error) else full
                yield Outcome(one.task.source, "failed", error=str(error))
        entries = _measured(made, job.ensemble, job.labels, size)
        _record(made, entries, job, ledger)
    finally:
        disk.discard([one.staged for one in made if one.staged is not None])
    for done, entry in zip(made, entries, strict=True):
        yield Outcome(done.source, "done", entry)
    if full is not None:  # nor will the others fit
        raise full


def _seen(task: _Task, job: Job) -> _Seen:
    photo = read_photo(task.source, job.max_pixels)
    where = look(photo.pixels, job.aligned)
    return _Seen(task, photo.sha256, where, see(photo.pixels, where.square, job.canonical_size))


def _perturbations(seen: Sequence[_Seen], size: int, job: Job) -> np.ndarray:
    """What to add to the canonical images, ``[B, N, N, 3]`` in units of [-1, 1]."""
    images = np.stack([one.canonical for one in seen])
    labels = _labels([one.task.source for one in seen], job.labels)
    attack = job.attack or against(job.ensemble.generators, job.config)
    return np.asarray(attack(job, images, labels, size)) - images


def against(models: Sequence[Generator], config: Config) -> Perturb:
    """What protects a job's images from some models at once."""

    def attack(job: Job, images: np.ndarray, labels: Labels | None, size: int) -> np.ndarray:
        half = job.precision == "bfloat16"
        with _computing_in(job.precision):
            result = protect(
                images,
                [in_bfloat16(model) for model in models] if half else models,
                config,
                job.seed,
                labels=labels,
                batch_size=size,
                devices=devices_for(size),
                chunk=job.chunk,
            )
        return np.asarray(result.images)

    return attack


def _computing_in(precision: str | None) -> AbstractContextManager[Any]:
    return (
        nullcontext() if precision is None else jax.default_matmul_precision(_PRECISIONS[precision])
    )


def devices_for(size: int) -> list[jax.Device] | None:
    """As many of this machine's devices as share a batch of ``size`` evenly; None for one."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if size % n == 0)
    return devices[:count] if count > 1 else None


def _labels(photos: Sequence[Path], table: LabelTable | None) -> Labels | None:
    return None if table is None else table.labels(photos)


def _made(seen: _Seen, perturbation: np.ndarray, job: Job) -> _Made:
    """Writes a protected photo beside its place, and reads it back."""
    source, target = seen.task.source, seen.task.target
    photo = read_photo(source, job.max_pixels)
    if photo.sha256 != seen.sha256:
        raise FileError(source, "it was changed meanwhile", "run again")
    staged = disk.stage(target, _protected_png(photo, seen, perturbation, job))
    try:
        saved = read_photo(staged.temporary, job.max_pixels)
        pair = see_pair(photo.pixels, saved.pixels, seen.look, job.ensemble.generators)
    except BaseException:
        disk.discard([staged])
        raise
    entry = report.photo_entry(
        source.name, target.name, photo, saved.sha256, seen.look, pair, seen.task.labels
    )
    return _Made(source, entry, pair, staged)


def _protected_png(photo: Photo, seen: _Seen, perturbation: np.ndarray, job: Job) -> bytes:
    pixels = write_back(photo.pixels, seen.look.square, perturbation, job.config.epsilon)
    return files.encode_png(dataclasses.replace(photo, pixels=pixels))


def _compared(
    original: Path,
    copy: Path | None,
    ensemble: Ensemble,
    labels: LabelTable | None,
    max_pixels: int,
    aligned: bool,
) -> _Made:
    if copy is None:
        raise FileError(original, "there is no protected copy of it", "protect it first")
    before, after = read_photo(original, max_pixels), read_photo(copy, max_pixels)
    if before.size != after.size:
        (h, w), (height, width) = before.size, after.size
        what = f"it has {width} x {height} pixels, {original.name} has {w} x {h}"
        raise FileError(copy, what, "only copies of the same size can be compared")
    where = look(before.pixels, aligned)
    pair = see_pair(before.pixels, after.pixels, where, ensemble.generators)
    entry = report.photo_entry(
        original.name, copy.name, before, after.sha256, where, pair, _labels_of(original, labels)
    )
    return _Made(original, entry, pair)


def _measured(
    made: Sequence[_Made], ensemble: Ensemble, labels: LabelTable | None, size: int
) -> list[Entry]:
    if not made:
        return []
    values = measure(
        ensemble.generators,
        [one.pair for one in made],
        _labels([one.source for one in made], labels),
        size,
    )
    domains = {generator.name: generator.domains for generator in ensemble.generators}
    return report.with_losses([one.entry for one in made], values, domains)


def _record(made: Sequence[_Made], entries: Sequence[Entry], job: Job, ledger: _Ledger) -> None:
    """Puts the report and then the photos of a batch in their places.

    In this order, so that whatever interrupts, no photo is there that the report does not tell of.
    """
    if not made:
        return
    for entry in entries:
        ledger.entries[entry["protected"]] = entry
        ledger.earlier.pop(entry["protected"], None)
    written = _stage_report(job, ledger)
    disk.commit([written, *(one.staged for one in made if one.staged is not None)])


def _stage_report(job: Job, ledger: _Ledger) -> Staged:
    told = (ledger.entries.values(), ledger.failed, ledger.earlier.values())
    text = report.to_json(make_report(job, *told))
    return disk.stage(job.out / REPORT, text.encode())


def _finish(job: Job, ledger: _Ledger) -> None:
    """Writes which photos failed, where anything was protected at all."""
    if ledger.entries:
        disk.commit([_stage_report(job, ledger)])


def _noted(outcome: Outcome, ledger: _Ledger) -> Outcome:
    if outcome.error is not None:
        ledger.failed.append({"file": outcome.source.name, "error": outcome.error})
    return outcome


def _title(generator: Generator, metadata: Metadata) -> str:
    """A generator for people: its architecture's name unless it has one of its own."""
    plain = generator.name == metadata.architecture
    name = architecture(metadata.architecture).title if plain else generator.name
    return f"{name}, {generator.image_size} x {generator.image_size} pixels"


def _panel(
    generator: Generator, title: str, pair: Pair, losses: Mapping[str, float]
) -> picture.Panel:
    before, after = edits_of_pairs(generator, [pair])
    size = generator.image_size
    return picture.Panel(
        title=title,
        domains=generator.domains,
        clean=pair.clean[size],
        protected=pair.protected[size],
        before=before[0],
        after=after[0],
        losses=np.array([losses[domain] for domain in generator.domains]),
    )


@dataclass(frozen=True)
class Job:
    """What to do with photos.

    Attributes:
      ensemble: the generators to spoil.
      out: the folder to write into.
      config: the attack.
      canonical_size: side, in pixels, at which the perturbation is found.
      seed: of the attack's start.
      aligned: whether the photos are face crops already, so that no face is looked for.
      labels: of the photos; None if unknown.
      batch_size: photos that are attacked at once.
      chunk: how many of them a generator takes at once; None for what suits the device.
      max_pixels: larger photos are refused.
      force: whether files that are in the way are overwritten; never an input.
      names: of the outputs, without the suffix, where not the input's own.
      same_batches: whether batches keep their size and shape even where photos are done already, so
        that a stopped job ends in the very bits of one that was not.
      attack: another attack on the canonical images; see ``Perturb``.
      precision: in which generators are computed when they are attacked: "float32", "tf32" or
        "bfloat16"; None for the device's own, TF32 on a GPU. They are measured in the device's own.
    """

    ensemble: Ensemble
    out: Path
    config: Config
    canonical_size: int
    seed: int = 0
    aligned: bool = False
    labels: LabelTable | None = None
    batch_size: int = BATCH_SIZE
    chunk: int | None = None
    max_pixels: int = files.MAX_PIXELS
    force: bool = False
    names: Mapping[Path, str] = field(default_factory=dict)
    same_batches: bool = False
    attack: Perturb | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one photo: its entry in the report, or why there is none."""

    source: Path
    status: Literal["done", "skipped", "failed"]
    entry: Entry | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Ledger:
    """The report as it grows: entries by the name of the protected file, and what failed.

    ``earlier`` are entries of copies that were made with other settings.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    failed: list[Entry] = field(default_factory=list)
    earlier: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    source: Path
    target: Path
    labels: dict[str, int] | None


@dataclass(frozen=True)
class _Seen:
    task: _Task
    sha256: str
    look: Look
    canonical: np.ndarray


@dataclass(frozen=True)
class _Made:
    source: Path
    entry: Entry
    pair: Pair
    staged: Staged | None = None
