"""The work that both sides do: generators, photos and the start of the attack, as files.

A folder with ``work.json``, ``inputs.npz`` and, for each model, a checkpoint for this package and
a PyTorch state dict that the converters made from it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FILE, INPUTS = "work.json", "inputs.npz"
ARCHITECTURES = ("stargan", "attgan", "stgan", "ugatit")
START = "uniform"
"""Far from the clean photo: near it, the loss is a difference of almost equal outputs, and mostly
rounding noise decides the signs of the first step."""
STGAN_DOMAINS = ("Bangs", "Eyeglasses", "No_Beard", "Mouth_Slightly_Open", "Pale_Skin")
"""The five edits of the paper."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One generator of the work.

    Attributes:
      name: unique in the work.
      arch: its architecture.
      checkpoint: the directory of its checkpoint.
      state: the safetensors file of its PyTorch state dict.
      config: its configuration, as in JSON.
      domains: K.
    """

    name: str
    arch: str
    checkpoint: str
    state: str
    config: Mapping[str, Any]
    domains: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What is attacked: the models, and ``batch`` photos of ``size`` pixels."""

    models: tuple[Model, ...]
    size: int
    batch: int

    def of(self, names: Sequence[str]) -> list[int]:
        """The indices of the named models."""
        return [i for i, model in enumerate(self.models) if model.name in names]


def read(folder: str | Path) -> Work:
    """Reads the work in a folder."""
    fields = json.loads((Path(folder) / FILE).read_text())
    models = tuple(Model(**model) for model in fields.pop("models"))
    return Work(models=models, **fields)


def read_inputs(folder: str | Path) -> dict[str, np.ndarray]:
    """``images`` and ``start`` [B,size,size,3], and ``conditions0``, ... [1,K,n] of each model."""
    with np.load(Path(folder) / INPUTS) as arrays:
        return dict(arrays)


def prepare_random(
    folder: str, size: int, batch: int, models: Sequence[str], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the work on generators of the official widths with random weights.

    Args:
      folder: an empty folder.
      size: photo size in pixels.
      batch: the number of photos.
      models: architectures.
      changes: for an architecture, fields of its configuration that are not the official ones.
    """
    from cdmaa_jax.generators.checkpoint import save_generator

    paths = []
    for seed, arch in enumerate(models):
        config = official_config(arch, size, changes.get(arch, {}))
        paths.append(Path(folder) / arch)
        save_generator(paths[-1], arch, config, random_params(arch, config, seed))
    return _prepare(folder, size, batch, [str(path) for path in paths])


def prepare_ensemble(folder: str, size: int | None, batch: int, names: Sequence[str]) -> Any:
    """Writes the work on an ensemble, at its generators' size if ``size`` is None."""
    from cdmaa_jax.generators.ensembles import ensemble_directories, read_ensemble_metadata

    native = max(record.image_size for record in read_ensemble_metadata(names))
    return _prepare(folder, size or native, batch, [str(p) for p in ensemble_directories(names)])


def official_config(arch: str, size: int, changes: Mapping[str, Any]) -> Any:
    """The official configuration at an image size; STGAN with five domains."""
    from cdmaa_jax.generators.registry import architecture

    options: dict[str, Any] = {"attributes": STGAN_DOMAINS} if arch == "stgan" else {}
    return architecture(arch).config(image_size=size, **(options | dict(changes)))


def random_params(arch: str, config: Any, seed: int) -> Any:
    """Random weights, affine parameters and statistics that preserve the scale of signals."""
    import jax

    from cdmaa_jax.generators.registry import graph_of

    random = np.random.default_rng(seed)
    draw = lambda path, leaf: _draw(str(path[-1].key), leaf.shape, random)  # noqa: E731
    return jax.tree_util.tree_map_with_path(draw, graph_of(arch, config)[1])


def _draw(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    noise = random.standard_normal(shape, np.float32)
    if name == "kernel":
        return noise * np.float32((2 / np.prod(shape[:-1])) ** 0.5)
    if name == "var":
        return np.float32(0.5) + abs(noise)
    if name == "rho":
        return random.random(shape, np.float32)
    return np.float32(name == "scale") + np.float32(0.2) * noise


def photos(size: int, batch: int, seed: int = 0) -> np.ndarray:
    """Smooth random photos [batch,size,size,3] in [-1, 1]."""
    from PIL import Image

    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (batch, 8, 8, 3), np.uint8)
    large = [Image.fromarray(s).resize((size, size), Image.Resampling.BICUBIC) for s in small]
    return np.stack([np.asarray(image, np.float32) for image in large]) / np.float32(127.5) - 1


def _prepare(folder: str, size: int, batch: int, names: Sequence[str]) -> dict[str, Any]:
    from cdmaa_jax.generators.ensembles import ensemble_directories, load_ensemble

    ensemble = load_ensemble(names)
    models, inputs = [], {"images": photos(size, batch)}
    inputs["start"] = start(inputs["images"])
    directories = ensemble_directories(names)
    for i, (generator, directory) in enumerate(zip(ensemble.generators, directories, strict=True)):
        record = ensemble.metadata[i]
        inputs[f"conditions{i}"] = np.asarray(generator.conditions(None), np.float32)
        state = str(Path(folder) / f"{generator.name}.safetensors")
        export(record.architecture, record.config, generator.params, state)
        config = dataclasses.asdict(record.config)
        count = inputs[f"conditions{i}"].shape[1]
        models.append(
            Model(generator.name, record.architecture, str(directory), state, config, count)
        )
    work = Work(tuple(models), size, batch)
    np.savez(Path(folder) / INPUTS, allow_pickle=False, **inputs)
    (Path(folder) / FILE).write_text(json.dumps(dataclasses.asdict(work), indent=1))
    return dataclasses.asdict(work)


def export(arch: str, config: Any, params: Any, file: str) -> None:
    """Writes parameters as a PyTorch state dict, using the converters."""
    import jax

    from converters import conversion, files

    state = conversion.to_state_dict(arch, config, jax.tree.map(np.asarray, params))
    files.write_file(Path(file), state, "")


def start(images: np.ndarray) -> np.ndarray:
    """The images that this package's attack starts from; they depend on no generator."""
    import jax
    import jax.numpy as jnp

    from cdmaa_jax import Generator
    from cdmaa_jax.attack import Config, build
    from cdmaa_jax.types import Batch

    none = jnp.zeros((1, 1, 0))
    identity = Generator("identity", lambda p, x, c: x, {}, images.shape[1], ("a",), lambda _: none)
    batch = Batch(jnp.asarray(images), (none,), jnp.ones(len(images), bool))
    keys = jnp.broadcast_to(jax.random.key(0), (len(images),))
    return np.asarray(build(Config(start=START), (identity,), batch).init(keys).images)
