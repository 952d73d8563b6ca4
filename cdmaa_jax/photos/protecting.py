"""Protecting photos batch by batch, and measuring the saved copies."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from cdmaa_jax import disk
from cdmaa_jax.allocator import release_memory
from cdmaa_jax.attack.config import Config, check_positive
from cdmaa_jax.disk import FileError, Staged
from cdmaa_jax.evaluation import picture, report
from cdmaa_jax.evaluation.drawing import encode
from cdmaa_jax.evaluation.measure import Pair, edits_of_pairs, measure, see_pair
from cdmaa_jax.generators.checkpoint import Metadata
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.generators.precision import in_bfloat16
from cdmaa_jax.generators.registry import ARCHITECTURES
from cdmaa_jax.images import files
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import Photo, read_photo
from cdmaa_jax.images.labels import LabelTable
from cdmaa_jax.images.squares import Look, look, see, write_back
from cdmaa_jax.photos.jobs import (
    BATCH_SIZE,
    PRECISIONS,
    Entry,
    Job,
    Outcome,
    ProtectImages,
    check_job,
    failed,
)
from cdmaa_jax.photos.ledger import (
    Ledger,
    Task,
    finish,
    note,
    open_ledger,
    plan,
    record,
    recorded_labels,
)
from cdmaa_jax.photos.workers import Workers
from cdmaa_jax.protection import devices_for, protect
from cdmaa_jax.types import Generator, Labels

T = TypeVar("T")
Partly = Callable[[Path, int, int], None]
"""``partly(photo, attacked, faces)``: so many of a photo's faces are attacked so far."""
_Futures = list[tuple[Path, Future[T]]]
"""Work under way on photos."""
_MEASURED_AT_ONCE = 32
"""Of a larger batch; unlike an attack, measuring does not reckon with the memory that is free."""
_SHARING = 1.2
"""How many times as fast an attack is whose images the cores of a CPU share; of two cores."""


@dataclass(frozen=True)
class _Seen:
    """A photo as it was read for the attack: its hash, and its squares.

    Their canonical images, ``[N, N, 3]``, leave when the perturbations of these, alike, have come.
    """

    task: Task
    sha256: str
    looks: list[Look]
    canonical: deque[np.ndarray]
    perturbations: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class _Made:
    """A photo with its copy: the entry, still without L, and the copy's file if it is new."""

    source: Path
    entry: Entry
    pairs: list[Pair]
    staged: Staged | None = None


def protect_photos(
    photos: Sequence[Path],
    job: Job,
    starting: Callable[[int], None] | None = None,
    partly: Partly | None = None,
) -> Iterator[Outcome]:
    """Protects photos batch by batch, and yields the outcome of each photo as it is done.

    Photos are read, and copies made, in threads; meanwhile a GPU or TPU attacks the next batch. The
    report in the job's folder tells of every copy in it. Whatever ends the iteration early, photos
    whose faces were all attacked before the current batch are kept; only KeyboardInterrupt and the
    like, on a GPU or TPU, may lose one more batch.

    Args:
      photos: the photos, each once.
      job: what to do with them.
      starting: called before the first batch with the number of photos to protect, if there are
        any.
      partly: called after a batch that had room for some of a photo's faces only.

    Raises:
      FileError: the folder or the report in it cannot be used, or the disk is full.
      ValueError: the options are not valid or do not fit each other.
    """
    check_job(job)
    disk.make_folder(job.out)
    with disk.locked(job.out):
        yield from _protect_in_locked_folder(photos, job, starting, partly)


def evaluate_photos(
    pairs: Sequence[tuple[Path, Path | FileError]],
    ensemble: Ensemble,
    labels: LabelTable | None = None,
    batch_size: int = BATCH_SIZE,
    max_pixels: int = files.MAX_PIXELS,
    aligned: bool = False,
) -> Iterator[Outcome]:
    """Measures existing protected copies, and yields the outcome of each.

    Args:
      pairs: each an original and its protected copy, of the same size; an error instead of a copy
        is a failure.
      ensemble: the generators.
      labels: the attributes of the originals.
      batch_size: how many faces are measured at once.
      max_pixels: photos with more pixels than this are refused.
      aligned: whether the photos are face crops already.

    Raises:
      ValueError: a number is not positive.
    """
    check_positive(batch_size=batch_size, max_pixels=max_pixels)
    size = min(batch_size, max(1, len(pairs)))
    with Workers() as workers:
        for first in range(0, len(pairs), size):
            comparing: _Futures[_Made] = []
            for a, b in pairs[first : first + size]:
                if isinstance(b, FileError):
                    yield failed(a, b)
                    continue
                work = partial(_compare, a, b, ensemble, labels, max_pixels, aligned)
                comparing.append((a, workers.start(work, a, b)))
            made, failures = _results(comparing)
            yield from failures
            entries = _measured(made, ensemble, labels, size)
            for one, entry in zip(made, entries, strict=True):
                yield Outcome(one.source, "done", entry)


