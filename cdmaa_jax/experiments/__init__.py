"""Tables and figures with intervals from photos: the paper's, measured again, and one's own.

A study is of photos and generators; its columns, which are ways to protect the photos, are measured
on saved 8-bit files, and a table compares them. Here are two generators of one's own, CDMAA with
two epsilons, and an attack of one's own; ``photos`` is any folder of pictures.

>>> import tempfile
>>> from pathlib import Path
>>> import jax.numpy as jnp
>>> import numpy as np
>>> from PIL import Image
>>> from cdmaa_jax import Config, Generator, ensemble_of
>>> from cdmaa_jax.experiments import (
...     Column, Table, build_table, make_study, measure, to_markdown,
... )
>>> temporary = tempfile.TemporaryDirectory()
>>> photos, out = Path(temporary.name, "photos"), Path(temporary.name, "out")
>>> photos.mkdir()
>>> for i in range(3):
...     Image.fromarray(np.full((16, 16, 3), 50 * i + 60, np.uint8)).save(photos / f"{i}.png")
>>> def tint(gain, x, c):
...     return jnp.tanh(gain * x + c[:, None, None, :])
>>> def conditions(labels):
...     return jnp.array([[[-0.5], [0.5]]])
>>> ensemble = ensemble_of([
...     Generator(f"tint{gain:g}", tint, jnp.array(gain), 16, ("darker", "lighter"), conditions)
...     for gain in (2.0, 6.0)
... ])
>>> study = make_study(photos, ensemble, out, aligned=True)
>>> def brighter(job, images, labels, batch_size):
...     return images + job.config.epsilon
>>> columns = {
...     "cdmaa": Column(Config(steps=8)),
...     "less": Column(Config(steps=8, epsilon=0.03)),
...     "brighter": Column(Config(), "brighter"),  # the figures on disk are known by this name
... }
>>> headings = {"cdmaa": "CDMAA", "less": "CDMAA, ε = 0.03", "brighter": "brighter"}
>>> table = Table("own", "CDMAA and a brighter photo", columns, headings, default="cdmaa")
>>> attacks = {"brighter": brighter}
>>> measured = {
...     name: measure(column, study, attacks.get(name)) for name, column in columns.items()
... }
>>> record = build_table(table, measured, study)
>>> print(to_markdown(record))  # doctest: +ELLIPSIS
## CDMAA and a brighter photo
<BLANKLINE>
attack_rate, the share of image and edit pairs with L > 0.05, with its 95 % interval ...
<BLANKLINE>
| model | CDMAA | CDMAA, ε = 0.03 | brighter |
|---|---|---|---|
| tint2 | ...
| tint6 | ...
| mean | ...
<BLANKLINE>
Less the default (CDMAA), paired: attack_rate in points with the 95 % interval ...
>>> temporary.cleanup()

The record, which ``json.dumps`` takes, has L of every photo and edit, and what reproduces it
(``docs/formats.md``); ``draw_bars`` draws it. Measured again, only what is missing is attacked:
what was stopped goes on. Whatever decides a column's figures decides its folder in ``out``, and
functions are known by name there: a changed attack, generator, or entry in ``cdmaa_jax.attack``
needs another name, while generators' parameters and the options are compared themselves.
Generators that were converted come from ``cdmaa_jax.load_ensemble``. ``summarize``, with the draws
of ``resampling``, gives the intervals of any L; ``paper_tables`` has the paper's columns.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdmaa_jax.experiments.charts import draw_bars
    from cdmaa_jax.experiments.columns import Column, Table, paper_tables
    from cdmaa_jax.experiments.methods import measure
    from cdmaa_jax.experiments.runner import Measured, Study
    from cdmaa_jax.experiments.sources import make_study
    from cdmaa_jax.experiments.statistics import resampling, summarize
    from cdmaa_jax.experiments.tables import build_table, to_markdown

__all__ = [
    "Column",
    "Measured",
    "Study",
    "Table",
    "build_table",
    "draw_bars",
    "make_study",
    "measure",
    "paper_tables",
    "resampling",
    "summarize",
    "to_markdown",
]

_HOMES = {
    "Column": "columns",
    "Measured": "runner",
    "Study": "runner",
    "Table": "columns",
    "build_table": "tables",
    "draw_bars": "charts",
    "make_study": "sources",
    "measure": "methods",
    "paper_tables": "columns",
    "resampling": "statistics",
    "summarize": "statistics",
    "to_markdown": "tables",
}

if not TYPE_CHECKING:  # type checkers would take every name for known

    def __getattr__(name: str) -> Any:
        """Imports names on first use, as each of the modules can be imported alone."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
