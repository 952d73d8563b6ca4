"""A generator on disk: a directory with ``metadata.json`` and an Orbax checkpoint of its arrays.

The directory holds no absolute path, no device and no code, and nothing is written to it again: it
may be read-only, copied between machines or kept in git.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdmaa_jax.allocator import frugal
from cdmaa_jax.generators.registry import ARCHITECTURES, Architecture, make_generator
from cdmaa_jax.types import Generator, Params

FORMAT = "cdmaa-jax generator"
FORMAT_VERSION = 1
METADATA_FILE = "metadata.json"
ARRAYS_DIRECTORY = "arrays"
DTYPES = ("float32", "float16")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LARGEST, _DEEPEST = 4096, 128
"""Largest number in a configuration, and largest count of layers: real ones stay far below."""
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: type(v) is int,
    "bool": lambda v: type(v) is bool,
    "str": lambda v: type(v) is str,
    "tuple[str, ...]": lambda v: type(v) is list and all(type(e) is str for e in v),
}


class CheckpointError(ValueError):
    """A generator cannot be written, or a directory holds no complete one; a one-line message."""


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The contents of a generator's ``metadata.json``.

    Attributes:
      name: what reports call the generator.
      architecture: a key of ``registry.ARCHITECTURES``, or ``ensembles.FUNCTION``.
      config: that architecture's ``Config``.
      domains: names of the K edits.
      image_size: the native height and width in pixels.
      dtype: how the arrays are stored; they always load as float32.
      arrays_sha256: of the names, shapes and values of all arrays, ``arrays_digest``.
      source_sha256: of the file that the arrays were converted from, or None.
      extra: anything else that a program reads from JSON.
      files: the SHA-256 of each file under ``arrays/``.
    """

    name: str
    architecture: str
    config: Any
    domains: tuple[str, ...]
    image_size: int
    dtype: str
    arrays_sha256: str
    source_sha256: str | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)


def save_generator(
    directory: str | os.PathLike[str],
    arch: str,
    config: Any,
    params: Params,
    *,
    name: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    source_sha256: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Metadata:
    """Writes a generator to ``directory``, whole or not at all.

    Args:
      directory: it must not exist, or be empty, unless ``overwrite``.
      arch: a key of ``registry.ARCHITECTURES``.
      config: that architecture's ``Config``.
      params: a nested dict of arrays; keys and shapes as ``registry.init_params`` gives them.
      name: what reports call the generator; the architecture's name if None.
      metadata: anything JSON can hold, such as a description.
      source_sha256: of the file that the arrays were converted from.
      dtype: "float32", or "float16" for half the size.
      overwrite: replaces a generator that is there; never anything else.

    Raises:
      CheckpointError: the directory is taken, the parameters do not fit or are not finite, the
        metadata are not JSON, or the disk refuses.
    """
    target = Path(directory)
    check_target(target, overwrite)
    arrays = _stored(target, params, dtype)
    try:
        generator = make_generator(arch, config, params, name)
    except ValueError as error:
        raise CheckpointError(f"{target}: not written, {error}") from error
    record = Metadata(
        name=generator.name,
        architecture=arch,
        config=config,
        domains=generator.domains,
        image_size=generator.image_size,
        dtype=dtype,
        arrays_sha256=arrays_digest(arrays),
        source_sha256=source_sha256,
        extra=dict(metadata or {}),
    )
    _check_readable(target, record)  # before anything is written
    with _refusals(target), _replacing(target) as temporary:
        _write_arrays(temporary / ARRAYS_DIRECTORY, arrays)
        record = dataclasses.replace(record, files=_hashes(temporary / ARRAYS_DIRECTORY))
        (temporary / METADATA_FILE).write_text(_to_json(target, record), encoding="utf-8")
    return record


def check_target(directory: str | os.PathLike[str], overwrite: bool) -> None:
    """Checks that ``save_generator`` would write to ``directory``, before long work.

    Raises:
      CheckpointError: the directory is taken, or its path is not UTF-8.
    """
    target = Path(directory)
    with _refusals(target):
        _check_target(target, overwrite)


def load_generator(directory: str | os.PathLike[str]) -> Generator:
    """The generator in ``directory``, with float32 parameters on the default device.

    Raises:
      CheckpointError: the directory is missing, foreign, of another format version, or damaged.
    """
    record, params = load_params(directory)
    try:
        # Nothing else holds these arrays, so they need not be copied, nor a copy compiled.
        own = jax.device_put(params)
        return make_generator(record.architecture, record.config, own, record.name)
    except jax.errors.JaxRuntimeError as error:
        reason = _one_line(error)
        raise CheckpointError(f"{directory}: the device does not take it, {reason}") from error
    except Exception as error:
        raise CheckpointError(
            f"{directory}: the arrays do not fit the configuration in {METADATA_FILE} "
            f"({_one_line(error)}); copy or convert the generator again"
        ) from error


def load_params(directory: str | os.PathLike[str]) -> tuple[Metadata, Params]:
    """The metadata and the parameters in ``directory``, a nested dict of float32 NumPy arrays.

    Raises:
      CheckpointError: as ``load_generator``.
    """
    record = read_metadata(directory)
    arrays = _read_arrays(Path(directory), record.files)
    if arrays_digest(arrays) != record.arrays_sha256:
        raise CheckpointError(
            f"{directory}: the arrays are not those that {METADATA_FILE} describes; "
            "copy or convert the generator again"
        )
    return record, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), _with_indices(arrays))


