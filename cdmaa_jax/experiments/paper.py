"""The figures that the paper prints (Qiu, Du, Lu 2022, doi:10.3390/fi14020046), by table.

They are for the generators' official weights, two of which were never published, and for 100 photos
of CelebA that are not named. They are quoted beside measured figures, never mixed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

SOURCE = "Qiu, Du, Lu 2022, doi:10.3390/fi14020046; other weights, other photos"


class Printed(NamedTuple):
    """A pair of figures: avg_L, and attack_rate as a share."""

    avg_l: float
    attack_rate: float


def _table(
    columns: tuple[str, ...], rows: Mapping[str, tuple[tuple[float, float], ...]]
) -> dict[str, dict[str, Printed]]:
    """Column to model to figures, from rows of (avg_L, attack_rate in percent)."""
    return {
        column: {
            model: Printed(cells[i][0], round(cells[i][1] / 100, 6))
            for model, cells in rows.items()
        }
        for i, column in enumerate(columns)
    }


TABLES: dict[str, dict[str, dict[str, Printed]]] = {
    "table1": _table(
        ("i-fgsm", "more-steps", "larger-epsilon", "mi-fgsm", "apgd"),
        {
            "stargan": ((0.211, 98.8), (0.222, 99.2), (0.259, 99), (0.223, 99.4), (0.244, 99.8)),
            "attgan": ((0.108, 56.9), (0.114, 60.7), (0.108, 70.5), (0.112, 59.5), (0.123, 64.1)),
            "stgan": ((0.073, 58.2), (0.080, 62.2), (0.149, 80.4), (0.074, 61.2), (0.085, 71.8)),
            "ugatit": ((0.242, 97), (0.261, 98), (0.303, 100), (0.267, 98), (0.276, 99)),
        },
    ),
    "table2": _table(
        ("single", "iterative", "mgda", "uniform"),
        {
            "stargan": ((0.253, 99.4), (0.207, 98.8), (0.493, 100), (0.200, 100)),
            "attgan": ((0.049, 29.2), (0.067, 48.4), (0.067, 42.6), (0.094, 55.4)),
            "stgan": ((0.064, 47.6), (0.060, 48.2), (0.057, 53.6), (0.063, 48.6)),
            "ugatit": ((0.364, 99), (0.242, 97.0), (0.742, 100), (0.220, 100)),
        },
    ),
    "table3": _table(
        ("single", "iterative", "uniform", "mgda"),
        {
            "stargan": ((1.143, 100), (0.851, 100), (1.176, 100), (0.199, 99.4)),
            "attgan": ((0.000, 0.0), (0.033, 18.3), (0.000, 0.0), (0.099, 59.7)),
            "stgan": ((0.000, 0.0), (0.014, 7.0), (0.000, 0.0), (0.068, 57.2)),
            "ugatit": ((0.027, 1.0), (1.002, 100), (1.629, 100), (0.216, 99)),
        },
    ),
    "table4": _table(
        ("none", "l2", "log", "penalty"),
        {
            "stargan": ((0.304, 99.8), (0.967, 100), (0.626, 100), (0.221, 100)),
            "attgan": ((0.119, 59), (0.078, 46), (0.122, 60.6), (0.115, 62.9)),
            "stgan": ((0.054, 44.4), (0.076, 60.8), (0.012, 6.3), (0.073, 62.6)),
            "ugatit": ((0.388, 98), (1.389, 100), (0.963, 99), (0.253, 100)),
        },
    ),
}
"""Table to column, named as in measured tables, to model to the figures that the paper prints."""
