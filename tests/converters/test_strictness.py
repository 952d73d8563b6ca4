"""Every tensor that deviates from the table is an error that names it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch

from converters.conversion import from_state_dict, to_state_dict
from converters.tables import ConversionError, Given
from tests.converters.test_files import official
from tests.generators.test_registry import TINY
from tests.parity.torch_models import random_model

ARCHS = list(TINY)
NORM = {
    "stargan": "main.4.running_mean",
    "attgan": "dec_layers.0.layers.1.num_batches_tracked",
    "stgan": "decoder.0.1.num_batches_tracked",
    "pix2pix": "model.model.1.model.2.num_batches_tracked",
}


def refusal(arch, tensors, **given):
    config = TINY[arch]
    asked = {"image_size": config.image_size, "attributes": getattr(config, "attributes", None)}
    with pytest.raises(ConversionError) as caught:
        from_state_dict(arch, tensors, Given(**{**asked, **given}))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("arch", ARCHS)
def test_each_missing_tensor_is_named(arch):
    whole = official(arch)
    for key in whole:
        if "num_batches" in key or (arch == "stargan" and "running" in key):
            continue
        tensors = {k: v for k, v in whole.items() if k != key}
        message = refusal(arch, tensors)
        assert f"tensor {key} is missing" in message, (key, message)


@pytest.mark.parametrize("arch", ARCHS)
def test_each_wrong_shape_is_named(arch):
    whole = official(arch)
    for key, tensor in whole.items():
        wrong = torch.zeros(*tensor.shape, 2)
        assert key in refusal(arch, {**whole, key: wrong}), key


@pytest.mark.parametrize("arch", ARCHS)
def test_one_more_on_any_axis_is_named(arch):
    whole = official(arch)
    for key, tensor in whole.items():
        for axis in range(tensor.dim()):
            more = [n + (i == axis) for i, n in enumerate(tensor.shape)]
            assert key in refusal(arch, {**whole, key: torch.zeros(more)}), (key, axis)


@pytest.mark.parametrize("arch", ARCHS)
def test_unexpected_tensors_are_named(arch):
    message = refusal(arch, {**official(arch), "extra.weight": torch.zeros(1)})
    assert message == "tensor extra.weight is unexpected"
    many = {f"extra.{i}": torch.zeros(1) for i in range(7)}
    message = refusal(arch, {**official(arch), **many})
    assert "tensors extra.0, extra.1" in message and "and 2 more, are unexpected" in message


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("arch", ARCHS)
def test_values_that_are_no_finite_floats_are_named(arch):
    whole = official(arch)
    key = next(k for k, v in whole.items() if v.dim() == 4 and k not in ("main.0.weight",))
    tensor = whole[key].clone()
    for bad in (float("nan"), float("inf")):
        tensor[0, 0, 0, 0] = bad
        assert refusal(arch, {**whole, key: tensor}) == f"tensor {key} is not finite"
    assert "holds torch.int64, not floats" in refusal(arch, {**whole, key: whole[key].long()})
    huge = {**whole, key: whole[key].double() * 1e300}
    assert refusal(arch, huge) == f"tensor {key} is not finite"
    assert f"key {key} holds str" in refusal(arch, {**whole, key: "text"})
    assert f"{key} is not a dense tensor" in refusal(arch, {**whole, key: whole[key].to_sparse()})
    assert f"{key} is not a dense tensor" in refusal(arch, {**whole, key: whole[key].to("meta")})
    nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(3, 3)])
    assert f"{key} is not a dense tensor" in refusal(arch, {**whole, key: nested})
    pairs = torch.zeros(tensor.shape, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert "PyTorch does not convert to float32" in refusal(arch, {**whole, key: pairs})
    one = torch.zeros(1).expand(tensor.shape)  # a few bytes in a file, however large the shape
    assert f"tensor {key} has fewer numbers in the file" in refusal(arch, {**whole, key: one})


def test_a_view_that_negates_its_numbers():
    whole, key = official("stargan"), "main.0.weight"
    config = TINY["stargan"]
    given = Given(image_size=config.image_size, attributes=config.attributes)
    negated = {**whole, key: torch.complex(whole[key], -whole[key]).conj().imag}
    assert negated[key].is_neg()
    found, expected = (from_state_dict("stargan", one, given)[1] for one in (negated, whole))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))


@pytest.mark.parametrize("arch", ARCHS)
def test_data_parallel_prefix(arch):
    whole = official(arch)
    config = TINY[arch]
    asked = Given(config.image_size, getattr(config, "attributes", None))
    prefixed = {f"module.{key}": value for key, value in whole.items()}
    assert from_state_dict(arch, prefixed, asked)[0] == config
    key = next(iter(whole))
    message = refusal(arch, {**whole, f"module.{key}": whole[key]})
    assert message == f"tensor {key} is there twice, as {key} and as module.{key}"


def test_other_float_types_are_read():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        whole = {
            k: v.to(dtype) if v.is_floating_point() else v for k, v in official("stgan").items()
        }
        params = from_state_dict("stgan", whole, Given(16, ("Male",)))[1]
        assert params["head"]["conv"]["kernel"].dtype == "float32"


@pytest.mark.parametrize("arch", NORM)
def test_ignored_tensors_are_reported_and_have_a_shape(arch):
    whole, config = official(arch), TINY[arch]
    attributes = getattr(config, "attributes", None)
    ignored = from_state_dict(arch, whole, Given(config.image_size, attributes))[2]
    assert NORM[arch] in ignored
    assert NORM[arch] in refusal(arch, {**whole, NORM[arch]: torch.zeros(9)})


@pytest.mark.parametrize("arch", ["cyclegan", "pix2pix"])
def test_old_files_carry_statistics_of_instance_norms(arch):
    """As released: every norm recorded them, and they are unused."""
    config = dataclasses.replace(TINY[arch], norm="instance")
    model = random_model(arch, config)
    old = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.InstanceNorm2d):
            old[f"{name}.running_mean"] = torch.ones(module.num_features)
            old[f"{name}.running_var"] = torch.ones(module.num_features)
            old[f"{name}.num_batches_tracked"] = torch.tensor(7)
    found, params, ignored = from_state_dict(arch, {**model.state_dict(), **old}, Given(16))
    assert found == config and old and set(ignored) == old.keys()
    assert to_state_dict(arch, found, params).keys() == model.state_dict().keys()
    for key in old:
        wrong = {**model.state_dict(), **old, key: torch.zeros(9)}
        assert f"{key} [9] instead of" in refusal(arch, wrong)


def test_options_of_the_official_networks():
    """Options are checked against what the keys imply, and taken where the keys leave them open."""
    plain, batch = official("cyclegan"), official("pix2pix")
    assert from_state_dict("cyclegan", plain, Given(16, padding="replicate"))[0].padding == (
        "replicate"
    )
    message = refusal("cyclegan", plain, padding="zero")
    assert message == "--padding is zero, but the tensors say reflect"
    zero = random_model("cyclegan", dataclasses.replace(TINY["cyclegan"], padding="zero"))
    message = refusal("cyclegan", dict(zero.state_dict()), padding="replicate")
    assert message == "--padding is replicate, but the tensors say zero"
    message = refusal("cyclegan", plain, statistics="running")
    assert message == "--statistics is running, but the tensors say instance"
    assert from_state_dict("pix2pix", batch, Given(16))[0].statistics == "instance"
    running = from_state_dict("pix2pix", batch, Given(16, statistics="running"))[0]
    assert running.statistics == "running"
    assert "does not apply" in refusal("pix2pix", batch, padding="zero")
    assert "one edit" in refusal("pix2pix", batch, attributes=("a", "b"))


def test_biases_beside_a_batch_norm_are_unexpected():
    tensors = {**official("pix2pix"), "model.model.0.bias": torch.zeros(4)}
    assert refusal("pix2pix", tensors) == "tensor model.model.0.bias is unexpected"


def test_a_file_of_another_architecture():
    assert "looks like STGAN: stgan" in refusal("stargan", official("stgan"))
    assert refusal("ugatit", {"a": torch.zeros(1)}) == "tensor DownBlock.1.weight is missing"


@pytest.mark.parametrize("arch", ARCHS)
def test_the_image_size_is_asked(arch):
    message = refusal(arch, official(arch), image_size=None)
    assert "give --image-size (the official files: " in message


@pytest.mark.parametrize("arch", ["stargan", "attgan", "stgan"])
def test_attributes_are_asked_when_the_official_list_does_not_fit(arch):
    n = len(TINY[arch].attributes)
    message = refusal(arch, official(arch), attributes=None)
    assert f"the network takes {n} attributes, by " in message
    assert "and the official list has" in message
    message = refusal(arch, official(arch), attributes=("a", "b", "c"))
    assert f"and --attributes names 3; give all {n}" in message


def test_answers_that_contradict_the_tensors():
    full = dataclasses.replace(TINY["ugatit"], light=False)
    tensors = dict(random_model("ugatit", full).state_dict())
    assert from_state_dict("ugatit", tensors)[0].image_size == 16
    message = refusal("ugatit", tensors, image_size=32)
    assert message == "--image-size is 32, but the tensors say 16"
    message = refusal("stgan", official("stgan"), shortcut_layers=0)
    assert message == "--shortcut-layers is 0, but the tensors say 1"
    message = refusal("stargan", official("stargan"), inject_layers=1)
    assert message == "--inject-layers does not apply to this architecture"
    assert "one edit" in refusal("ugatit", official("ugatit"), attributes=("a", "b"))
    assert "multiple of 4" in refusal("stargan", official("stargan"), image_size=30)


def test_inputs_that_nothing_explains():
    whole = official("attgan")
    key = "dec_layers.1.layers.0.weight"
    more = torch.zeros(whole[key].shape[0] + 1, *whole[key].shape[1:])
    message = refusal("attgan", {**whole, key: more})
    assert (
        f"tensor {key} takes" in message and "where dec_layers.0.layers.0.weight gives" in message
    )
    full = dict(official("ugatit"))
    full["FC.0.weight"] = torch.zeros(16, 16 * 5)
    assert "FC.0.weight takes 80 values, not 16 or 16 times a square" in refusal("ugatit", full)
    only = official("stargan")
    only["main.0.weight"] = only["main.0.weight"][:, :3]
    assert "takes no attributes" in refusal("stargan", only)
    assert "key 3 is not text" in refusal("stargan", {3: torch.zeros(1)})
