"""Algorithm 1 of the CDMAA paper, a file for each of its parts.

Images are NHWC in [-1, 1]; B is the batch, J the models, K a model's domains, T the steps.

Other published methods are options of the same step. Each of these says only what sets it apart;
number of steps, epsilon and update rule are free.

- CDMAA (Qiu et al. 2022), each image against all models and domains: ``Config()``.
- PGD against one model (Yeh et al. 2020): ``Config(update="pgd")`` on an ensemble of one. Such an
  ensemble has the weight 1, and signs do not depend on the regularization.
- Iterative domains (Ruiz et al. 2020): ``Config(across_domains="iterative")``, likewise.
- Joint domains (Ruiz et al. 2020): ``Config(across_domains="uniform")``, likewise; on an ensemble
  of several, joined as domains are, ``Config(across_models="uniform", regularization="none")``.
- A weighted sum of the models' losses (Fang et al. 2020), with the weights that
  ``cdmaa_jax.search_weights`` finds by a line search:
  ``Config(across_models="weighted", model_weights=(1, 3), regularization="none")``.
- One perturbation for all images (CMUA, Huang et al. 2022), which takes the models in turn, by
  ``cdmaa_jax.fit_universal`` and ``cdmaa_jax.apply_universal``:
  ``Config(perturbation="universal", across_models="iterative", regularization="none")``. CMUA
  averages the images' signed steps, where here the sign is of the average, and tunes a step size
  for each model by a search that is left out. ``Config(perturbation="universal")`` is CDMAA so.
- More weight for the face in the loss (Lv 2021): ``Config(loss="face-weighted")``; his weights are
  not known here, ``losses`` says which are taken.
- The latent in place of the outputs (Dong and Xie 2021): ``Config(loss="latent")``, of generators
  that have an ``encode``.
"""

from cdmaa_jax.attack.algorithm import Attack, Info, State, build
from cdmaa_jax.attack.config import Config, choices
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.pieces import apart
from cdmaa_jax.attack.running import evaluate_losses, prepare, run

__all__ = [
    "Attack",
    "Config",
    "Info",
    "State",
    "apart",
    "build",
    "choices",
    "evaluate_losses",
    "min_norm_weights",
    "prepare",
    "run",
]
