"""Protects photos from face-editing generators: the CDMAA attack in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdmaa_jax import attack as attack
    from cdmaa_jax import images as images
    from cdmaa_jax.attack import Config
    from cdmaa_jax.generators.checkpoint import load_generator, save_generator
    from cdmaa_jax.generators.ensembles import ensemble_of, load_ensemble
    from cdmaa_jax.generators.precision import in_bfloat16
    from cdmaa_jax.protection import protect
    from cdmaa_jax.search import search_weights
    from cdmaa_jax.types import Batch, Generator, Result
    from cdmaa_jax.universal import apply_universal, fit_universal

__all__ = [
    "Batch",
    "Config",
    "Generator",
    "Result",
    "apply_universal",
    "ensemble_of",
    "fit_universal",
    "in_bfloat16",
    "load_ensemble",
    "load_generator",
    "protect",
    "save_generator",
    "search_weights",
]

_HOMES = {
    "Batch": "cdmaa_jax.types",
    "Config": "cdmaa_jax.attack",
    "Generator": "cdmaa_jax.types",
    "Result": "cdmaa_jax.types",
    "apply_universal": "cdmaa_jax.universal",
    "ensemble_of": "cdmaa_jax.generators.ensembles",
    "fit_universal": "cdmaa_jax.universal",
    "in_bfloat16": "cdmaa_jax.generators.precision",
    "load_ensemble": "cdmaa_jax.generators.ensembles",
    "load_generator": "cdmaa_jax.generators.checkpoint",
    "protect": "cdmaa_jax.protection",
    "save_generator": "cdmaa_jax.generators.checkpoint",
    "search_weights": "cdmaa_jax.search",
}


_MODULES = ("attack", "images")

if not TYPE_CHECKING:  # type checkers would take every name for known

    def __getattr__(name: str) -> Any:
        """Imports names on first use: importing JAX takes a second, which ``--help`` avoids."""
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
