"""Keeps compiled programs in a cache folder between runs."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from cdmaa_jax.cli.output import say

CACHE_VARIABLE = "CDMAA_CACHE_DIR"
JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""Counts where the first is not set."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def keep_programs() -> AbstractContextManager[None]:
    """Keeps compiled programs in the cache folder, unless it cannot be made or is unsafe."""
    import jax

    from cdmaa_jax import kept
    from cdmaa_jax.disk import FileError, make_folder

    try:
        folder = _cache_folder()
        make_folder(folder, kept.PRIVATE)
        why = _why_unsafe(folder) or _why_unsafe(folder / kept.TRACED)
    except RuntimeError:  # there is no home folder
        why = f"set {CACHE_VARIABLE} to a folder for them"
    except FileError as error:
        why = f"{error.path}: {error.what}"
    if why is not None:
        say(f"compiled programs are not kept: {why}")
        return keep_none()
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return _kept_in(folder)


def keep_none() -> AbstractContextManager[None]:
    """Neither uses kept programs nor keeps any, and lets JAX, which reads its variable, not either.

    A folder that JAX was given in another way is left to it.
    """
    import jax

    from cdmaa_jax import kept

    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is not None and folder == os.environ.get(JAX_VARIABLE):
        jax.config.update("jax_compilation_cache_dir", None)
    return kept.programs_in(None)


def folder_for_people() -> str:
    """The path of the cache folder, or the reason why there is none."""
    try:
        return os.fspath(_cache_folder())
    except RuntimeError:
        return f"nowhere: there is no home folder; set {CACHE_VARIABLE}"


def _cache_folder() -> Path:
    """The folder that the user chose, or one in the system's place for caches.

    Raises:
      RuntimeError: the user has no home folder.
    """
    if (chosen := _chosen()) is not None:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdmaa-jax"


def _chosen() -> str | None:
    """The folder that the user chose."""
    chosen = os.environ.get(CACHE_VARIABLE) or os.environ.get(JAX_VARIABLE)
    return chosen or None


def _why_unsafe(folder: Path) -> str | None:
    """Why programs in a folder should not be run, if others can put some there.

    The default folder, which earlier versions made as the process's mask has it, is closed to them.
    """
    if not hasattr(os, "geteuid") or not folder.exists():
        return None
    if folder.stat().st_uid != os.geteuid():
        return f"{folder}: it is another user's; set {CACHE_VARIABLE} to a folder of your own"
    if folder.stat().st_mode & _OTHERS and _chosen() is None:
        with suppress(OSError):  # some file systems have no permissions
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) & ~_OTHERS)
    if folder.stat().st_mode & _OTHERS:
        return f"{folder}: others can write into it; run: chmod go-w {shlex.quote(str(folder))}"
    return None


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    from cdmaa_jax import kept

    with kept.programs_in(folder), kept.mended(folder):
        yield
