"""The trajectory against plain PyTorch: same weights, same start, float64."""

import jax
import numpy as np
import pytest
import torch

from benchmarks import reference
from cdmaa_jax.attack import Config
from cdmaa_jax.generators import attgan, stargan, stgan, ugatit
from cdmaa_jax.generators.registry import make_generator
from converters import conversion, tables
from tests.attack.toys import photos, quick_run, quick_start, toy, toy_batch
from tests.parity.torch_models import random_model

STEPS = 10
VARIANTS = (  # together they cover every option of the reference
    {},
    {"update": "mi-fgsm", "across_domains": "iterative", "regularization": "l2"},
    {"across_domains": "mgda", "across_models": "uniform", "regularization": "none"},
    {"across_domains": "single", "across_models": "iterative", "regularization": "log"},
    {"across_models": "single", "regularization": "log"},
    {"across_domains": "iterative", "across_models": "iterative", "regularization": "none"},
)
NAMES = ("a", "b", "c")
SMALL = {
    "stargan": stargan.Config(32, NAMES, width=4, blocks=1),
    "attgan": attgan.Config(32, NAMES, 4, 4, 3, 3),
    "stgan": stgan.Config(32, NAMES, 4, 3, shortcut_layers=2),
    "ugatit": ugatit.Config(32, width=4, blocks=1),
}


def torch_toy(params):
    """The toy generator, written in PyTorch."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in params.items()}
    encoder, decoder = (tensors[name].permute(3, 2, 0, 1) for name in ("encoder", "decoder"))

    def generate(x, c):
        features = torch.tanh(torch.nn.functional.conv2d(x, encoder, padding=1))
        features = torch.tanh(features + (c @ tensors["planes"])[:, :, None, None])
        return torch.tanh(torch.nn.functional.conv2d(features, decoder, padding=1))

    return generate


def nchw(images):
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def both(options, ensemble, networks, images):
    """The results of this package and of the reference, from the same start."""
    config, batch, key = (
        Config(steps=STEPS, **options),
        toy_batch(images, ensemble),
        jax.random.key(3),
    )
    ours = quick_run(config, ensemble, batch, key)
    start = quick_start(config, ensemble, batch, key)
    models = [
        reference.Model(
            network, torch.from_numpy(np.array(c, np.float64)).expand(len(images), -1, -1)
        )
        for network, c in zip(networks, batch.conditions, strict=True)
    ]
    return ours, reference.attack(nchw(images), nchw(start), models, steps=STEPS, **options)


def assert_same(ours, theirs):
    """Images, losses and weights agree; these runs have no tie, a direction that rounds to zero."""
    images = theirs.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours.images, images, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(ours.weights, theirs.weights, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o.values()) or "default")
def test_trajectory_of_toys(options, x64):
    ensemble = [toy(seed, gain, dtype=np.float64) for seed, gain in enumerate((1.0, 0.5, 2.0))]
    networks = [torch_toy(generator.params) for generator in ensemble]
    assert_same(*both(options, ensemble, networks, photos(2, dtype=np.float64)))


def test_trajectory_of_the_four_architectures(x64):
    ensemble, networks = [], []
    for arch, config in SMALL.items():
        network = random_model(arch, config)
        given = tables.Given(32, getattr(config, "attributes", None))
        _, params, _ = conversion.from_state_dict(arch, network.state_dict(), given)
        params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
        ensemble.append(make_generator(arch, config, params))
        networks.append(network.double())
    assert_same(*both({}, ensemble, networks, photos(2, size=32, dtype=np.float64)))
