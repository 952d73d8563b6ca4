"""The bundled ensemble is what its manifest says."""

import itertools
import json

import jax
import numpy as np
import pytest

from cdmaa_jax import load_generator
from checkpoints import manifest

NAMES = ("attgan", "stargan", "stgan", "ugatit")


def test_the_manifest_describes_the_files():
    assert json.loads(manifest.MANIFEST.read_text()) == json.loads(json.dumps(manifest.describe()))


def test_every_architecture_is_there_and_all_are_small():
    described = manifest.describe()["generators"]
    assert tuple(described) == NAMES
    assert sum(entry["bytes"] for entry in described.values()) <= 16e6
    for entry in described.values():
        assert entry["purpose"] == "demonstration weights"
        assert isinstance(entry["seed"], int)


@pytest.mark.parametrize("name", NAMES)
def test_every_edit_is_an_image_of_its_own(name):
    generator = load_generator(manifest.ENSEMBLE / name)
    conditions = np.asarray(generator.conditions(None))
    assert conditions.shape[:2] == (1, len(generator.domains))
    x = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3), minval=-1, maxval=1)
    edits = [np.asarray(generator(x, conditions[:, k])) for k in range(len(generator.domains))]
    for edit in edits:
        assert edit.shape == x.shape and np.isfinite(edit).all() and np.abs(edit).max() <= 1
    for first, second in itertools.pairwise(edits):
        assert np.abs(first - second).mean() > 1e-3