def draw_picture(
    original: Path, protected: Path, entry: Entry, ensemble: Ensemble, threshold: float
) -> bytes:
    """Draws the report on one photo, as a PNG file.

    Args:
      original: the photo.
      protected: its protected copy.
      entry: what the report says about it; the first square, the labels and L are taken from here.
      ensemble: the generators.
      threshold: the L above which an edit counts as spoiled.

    Raises:
      FileError: a file cannot be read.
    """
    before, after = read_photo(original).pixels, read_photo(protected).pixels
    square = Box(**entry["square"])
    pair = see_pair(before, after, square, ensemble.generators)
    panels = [
        _panel(generator, _title(generator, metadata), pair, entry)
        for generator, metadata in zip(ensemble.generators, ensemble.metadata, strict=True)
    ]
    drawn = picture.draw_report(before, after, square, panels, threshold, entry["psnr"])
    return encode(drawn)


def against(models: Sequence[Generator], config: Config) -> ProtectImages:
    """The attack on several models at once, in the form that ``Job.attack`` takes."""

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


def _protect_in_locked_folder(
    photos: Sequence[Path],
    job: Job,
    starting: Callable[[int], None] | None,
    partly: Partly | None,
) -> Iterator[Outcome]:
    """``protect_photos`` in a folder that no other run can write into."""
    ledger = open_ledger(job)
    todo: list[Task] = []
    for outcome in plan(photos, job, ledger):
        if isinstance(outcome, Task):
            todo.append(outcome)
        else:
            yield note(outcome, ledger)
    if todo:
        if starting is not None:
            starting(len(todo))
        size = _size_of_batches(len(photos if job.same_batches else todo), job)
        for outcome in _protect_batches(todo, size, job, ledger, partly):
            yield note(outcome, ledger)
    finish(job, ledger)


