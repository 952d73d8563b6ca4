"""Named ensembles, and ensembles of a user's own checkpoint directories."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from cdmaa_jax.generators.checkpoint import (
    METADATA_FILE,
    CheckpointError,
    Metadata,
    arrays_digest,
    load_generator,
    read_metadata,
)
from cdmaa_jax.generators.registry import ARCHITECTURES
from cdmaa_jax.types import Generator

Names: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
DEFAULT = "demo"
FUNCTION = "function"
"""What stands for the architecture of a generator that is any JAX function."""
DEMONSTRATION = "demonstration weights"
"""What the metadata of the bundled generators state as their purpose."""
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / "bundled", _PACKAGE.parent / "checkpoints")  # in a wheel, in a checkout


class EnsembleError(ValueError):
    """No ensemble is named, or one that is unknown, empty or unreadable; a one-line message."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Generators that are attacked together.

    Attributes:
      name: its own, or the names of the directories or of the generators joined by ``+``.
      generators: in the order in which the attack takes them; their names are unique.
      metadata: one for each generator.
    """

    name: str
    generators: tuple[Generator, ...]
    metadata: tuple[Metadata, ...]


@dataclasses.dataclass(frozen=True)
class _NoConfig:
    """The configuration of a generator that is any JAX function: its name stands for it."""


def ensemble_of(generators: Generator | Sequence[Generator]) -> Ensemble:
    """An ensemble of one's own generators, which may be any JAX functions.

    Figures on disk are known by the generators' names, sizes, domains and arrays: the parameters
    and the condition vectors of unlabelled images. A generator whose ``apply``, ``view``,
    ``encode`` or use of labels changes therefore needs another name. With generators that were
    loaded, ``Ensemble(name, own.generators + loaded.generators, own.metadata + loaded.metadata)``.

    Args:
      generators: one or several, in the order in which the attack takes them.

    Raises:
      EnsembleError: there is none, or two have the same name.
    """
    several = (generators,) if isinstance(generators, Generator) else tuple(generators)
    names = [generator.name for generator in several]
    if not names:
        raise EnsembleError("an ensemble needs at least one generator")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise EnsembleError(f"two generators are named {repeated[0]}: give each its own name")
    return Ensemble("+".join(names), several, tuple(map(_metadata_of, several)))


def _metadata_of(generator: Generator) -> Metadata:
    return Metadata(
        name=generator.name,
        architecture=FUNCTION,
        config=_NoConfig(),
        domains=generator.domains,
        image_size=generator.image_size,
        dtype="float32",
        arrays_sha256=arrays_digest((generator.params, generator.conditions(None))),
    )


def is_for_demonstration(ensemble: Ensemble) -> bool:
    """Whether all generators of an ensemble are said to be for demonstration."""
    return all(one.extra.get("purpose") == DEMONSTRATION for one in ensemble.metadata)


def named_ensembles() -> dict[str, Path]:
    """The ensembles that come with the package: name to directory."""
    found: dict[str, Path] = {}
    for folder in _FOLDERS:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and _checkpoints_in(path):
                found.setdefault(path.name, path)
    return found


def ensemble_directories(names: Names) -> tuple[Path, ...]:
    """The checkpoint directories of an ensemble.

    Args:
      names: named ensembles, checkpoint directories, or directories of checkpoint directories; or
        one of these.

    Raises:
      EnsembleError: no name is given; or one is none of these, is of a folder without a generator,
        or cannot be read.
    """
    each = _each_of(names)
    if not each or not all(each):
        raise EnsembleError("an ensemble needs at least one generator, and each needs a name")
    return tuple(path for name in each for path in _directories(name))


def _each_of(names: Names) -> Sequence[str]:
    several = (names,) if isinstance(names, str | os.PathLike) else names or ()
    return [os.fspath(name or "") for name in several]


def read_ensemble_metadata(names: Names) -> tuple[Metadata, ...]:
    """The metadata of an ensemble, without loading it. Raises as ``load_ensemble``."""
    return tuple(read_metadata(path) for path in ensemble_directories(names))


def load_ensemble(names: Names = DEFAULT) -> Ensemble:
    """Loads the generators of an ensemble; repeated names are numbered.

    Args:
      names: as for ``ensemble_directories``.

    Raises:
      EnsembleError: as ``ensemble_directories``.
      CheckpointError: a directory is damaged or foreign.
    """
    paths = ensemble_directories(names)
    metadata = tuple(read_metadata(path) for path in paths)
    unique = _unique([record.name for record in metadata])
    generators = tuple(
        dataclasses.replace(load_generator(path), name=name)
        for path, name in zip(paths, unique, strict=True)
    )
    return Ensemble("+".join(Path(name).name for name in _each_of(names)), generators, metadata)


def _directories(name: str) -> tuple[Path, ...]:
    path = Path(name)
    if path.name == name and name in (bundled := named_ensembles()) and not _is_checkpoint(path):
        return _checkpoints_in(bundled[name])
    if _is_checkpoint(path):
        return (path,)
    if path.is_dir() and (inside := _checkpoints_in(path)):
        return inside
    if path.is_dir():
        raise EnsembleError(f"{name}: holds no generator; give a folder that cdmaa-convert wrote")
    if path.is_file():
        what = "it is a file, not a generator's folder"
        raise EnsembleError(f"{name}: {what}; what follows --ensemble belongs to it: give it last")
    known = ", ".join(named_ensembles()) or "none in this installation"
    raise EnsembleError(f"there is no ensemble and no folder {name!r}; named ensembles: {known}")


def _is_checkpoint(path: Path) -> bool:
    try:
        return (path / METADATA_FILE).is_file()
    except OSError as error:
        raise EnsembleError(f"{path}: cannot be read, {error.strerror}") from error


def _checkpoints_in(path: Path) -> tuple[Path, ...]:
    """The checkpoint directories in a directory, in the architectures' order, then by name.

    Hidden ones, left by a killed conversion, are skipped.
    """
    order = list(ARCHITECTURES)
    inside = [child for child in _inside(path) if _is_checkpoint(child)]

    def rank(child: Path) -> tuple[int, str]:
        try:
            return order.index(read_metadata(child).architecture), child.name
        except CheckpointError:  # loading reports it with its reason
            return len(order), child.name

    return tuple(sorted(inside, key=rank))


def _inside(path: Path) -> list[Path]:
    try:
        return [child for child in path.iterdir() if not child.name.startswith(".")]
    except OSError as error:
        raise EnsembleError(f"{path}: cannot be read, {error.strerror}") from error


def _unique(names: Sequence[str]) -> list[str]:
    """The names, repeated ones numbered: a, b, a-2."""
    taken: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.append(candidate)
    return taken