def read_metadata(directory: str | os.PathLike[str]) -> Metadata:
    """Reads and checks ``metadata.json`` in ``directory``.

    Raises:
      CheckpointError: the directory is missing, foreign, or of another format version.
    """
    path = Path(directory)
    fields = _read_json(path)
    if fields.get("format") != FORMAT:
        raise CheckpointError(_foreign(path))
    if fields.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {fields.get('format_version')!r} is not {FORMAT_VERSION}; "
            "update cdmaa-jax, or convert the generator again"
        )
    try:
        return _from_json(fields)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{path}: {METADATA_FILE} is damaged, {_one_line(reason)}; "
            "copy or convert the generator again"
        ) from error


def _to_json(target: Path, record: Metadata) -> str:
    fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(record)}
    try:
        return json.dumps(fields, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{target}: not written, metadata must be JSON: {_one_line(error)}"
        ) from error


def _check_readable(target: Path, record: Metadata) -> None:
    """Raises CheckpointError if the record could not be read back."""
    text = _to_json(target, record)
    try:
        _from_json(json.loads(text))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{target}: not written, {_one_line(error)}") from error


def _from_json(fields: Mapping[str, Any]) -> Metadata:
    name = fields["architecture"]
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; there are {', '.join(ARCHITECTURES)}")
    entry = ARCHITECTURES[name]
    config = _config_from_json(entry, fields["config"])
    record = Metadata(
        name=fields["name"],
        architecture=name,
        config=config,
        domains=tuple(fields["domains"]),
        image_size=fields["image_size"],
        dtype=fields["dtype"],
        arrays_sha256=fields["arrays_sha256"],
        source_sha256=fields["source_sha256"],
        extra=dict(fields["extra"]),
        files=dict(fields["files"]),
    )
    if (record.domains, record.image_size) != (entry.domains(config), config.image_size):
        raise ValueError("domains and image_size are not those of the configuration")
    for text in (record.name, *record.domains):
        if not isinstance(text, str) or not text.isprintable():
            raise ValueError(f"{text!r} is no printable name")
    return record


