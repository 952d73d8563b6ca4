"""The files of ``cdmaa demo``, which replace no other files unless ``--force`` is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdmaa_jax.disk import FileError
    from cdmaa_jax.generators.ensembles import Ensemble
    from cdmaa_jax.photos import Entry, Job

PICTURE = "report.png"
_ORIGINAL = "original.png"
_PROTECTED = "protected"


def write_original(out: Path, force: bool) -> Path:
    """Makes the folder, writes the demo's photo into it, and returns the photo's path.

    Raises:
      FileError: a file that is not the demo's is in the way, another run is writing there, or
        nothing can be written there.
    """
    from cdmaa_jax import disk, photos

    disk.make_folder(out)
    original, report = out / _ORIGINAL, out / photos.REPORT
    with disk.locked(out):
        for path in (report, out / PICTURE):
            if path.exists() and not force and not _is_of_demo(report):
                raise _in_the_way(path)
        _write_portrait(original, force)
    return original


def make_job(original: Path, ensemble: Ensemble, force: bool) -> Job:
    """The demo's job: it protects the photo with the defaults, into the photo's folder."""
    from cdmaa_jax import photos
    from cdmaa_jax.attack.config import Config

    return photos.Job(
        ensemble=ensemble,
        out=original.parent,
        config=Config(),
        canonical_size=photos.default_canonical_size(ensemble),
        force=force,
        names={original: _PROTECTED},
    )


def write_picture(job: Job, entry: Entry) -> None:
    """Draws the picture of the report's entry for the photo.

    Raises:
      FileError: a photo cannot be read, or the picture cannot be written.
    """
    from cdmaa_jax import disk, photos

    original, protected = job.out / _ORIGINAL, job.out / f"{_PROTECTED}.png"
    drawn = photos.draw_picture(original, protected, entry, job.ensemble, job.config.threshold)
    disk.write_whole(job.out / PICTURE, drawn)


def _write_portrait(path: Path, force: bool) -> None:
    """Writes the portrait of Eileen Collins that comes with scikit-image (public domain, NASA).

    Without its lower part, where the detector takes the shadow in a helmet for a second face.
    """
    import skimage.data

    from cdmaa_jax import disk
    from cdmaa_jax.images import files

    data = files.encode_png(files.Photo(skimage.data.astronaut()[:400]))
    if path.exists() and disk.read_bytes(path) == data:
        return
    if path.exists() and not force:
        raise _in_the_way(path)
    disk.write_whole(path, data)


def _is_of_demo(report: Path) -> bool:
    """Whether a report covers the demo's photo, so that the picture beside it is the demo's too."""
    from cdmaa_jax.disk import FileError
    from cdmaa_jax.evaluation.report import read_report

    try:
        found = read_report(report)
    except FileError:
        return False
    return any(entry["file"] == _ORIGINAL for entry in (found or {}).get("photos", ()))


def _in_the_way(path: Path) -> FileError:
    from cdmaa_jax.disk import FileError

    return FileError(path, "it exists", "choose another --out, or overwrite with --force")
