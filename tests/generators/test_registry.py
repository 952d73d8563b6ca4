"""From a configuration and parameters to a ``Generator``."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from cdmaa_jax import Config, protect
from cdmaa_jax.generators import attgan, cyclegan, pix2pix, stargan, stgan, ugatit
from cdmaa_jax.generators.registry import ARCHITECTURES, architecture, graph_of, make_generator

TINY = {
    "stargan": stargan.Config(16, ("Male", "Young"), width=4, blocks=1),
    "attgan": attgan.Config(16, ("Male", "Bangs"), 4, 4, 2, 2),
    "stgan": stgan.Config(16, ("Male",), 4, 2, shortcut_layers=1),
    "ugatit": ugatit.Config(16, width=4, blocks=1),
    "cyclegan": cyclegan.Config(16, width=4, blocks=1),
    "pix2pix": pix2pix.Config(16, width=4, layers=3),
}


def random_params(arch, config, seed=0):
    rng = np.random.default_rng(seed)

    def draw(leaf):
        return rng.uniform(0.01, 0.1, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, graph_of(arch, config)[1])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_generator_edits_images(arch):
    config = TINY[arch]
    generator = make_generator(arch, config, random_params(arch, config))
    c = generator.conditions(None)
    assert c.shape[:2] == (1, len(generator.domains))
    x = np.zeros((2, 16, 16, 3), np.float32)
    y = generator(x, np.repeat(c[:, 0], 2, 0))
    assert y.shape == x.shape and y.dtype == np.float32 and abs(y).max() <= 1
    assert generator.name == arch and generator.image_size == 16


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_other_sizes_than_the_native_pass_through(arch):
    config = TINY[arch]
    generator = make_generator(arch, config, random_params(arch, config))
    c = generator.conditions(None)[:, 0]
    x = jax.ShapeDtypeStruct((1, 24, 32, 3), np.float32)
    assert jax.eval_shape(generator, x, c).shape == x.shape


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_image_does_not_depend_on_its_neighbour(arch):
    config = TINY[arch]
    generator = make_generator(arch, config, random_params(arch, config))
    c = np.repeat(generator.conditions(None)[:, 0], 2, 0)
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    apply = jax.jit(generator.apply, compiler_options={"xla_backend_optimization_level": 0})
    one, other = (np.asarray(apply(generator.params, images[[0, i]], c)) for i in (1, 2))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[0].std() > 0 and not np.array_equal(one[1], other[1])


def test_equal_generators_share_one_program():
    traces = []

    @jax.jit
    def run(generator, x, c):
        traces.append(generator.name)
        return generator(x, c)

    config = TINY["attgan"]
    x = np.zeros((1, 16, 16, 3), np.float32)
    outputs = []
    for seed in range(3):
        equal = dataclasses.replace(config)
        generator = make_generator("attgan", equal, random_params("attgan", equal, seed))
        outputs.append(run(generator, x, generator.conditions(None)[:, 0]))
    assert len(traces) == 1
    assert not np.array_equal(outputs[0], outputs[1]), "the weights are arguments"


def test_latent():
    for arch, shape in (
        ("attgan", (1, 4, 4, 8)),
        ("stgan", (1, 4, 4, 8)),
        ("ugatit", (1, 4, 4, 16)),
        ("cyclegan", (1, 4, 4, 16)),
        ("pix2pix", (1, 2, 2, 16)),
    ):
        generator = make_generator(arch, TINY[arch], random_params(arch, TINY[arch]))
        x = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
        assert jax.eval_shape(generator.encode, generator.params, x).shape == shape
    config = TINY["stargan"]
    assert make_generator("stargan", config, random_params("stargan", config)).encode is None


def test_unknown_architecture():
    with pytest.raises(ValueError, match="unknown architecture 'gan'; there are stargan, attgan"):
        architecture("gan")


def test_parameters_that_do_not_fit():
    config = TINY["stargan"]
    params = random_params("stargan", config)
    extra = {**params, "more": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"parameter \['more'\] is not part of the network"):
        make_generator("stargan", config, extra)
    for other, name in ((TINY["attgan"], r"cdmaa_jax\.generators\.attgan\.Config"), ({}, "dict")):
        with pytest.raises(ValueError, match=rf"{name}, not a cdmaa_jax\.generators\.stargan\.Con"):
            make_generator("stargan", other, params)
    lacking = {key: value for key, value in params.items() if key != "head"}
    with pytest.raises(ValueError, match=r"parameter \['head'\]\['kernel'\] is missing"):
        make_generator("stargan", config, lacking)
    wrong = {**params, "head": {"kernel": np.zeros((7, 7, 4, 4), np.float32)}}
    with pytest.raises(
        ValueError, match=r"\['kernel'\] has shape \(7, 7, 4, 4\), the network takes"
    ):
        make_generator("stargan", config, wrong)


@pytest.mark.parametrize("make, message", [
    (lambda: stargan.Config(30), "multiple of 4"),
    (lambda: attgan.Config(100), "multiple of 32"),
    (lambda: attgan.Config(shortcut_layers=5), "shortcut_layers must be"),
    (lambda: attgan.Config(inject_layers=-1), "inject_layers must be"),
    (lambda: attgan.Config(encoder_layers=4), "must be equal"),
    (lambda: stgan.Config(100), "multiple of 32"),
    (lambda: stgan.Config(shortcut_layers=5), "shortcut_layers must be"),
    (lambda: stgan.Config(layers=1, shortcut_layers=0), "layers must be at least 2"),
    (lambda: stgan.Config(stu_kernel_size=4), "stu_kernel_size must be odd"),
    (lambda: ugatit.Config(4), "at least 8"),
    (lambda: cyclegan.Config(4), "at least 8"),
    (lambda: cyclegan.Config(padding="same"), "padding must be one of reflect, replicate, zero"),
    (lambda: cyclegan.Config(norm="layer"), "norm must be one of instance, batch, none"),
    (lambda: cyclegan.Config(statistics="running"), "only a batch norm has running statistics"),
    (lambda: pix2pix.Config(statistics="mean"), "statistics must be one of instance, running"),
    (lambda: pix2pix.Config(layers=1), "layers must be at least 2"),
    (lambda: pix2pix.Config(128), "multiple of 256"),
])  # fmt: skip
def test_configurations_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def edited_shape(arch, config, height, width):
    model = make_generator(arch, config, random_params(arch, config))
    x, c = np.zeros((1, height, width, 3), np.float32), model.conditions(None)[:, 0]
    return jax.eval_shape(model.apply, model.params, x, c).shape


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_images_of_other_sizes(arch):
    config, multiple = TINY[arch], TINY[arch].multiple
    height, width = 4 * multiple, 5 * multiple
    assert edited_shape(arch, config, height, width) == (1, height, width, 3)
    for height, width in ((4 * multiple - 1, multiple), (multiple, 4 * multiple + 1)):
        message = f"this {architecture(arch).title} .* of {multiple}, not {height} × {width}"
        with pytest.raises(ValueError, match=message):
            edited_shape(arch, config, height, width)


def test_one_photo_without_its_batch_is_no_batch():
    model = make_generator("stargan", TINY["stargan"], random_params("stargan", TINY["stargan"]))
    message = r"this StarGAN takes images \[B,H,W,3\], not of shape \(16, 16, 3\)"
    with pytest.raises(ValueError, match=message):
        model.apply(model.params, np.zeros((16, 16, 3), np.float32), model.conditions(None)[0])


def test_a_full_ugatit_takes_its_own_size_alone():
    config = dataclasses.replace(TINY["ugatit"], light=False)
    assert edited_shape("ugatit", config, 16, 16) == (1, 16, 16, 3)
    for sides in ((20, 16), (32, 8)):  # the second has as many pixels
        with pytest.raises(ValueError, match=r"not light takes images of its own size, 16 × 16"):
            edited_shape("ugatit", config, *sides)


@pytest.mark.parametrize("arch", ["stargan", "attgan"])
def test_photos_of_float64_are_attacked_in_float64(arch, x64):
    model = make_generator(arch, TINY[arch], random_params(arch, TINY[arch]))
    images = np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3))
    result = protect(images, model, Config(steps=1))
    assert result.images.dtype == result.losses.dtype == np.float64
    assert 0 < np.abs(result.images - images).max() <= 0.05
