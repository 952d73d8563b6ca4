"""Keeps compiled programs in a cache folder between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cdmaa_jax.cli.output import say

CACHE_VARIABLE = "CDMAA_CACHE_DIR"
JAX_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""Counts where the first is not set."""


def keep_programs() -> AbstractContextManager[None]:
    """Keeps compiled programs in the cache folder, or does without if it cannot be made."""
    import jax

    from cdmaa_jax import kept
    from cdmaa_jax.disk import FileError, make_folder

    try:
        folder = _cache_folder()
        make_folder(folder)
    except RuntimeError:  # there is no home folder
        say(f"compiled programs are not kept: set {CACHE_VARIABLE} to a folder for them")
        return kept.programs_in(None)
    except FileError as error:
        say(f"compiled programs are not kept: {error.path}: {error.what}")
        return kept.programs_in(None)
    jax.config.update("jax_compilation_cache_dir", os.fspath(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return _kept_in(folder)


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
    chosen = os.environ.get(CACHE_VARIABLE) or os.environ.get(JAX_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdmaa-jax"


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    from cdmaa_jax import kept

    with kept.programs_in(folder), kept.mended(folder):
        yield
