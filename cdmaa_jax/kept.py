"""Programs that were traced before, kept on disk: a process that finds its own traces nothing.

JAX's persistent cache keeps what XLA makes of a program. To find it there the program has to be
traced and lowered first, in Python, which for an attack takes longer than reading it. What is kept
here is the lowered program (``jax.export``), under a name made of all that it depends on: the
arguments that are part of it, the shapes of the others, this package's source, and what computes.

It is for the command line, where nothing but these can change a program. Whoever replaces parts of
the package while it runs must not turn it on.
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
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from cdmaa_jax import disk, processor

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
    """Within, in all threads, programs are kept in a folder; with None they are not kept."""
    global _folder
    before, _folder = _folder, folder
    try:
        yield
    finally:
        _folder = before


@contextlib.contextmanager
def mended(folder: Path) -> Iterator[None]:
    """Within, what JAX finds damaged among the compiled programs in a folder is removed.

    A full disk cuts a program short, for example. JAX warns of it, compiles anew, and would leave
    it there. It names no file, but a function; all programs of that are removed.
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
        text = _describe([function, static, arguments])
    except _HasNoName:
        return None
    name = hashlib.sha256("\n".join([*_surroundings(), text]).encode()).hexdigest()
    key = name, tuple(compiler_options.items())
    with _LOCK:
        if key not in _programs:
            path = folder / "traced" / name
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
    try:
        disk.make_folder(path.parent)
        disk.write_whole(path, hashlib.sha256(data).digest() + data)
    except disk.FileError as error:
        _LOG.warning("a traced program is not kept: %s", error)
    return export.deserialize(bytearray(data))  # as others read it, who then find what XLA makes


def _read(path: Path) -> export.Exported | None:
    """The program in a file; None where there is none, or no whole one.

    Its digest comes first: what JAX does not look into until it is run may be damaged, too.
    """
    try:
        found = path.read_bytes()
        digest, data = found[:_DIGEST], found[_DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            raise ValueError("it is damaged")
        return export.deserialize(bytearray(data))
    except FileNotFoundError:
        return None
    except Exception as error:  # of whatever kind the damage is
        _LOG.warning("a traced program cannot be read and is replaced: %s: %s", path, error)
        return None


def _surroundings() -> list[str]:
    """What a program depends on beside what it is given."""
    environment = sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))
    )
    settings = [f"{name}={getattr(jax.config, name)}" for name in _SETTINGS]
    narrow = f"narrow={processor.is_x86_without_avx512()}"
    return [jax.default_backend(), narrow, *settings, *environment, *_sources()]


@functools.cache
def _sources() -> tuple[str, ...]:
    """The versions of the libraries that trace, and this package's source, as a digest."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode())
        digest.update(path.read_bytes())
    return (*(f"{name} {metadata.version(name)}" for name in _LIBRARIES), digest.hexdigest())


class _HasNoName(Exception):
    """Something depends on the process that it is in."""


def _describe(value: Any) -> str:
    """A text that is the same of equal values in all processes, and of others another.

    Raises:
      _HasNoName: there is none.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or isinstance(value, bool | int | float | str):
        return f"{kind} {value!r}"
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        weak = getattr(value, "weak_type", False)
        return f"array {value.shape} {value.dtype} {weak}"
    if isinstance(value, list | tuple):
        return f"{kind}({','.join(map(_describe, value))})"
    if isinstance(value, dict):
        items = (f"{_describe(key)}:{_describe(part)}" for key, part in value.items())
        return f"{kind}{{{','.join(items)}}}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _is_ours(type(value)):
        fields = (getattr(value, field.name) for field in dataclasses.fields(value))
        return f"{kind}({','.join(map(_describe, fields))})"
    if isinstance(value, types.FunctionType) and _is_ours(value):
        return f"{value.__module__}.{value.__qualname__}"
    raise _HasNoName(kind)


def _is_ours(value: type | types.FunctionType) -> bool:
    """Whether a class or function is one of this package's, and there under its name."""
    package = str(value.__module__).split(".")[0] == __name__.split(".")[0]
    return package and "<" not in value.__qualname__