def _config_from_json(entry: Architecture, fields: Mapping[str, Any]) -> Any:
    """A ``Config`` from exactly its own fields, each of the right type."""
    if not isinstance(fields, dict):
        raise TypeError("config is not an object")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(entry.config)}
    for key in fields.keys() - kinds.keys():
        raise ValueError(f"config has the field {key!r}, which {entry.title} does not have")
    for key, kind in kinds.items():
        if key not in fields:
            raise ValueError(f"config lacks the field {key!r}")
        if not _CHECKS[kind](fields[key]):
            raise TypeError(f"the field {key!r} of config is {fields[key]!r}, not {kind}")
        most = _DEEPEST if key.endswith(("blocks", "layers")) else _LARGEST
        if kind == "int" and not 0 <= fields[key] <= most:
            raise ValueError(f"the field {key!r} of config is not from 0 to {most}")
    return entry.config(
        **{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such folder")
        if not (path / METADATA_FILE).is_file():
            raise CheckpointError(_foreign(path))
        content = (path / METADATA_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(_unreadable(path, error)) from error
    try:
        fields = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: {METADATA_FILE} is damaged, {_one_line(error)}; "
            "copy or convert the generator again"
        ) from error
    return fields if isinstance(fields, dict) else {}


def _foreign(path: Path) -> str:
    return (
        f"{path}: not a generator's folder; give one that cdmaa-convert wrote "
        f"(it has {METADATA_FILE} and {ARRAYS_DIRECTORY}/)"
    )


def _stored(target: Path, params: Params, dtype: str) -> Params:
    """The parameters as they are stored: NumPy arrays of ``dtype`` under string keys."""
    if dtype not in DTYPES:
        raise CheckpointError(f"{target}: not written, dtype must be one of {', '.join(DTYPES)}")

    def convert(path: Any, leaf: Any) -> np.ndarray:
        with np.errstate(over="ignore"):
            array = np.asarray(leaf).astype(dtype)
        if not np.isfinite(array).all():
            key = jax.tree_util.keystr(path)
            raise CheckpointError(f"{target}: not written, {key} is not finite in {dtype}")
        return array

    return _with_names(jax.tree_util.tree_map_with_path(convert, params))


def _with_names(tree: Any) -> Any:
    """The nested dict with string keys, as Orbax stores them."""
    if not isinstance(tree, Mapping):
        return tree
    return {str(key): _with_names(value) for key, value in tree.items()}


def _with_indices(tree: Any) -> Any:
    """The nested dict with list indices as integers again."""
    if not isinstance(tree, Mapping):
        return tree
    return {
        int(key) if key.isdecimal() else key: _with_indices(value) for key, value in tree.items()
    }


def arrays_digest(arrays: Params) -> str:
    """The SHA-256 of the names, types, shapes and values of a pytree's arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, arrays)):
        little = np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("<"))
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype.name} {leaf.shape}\n".encode())
        digest.update(little.reshape(-1).view(np.uint8).data)  # bfloat16 has no buffer of its own
    return digest.hexdigest()


def _write_arrays(path: Path, arrays: Params) -> None:
    import orbax.checkpoint as ocp  # takes a second; only file access needs it

    _check_room(path.parent, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
    try:
        with contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
            checkpointer.save(path.absolute(), arrays)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Orbax and TensorStore raise their own types
        raise OSError(f"Orbax fails with {type(error).__name__}: {_one_line(error)}") from error
    (path / "commit_success.txt").unlink(missing_ok=True)  # holds the absolute path; never read


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError unless a folder takes so many bytes.

    If Orbax finds that out, its threads print tracebacks, and may leave files behind.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise


def _hashes(path: Path) -> dict[str, str]:
    """The SHA-256 of every file under ``path``, by relative path."""
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return {name: _sha256(path / name) for name in names}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_arrays(directory: Path, files: Mapping[str, str]) -> Params:
    import orbax.checkpoint as ocp

    _check_text(directory, directory.absolute())
    # Orbax would read damaged files too, but leaves tasks running that print warnings later.
    try:
        is_whole = files.items() <= _hashes(directory / ARRAYS_DIRECTORY).items()
    except OSError as error:
        raise CheckpointError(_unreadable(directory, error)) from error
    if not is_whole:
        raise CheckpointError(_damaged(directory))
    try:
        with frugal(), contextlib.closing(ocp.PyTreeCheckpointer()) as checkpointer:
            return checkpointer.restore((directory / ARRAYS_DIRECTORY).absolute())
    except Exception as error:  # Orbax and TensorStore raise their own types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        what = f"{ARRAYS_DIRECTORY}/ is as it was written, but cannot be read: {lines[0]}"
        raise CheckpointError(f"{directory}: {what}") from error


def _damaged(directory: Path) -> str:
    again = "copy or convert the generator again"
    return f"{directory}: {ARRAYS_DIRECTORY}/ is missing or damaged; {again}"


def _unreadable(directory: Path, error: OSError) -> str:
    return f"{directory}: cannot be read, {error.strerror}"


def _check_target(target: Path, overwrite: bool) -> None:
    _check_text(target, _real(target))
    if not os.path.lexists(target):
        return
    if _real(target) == Path.cwd():
        raise CheckpointError(f"{target}: is the folder that this runs in; choose another folder")
    if target.is_dir() and not any(target.iterdir()):
        return
    if not _is_ours(target):
        raise CheckpointError(f"{target}: exists and is not a generator; choose another folder")
    ours = {METADATA_FILE, ARRAYS_DIRECTORY}
    if others := sorted(path.name for path in target.iterdir() if path.name not in ours):
        what = f"holds {others[0]} beside a generator"
        raise CheckpointError(f"{target}: {what}; move that elsewhere or choose another folder")
    if not overwrite:
        what = "choose another folder, or replace it (overwrite=True; cdmaa-convert --force)"
        raise CheckpointError(f"{target}: exists; {what}")


def _check_text(directory: Path, path: Path) -> None:
    """Checks that Orbax, which takes UTF-8 alone, would take the path of a directory."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        what = "its path is not UTF-8 text; rename it, or choose another folder"
        raise CheckpointError(f"{directory}: {what}") from error


def _real(path: Path) -> Path:
    """The path with all links resolved, as far as they do not lead back to themselves."""
    return Path(os.path.realpath(path))


def _is_ours(directory: Path) -> bool:
    """Whether a directory holds a generator's metadata, of any format version."""
    try:
        return _read_json(directory).get("format") == FORMAT
    except CheckpointError:
        return False


@contextlib.contextmanager
def _refusals(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or _one_line(error)
        if isinstance(error, FileExistsError):
            reason = "its folder is a file, or a link that leads nowhere"
        raise CheckpointError(f"{target}: cannot be written, {reason}") from error


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A new sibling directory that becomes ``target`` at the end, or is removed on any error.

    The old directory is removed last, once the new one is in place. If ``target`` is a link, the
    directory that it points to is replaced.
    """
    target = _real(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
