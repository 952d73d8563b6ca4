"""Intervals for cases with a known answer."""

import numpy as np
import pytest
from scipy import stats

from cdmaa_jax.experiments.statistics import interval, per_image, resampling, summarize


def test_the_interval_of_a_mean_is_the_normal_one_where_there_are_many_images():
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = interval(values, resampling(400, seed=0))
    error = values.std() / 20
    expected = stats.norm.interval(0.95, values.mean(), error)
    assert (low, high) == pytest.approx(expected, abs=0.08 * error)


def test_the_interval_of_two_images_has_every_outcome_in_it():
    low, high = interval(np.array([0.0, 1.0]), resampling(2, seed=0))
    assert (low, high) == (0, 1)  # each end occurs in a quarter of the samples


def test_all_images_equal_leave_nothing_open():
    ends = interval(np.full((7, 3), 0.25), resampling(7))
    assert ends.shape == (2, 3) and np.allclose(ends, 0.25)


def test_resamples_are_seeded_and_of_the_size_of_the_sample():
    draws = resampling(9, seed=4, resamples=50)
    assert draws.shape == (50, 9) and (draws.sum(1) == 9).all()
    assert (draws == resampling(9, seed=4, resamples=50)).all()
    assert (draws != resampling(9, seed=5, resamples=50)).any()


def test_an_image_counts_once_for_each_domain_and_a_model_once_in_the_mean():
    losses = {"a": np.array([[0.0, 0.1], [0.1, 0.1]]), "b": np.array([[0.04], [0.06]])}
    figures = per_image(losses, threshold=0.05)
    np.testing.assert_allclose(figures["attack_rate"], [[0.5, 0, 0.25], [1, 1, 1]])
    np.testing.assert_allclose(figures["avg_l"], [[0.05, 0.04, 0.045], [0.1, 0.06, 0.08]])


def test_differences_are_paired():
    random = np.random.default_rng(0)
    default = {"a": random.uniform(0, 1, (50, 2))}
    better = {"a": default["a"] + 0.01}  # far less than the differences between images
    column = summarize(better, default, resampling(50), threshold=0.5)["a"]
    low, high = column["difference"]["avg_l_interval"]
    assert low == pytest.approx(0.01) and high == pytest.approx(0.01)
    assert column["avg_l_interval"][1] - column["avg_l_interval"][0] > 0.05
    low, high = column["interval"]
    assert low < column["attack_rate"] < high


def test_a_column_compared_with_itself_does_not_differ():
    losses = {"a": np.array([[0.0], [1.0], [1.0]]), "b": np.array([[0.0], [0.0], [1.0]])}
    column = summarize(losses, losses, resampling(3), 0.05)
    assert set(column) == {"a", "b", "mean"}
    for figures in column.values():
        assert figures["difference"]["attack_rate"] == 0
        assert figures["difference"]["interval"] == [0, 0]
    assert column["mean"]["attack_rate"] == pytest.approx(0.5)
    assert summarize(losses, dict(reversed(losses.items())), resampling(3), 0.05) == column


def test_the_threshold_is_the_one_given_and_strict():
    losses = {"a": np.array([[0.02, 0.1, 0.2]])}
    assert per_image(losses, 0.01)["attack_rate"][0, 0] == 1
    assert per_image(losses, 0.1)["attack_rate"][0, 0] == pytest.approx(1 / 3)


def test_an_end_at_zero_is_zero():
    """Means of thirds have a rounding error, which would put the end on one side of zero."""
    thirds = [1, 1, 2, 0, 2, -1, 1, 0, -1, 1, 0, -1, 0, 2, -1, 2, 2, -1, -1, 2]
    values, draws = np.array(thirds)[:, None] * (100 / 3), resampling(20, 0)
    means = draws @ values / 20
    assert 0 < np.abs(np.percentile(means, 2.5)) < 1e-12
    assert interval(values, draws)[0] == 0
