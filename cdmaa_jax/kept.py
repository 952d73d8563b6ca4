"""A disk cache of traced programs: a process that finds its program there traces nothing.

JAX's persistent cache keeps compiled programs. To look one up, the program must first be traced and
lowered in Python, which for an attack takes longer than reading it. This cache keeps the lowered
program (``jax.export``), under a hash of everything that it depends on: the static arguments, the
shapes of the others, this package's source, and the libraries, backend and settings.

It is for the command line, where nothing else can change a program. Code that replaces parts of
the package at run time must not enable it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from cdmaa_jax import disk, processor

TRACED = "traced"
"""The folder of traced programs, in that of the compiled ones."""
PRIVATE = 0o700
"""Permissions of these folders: what is in them is run."""
_LOG = logging.getLogger(__name__)
_PACKAGE = Path(__file__).parent
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
_SETTINGS = ("jax_default_matmul_precision", "jax_enable_x64", "jax_default_prng_impl")
_DIGEST = hashlib.sha256().digest_size
_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([\w.-]+)'")
_LOCK = threading.Lock()
_folder: Path | None = None
_programs: dict[tuple[str, Any], Callable[..., Any]] = {}


@contextlib.contextmanager
def programs_in(folder: Path | None) -> Iterator[None]:
    """Keeps programs in a folder while in this context, in all threads; None keeps none."""
    global _folder
    if folder is not None:
        _sources()  # before the source can change, as it may while photos are read
    before, _folder = _folder, folder
    try:
        yield
    finally:
        _folder = before


@contextlib.contextmanager
def mended(folder: Path) -> Iterator[None]:
    """While in this context, removes compiled programs in a folder that JAX finds damaged.

    A full disk can truncate a program, for example. JAX warns of it, recompiles, and would leave it
    there. The warning names a function, not a file, so all programs of that function are removed.
    """
    show = warnings.showwarning

    def look(message: Warning | str, *where: Any, **rest: Any) -> None:
        found = _DAMAGED.match(str(message))
        if found is None:
            show(message, *where, **rest)
            return
        for entry in folder.glob(f"{found[1]}-*-cache"):
            with contextlib.suppress(OSError):
                entry.unlink()

    warnings.showwarning = look
    try:
        yield
    finally:
        warnings.showwarning = show


def program(
    function: Callable[..., Any],
    static: Sequence[Any],
    arguments: Any,
    compiler_options: dict[str, str],
) -> Callable[..., Any] | None:
    """``function(*static, *arguments)`` as a jitted function of the arguments' leaves.

    It returns a list of the result's leaves. Reads the kept program, or traces and keeps it.

    Args:
      function: of this package, by its name.
      static: what the program depends on: options, and records of this package.
      arguments: a tuple of pytrees of arrays; what is not an array in them, too, is of the program.
      compiler_options: of XLA.

    Returns:
      the function; None where nothing is kept, as on any device but a CPU, or where the program
      depends on what has no description that another process would know it by, someone's own
      function for example.
    """
    folder = _folder
    if folder is None or jax.default_backend() != "cpu":
        return None
    try:
        text = _describe([function, static]) + _describe(arguments, arrays=True)
    except _HasNoName:
        return None
    name = hashlib.sha256("\n".join([*_surroundings(), text]).encode()).hexdigest()
    key = name, tuple(compiler_options.items())
    with _LOCK:
        if key not in _programs:
            path = folder / TRACED / name
            exported = _read(path) or _trace(path, function, static, arguments)
            _programs[key] = jax.jit(exported.call, compiler_options=compiler_options)
        return _programs[key]


def _trace(
    path: Path, function: Callable[..., Any], static: Sequence[Any], arguments: Any
) -> export.Exported:
    leaves, tree = jax.tree.flatten(arguments)

    def of_leaves(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(function(*static, *jax.tree.unflatten(tree, leaves)))

    exported = export.export(jax.jit(of_leaves))(*leaves)
    data = bytes(exported.serialize())
    if _read_sources() != _sources():
        _LOG.warning("a traced program is not kept: the package was changed while it ran")
        return exported
    try:
        disk.make_folder(path.parent, PRIVATE)
        disk.write_whole(path, hashlib.sha256(data).digest() + data)
    except disk.FileError as error:
        _tell_unkept(path.parent, error.what)
    return export.deserialize(bytearray(data))  # as others do, to share XLA's cache entry


@functools.cache
def _tell_unkept(folder: Path, what: str) -> None:
    """Warns once that the programs of this process are not kept."""
    _LOG.warning("traced programs are not kept in %s: %s", folder, what)


def _read(path: Path) -> export.Exported | None:
    """The program in a file; None if it is missing or damaged.

    The file begins with a digest, since JAX does not check some parts until the program runs.
    """
    try:
        found = path.read_bytes()
        digest, data = found[:_DIGEST], found[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("it is damaged")
        return export.deserialize(bytearray(data))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damage can raise any exception
        _LOG.warning("a traced program cannot be read and is replaced: %s: %s", path, error)
        return None


def _surroundings() -> list[str]:
    """Everything that a program depends on besides its arguments."""
    environment = sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))
    )
    settings = [f"{name}={getattr(jax.config, name)}" for name in _SETTINGS]
    narrow = f"narrow={processor.is_x86_without_avx512()}"
    return [jax.default_backend(), narrow, *settings, *environment, *_sources()]


@functools.cache
def _sources() -> tuple[str, ...]:
    """``_read_sources`` as this process first found them."""
    return _read_sources()


def _read_sources() -> tuple[str, ...]:
    """The versions of the libraries that trace, and this package's source, as a digest."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode())
        digest.update(path.read_bytes())
    return (*(f"{name} {metadata.version(name)}" for name in _LIBRARIES), digest.hexdigest())


class _HasNoName(Exception):
    """A value has no description that is valid in other processes."""


def _describe(value: Any, arrays: bool = False) -> str:
    """A value as text that is the same in every process.

    With ``arrays``, an array is described by its shape, dtype and weak type, since its values are
    arguments; a function of this package by its name; anything else by its contents.

    Raises:
      _HasNoName: there is none.
    """

    def described(values: Iterable[Any]) -> str:
        return ",".join(_describe(value, arrays) for value in values)

    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or isinstance(value, bool | int | float | str):
        return f"{kind} {value!r}"
    if arrays and isinstance(value, jax.Array | np.ndarray | np.generic):
        weak = getattr(value, "weak_type", False)
        return f"array {value.shape} {value.dtype} {weak}"
    if isinstance(value, list | tuple):
        return f"{kind}({described(value)})"
    if isinstance(value, dict):
        return f"{kind}{{{described(value.items())}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_ours(type(value)):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return f"{kind}({described(fields)})"
    if isinstance(value, types.FunctionType) and _is_ours(value):
        return f"{value.__module__}.{value.__qualname__}"
    raise _HasNoName(kind)


def _is_ours(value: type | types.FunctionType) -> bool:
    """Whether a class or function belongs to this package and can be found by its name."""
    package = str(value.__module__).split(".")[0] == __name__.split(".")[0]
    return package and "<" not in value.__qualname__
