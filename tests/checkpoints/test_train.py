"""A few steps of training on made-up portraits change every generator, and save it."""

import dataclasses

import jax
import numpy as np
import pytest

from cdmaa_jax import load_generator
from cdmaa_jax.generators import attgan, stargan, stgan, ugatit
from checkpoints import train
from checkpoints.portraits import Portraits

SMALL = {
    "stargan": stargan.Config(64, ("Male", "Bangs"), width=4, blocks=1),
    "attgan": attgan.Config(64, ("Male", "Bangs"), 4, 4, 2, 2, 1, 1),
    "stgan": stgan.Config(64, ("Male", "Bangs"), 4, 2, 1),
    "ugatit": ugatit.Config(64, width=4, blocks=1, domain="Comic"),
}


def made_up_portraits(count=6):
    rng = np.random.default_rng(0)
    pixels = lambda channels: rng.integers(0, 256, (count, 64, 64, channels), np.uint8)  # noqa: E731
    return Portraits(
        files=tuple(f"{i}.jpg" for i in range(count)),
        images=pixels(3),
        labels={"Male": np.array([1, 0, 1, 0, -1, 1], np.int8)},
        overlays={"Bangs": pixels(4)},
        comic=pixels(3),
        test=np.array([False] * (count - 1) + [True]),
    )


def test_portraits_without_a_label_and_for_testing_are_left_out():
    data = train.training_data(made_up_portraits(), ("Male", "Bangs"))
    assert data.images.shape[0] == 4
    assert np.asarray(data.labels)[:, 0].tolist() == [1, 0, 1, 0]
    assert np.asarray(data.drawn).tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("arch", train.RECIPES)
def test_training_changes_and_saves_a_generator(arch, tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        train.RECIPES[arch], config=SMALL[arch], batch=2, critic_steps=1, critic_width=4
    )
    monkeypatch.setitem(train.RECIPES, arch, recipe)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        train.train(arch, made_up_portraits(), tmp_path / arch, seed=0, steps=20)
        train.train(arch, made_up_portraits(), tmp_path / "more", seed=0, steps=40)
    first, second = load_generator(tmp_path / arch), load_generator(tmp_path / "more")
    assert first.domains == second.domains
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), first.params, second.params)
    assert any(jax.tree.leaves(changed))
