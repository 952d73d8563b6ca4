"""What the shapes of a state dict reveal, and round trips, over configurations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmaa_jax.generators import attgan, cyclegan, norms, pix2pix, stargan, stgan, ugatit
from cdmaa_jax.generators.registry import ARCHITECTURES, init_params
from converters.conversion import TABLES, from_state_dict, to_state_dict
from converters.tables import ConversionError, Given
from tests.parity.torch_models import MODELS, random_model

few = settings(max_examples=10)


def names(n):
    return tuple(f"attribute{i}" for i in range(n))


@st.composite
def stargan_configs(draw):
    width, blocks, n = draw(st.integers(1, 6)), draw(st.integers(0, 12)), draw(st.integers(1, 6))
    return stargan.Config(4 * draw(st.integers(2, 9)), names(n), width, blocks)


@st.composite
def attgan_configs(draw):
    depth = draw(st.integers(1, 4))
    joined = [draw(st.integers(0, depth - 1)) for _ in range(2)]
    width, n = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    decoder = draw(st.integers(1, 6)) if depth > 1 else width
    return attgan.Config(16, names(n), width, decoder, depth, depth, *joined)


@st.composite
def stgan_configs(draw):
    depth = draw(st.integers(2, 4))
    shortcut = draw(st.integers(0, depth - 1))
    stu = shortcut > 0 and draw(st.booleans())
    size = draw(st.sampled_from([1, 3, 5])) if stu else 3
    width, n = draw(st.integers(4, 9)), draw(st.integers(1, 6))
    return stgan.Config(16, names(n), width, depth, shortcut, stu, size, draw(st.booleans()))


@st.composite
def ugatit_configs(draw):
    width, blocks = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    return ugatit.Config(4 * draw(st.integers(2, 5)), width, blocks, draw(st.booleans()), "x")


NORMS = [
    ("instance", "instance"),
    ("batch", "instance"),
    ("batch", "running"),
    ("none", "instance"),
]


@st.composite
def cyclegan_configs(draw):
    width, blocks = draw(st.integers(1, 5)), draw(st.integers(1, 10))
    size, norm = 4 * draw(st.integers(2, 5)), draw(st.sampled_from(NORMS))
    padding = draw(st.sampled_from(list(cyclegan.PADDINGS)))
    return cyclegan.Config(size, width, blocks, *norm, padding, draw(st.booleans()), "x")


@st.composite
def pix2pix_configs(draw):
    width, depth = draw(st.integers(1, 3)), draw(st.integers(2, 8))
    return pix2pix.Config(2**depth, width, depth, *draw(st.sampled_from(NORMS)), "x")


def check_round_trip(arch, config):
    """To parameters and back, bit for bit; only what a caller must specify is asked for."""
    official = random_model(arch, config).state_dict()
    asked = Given(
        config.image_size,
        getattr(config, "attributes", None) or (config.domain,),
        getattr(config, "shortcut_layers", None),
        getattr(config, "inject_layers", None),
        getattr(config, "padding", None),
        getattr(config, "statistics", None),
    )
    found, params, ignored = from_state_dict(arch, official, asked)
    assert found == config
    back = to_state_dict(arch, found, params)
    assert list(back) and back.keys() == official.keys()
    for key, tensor in back.items():
        assert tensor.dtype == official[key].dtype and tensor.shape == official[key].shape
        assert key in ignored or torch.equal(tensor, official[key])
    MODELS[arch](config).load_state_dict(back, strict=True)
    for key in ignored:
        del official[key]
    assert from_state_dict(arch, official, asked)[2] == ()


@few
@given(stargan_configs())
def test_stargan(config):
    check_round_trip("stargan", config)


@few
@given(attgan_configs())
def test_attgan(config):
    check_round_trip("attgan", config)


@few
@given(stgan_configs())
def test_stgan(config):
    check_round_trip("stgan", config)


@few
@given(ugatit_configs())
def test_ugatit(config):
    check_round_trip("ugatit", config)


@few
@given(cyclegan_configs())
def test_cyclegan(config):
    check_round_trip("cyclegan", config)


@few
@given(pix2pix_configs())
def test_pix2pix(config):
    check_round_trip("pix2pix", config)


OFFICIAL = [
    ("stargan", stargan.Config(256)),
    *(("attgan", attgan.Config(384, shortcut_layers=s, inject_layers=i))
      for s in range(5) for i in range(5)),
    *(("stgan", stgan.Config(128, shortcut_layers=s, use_stu=u, one_more_conv=m))
      for s in range(1, 5) for u in (True, False) for m in (True, False)),
    *(("ugatit", ugatit.Config(256, blocks=b, light=light))
      for b in (4, 6) for light in (True, False)),
    *(("cyclegan", cyclegan.Config(256, blocks=b, norm=n, dropout=d))
      for b in (6, 9) for n in norms.KINDS for d in (True, False)),
    *(("pix2pix", pix2pix.Config(2**i, layers=i, norm=n)) for i in (7, 8) for n in norms.KINDS),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "config"), OFFICIAL, ids=[f"{a}-{i}" for i, (a, _) in enumerate(OFFICIAL)]
)
def test_official_files_need_no_answer_but_the_size(arch, config):
    with torch.device("meta"):
        model = MODELS[arch](config)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    asked = Given(None if arch == "ugatit" and not config.light else config.image_size)
    assert TABLES[arch].infer(shapes, asked) == config


def test_widths_beyond_the_cap_are_an_equal_network():
    config = attgan.Config(16, names(2), 512, 1024, 3, 3)
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in MODELS["attgan"](config).state_dict().items()}
    found = TABLES["attgan"].infer(shapes, Given(16, names(2)))
    with torch.device("meta"):
        again = MODELS["attgan"](found).state_dict()
    assert {k: tuple(v.shape) for k, v in again.items()} == shapes


def test_shapes_that_fit_two_networks_are_asked_about():
    """Where a level is as wide as there are attributes, a shortcut looks like an injection."""
    config = attgan.Config(16, names(4), 4, 4, 2, 2, shortcut_layers=1, inject_layers=0)
    official = random_model("attgan", config).state_dict()
    with pytest.raises(
        ConversionError, match=r"\(0, 1\) or \(1, 0\) fit the tensors; give --short"
    ):
        from_state_dict("attgan", official, Given(16, names(4)))
    for answer in (Given(16, names(4), 1), Given(16, names(4), None, 0)):
        assert from_state_dict("attgan", official, answer)[0] == config


def test_every_architecture_has_a_table():
    assert TABLES.keys() == ARCHITECTURES.keys()


def test_what_was_not_converted_is_written_as_a_module_has_it_at_first():
    config = stargan.Config(image_size=16, width=4, blocks=1)
    state = to_state_dict("stargan", config, init_params("stargan", config))
    for key, tensor in state.items():
        if key.endswith("running_mean"):
            assert (tensor == 0).all()
        if key.endswith("running_var"):
            assert (tensor == 1).all() and key.replace("running_var", "running_mean") in state