def _protect_batches(
    todo: Sequence[Task],
    size: int,
    job: Job,
    ledger: Ledger,
    partly: Partly | None,
) -> Iterator[Outcome]:
    """Attacks one batch after the other, while threads read the next and copy the one before.

    A batch is of up to ``size`` faces, of which a photo may have several: the last may have to wait
    for the next batch. A host that is itself the device has no time to spare during an attack:
    threads work between.
    """
    remaining, waiting = deque(todo), deque[_Seen]()
    meanwhile = not _host_is_device()
    copying: _Futures[_Made] = []
    workers = Workers()

    def faces() -> int:
        """How many faces are waiting for an attack."""
        return sum(len(one.canonical) for one in waiting)

    def start_reading() -> _Futures[_Seen]:
        """Starts reading as many photos as may fill a batch with the faces that are waiting."""
        room = max(0, size - faces())
        tasks = [remaining.popleft() for _ in range(min(room, len(remaining)))]
        return [(t.source, workers.start(partial(_see_photo, t, job), t.source)) for t in tasks]

    try:
        reading = start_reading()
        while reading or waiting:
            try:
                read, failures = _results(reading)
                waiting.extend(read)
                yield from failures
                if meanwhile and not remaining and not job.same_batches:
                    # These photos are the last, with more faces perhaps: full batches are faster.
                    devices = jax.local_device_count()
                    size = min(job.batch_size, max(size, -(-faces() // devices) * devices))
                batch = _take_batch(waiting, size)
                if meanwhile:
                    reading = start_reading()
                else:
                    release_memory()  # of the threads, before the attack reckons with what is free
                if batch:
                    _attack(batch, size, job)
                    last = batch[-1][0]
                    if last.canonical and partly is not None:
                        partly(last.task.source, len(last.perturbations), len(last.looks))
            except Exception:  # what the last attack made is kept even if this one fails
                yield from _finish_batch(copying, size, job, ledger)
                raise
            except GeneratorExit:
                _record_batch(copying, size, job, ledger)
                raise
            yield from _finish_batch(copying, size, job, ledger)
            copying = []
            _start_copying(copying, waiting, job, workers)
            if not meanwhile:
                reading = start_reading()
                yield from _finish_batch(copying, size, job, ledger)
                copying = []
        yield from _finish_batch(copying, size, job, ledger)
    finally:
        try:
            workers.close()
        finally:
            disk.discard(_staged(_finished(copying)))


def _size_of_batches(count: int, job: Job) -> int:
    """The size of the batches in which so many images are attacked.

    The last batch is padded, and on a CPU padding takes as long as images: batches of another size,
    perhaps one that its cores can share, take less time. A GPU or TPU has attacked the padding
    before it has compiled a program of another size.
    """
    most, cores = job.batch_size, jax.local_device_count()
    if job.same_batches or not _host_is_device():
        return min(count, most)
    alone = _equal_parts(count, most)
    if alone % cores == 0 or cores > most:
        return alone
    shared = cores * _equal_parts(-(-count // cores), most // cores)

    def attacked(size: int) -> int:
        return -(-count // size) * size

    pays = attacked(shared) < _SHARING * attacked(alone)
    return shared if pays and devices_for(shared) else alone


def _take_batch(waiting: Iterable[_Seen], size: int) -> list[tuple[_Seen, np.ndarray]]:
    """The first ``size`` canonical images of the photos, each with its photo, or all there are."""
    batch: list[tuple[_Seen, np.ndarray]] = []
    for one in waiting:
        while one.canonical and len(batch) < size:
            batch.append((one, one.canonical.popleft()))
    return batch


def _host_is_device() -> bool:
    return jax.default_backend() == "cpu"


def _finish_batch(
    copying: _Futures[_Made], size: int, job: Job, ledger: Ledger
) -> Iterator[Outcome]:
    """``_record_batch``; yields the outcomes, and raises an error that ends the run."""
    outcomes = _record_batch(copying, size, job, ledger)
    yield from outcomes
    for outcome in outcomes:
        if outcome.error is not None and disk.is_of_no_room(outcome.error):
            raise outcome.error  # the remaining photos would not fit either
    if not job.out.is_dir():
        raise FileError(job.out, "the folder is gone", "run again, or choose another --out")


def _record_batch(copying: _Futures[_Made], size: int, job: Job, ledger: Ledger) -> list[Outcome]:
    """Waits for the copies of a batch, measures them, and moves them into place."""
    made, outcomes = _results(copying)
    entries = _measured(made, job.ensemble, job.labels, _equal_parts(size, _MEASURED_AT_ONCE))
    kept: list[tuple[Entry, Staged]] = []
    for one, entry in zip(made, entries, strict=True):
        assert one.staged is not None
        try:
            _refuse_taken(one.staged.path, job)
        except FileError as error:
            disk.discard([one.staged])
            outcomes.append(failed(one.source, error))
        else:
            kept.append((entry, one.staged))
            outcomes.append(Outcome(one.source, "done", entry))
    record([entry for entry, _ in kept], [staged for _, staged in kept], job, ledger)
    return outcomes


def _start_copying(
    copying: _Futures[_Made], waiting: deque[_Seen], job: Job, workers: Workers
) -> None:
    """Adds the copies of the first photos, whose perturbations are all known, to ``copying``.

    One by one: should one not start, the others are known.
    """
    while waiting and len(waiting[0].perturbations) == len(waiting[0].looks):
        one = waiting.popleft()
        work = partial(_make_copy, one, job)
        copying.append((one.task.source, workers.start(work, one.task.source)))


def _results(futures: _Futures[T]) -> tuple[list[T], list[Outcome]]:
    """Waits for work on photos; what came of it, and the outcomes of photos where it failed."""
    results, failures = [], []
    for photo, future in futures:
        try:
            results.append(future.result())
        except FileError as error:
            failures.append(failed(photo, error))
    return results, failures


def _finished(futures: _Futures[T]) -> list[T]:
    """What came of the work that was done and did not fail."""
    done = (future for _, future in futures if not future.cancelled())
    return [future.result() for future in done if future.exception() is None]


def _see_photo(task: Task, job: Job) -> _Seen:
    photo = read_photo(task.source, job.max_pixels)
    looks = look(photo.pixels, job.aligned)
    canonical = deque(see(photo.pixels, one.square, job.canonical_size) for one in looks)
    return _Seen(task, photo.sha256, looks, canonical)


def _attack(batch: Sequence[tuple[_Seen, np.ndarray]], size: int, job: Job) -> None:
    """Gives the photos the perturbations of their canonical images, in units of [-1, 1]."""
    images = np.stack([image for _, image in batch])
    labels = _labels([one.task.source for one, _ in batch], job.labels)
    attack = job.attack or against(job.ensemble.generators, job.config)
    found = np.asarray(attack(job, images, labels, size))
    _check_found(attack, found, images)
    for (one, _), perturbation in zip(batch, found - images, strict=True):
        one.perturbations.append(perturbation)


def _check_found(attack: ProtectImages, found: np.ndarray, images: np.ndarray) -> None:
    """Raises ValueError unless what an attack gives are finite images like those it was given."""
    what = f"the attack {getattr(attack, '__name__', attack)} gives images"
    if found.shape != images.shape:
        raise ValueError(f"{what} {list(found.shape)}, not {list(images.shape)}")
    if not np.isfinite(found).all():
        raise ValueError(f"{what} that are not finite (NaN or infinite)")


def _computing_in(precision: str | None) -> AbstractContextManager[Any]:
    return (
        nullcontext() if precision is None else jax.default_matmul_precision(PRECISIONS[precision])
    )


def _labels(photos: Sequence[Path], table: LabelTable | None) -> Labels | None:
    return None if table is None else table.labels(photos)


def _make_copy(seen: _Seen, job: Job) -> _Made:
    """Writes a protected photo beside its final place, and reads it back."""
    source, target = seen.task.source, seen.task.target
    photo = read_photo(source, job.max_pixels)
    if photo.sha256 != seen.sha256:
        raise FileError(source, "it was changed meanwhile", "run again")
    _refuse_taken(target, job)
    staged = disk.stage(target, _protected_png(photo, seen, job))
    try:
        saved = read_photo(staged.temporary, job.max_pixels)
        made = _made(source, target.name, photo, saved, seen.looks, job.ensemble, seen.task.labels)
    except BaseException:
        disk.discard([staged])
        raise
    return dataclasses.replace(made, staged=staged)


def _made(
    source: Path,
    name: str,
    before: Photo,
    after: Photo,
    looks: Sequence[Look],
    ensemble: Ensemble,
    labels: dict[str, int] | None,
) -> _Made:
    """Compares a photo with its copy, of this name, in every square."""
    pairs = [
        see_pair(before.pixels, after.pixels, one.square, ensemble.generators) for one in looks
    ]
    entry = report.photo_entry(source.name, name, before, after.sha256, looks, pairs, labels)
    return _Made(source, entry, pairs)


def _refuse_taken(target: Path, job: Job) -> None:
    """Raises FileError if a file has appeared where a copy is to go, and must not be replaced."""
    if os.path.lexists(target) and not job.force:
        what = "it was made by another program meanwhile"
        raise FileError(target, what, "choose another --out, or overwrite with --force")


def _protected_png(photo: Photo, seen: _Seen, job: Job) -> bytes:
    squares = [one.square for one in seen.looks]
    pixels = write_back(photo.pixels, squares, seen.perturbations, job.config.epsilon)
    return files.encode_png(dataclasses.replace(photo, pixels=pixels))


def _staged(made: Sequence[_Made]) -> list[Staged]:
    return [one.staged for one in made if one.staged is not None]


def _compare(
    original: Path,
    copy: Path,
    ensemble: Ensemble,
    labels: LabelTable | None,
    max_pixels: int,
    aligned: bool,
) -> _Made:
    """Reads an original and an existing copy."""
    before, after = read_photo(original, max_pixels), read_photo(copy, max_pixels)
    if before.size != after.size:
        (h, w), (height, width) = before.size, after.size
        what = f"it has {width} x {height} pixels, {original.name} has {w} x {h}"
        raise FileError(copy, what, "only copies of the same size can be compared")
    looks, known = look(before.pixels, aligned), recorded_labels(original, labels)
    return _made(original, copy.name, before, after, looks, ensemble, known)


def _measured(
    made: Sequence[_Made], ensemble: Ensemble, labels: LabelTable | None, size: int
) -> list[Entry]:
    """The entries of photos and their copies, measured ``size`` at a time, with every edit's L."""
    if not made:
        return []
    values = measure(
        ensemble.generators,
        [pair for one in made for pair in one.pairs],
        _labels([one.source for one in made for _ in one.pairs], labels),
        size,
    )
    domains = {generator.name: generator.domains for generator in ensemble.generators}
    return report.with_losses([one.entry for one in made], values, domains)


def _equal_parts(size: int, most: int) -> int:
    """The size of the fewest equal parts of a batch of which none is larger than ``most``."""
    return -(-size // -(-size // most))


def _title(generator: Generator, metadata: Metadata) -> str:
    """A generator's title: its architecture's, unless the generator has a name of its own."""
    plain = generator.name == metadata.architecture in ARCHITECTURES
    name = ARCHITECTURES[metadata.architecture].title if plain else generator.name
    return f"{name}, {generator.image_size} x {generator.image_size} pixels"


def _panel(generator: Generator, title: str, pair: Pair, entry: Entry) -> picture.Panel:
    known, losses = entry["labels"], entry["models"][generator.name]
    labels = known and {name: np.array([label], np.int32) for name, label in known.items()}
    before, after = edits_of_pairs(generator, [pair], labels)
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
