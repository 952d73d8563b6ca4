"""Which files are photos, and which protected copy belongs to which original."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError, real_path
from cdmaa_jax.evaluation import report
from cdmaa_jax.images import files
from cdmaa_jax.images.labels import composed
from cdmaa_jax.photos.jobs import Entry
from cdmaa_jax.photos.ledger import REPORT, is_as_recorded


def find_photos(paths: Iterable[Path], out: Path | None = None) -> list[Path]:
    """The photos that files and folders name, each once, in the order given; in folders, by name.

    A folder stands for the pictures directly in it, which are recognized by their suffix.

    Args:
      paths: files, which are taken whatever their suffix is, and folders.
      out: the folder to write into; copies that its report lists are left out of folders and, if
        they are as they were written, of files.

    Raises:
      FileError: a folder holds no picture or cannot be read, or there are only copies.
    """
    recorded = _recorded(out) if out else []
    made = {real_path(out / entry["protected"]): entry for entry in recorded} if out else {}
    found: dict[Path, Path] = {}
    copies_alone = None
    for path in paths:
        if os.path.isdir(path):  # what cannot be looked at counts as a file; reading it tells why
            inside = [photo for photo in files.pictures_in(path) if real_path(photo) not in made]
            copies_alone = path if not inside else copies_alone
        else:
            is_copy = _is_copy(path, made.get(real_path(path)))
            inside = [] if is_copy else [path]
            copies_alone = path if is_copy else copies_alone
        for photo in inside:
            found.setdefault(real_path(photo), photo)
    if copies_alone is not None and not found:
        is_folder = os.path.isdir(copies_alone)
        what = "it holds nothing but protected copies" if is_folder else "it is a protected copy"
        raise FileError(copies_alone, f"{what}, by {REPORT}", "give the original photos")
    return list(found.values())


def _is_copy(path: Path, entry: Entry | None) -> bool:
    """Whether a file is the copy that an entry records; one that cannot be read counts as none."""
    try:
        return entry is not None and is_as_recorded(path, entry)
    except FileError:  # it is raised again, and reported, when the photo is read
        return False


def match_photos(originals: Path, protected: Path) -> list[tuple[Path, Path | FileError]]:
    """The originals, each with its protected copy, or with the reason why that is not known.

    Two files are a pair. In folders, a report of this program says which files belong together;
    without one, files whose names differ only in the suffix do.

    Raises:
      FileError: a file or folder is missing, or no original has a copy.
    """
    for path in (originals, protected):
        disk.refuse_pipes(path)
    if originals.is_file() and protected.is_file():
        return [(originals, protected)]
    known = _copies_by_original(protected) if protected.is_dir() else {}
    copies = _by_stem(find_photos([protected]))
    pairs = [
        (original, _copy_of(original, protected, known, copies))
        for original in find_photos([originals], protected if protected.is_dir() else None)
    ]
    if all(copy is None for _, copy in pairs):
        of = originals if originals.is_file() else f"a photo in {originals}"
        remedy = f"copies are known by {REPORT}, or by names that are equal but for the suffix"
        raise FileError(protected, f"it has no copy of {of}", remedy)
    return [(original, copy or _without_copy(original)) for original, copy in pairs]


def _without_copy(original: Path) -> FileError:
    return FileError(original, "there is no protected copy of it", "protect it first")


def _recorded(folder: Path) -> list[Entry]:
    """The entries of the copies that a folder's report lists, if there is one."""
    try:
        found = report.read_report(folder / REPORT)
    except FileError:
        return []
    return [] if found is None else [*found[report.EARLIER], *found["photos"]]


def _copies_by_original(folder: Path) -> dict[tuple[str | None, str], str]:
    """The names of the copies that a folder's report lists, by original.

    An original is keyed by its name and SHA-256 and, in case it was renamed, by None and SHA-256.
    """
    return {
        (name, entry["sha256"]): entry["protected"]
        for entry in _recorded(folder)
        for name in (entry["file"], None)
    }


def _by_stem(paths: Sequence[Path]) -> dict[str, list[Path]]:
    """The files by their names without suffix, with composed accents."""
    stems: dict[str, list[Path]] = {}
    for path in paths:
        stems.setdefault(composed(path.stem), []).append(path)
    return stems


def _copy_of(
    original: Path,
    protected: Path,
    known: Mapping[tuple[str | None, str], str],
    copies: Mapping[str, list[Path]],
) -> Path | FileError | None:
    """The copy of one original: the one that the report lists, or the one with the same name.

    An error if several have its name; None if none has.
    """
    recorded = _recorded_copy(original, known)
    if recorded is not None and os.path.exists(protected / recorded):
        return protected / recorded
    named = copies.get(composed(original.stem), [])
    candidates = [path for path in named if not _is_same(path, original)]
    if len(candidates) > 1:
        names = ", ".join(path.name for path in candidates)
        remedy = "name the photo and one of them: cdmaa evaluate PHOTO COPY"
        return FileError(original, f"several files could be its copy, {names}", remedy)
    return candidates[0] if candidates else None


def _recorded_copy(original: Path, known: Mapping[tuple[str | None, str], str]) -> str | None:
    """The name of the copy that the report lists for an original, if it lists one."""
    if not known:
        return None
    try:
        content = disk.sha256_of(original)
    except FileError:  # it is raised again, and reported, when the photo is measured
        return None
    return known.get((original.name, content), known.get((None, content)))


def _is_same(path: Path, other: Path) -> bool:
    return real_path(path) == real_path(other)
