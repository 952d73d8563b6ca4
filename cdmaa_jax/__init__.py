"""Protects photos from face-editing generators: the CDMAA attack in JAX."""

from cdmaa_jax.attack import Config
from cdmaa_jax.generators.checkpoint import load_generator, save_generator
from cdmaa_jax.protection import protect
from cdmaa_jax.types import Generator, Result

__all__ = ["Config", "Generator", "Result", "load_generator", "protect", "save_generator"]
