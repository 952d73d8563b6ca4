"""Protects photos from face-editing generators: the CDMAA attack in JAX."""

from cdmaa_jax.generators.checkpoint import load_generator, save_generator

__all__ = ["load_generator", "save_generator"]
