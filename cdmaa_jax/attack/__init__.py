"""Algorithm 1 of the CDMAA paper, one module per part.

Images are NHWC in [-1, 1]; B is the batch, J the models, K a model's domains, T the steps.

Other published methods are options of the same step. Each entry sets only what distinguishes the
method; the number of steps, epsilon and the update rule are free.

- CDMAA (Qiu et al. 2022), each image against all models and domains: ``Config()``.
- PGD against one model (Yeh et al. 2020): ``Config(update="pgd")`` on an ensemble of one, whose
  weight is 1; the signs do not depend on the regularization.
- Iterative domains (Ruiz et al. 2020): ``Config(across_domains="iterative")``, also on one model;
  with several that take turns like domains,
  ``Config(across_domains="iterative", across_models="iterative", regularization="none")``.
- Joint domains (Ruiz et al. 2020): ``Config(across_domains="uniform")``, also on one model; with
  several, joined like domains, ``Config(across_models="uniform", regularization="none")``.
- A weighted sum of the models' losses (Fang et al. 2020), with weights from the line search of
  ``cdmaa_jax.search_weights``:
  ``Config(across_models="weighted", model_weights=(1, 3), regularization="none")``.
- One perturbation for all images that takes the models in turn (CMUA, Huang et al. 2022):
  ``cdmaa_jax.fit_universal`` and ``cdmaa_jax.apply_universal`` with
  ``Config(perturbation="universal", across_models="iterative", regularization="none")``. CMUA
  averages the images' signed steps, while this package takes the sign of the average. Its search
  for a step size per model is left out. ``Config(perturbation="universal")`` is universal CDMAA.
- More weight for the face in the loss (Lv 2021): ``Config(loss="face-weighted")``; the original
  weights are not known here, see ``losses`` for those used.
- The latent in place of the outputs (Dong and Xie 2021): ``Config(loss="latent")``, for generators
  with an ``encode``.

Methods of one's own are made of the same parts. A new entry in ``losses.LOSSES``,
``domains.DOMAIN_STRATEGIES``, ``models.MODEL_STRATEGIES``, ``regularization.REGULARIZATIONS`` or
``perturbations.PERTURBATIONS`` is a value of the option of ``Config``. The package's own entries
are not to be replaced. Of the strategies across models and the regularizations, every attack
computes all and selects one, so each must work for any number of models. A perturbation of one's
own moves each image on its own. Figures on disk are known by an entry's name, so a changed one
needs another name. ``build`` also takes an update rule:

>>> import jax
>>> import jax.numpy as jnp
>>> import optax
>>> from cdmaa_jax import Batch, Config, Generator
>>> from cdmaa_jax.attack import build
>>> from cdmaa_jax.attack.algorithm import keys_at
>>> from cdmaa_jax.attack.domains import uniform
>>> from cdmaa_jax.attack.targets import Target
>>> def tint(gain, x, c):
...     return jnp.tanh(gain * x + c[:, None, None, :])
>>> def conditions(labels):
...     return jnp.array([[[-0.5], [0.5]]])
>>> ensemble = [
...     Generator(f"tint{gain}", tint, jnp.array(gain), 8, ("darker", "lighter"), conditions)
...     for gain in (1.0, 2.0)
... ]
>>> batch = Batch(jnp.zeros((1, 8, 8, 3)), tuple(model.conditions(None) for model in ensemble))
>>> @jax.jit
... def nesterov(ensemble, batch, key):
...     momentum = optax.trace(0.9, nesterov=True)
...     rule = optax.chain(momentum, optax.scale_by_sign(), optax.scale(0.01))
...     attack = build(Config(), ensemble, batch, rule=rule)
...     step = lambda state, _: attack.step(state)
...     state, info = jax.lax.scan(step, attack.init(key), length=10)
...     return attack.finish(state).images, info.losses
>>> images, losses = nesterov(ensemble, batch, jax.random.key(0))
>>> images.shape, losses.shape
((1, 8, 8, 3), (10, 1, 2))

A step takes the models' losses and gradients from anywhere, here from images with more noise:

>>> attack = build(Config(), ensemble, batch)
>>> state = attack.init(jax.random.key(0))
>>> noisy = state.images + 0.01 * jax.random.normal(jax.random.key(1), state.images.shape)
>>> keys = keys_at(state.keys, state.time)
>>> evaluations = [
...     uniform("mse", Target(model, vectors, references), noisy, keys, state.time)
...     for model, vectors, references in zip(ensemble, batch.conditions, state.references)
... ]
>>> state, info = attack.step(state, evaluations)
"""

from cdmaa_jax.attack.algorithm import Attack, Info, State, build
from cdmaa_jax.attack.config import Config, choices
from cdmaa_jax.attack.domains import Evaluation
from cdmaa_jax.attack.minnorm import min_norm_weights
from cdmaa_jax.attack.pieces import apart
from cdmaa_jax.attack.running import evaluate_losses, prepare, run

__all__ = [
    "Attack",
    "Config",
    "Evaluation",
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
