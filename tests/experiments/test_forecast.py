"""The remaining time."""

import pytest

from cdmaa_jax.attack.config import Config
from cdmaa_jax.experiments.columns import Column
from cdmaa_jax.experiments.forecast import Forecast, Work, cost
from tests.attack.toys import toy


def test_what_is_left_takes_as_long_in_proportion():
    works = [Work("a", 10, 4, 1.0), Work("b", 10, 0, 3.0)]
    forecast = Forecast(works)
    assert forecast.seconds_left(1.0) is None
    forecast.record("a", 6)
    assert forecast.seconds_left(12.0) == pytest.approx(60)
    forecast.record("b", 10)
    assert forecast.seconds_left(72.0) == 0


def test_nothing_is_foretold_from_the_time_that_compilation_takes():
    forecast = Forecast([Work("a", 50, 0, 1.0), Work("b", 50, 0, 1.0), Work("done", 9, 9, 1.0)])
    forecast.record("a", 1)
    assert forecast.seconds_left(60.0) is None
    forecast.record("a", 1)
    assert forecast.seconds_left(61.0) == pytest.approx(61 / 2 * 98)


def test_more_pieces_than_there_are_do_not_count():
    forecast = Forecast([Work("a", 2, 0, 1.0)])
    forecast.record("a", 5)
    assert forecast.seconds_left(1.0) == 0


@pytest.mark.parametrize(
    ("cheap", "dear"),
    [
        (Column(Config(across_domains="single")), Column(Config())),
        (Column(Config()), Column(Config(across_domains="mgda"))),
        (Column(Config()), Column(Config(steps=100))),
        (Column(Config(update="fgsm")), Column(Config(across_domains="single"))),
    ],
)
def test_columns_cost_what_they_do(cheap, dear):
    models = toy(0), toy(1)
    assert cost(cheap, models, models) < cost(dear, models, models)


def test_fewer_attacked_models_cost_less_and_fewer_measured_ones():
    column, models = Column(Config()), (toy(0), toy(1))
    assert cost(column, models[:1], models[:1]) < cost(column, models[:1], models)
    assert cost(column, models[:1], models) < cost(column, models, models)
