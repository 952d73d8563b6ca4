"""Verdicts on made-up results."""

import numpy as np
import pytest

from cdmaa_jax.experiments import figures
from cdmaa_jax.experiments.claims import (
    FAILS,
    HOLDS,
    NOT_JUDGED,
    OPEN,
    Claim,
    caveat,
    judge,
    to_markdown,
)

MODELS = ("stargan", "attgan", "stgan", "ugatit")


def record(columns, default, count=40):
    """A table with the given L: from column to model to a number or a list of N numbers."""
    losses = {
        name: {
            model: np.broadcast_to(np.reshape(models.get(model, 0.0), (-1, 1)), (count, 2)).tolist()
            for model in MODELS
        }
        for name, models in columns.items()
    }
    headings = {name: name.upper() for name in columns}
    return {
        "losses": losses, "headings": headings, "default": default, "threshold": 0.05, "seed": 0,
    }  # fmt: skip


def everywhere(value):
    return dict.fromkeys(MODELS, value)


def table3(count=40, **columns):
    base = {name: everywhere(0.01) for name in ("single", "iterative", "uniform", "mgda")}
    return {"table3": record(base | columns, "mgda", count)}


def verdict_of(claims, text):
    (claim,) = [claim for claim in claims if claim.text == text]
    return claim


def test_a_difference_that_is_plain_holds():
    claims = judge(table3(mgda=everywhere(0.2)))
    claim = verdict_of(claims, "MGDA across models beats uniform weighting")
    assert claim.verdict == HOLDS and claim.value == 100 and claim.interval == (100, 100)
    assert "MGDA less UNIFORM" in claim.quantity


def test_the_opposite_does_not_hold():
    claims = judge(table3(uniform=everywhere(0.2)))
    assert verdict_of(claims, "MGDA across models beats uniform weighting").verdict == FAILS


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_of_few_photos_nothing_can_be_told(count):
    """Even if all agree: five do so by chance in one case of sixteen."""
    claims = judge(table3(count=count, mgda=everywhere(0.2)))
    claims = [claim for claim in claims if claim.text.startswith("MGDA across models beats")]
    assert len(claims) == 3
    assert {claim.verdict for claim in claims} == {HOLDS if count == 6 else OPEN}
    same = {name: everywhere(0.2) for name in ("single", "iterative", "mgda", "uniform")}
    claims = judge({"table2": record(same, "uniform", count)})
    close = verdict_of(claims, "uniform weighting is not far off MGDA")
    assert close.verdict == (HOLDS if count == 6 else OPEN)


def test_no_difference_cannot_be_told():
    claim = verdict_of(judge(table3()), "MGDA across models beats uniform weighting")
    assert claim.verdict == OPEN and claim.value == 0


def test_a_difference_within_what_photos_differ_by_cannot_be_told():
    some = [0.2 if i < 21 else 0.01 for i in range(40)]
    others = [0.2 if i >= 20 else 0.01 for i in range(40)]
    claims = judge(table3(mgda=everywhere(some), uniform=everywhere(others)))
    claim = verdict_of(claims, "MGDA across models beats uniform weighting")
    assert claim.verdict == OPEN and claim.value == pytest.approx(2.5)
    assert claim.interval[0] < 0 < claim.interval[1]


def test_an_even_effect_beats_an_uneven_one_of_the_same_mean():
    uneven = everywhere(0.1) | {"stargan": 0.3, "attgan": 0.0}
    columns = {"none": uneven, "l2": uneven, "log": everywhere(0.1), "penalty": everywhere(0.1)}
    claims = judge({"table4": record(columns, "penalty")})
    text = "the penalty spreads the effect more evenly than {}"
    assert verdict_of(claims, text.format("no regularization")).value == pytest.approx(0.3)
    assert verdict_of(claims, text.format("no regularization")).verdict == HOLDS
    assert verdict_of(claims, text.format("logarithmic regularization")).verdict == OPEN


def table2(**columns):
    base = {name: everywhere(0.1) for name in ("single", "iterative", "mgda", "uniform")}
    return {"table2": record(base | columns, "uniform")}


