import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from cdmaa_jax import attack
from cdmaa_jax.attack import Config, choices
from cdmaa_jax.attack.numbers import numbers_of


def test_defaults_are_the_papers():
    config = Config()
    assert (config.steps, config.epsilon, config.step_size) == (80, 0.05, 0.01)
    assert (config.update, config.start, config.threshold) == ("i-fgsm", "jitter", 0.05)
    assert (config.across_domains, config.across_models) == ("uniform", "mgda")
    assert (config.regularization, config.loss) == ("penalty", "mse")


@pytest.mark.parametrize("name", choices())
def test_a_wrong_choice_names_the_option_the_value_and_the_choices(name):
    with pytest.raises(ValueError) as error:
        Config(**{name: "wrong"})
    message = str(error.value)
    assert name in message and "'wrong'" in message and "\n" not in message
    assert all(choice in message for choice in choices()[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("epsilon", 0),
        ("epsilon", -0.1),
        ("epsilon", 3),
        ("epsilon", float("nan")),
        ("epsilon", "0.05"),
        ("step_size", float("inf")),
        ("zeta", 0),
        ("threshold", -1),
        ("threshold", None),
        ("update", ["i-fgsm"]),
    ],
)
def test_a_wrong_number_names_the_option_and_the_value(name, value):
    with pytest.raises(ValueError, match=name) as error:
        Config(**{name: value})
    assert repr(value) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["zeta", "threshold"])
def test_only_the_loss_of_latents_has_no_bound(name):
    for loss in ("mse", "face-weighted"):
        with pytest.raises(ValueError, match=rf"{name} must be above 0 and at most 4, not 4\.5"):
            Config(loss=loss, **{name: 4.5})
    config = Config(loss="latent", **{name: 1e300})
    assert getattr(config, name) == 1e300
    assert getattr(numbers_of(config, np.float32, 1), name) == np.finfo(np.float32).max
    for value in (np.inf, np.nan, 0):
        with pytest.raises(ValueError, match=f"{name} must be above 0 and finite, not"):
            Config(loss="latent", **{name: value})


def test_frozen_and_hashable():
    config = Config(epsilon=np.float64(0.1), steps=np.int64(3))
    assert hash(config) == hash(Config(epsilon=0.1, steps=3))
    assert Config(epsilon=jnp.float32(0.25), steps=jnp.int32(3)) == Config(epsilon=0.25, steps=3)
    for weights in ([1, 3], np.array([1, 3]), jnp.array([1.0, 3.0]), [jnp.float32(1), 3]):
        given = Config(across_models="weighted", model_weights=weights)
        assert given.model_weights == (1, 3) and hash(given)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.steps = 4


def test_fgsm_is_one_step_of_size_epsilon():
    resolved = Config(update="fgsm", steps=80, epsilon=0.03, step_size=0.01).resolve()
    assert resolved == Config(update="i-fgsm", steps=1, epsilon=0.03, step_size=0.03)


def test_pgd_is_i_fgsm_from_a_uniform_start():
    assert Config(update="pgd").resolve() == Config(update="i-fgsm", start="uniform")


def test_model_weights_belong_to_weighted_models():
    config = Config(across_models="weighted", model_weights=np.array([1, 3]))
    assert config.model_weights == (1.0, 3.0)
    assert hash(config) == hash(Config(across_models="weighted", model_weights=[1, 3]))
    with pytest.raises(ValueError, match="weighted needs model_weights"):
        Config(across_models="weighted")
    with pytest.raises(ValueError, match="needs across_models weighted, not mgda"):
        Config(model_weights=(1, 1))


@pytest.mark.parametrize(
    "weights",
    [
        (),
        (0, 0),
        (1, -1),
        (1, float("nan")),
        (float("nan"), 1),
        (1, float("inf")),
        ("1", 2),
        3,
        "12",
    ],
)
def test_model_weights_are_checked(weights):
    with pytest.raises(ValueError, match="model_weights") as error:
        Config(across_models="weighted", model_weights=weights)
    assert "\n" not in str(error.value)


def test_the_published_methods_are_options():
    """Those written out in the package's documentation are accepted, and all differ."""
    written = re.findall(r"``(Config\([^`]*\))``", attack.__doc__)
    configs = {eval(text, {"Config": Config}) for text in written}
    assert len(configs) == len(written) - 1  # joint domains are the default
    for option in ("loss", "across_models", "perturbation"):
        assert {getattr(config, option) for config in configs} > {getattr(Config(), option)}
