"""GPU results against a CPU's float32 and float64; ``JAX_PLATFORMS=cuda,cpu pytest -m gpu``."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.work import random_params
from cdmaa_jax import Config, in_bfloat16, protect
from cdmaa_jax.attack import compilation, memory, run, running
from cdmaa_jax.generators.registry import make_generator
from tests.attack.toys import photos, toy, toy_batch
from tests.generators.test_norms import OFFSETS, check_moments_in_one_pass
from tests.parity.test_generators import SMALL

pytestmark = pytest.mark.gpu
CPU = jax.devices("cpu")[0]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX has no GPU here ({error}); set JAX_PLATFORMS=cuda,cpu")


def generator(arch, config, seed=0):
    made = make_generator(arch, config, random_params(arch, config, seed))
    return dataclasses.replace(made, params=jax.tree.map(jnp.asarray, made.params))


def value_and_gradient(model, device, x):
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        c = jnp.asarray(model.conditions(None))[:, 0]
        out, gradient = _value_and_gradient(*jax.device_put((model, jnp.asarray(x), c), device))
        return np.asarray(out), np.asarray(gradient)


@jax.jit
def _value_and_gradient(model, x, c):
    out, pull = jax.vjp(lambda x: model(x, c), x)
    return out, pull(jnp.cos(out))[0]


CASES = [(arch, config) for arch, configs in SMALL.items() for config in configs[:2]]


@pytest.mark.parametrize(("arch", "config"), CASES, ids=str)
def test_generators_agree_with_the_cpu(gpu, arch, config):
    model, x = generator(arch, config), photos(1, config.image_size)
    ours, theirs = (value_and_gradient(model, device, x) for device in (gpu, CPU))
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    np.testing.assert_allclose(ours[1], theirs[1], atol=1e-3 * np.abs(theirs[1]).max())


@pytest.mark.parametrize("offset", OFFSETS)
def test_moments_of_what_is_far_from_zero(gpu, offset):
    with jax.default_device(gpu):
        check_moments_in_one_pass(offset)


@pytest.mark.parametrize("options", [{}, {"update": "apgd"}, {"across_domains": "mgda"}], ids=str)
def test_attacks_agree_with_the_cpu(gpu, options):
    ensemble, images = [toy(0), toy(1), toy(2)], photos(3)
    config = Config(steps=6, start="uniform", **options)
    found = []
    for device in (gpu, CPU):
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            found.append(protect(images, ensemble, config))
    np.testing.assert_allclose(found[0].losses[:3], found[1].losses[:3], rtol=1e-3)
    for result in found:
        assert np.abs(result.images - images).max() <= np.float32(config.epsilon) + 1e-7
        np.testing.assert_allclose(result.weights.sum(2), 1, rtol=1e-5)


def test_generators_side_by_side_do_what_they_do_in_turn(gpu, monkeypatch):
    ensemble, key = [toy(0), toy(1), toy(2)], jax.random.key(0)
    batch = toy_batch(photos(3), ensemble)
    assert memory.can_overlap("mse", ensemble, batch, gpu)
    monkeypatch.setattr(compilation, "PATIENCE", 0.0)
    config = Config(steps=5, start="uniform")
    with jax.default_matmul_precision("highest"):
        one_by_one, together = (run(config, ensemble, batch, key) for _ in range(2))
        assert compilation.has_graphs()
        monkeypatch.setattr(running, "can_overlap", lambda *arguments: False)
        in_turn = run(config, ensemble, batch, key)
    for result in (one_by_one, together):
        np.testing.assert_allclose(result.losses, in_turn.losses, rtol=1e-4)


def test_what_does_not_fit_takes_turns(gpu):
    model = generator("ugatit", SMALL["ugatit"][0])
    batch = toy_batch(photos(1, 16), [model])
    shapes = jax.ShapeDtypeStruct((10**7, 16, 16, 3), jnp.float32)
    batch = dataclasses.replace(batch, images=shapes)
    assert not memory.can_overlap("mse", [model], batch, gpu)


@pytest.mark.parametrize("arch", ["stargan", "attgan", "stgan", "ugatit"])
def test_bfloat16_is_close(gpu, arch):
    config = SMALL[arch][0]
    model, x = generator(arch, config), photos(1, config.image_size)
    exact, half = (value_and_gradient(one, gpu, x)[0] for one in (model, in_bfloat16(model)))
    assert np.abs(half - exact).mean() < 0.1 * np.abs(exact).mean()


AGAIN = """
import sys
import jax, numpy as np
from cdmaa_jax import Config, protect
from cdmaa_jax.attack import compilation
from tests.attack.toys import photos
from tests.test_gpu import CASES, generator
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
compilation.PATIENCE = 0.0
model = generator(*CASES[0])
jax.config.update("jax_default_matmul_precision", "highest")
config = Config(steps=4, start="uniform")
found = [protect(photos(1, 8), [model, model], config).losses for _ in range(4)]
assert compilation.has_graphs()
np.save(sys.argv[2], np.stack(found))
"""


def test_a_process_that_finds_its_program_compiled_runs_it_as_a_graph(gpu, tmp_path):
    """There cuDNN's kernels are not loaded yet, unlike in the process that tried and timed them."""
    files = [tmp_path / f"{i}.npy" for i in range(2)]
    for file in files:
        script = [sys.executable, "-c", AGAIN, str(tmp_path / "cache"), str(file)]
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        subprocess.run(script, check=True, cwd=ROOT, env=environment, timeout=300)
    first, second = map(np.load, files)
    np.testing.assert_allclose(first, np.broadcast_to(first[:1], first.shape), rtol=1e-3)
    np.testing.assert_allclose(second, first, rtol=1e-3)
