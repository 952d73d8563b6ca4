"""The options of an attack."""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from cdmaa_jax.attack.domains import DOMAIN_STRATEGIES
from cdmaa_jax.attack.losses import LOSSES
from cdmaa_jax.attack.models import MODEL_STRATEGIES
from cdmaa_jax.attack.perturbations import PERTURBATIONS
from cdmaa_jax.attack.regularization import REGULARIZATIONS

JITTER = 0.001
"""Half-width of the jittered start; at the clean image itself every loss and gradient is zero."""
UPDATES = ("i-fgsm", "fgsm", "pgd", "mi-fgsm", "apgd")
STARTS = ("jitter", "uniform")
_OF_IMAGES = ("mse", "face-weighted")


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of an attack, by default the paper's; hashable, to be a static argument of jit.

    Attributes:
      steps: T, the number of steps.
      epsilon: the largest change of a value, in units of the range [-1, 1].
      step_size: a, the change of a value in one step, in the same units; ``apgd`` sets its own.
      update: ``i-fgsm``; ``fgsm``, which is one step of size epsilon whatever ``steps`` and
        ``step_size`` say; ``pgd``, which is i-fgsm from a uniform start whatever ``start`` says;
        ``mi-fgsm``; or ``apgd``.
      across_domains: which gradient stands for the K domains of a model: that of the ``uniform``
        mean; of the first (``single``); of domain t mod K (``iterative``; if the J models are
        iterative, too, ⌊t / J⌋ mod K, so that each model meets each domain); or the shortest convex
        combination (``mgda``). With ``single`` and ``iterative``, L is that domain's, too.
      across_models: the same for the J models, or the sum ``weighted`` by ``model_weights``; one
        that is left out by ``single`` or in a step of ``iterative`` has the weight zero.
      regularization: what a model's gradient is divided by, equation (23): ``penalty``, ``none``,
        ``l2`` or ``log``.
      zeta: the lower bound of the loss in the regularization, in units of L: at most 4, but for the
        loss ``latent``, whose L has no bound.
      threshold: τ, the loss above which an output counts as disrupted; ``apgd`` maximizes the mean
        over models and domains of min(L, τ), a scalar that the paper leaves open; with ``single``
        across domains only each model's first counts. At 4, the most that L of outputs can be,
        nothing is capped, which serves ``apgd`` where most losses exceed 0.05. As large as is
        wanted for the loss ``latent``.
      start: ``jitter``, uniform in ±0.001 around the image, or ``uniform``, in ±epsilon.
      loss: ``mse`` of the outputs; ``face-weighted``, in which the pixels of the face count more;
        or ``latent``, the mean squared change of what the encoder makes, which has no domains.
        ``zeta``, ``threshold`` and what ``apgd`` maximizes are of whichever is chosen.
      perturbation: ``image``, one of its own for each; or ``universal``, one that all images of a
        batch share, which follows the mean of their gradients.
      model_weights: for ``weighted`` the share of each of the J models, of any sum; None otherwise.
        Kept as a tuple.

    Raises:
      ValueError: an option has a value outside its choices or its range.
    """

    steps: int = 80
    epsilon: float = 0.05
    step_size: float = 0.01
    update: str = "i-fgsm"
    across_domains: str = "uniform"
    across_models: str = "mgda"
    regularization: str = "penalty"
    zeta: float = 1e-8
    threshold: float = 0.05
    start: str = "jitter"
    loss: str = "mse"
    perturbation: str = "image"
    model_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, allowed in choices().items():
            check_choice(name, getattr(self, name), allowed)
        steps = _plain(self.steps)
        if not _is_integer(steps) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, not {steps!r}")
        object.__setattr__(self, "steps", int(steps))
        most = 4 if self.loss in _OF_IMAGES else math.inf  # L of outputs, which are in [-1, 1]
        limits = (("epsilon", 2), ("step_size", 2), ("zeta", most), ("threshold", most))
        for name, largest in limits:
            object.__setattr__(self, name, _checked_number(name, getattr(self, name), largest))
        weights = _checked_weights(self.model_weights, self.across_models)
        object.__setattr__(self, "model_weights", weights)

    def resolve(self) -> Config:
        """The same attack, with ``fgsm`` and ``pgd`` expressed as the equivalent ``i-fgsm``."""
        if self.update == "fgsm":
            return dataclasses.replace(self, update="i-fgsm", steps=1, step_size=self.epsilon)
        if self.update == "pgd":
            return dataclasses.replace(self, update="i-fgsm", start="uniform")
        return self


def choices() -> dict[str, tuple[str, ...]]:
    """The allowed values of each option that takes one from a list."""
    return {
        "update": UPDATES,
        "across_domains": tuple(DOMAIN_STRATEGIES),
        "across_models": tuple(MODEL_STRATEGIES),
        "regularization": tuple(REGULARIZATIONS),
        "start": STARTS,
        "loss": tuple(LOSSES),
        "perturbation": tuple(PERTURBATIONS),
    }


def registered() -> tuple[Any, ...]:
    """What the names of options stand for: part of the key of every program that looks one up.

    Else a program compiled before an entry was added or replaced would be used with it.

    Raises:
      ValueError: an entry is not hashable.
    """
    registries = DOMAIN_STRATEGIES, LOSSES, MODEL_STRATEGIES, PERTURBATIONS, REGULARIZATIONS
    found = tuple(tuple(entries.items()) for entries in registries)
    for name, entry in itertools.chain(*found):
        try:
            hash(entry)
        except TypeError as error:
            raise ValueError(
                f"what {name} stands for must be hashable, as a function is"
            ) from error
    return found


def check_config(config: object) -> None:
    """Raises ValueError if it is no ``Config``."""
    if not isinstance(config, Config):
        raise ValueError(f"the options of an attack are a Config, not {type(config).__name__}")


def check_positive(**numbers: int) -> None:
    """Raises a ValueError that names the number if one is no whole number of at least 1."""
    for name, number in numbers.items():
        if not hasattr(number, "__index__"):
            raise ValueError(f"{name} must be a whole number, not {number!r}")
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raises ValueError if the value of an option is not allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_number(name: str, value: object, largest: float) -> float:
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ValueError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if not 0 < number <= largest or number == math.inf:  # NaN is in no range
        limit = f"at most {largest}" if largest < math.inf else "finite"
        raise ValueError(f"{name} must be above 0 and {limit}, not {number!r}")
    return number


def _checked_weights(given: object, across_models: str) -> tuple[float, ...] | None:
    if given is None and across_models == "weighted":
        raise ValueError("across_models weighted needs model_weights, a number for each generator")
    if given is None:
        return None
    if across_models != "weighted":
        raise ValueError(f"model_weights needs across_models weighted, not {across_models}")
    weights = _as_floats(given)
    if not weights or min(weights) < 0 or not 0 < sum(weights) < math.inf:  # also false for NaN
        raise ValueError(
            f"model_weights must be numbers of at least 0, not all of them 0, not {given!r}"
        )
    return weights


def _plain(value: Any) -> Any:
    """An array or a scalar of NumPy's or JAX's, unless traced, as lists or numbers of Python's."""
    known = hasattr(value, "tolist") and not isinstance(value, jax.core.Tracer)
    return value.tolist() if known else value


def _as_floats(values: object) -> tuple[float, ...]:
    """The values as floats; empty if any of them is not a number."""
    values = _plain(values)
    if not isinstance(values, Iterable) or isinstance(values, str):
        return ()
    values = tuple(map(_plain, values))
    if not all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values):
        return ()
    return tuple(float(v) for v in values)
