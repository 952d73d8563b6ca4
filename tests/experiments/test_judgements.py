"""Claims are judged by the figures that they are about."""

import numpy as np
import pytest

from cdmaa_jax.experiments.claims import FAILS, HOLDS, judge
from tests.experiments.test_claims import everywhere, record, table3, verdict_of


def test_the_claims_of_table_1_compare_what_they_name():
    names = ("i-fgsm", "more-steps", "larger-epsilon", "mi-fgsm", "apgd")
    claims = judge({"table1": record({name: everywhere(0.1) for name in names}, "i-fgsm")})
    found = {(claim.text, claim.quantity) for claim in claims[:10]}
    assert found == {
        (text, f"{unit}, {columns}")
        for text, columns in {
            "more steps improve the attack": "MORE-STEPS less I-FGSM",
            "a larger ε improves the attack": "LARGER-EPSILON less I-FGSM",
            "MI-FGSM improves on I-FGSM": "MI-FGSM less I-FGSM",
            "APGD improves on MI-FGSM": "APGD less MI-FGSM",
            "APGD improves on I-FGSM": "APGD less I-FGSM",
        }.items()
        for unit in ("attack_rate in points", "avg_L")
    }


@pytest.mark.parametrize("points, verdict", [(3, HOLDS), (7, FAILS)])
def test_a_difference_of_seven_points_is_not_close(points, verdict):
    """In each photo, so many of a hundred edits are spoiled by the one and not by the other."""

    def of(spoiled):
        return {"stargan": [[0.2] * spoiled + [0.0] * (100 - spoiled)] * 8}

    losses = {name: of(50) for name in ("single", "iterative", "uniform")}
    one = record({}, "uniform") | {"losses": losses | {"mgda": of(50 + points)}}
    one["headings"] = {name: name for name in one["losses"]}
    claim = verdict_of(judge({"table2": one}), "uniform weighting is not far off MGDA")
    assert claim.verdict == verdict and claim.value == pytest.approx(-points)


def alike(cosine, ratio):
    return {"cosine": {"by_image": [cosine] * 6}, "norm_ratio": {"by_image": [ratio] * 6}}


def test_figure_2_compares_the_mean_over_models_with_what_is_between_models():
    share = {"mean": 1.0, "interval": [1.0, 1.0], "by_image": [1.0] * 6}
    cosine, ratio, *_ = judge({"figure2": {
        "between_domains": {"a": alike(0.9, 0.8), "b": alike(0.5, 0.7)},
        "between_models": alike(0.1, 0.3),
        "theorem1": dict.fromkeys(("w", "sign(w)", "step"), share),
        "seed": 0,
    }})  # fmt: skip
    assert cosine.value == pytest.approx(0.7 - 0.1) and "cosine" in cosine.quantity
    assert ratio.value == pytest.approx(0.75 - 0.3) and "norm ratio" in ratio.quantity


def test_intervals_are_of_the_seed_of_the_record():
    some = np.random.default_rng(0).uniform(0, 0.1, 40).tolist()
    given = table3(mgda=everywhere(some))

    def interval(seed):
        given["table3"]["seed"] = seed
        text = "uniform weighting drives L of fragile models beyond MGDA's"
        return verdict_of(judge(given), text).interval

    assert interval(1) == interval(1) != interval(2)