@pytest.mark.parametrize("worse", ["single", "iterative"])
def test_the_effect_of_one_domains_gradient_varies_between_domains(worse):
    """By the mean over the models of several domains: here three, of two, two and three domains."""
    given = table2()
    losses = given["table2"]["losses"]
    for models in losses.values():
        models |= {"stgan": [[0.1, 0.1, 0.1]] * 40, "ugatit": [[0.1]] * 40}
    losses[worse]["stargan"] = [[0.3, 0.1]] * 40
    losses[worse]["stgan"] = [[0.1, 0.5, 0.1 + 0.02 * (i % 2)] for i in range(40)]
    losses["uniform"]["stgan"] = [[0.1, 0.2, 0.1]] * 40
    text = f"the effect of the {worse} gradient varies more between domains"
    claim = verdict_of(judge(given), text)
    assert claim.value == pytest.approx((0.2 + 0 + (0.4 - 0.1)) / 3)
    assert claim.verdict == HOLDS and f"{worse.upper()} less UNIFORM" in claim.quantity
    losses["uniform"]["attgan"] = [[0.0, 0.9]] * 40
    assert verdict_of(judge(given), text).verdict == FAILS


def test_of_models_with_one_domain_nothing_varies_between_domains():
    given = table2()
    for models in given["table2"]["losses"].values():
        models |= {name: [[0.1]] * 40 for name in models}
    assert not [claim for claim in judge(given) if "between domains" in claim.text]


@pytest.mark.parametrize("worse", ["single", "iterative"])
def test_a_model_with_many_domains_is_judged_by_itself(worse):
    given = table2(**{worse: everywhere(0.1) | {"attgan": 0.01}})
    text = f"uniform weighting beats the {worse} gradient on AttGAN's many domains"
    claim = verdict_of(judge(given), text)
    assert claim.verdict == HOLDS and claim.value == 100
    for models in given["table2"]["losses"].values():
        del models["attgan"]
    assert not [claim for claim in judge(given) if "AttGAN" in claim.text]


def test_claims_of_time_are_listed_and_not_judged():
    claims = judge(table2())
    claim = verdict_of(claims, "uniform weighting takes much less time than MGDA")
    assert claim.verdict == NOT_JUDGED and "include compilation" in claim.quantity
    assert to_markdown([claim]).endswith(f"| {claim.quantity} |  | **not judged** |\n")
    assert f"there being {len(claims) - 1} of them" in caveat(claims)


def test_methods_are_close_within_five_points():
    def claim_of(rate):
        some = [0.2 if i < rate * 40 else 0.01 for i in range(40)]
        columns = {"single": everywhere(0.0), "iterative": everywhere(0.0)}
        columns |= {"mgda": everywhere(some), "uniform": everywhere(0.2)}
        claims = judge({"table2": record(columns, "uniform")})
        return verdict_of(claims, "uniform weighting is not far off MGDA")

    assert claim_of(1.0).verdict == HOLDS
    assert claim_of(0.5).verdict == FAILS
    assert claim_of(0.95).verdict == OPEN


def test_what_is_made_against_one_model_alone():
    columns = {"cdmaa": everywhere(0.1)}
    columns |= {f"alone-{name}": everywhere(0.0) | {name: 0.3} for name in MODELS}
    claims = judge({"related": record(columns, "cdmaa")})
    assert all(claim.verdict == HOLDS for claim in claims) and len(claims) == 8
    transfer = verdict_of(claims, "what is made against stgan alone does less to other models")
    assert transfer.value == 100


def test_of_variants_of_cdmaa_the_paper_claims_nothing():
    columns = {"cdmaa": everywhere(0.1), "joint-domains": everywhere(0.0)}
    columns |= {name: everywhere(0.0) for name in ("universal-cdmaa", "face-weighted", "latent")}
    claims = judge({"related": record(columns, "cdmaa")})
    assert [claim.verdict for claim in claims] == [HOLDS]
    assert "JOINT-DOMAINS" in claims[0].text


