"""State dicts in files: PyTorch's zip and legacy formats, and safetensors. No code is executed."""

from __future__ import annotations

import os
import secrets
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from cdmaa_jax import disk
from converters.tables import ConversionError

_REFUSALS = ("GLOBAL", "Unsupported class", "Can only build", "Can only create")
"""PyTorch's messages on files that would call something; "Unsupported operand" means damage."""
_ZIP = b"PK\3\4"
_OF_PROGRAMS = "/constants.pkl"
"""The end of an entry's name that only TorchScript archives have."""


def read_file(path: Path) -> Any:
    """The contents of a file, tensors on the CPU.

    Raises:
      ConversionError: the file is missing, truncated, of another kind, or holds code.
      FileError: it is a pipe or a device.
    """
    try:
        if path.is_dir():
            raise ConversionError(f"{path}: it is a folder; give a file")
        if path.exists():
            disk.refuse_pipes(path)
        start = _start(path)
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        if start == _ZIP:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exception that follows says the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except (ConversionError, disk.FileError):
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConversionError(f"{path}: the file is missing") from error
    except PermissionError as error:
        raise ConversionError(f"{path}: may not be read") from error
    except Exception as error:  # each format raises its own types
        raise ConversionError(f"{path}: {_reason(path, error)}") from error


def find_state_dict(
    content: Any, part: str | None, official: Sequence[str], path: Path
) -> tuple[Mapping[Any, Any], str]:
    """The state dict in a file's content, and the name of the part it was under ("" if bare).

    If no ``part`` says which, it is looked for under the ``official`` names of parts.

    Raises:
      ConversionError: there is none, or there are several and no ``part`` says which.
    """
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path}: holds {type(content).__name__}, not a state dict")
    nested = [key for key, value in content.items() if isinstance(value, Mapping)]
    if part is not None:
        if part not in nested:
            raise ConversionError(f"{path}: has no part {part}; it has {_names(content)}")
        return content[part], part
    known = [key for key in official if key in nested]
    if len(known) > 1:
        raise ConversionError(f"{path}: has {' and '.join(known)}; choose one with --part")
    if known:
        return content[known[0]], known[0]
    if not content or nested:
        raise ConversionError(
            f"{path}: holds no state dict, bare or under {', '.join(official)}; "
            f"it has {_names(content)}, choose with --part"
        )
    return content, ""


def write_file(path: Path, tensors: Mapping[str, torch.Tensor], part: str) -> None:
    """Writes a state dict, under ``part`` unless "", whole or not at all.

    The suffix ``.safetensors`` chooses that format, which has no parts; any other is PyTorch's.

    Raises:
      ConversionError: the disk refuses.
      FileError: a pipe or a device is there.
    """
    with _replacing(path) as temporary:
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(dict(tensors), temporary)
        else:
            torch.save({part: dict(tensors)} if part else dict(tensors), temporary)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_ZIP))


def _check_archive(path: Path) -> None:
    """Checks a zip archive's list of entries, before PyTorch unpacks them.

    Raises:
      ConversionError: it is a TorchScript program, or its entries are larger unpacked.
      BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.filename.endswith(_OF_PROGRAMS) for entry in entries):
        what = "holds a TorchScript program, not a state dict"
        raise ConversionError(f"{path}: {what}; save its state_dict() with torch.save")
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        what = "is compressed, as PyTorch's files never are"
        raise ConversionError(f"{path}: {what}; save it again with torch.save")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read, {error.strerror or error}"
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text:
        return "does not fit into memory"
    try:
        start = _start(path)
    except OSError as again:
        return _reason(path, again)
    if path.suffix == ".safetensors":
        if os.fsencode(path).decode(errors="replace") != str(path):
            return "its path is not UTF-8 text; rename it"
        return "not a safetensors file, or a truncated one"
    if start[:2] != b"PK" and start[:1] != b"\x80":  # a zip archive, or a pickle
        return "not a PyTorch file (.pth, .pt, .ckpt) nor named .safetensors"
    if "Weights only load failed" in text and any(reason in text for reason in _REFUSALS):
        return "holds code or objects, not only tensors; nothing in it was run"
    return "a damaged or truncated PyTorch file; download it again"


def _names(content: Mapping[Any, Any]) -> str:
    names = [str(key) for key in content]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "nothing"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new sibling file that becomes ``path`` at the end, or is removed on any error."""
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp")
    try:
        if path.exists():
            disk.refuse_pipes(path, "choose another file")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # raises with a reason; PyTorch gives none
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else "perhaps the disk is full"
        if isinstance(error, FileExistsError):
            reason = "its folder is a file"
        raise ConversionError(f"{path}: cannot be written, {reason}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
