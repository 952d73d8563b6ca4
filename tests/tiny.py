"""A tiny ensemble on disk, with photos for it, for tests that need files."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from cdmaa_jax.generators import registry, stargan, ugatit
from cdmaa_jax.generators.checkpoint import save_generator
from cdmaa_jax.types import Result

SIZE = 16
CONFIGS = {
    "stargan": stargan.Config(image_size=SIZE, attributes=("Male", "Young"), width=4, blocks=1),
    "ugatit": ugatit.Config(image_size=SIZE, width=4, blocks=1, domain="comic"),
}


def save_ensemble(folder: Path) -> Path:
    """Two random generators as checkpoint directories in ``folder``."""
    for arch, config in CONFIGS.items():
        params = registry.init_params(arch, config, seed=1)
        save_generator(folder / arch, arch, config, params)
    return folder


def save_photo(path: Path, seed: int = 0, height: int = 40, width: int = 48) -> Path:
    """A smooth random photo without a face."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def instant_protect(images, *_, **__) -> Result:
    """A dummy attack, for tests where only files matter."""
    return Result(images + np.float32(0.05), np.zeros(0), np.zeros(0))


def astronaut() -> np.ndarray:
    """A portrait, uint8 [400, 512, 3]; the rest has what the detector takes for a face, too."""
    return skimage.data.astronaut()[:400]
