"""Small studies of toy generators and of crops of 16 pixels, which take no time to make."""

from pathlib import Path

import numpy as np
from PIL import Image

from cdmaa_jax.experiments.columns import Column
from cdmaa_jax.experiments.crops import Crop
from cdmaa_jax.experiments.runner import Measured, Study, column_folder
from cdmaa_jax.generators.checkpoint import Metadata
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images.labels import LabelTable
from tests.attack.toys import toy
from tests.tiny import CONFIGS, SIZE

LABELS = LabelTable(Path("labels.csv"), ("odd",), {})


def two_toys() -> Ensemble:
    """Two generators of three domains each; one has an encoder."""
    models = toy(0, size=SIZE), toy(1, size=SIZE, encode=lambda params, x: x)
    metadata = tuple(
        Metadata(model.name, "toy", CONFIGS["ugatit"], model.domains, SIZE, "float32", f"{i}" * 64)
        for i, model in enumerate(models)
    )
    return Ensemble("toys", models, metadata)


def crops_in(folder: Path, count: int, first: int = 0) -> tuple[Crop, ...]:
    """Crops of one shade each: 20, 40, 60 and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for i in range(first, first + count):
        path = folder / f"{i}.png"
        Image.new("RGB", (SIZE, SIZE), 3 * (20 * (i + 1),)).save(path)
        found.append(Crop(path.name, f"photo {i}", path, f"crop {i}", None))
    return tuple(found)


def study_in(folder: Path, count: int = 5, **options) -> Study:
    """A study of so many crops, without labels."""
    return Study(two_toys(), crops_in(folder / "crops", count), folder / "out", **options)


def measured_of(column: Column, study: Study, seed: int = 0, **changes) -> Measured:
    """Figures from nowhere, of copies that are not there."""
    random, count = np.random.default_rng(seed), len(study.crops)
    fields = {
        "losses": {
            model.name: random.uniform(0, 0.1, (count, len(model.domains)))
            for model in study.ensemble.generators
        },
        "psnr": np.full(count, 40.0),
        "linf": np.full(count, 0.05),
        "seconds": 1.0,
        "folder": column_folder(column, study),
        "files": tuple(crop.path.name for crop in study.crops),
    }
    return Measured(column, **(fields | changes))
