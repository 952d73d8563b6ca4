"""From a PyTorch file to a checkpoint and back, in one call each."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from cdmaa_jax import disk
from cdmaa_jax.generators.checkpoint import Metadata, load_params, save_generator
from cdmaa_jax.generators.registry import architecture, graph_of
from cdmaa_jax.types import Params
from converters import attgan, cyclegan, engine, files, pix2pix, stargan, stgan, ugatit
from converters.tables import ConversionError, Given, Ignored

TABLES: dict[str, ModuleType] = {
    "stargan": stargan,
    "attgan": attgan,
    "stgan": stgan,
    "ugatit": ugatit,
    "cyclegan": cyclegan,
    "pix2pix": pix2pix,
}
PARTS = tuple(part for table in TABLES.values() for part in table.PARTS)
"""The keys under which official files have a state dict."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """The converted contents of a file.

    Attributes:
      config: the configuration, read from the tensors and from what was given.
      params: a nested dict of float32 NumPy arrays.
      part: where in the file the state dict was, "" if it was bare.
      ignored: keys of the tensors that no output depends on.
      source_sha256: of the file.
    """

    config: Any
    params: Params
    part: str
    ignored: tuple[str, ...]
    source_sha256: str


def read(
    arch: str,
    file: str | os.PathLike[str],
    given: Given = Given(),  # noqa: B008 - frozen
    part: str | None = None,
) -> Converted:
    """Reads the generator in a PyTorch or safetensors file.

    Args:
      arch: a key of ``TABLES``.
      file: its name ends in ``.safetensors``, or it is in PyTorch's zip or legacy format.
      given: what the tensors cannot tell.
      part: the key under which the state dict is, when the file has several.

    Raises:
      ConversionError: anything in the file is not as the architecture's table says.
      FileError: the file is a pipe or a device, or cannot be read once more.
    """
    path = Path(file)
    tensors, found = files.find_state_dict(files.read_file(path), part, PARTS, path)
    given = _with_direction(arch, given, found)
    try:
        config, params, ignored = from_state_dict(arch, tensors, given)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error
    return Converted(config, params, found, ignored, disk.sha256_of(path))


def convert(
    arch: str,
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    given: Given = Given(),  # noqa: B008 - frozen
    part: str | None = None,
    **options: Any,
) -> tuple[Converted, Metadata]:
    """Reads a file as ``read`` does, and writes it as ``save_generator`` does with ``options``.

    Raises:
      ConversionError, FileError: as ``read``.
      CheckpointError: as ``save_generator``.
    """
    found = read(arch, file, given, part)
    source = found.source_sha256
    record = save_generator(out, arch, found.config, found.params, source_sha256=source, **options)
    return found, record


def from_state_dict(
    arch: str,
    tensors: Mapping[Any, Any],
    given: Given = Given(),  # noqa: B008 - frozen
) -> tuple[Any, Params, tuple[str, ...]]:
    """The configuration, the parameters and the ignored keys of a state dict.

    Raises:
      ConversionError: a tensor is missing, unexpected, there twice, of a wrong shape, not of floats
        or not finite, or the configuration needs an answer; the message names the key or option.
    """
    source = TABLES[arch]
    stripped = engine.strip_module(tensors)
    engine.check_tensors(stripped)
    shapes = {key: tuple(tensor.shape) for key, tensor in stripped.items()}
    _check_signature(arch, shapes)
    config = source.infer(shapes, given)
    _check_given(config, given)
    table = source.table(config)
    expected = graph_of(arch, config)[1]
    params = engine.from_torch(table, expected, stripped, source.SIGNATURE)
    ignored = tuple(r.key for r in table if isinstance(r, Ignored) and r.key in stripped)
    return config, params, ignored


def to_state_dict(arch: str, config: Any, params: Params) -> dict[str, torch.Tensor]:
    """The official module's state dict, for ``load_state_dict(strict=True)``.

    Tensors that were converted from float32 are equal bit for bit; ignored ones get a module's
    initial values.
    """
    return engine.to_torch(TABLES[arch].table(config), params)


def write(
    arch: str,
    directory: str | os.PathLike[str],
    file: str | os.PathLike[str],
    part: str | None = None,
    overwrite: bool = False,
) -> str:
    """Writes a checkpoint as a file for the official code; returns the part it is under.

    Args:
      arch: a key of ``TABLES``; the checkpoint must be of it.
      directory: the checkpoint.
      file: written as safetensors if it ends so, otherwise as PyTorch's zip format.
      part: the key to put the state dict under; by default where the official code looks.
      overwrite: replaces a file of tensors that is there; never anything else.

    Raises:
      CheckpointError: the directory is not a whole checkpoint.
      ConversionError: it is of another architecture, or does not say its direction; the file is
        there or cannot be written; or a part is given for a format without any.
    """
    path = Path(file)
    _check_target(path, overwrite)
    record, params = load_params(directory)
    if record.architecture != arch:
        raise ConversionError(f"{directory}: holds {record.architecture}, not {arch}")
    bare = path.suffix == ".safetensors"  # a format without parts
    if bare and part:
        raise ConversionError(f"{path}: safetensors have no parts; leave {part} out, or write .pth")
    place = part or ""
    if part is None and not bare:
        place = _official_part(Path(directory), arch, record.config)
    files.write_file(path, to_state_dict(arch, record.config, params), place)
    return place


def _check_target(path: Path, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.is_dir():
        raise ConversionError(f"{path}: is a folder; choose another file")
    if not overwrite:
        raise ConversionError(f"{path}: exists; choose another file, or replace it (--force)")
    try:
        files.read_file(path)
    except ConversionError as error:
        what = "exists and is no file of tensors"
        raise ConversionError(f"{path}: {what}; choose another file") from error


def _official_part(directory: Path, arch: str, config: Any) -> str:
    parts = TABLES[arch].PARTS
    named = f"gen{getattr(config, 'domain', '')}"
    if named in parts:
        return named
    if len(parts) > 1:
        what = f"does not say its direction; give --part {' or '.join(parts)}"
        raise ConversionError(f"{directory}: {what}")
    return (*parts, "")[0]


def _with_direction(arch: str, given: Given, part: str) -> Given:
    """Names U-GAT-IT's one domain after its direction, unless it was given a name."""
    if arch != "ugatit" or part not in TABLES[arch].PARTS or given.attributes:
        return given
    return dataclasses.replace(given, attributes=(part.removeprefix("gen"),))


def _check_signature(arch: str, shapes: Mapping[str, Any]) -> None:
    signature = TABLES[arch].SIGNATURE
    if signature in shapes:
        return
    other = [name for name, source in TABLES.items() if source.SIGNATURE in shapes]
    hint = f"; it looks like {architecture(other[0]).title}: {other[0]}" if other else ""
    raise ConversionError(f"tensor {signature} is missing{hint}")


def _check_given(config: Any, given: Given) -> None:
    """Checks that the given options agree with the tensors."""
    for field in ("image_size", "shortcut_layers", "inject_layers", "padding", "statistics"):
        value = getattr(given, field)
        option = "--" + field.replace("_", "-")
        if value is None:
            continue
        if not hasattr(config, field):
            raise ConversionError(f"{option} does not apply to this architecture")
        if getattr(config, field) != value:
            raise ConversionError(
                f"{option} is {value}, but the tensors say {getattr(config, field)}"
            )