def test_theorem_1_holds_only_without_exception():
    def figure(share, count=6):
        one = {"mean": share, "interval": [share, share], "by_image": [share] * count}
        pair = {"by_image": [0.5] * count}
        alike = {"by_image": [0.9] * count}
        return {
            "between_domains": {"a": {"cosine": alike, "norm_ratio": pair}},
            "between_models": {"cosine": pair, "norm_ratio": pair},
            "theorem1": dict.fromkeys(("w", "sign(w)", "step"), one),
            "seed": 0,
        }

    verdicts = [claim.verdict for claim in judge({"figure2": figure(1.0)})]
    assert verdicts == [HOLDS, OPEN, HOLDS, HOLDS, HOLDS]
    assert [claim.verdict for claim in judge({"figure2": figure(0.999)})][2:] == [FAILS] * 3
    few = [claim.verdict for claim in judge({"figure2": figure(1.0, count=5)})]
    assert few == [OPEN] * 5
    few = [claim.verdict for claim in judge({"figure2": figure(0.999, count=5)})]
    assert few[2:] == [FAILS] * 3


def test_a_share_below_1_is_not_printed_as_1():
    claim = Claim("", "", "share", 0.999875, (0.9996, 1.0), FAILS)
    assert "share: +0.9999 | +0.9996 to +1 |" in to_markdown([claim])
    assert figures._percent({"mean": 0.999875, "interval": [0.9996, 1.0]}) == "99.99 % [99.96, 100]"
    assert figures._percent({"mean": 0.9765, "interval": [0.5, 0.9999999]}) == (
        "97.7 % [50, 99.99999]"
    )


def test_a_bar_in_a_models_name_ends_no_cell():
    claim = Claim("Table 1", "on a|b, more", "share on a|b", 0.5, (0.4, 0.6), HOLDS)
    assert r"| on a\|b, more | share on a\|b: +0.5 |" in to_markdown([claim])


def test_robust_and_fragile_models_are_found_whatever_their_order():
    found = {"attgan": 0.0, "stgan": 0.0, "stargan": 0.9, "ugatit": 0.9}
    given = table3(mgda=everywhere(0.2), uniform=found, single={"attgan": 0.9})
    for losses in given["table3"]["losses"].values():
        losses["stargan"] = losses.pop("stargan")  # the last one
    claims = judge(given)
    behind = [c for c in claims if c.text.endswith("does less than MGDA on models that are robust")]
    assert ["on " + c.quantity.split(" on ")[1].split(",")[0] for c in behind] == [
        "on stgan",
        "on attgan",
        "on stgan",
    ]
    assert all(claim.verdict == HOLDS for claim in behind)
    text = "uniform weighting drives L of fragile models beyond MGDA's"
    assert verdict_of(claims, text).value == pytest.approx(0.7)


def test_every_claim_is_a_line():
    claims = judge(table3(mgda=everywhere(0.2)))
    lines = to_markdown(claims).splitlines()
    assert len(lines) == 2 + len(claims) and all(line.count("|") == 6 for line in lines)
    assert judge({}) == []


def test_the_claims_of_table_1():
    order = {
        "i-fgsm": 0.01,
        "mi-fgsm": 0.06,
        "apgd": 0.3,
        "more-steps": 0.07,
        "larger-epsilon": 0.08,
    }
    columns = {name: everywhere(value) for name, value in order.items()}
    columns["mi-fgsm"] = everywhere([0.2 * (i % 2) for i in range(40)])
    columns["i-fgsm"] = {"stargan": 0.04, "ugatit": 0.04, "attgan": 0.01, "stgan": 0.01}
    found = judge({"table1": record(columns, "i-fgsm")})
    assert len(found) == 13
    assert found[10].verdict == NOT_JUDGED and found[10].text.startswith("MI-FGSM and APGD cost")
    for claim in found[:10]:
        assert claim.verdict == HOLDS, claim
        better, worse = claim.quantity.split(", ")[1].split(" less ")
        assert order[better.lower()] > order[worse.lower()]
    assert found[-1].verdict == HOLDS and found[-1].value == pytest.approx(0.03)


def test_claims_are_judged_by_the_threshold_of_the_record():
    columns = {name: everywhere(0.1) for name in ("single", "iterative", "uniform", "mgda")}
    columns["mgda"] = everywhere(0.3)
    one = record(columns, "mgda") | {"threshold": 0.2}
    found = verdict_of(judge({"table3": one}), "MGDA across models beats uniform weighting")
    assert found.value == pytest.approx(100) and found.verdict == HOLDS
