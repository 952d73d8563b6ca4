"""Algorithm 1 of the CDMAA paper, a file for each of its parts.

Images are NHWC in [-1, 1]; B is the batch, J the models, K a model's domains, T the steps.
"""

from cdmaa_jax.attack.algorithm import Attack, Info, State, build, run
from cdmaa_jax.attack.config import Config, choices
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.targets import evaluate_losses

__all__ = [
    "Attack",
    "Config",
    "Info",
    "State",
    "build",
    "choices",
    "evaluate_losses",
    "min_norm_weights",
    "run",
]
