"""What each column of each table is, in full."""

import pytest

from cdmaa_jax.experiments.columns import options, paper_tables
from cdmaa_jax.experiments.methods import related_table
from tests.experiments.studies import two_toys

IN_TURN = {"across_models": "iterative", "regularization": "none"}
SUMMED = {"across_models": "uniform", "regularization": "none"}
PAPER = {
    "table1": {
        "i-fgsm": {},
        "more-steps": {"steps": 100},
        "larger-epsilon": {"epsilon": 0.06},
        "mi-fgsm": {"update": "mi-fgsm"},
        "apgd": {"update": "apgd"},
    },
    "table2": {
        "single": {"across_domains": "single"},
        "iterative": {"across_domains": "iterative"},
        "mgda": {"across_domains": "mgda"},
        "uniform": {},
    },
    "table3": {
        "single": {"across_models": "single"},
        "iterative": {"across_models": "iterative"},
        "uniform": {"across_models": "uniform"},
        "mgda": {},
    },
    "table4": {
        "none": {"regularization": "none"},
        "l2": {"regularization": "l2"},
        "log": {"regularization": "log"},
        "penalty": {},
    },
}
RELATED = {
    "cdmaa": ("together", None, {}),
    "alone-toy0": ("alone", "toy0", {"update": "pgd"}),
    "alone-toy1": ("alone", "toy1", {"update": "pgd"}),
    "iterative-domains": ("together", None, {"across_domains": "iterative", **SUMMED}),
    "iterative": ("together", None, {"across_domains": "iterative", **IN_TURN}),
    "joint-domains": ("together", None, SUMMED),
    "line-search": (
        "searched",
        None,
        {"across_models": "weighted", "model_weights": (1.0, 1.0), "regularization": "none"},
    ),
    "universal": ("universal", None, {"perturbation": "universal", **IN_TURN}),
    "universal-cdmaa": ("universal", None, {"perturbation": "universal"}),
    "face-weighted": ("together", None, {"loss": "face-weighted"}),
    "latent": ("encoders", None, {"loss": "latent"}),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_columns_of_the_paper_differ_from_the_default_as_it_says(name):
    table = paper_tables()[name]
    assert {key: options(column.config) for key, column in table.columns.items()} == PAPER[name]
    assert {(c.method, c.model) for c in table.columns.values()} == {("together", None)}
    assert PAPER[name][table.default] == {}


def test_the_columns_of_related_methods_are_what_was_published():
    columns = related_table(two_toys().generators).columns
    assert {
        name: (column.method, column.model, options(column.config))
        for name, column in columns.items()
    } == RELATED


def test_all_columns_have_the_steps_asked_for_and_one_a_quarter_more():
    tables = [*paper_tables(12).values(), related_table(two_toys().generators, 12)]
    steps = {
        (table.name, name): column.config.steps
        for table in tables
        for name, column in table.columns.items()
    }
    assert steps.pop(("table1", "more-steps")) == 15
    assert set(steps.values()) == {12}
