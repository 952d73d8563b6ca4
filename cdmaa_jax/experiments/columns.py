"""What is measured: the columns of the paper's tables, and which of them a table shows.

A column that several tables show, such as the default, is one and the same column.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from cdmaa_jax.attack.config import Config

STEPS = 80
"""The paper's T."""
TOGETHER = "together"
"""The method of columns that their options describe completely: attacking all models at once."""
ALONE, ENCODERS = "alone", "encoders"
"""The methods of columns that attack one model, or those with an encoder."""
PLAIN = (TOGETHER, ALONE, ENCODERS)
"""The methods that attack with a column's options and fit nothing."""
SEARCHED, UNIVERSAL = "searched", "universal"
"""The methods that are tuned on photos before they are tested; ``methods.FITTINGS`` says how."""


@dataclass(frozen=True)
class Column:
    """A way to protect photos.

    Attributes:
      config: the options of the attack.
      method: ``TOGETHER`` for the attack on all models at once with these options; one of the
        others in ``methods``; or, of an attack of one's own, any other name. Figures on disk are
        known by it, so a changed attack needs another name.
      model: the only model that is attacked; None if all are.
    """

    config: Config
    method: str = TOGETHER
    model: str | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether the figures also depend on what the method was tuned on."""
        from cdmaa_jax.experiments.methods import FITTINGS  # which imports this module

        return self.method in FITTINGS

    @property
    def attacking(self) -> Column:
        """The column without its threshold, where that judges figures but decides none of them.

        APGD caps the loss at it, a search maximizes what it caps, and an attack of one's own may.
        """
        if self.method not in PLAIN or self.config.update == "apgd":
            return self
        config = dataclasses.replace(self.config, threshold=Config().threshold)
        return dataclasses.replace(self, config=config)

    @property
    def slug(self) -> str:
        """A readable name, built from what differs from the paper's defaults."""
        words = [] if self.method == TOGETHER else [self.method]
        words += [self.model] if self.model else []
        words += [
            f"{name}-{value}"
            for name, value in options(self.config).items()
            if isinstance(value, int | float | str)
        ]
        return "_".join(words).replace("_", "-") or "default"


@dataclass(frozen=True)
class Table:
    """A table of columns.

    Attributes:
      name: of its files, and in ``paper.TABLES`` where the paper has it.
      title: for people.
      columns: name in the table to column, in the paper's order.
      headings: name in the table to what people read.
      default: the name of the column that the others are compared with.

    Raises:
      ValueError: the default is no column, or a column has no heading.
    """

    name: str
    title: str
    columns: dict[str, Column]
    headings: dict[str, str]
    default: str

    def __post_init__(self) -> None:
        if self.default not in self.columns:
            raise ValueError(f"the table {self.name} has no column {self.default}, its default")
        for column in self.columns:
            if column not in self.headings:
                raise ValueError(f"the table {self.name} has no heading for {column}")


def options(config: Config) -> dict[str, object]:
    """The options of a configuration that differ from the defaults."""
    ours, default = dataclasses.asdict(config), dataclasses.asdict(Config())
    return {name: value for name, value in ours.items() if value != default[name]}


def paper_tables(steps: int = STEPS) -> dict[str, Table]:
    """Tables 1 to 4 of the paper.

    Args:
      steps: T of every column but the one with more of them, which has a quarter more.
    """
    return {table.name: table for table in (_updates(steps), *_ablations(steps))}


def _updates(steps: int) -> Table:
    base = Config(steps=steps)
    more = -(-steps * 5 // 4)
    changes: dict[str, tuple[str, dict[str, Any]]] = {
        "i-fgsm": ("(a) I-FGSM", {}),
        "more-steps": (f"(b) I-FGSM, T = {more}", {"steps": more}),
        "larger-epsilon": ("(c) I-FGSM, ε = 0.06", {"epsilon": 0.06}),
        "mi-fgsm": ("(d) MI-FGSM", {"update": "mi-fgsm"}),
        "apgd": ("(e) APGD", {"update": "apgd"}),
    }
    return Table(
        "table1",
        "Table 1. CDMAA with other parameters and update rules",
        {
            name: Column(dataclasses.replace(base, **change))
            for name, (_, change) in changes.items()
        },
        {name: heading for name, (heading, _) in changes.items()},
        "i-fgsm",
    )


def _ablations(steps: int) -> tuple[Table, ...]:
    return (
        _ablation(
            "table2",
            "Table 2. How the gradients of a model's domains are joined",
            "across_domains",
            {
                "single": "single gradient",
                "iterative": "iterative gradient",
                "mgda": "MGDA",
                "uniform": "uniform weighting",
            },
            steps,
        ),
        _ablation(
            "table3",
            "Table 3. How the models' gradients are joined",
            "across_models",
            {
                "single": "single gradient",
                "iterative": "iterative gradient",
                "uniform": "uniform weighting",
                "mgda": "MGDA",
            },
            steps,
        ),
        _ablation(
            "table4",
            "Table 4. How the models' gradients are regularized",
            "regularization",
            {
                "none": "without regularization",
                "l2": "L2 regularization",
                "log": "logarithmic gradient regularization",
                "penalty": "penalty-based regularization",
            },
            steps,
        ),
    )


def _ablation(name: str, title: str, option: str, headings: dict[str, str], steps: int) -> Table:
    """A table of one option's values; the last is the default."""
    base = Config(steps=steps)
    columns = {
        value: Column(dataclasses.replace(base, **{option: value}))  # type: ignore[arg-type]
        for value in headings
    }
    return Table(name, title, columns, headings, list(headings)[-1])
