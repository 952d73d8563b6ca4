"""The paper's claims, and whether the measured figures support them.

A claim is a number that should be positive: a paired difference between columns. It holds if its
95 % interval over images is above zero and does not hold if the interval is below zero. Otherwise,
and with fewer than ``FEWEST`` images, the claim is undecided. Claims on computing time are listed,
but not judged: the seconds of a column include compilation, or not, as the cache happens to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cdmaa_jax.experiments.statistics import MEAN, digits_of, interval, per_image, resampling
from cdmaa_jax.experiments.tables import markdown_table

HOLDS, FAILS, OPEN, NOT_JUDGED = "holds", "does not hold", "undecided", "not judged"
POINTS = 100
CLOSE = 5.0
"""Two methods within this many points of attack_rate are called not far apart; our choice."""
VARIANTS = ("universal-cdmaa", "face-weighted", "latent")
"""Columns that are CDMAA with one part exchanged, of which the paper claims nothing."""
FEWEST = 6
"""With fewer images, not even unanimity is significant: a two-sided sign test of five gives 6 %."""
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and its measurement.

    Attributes:
      source: where the paper has it.
      text: what it says.
      quantity: what was measured for it, in words; of a claim that is not judged, why it is not.
      value: of that; None if the claim is not judged.
      interval: of that, over images; None if the claim is not judged.
      verdict: ``HOLDS``, ``FAILS``, ``OPEN`` or ``NOT_JUDGED``.
    """

    source: str
    text: str
    quantity: str
    value: float | None
    interval: tuple[float, float] | None
    verdict: str


def judge(records: Mapping[str, Record]) -> list[Claim]:
    """The claims that the given results, keyed by name, bear on."""
    claims: list[Claim] = []
    for name, claims_of in _CLAIMS.items():
        if name in records:
            claims += claims_of(records[name])
    return claims


def to_markdown(claims: Sequence[Claim]) -> str:
    """The claims as a table."""
    rows = [["the paper", "claim", "measured", "95 % interval", "verdict"]]
    for claim in claims:
        measured, interval = claim.quantity, ""
        if claim.value is not None and claim.interval is not None:
            measured += f": {_signed(claim.value)}"
            interval = " to ".join(map(_signed, claim.interval))
        rows.append([claim.source, claim.text, measured, interval, f"**{claim.verdict}**"])
    return "\n".join(markdown_table(rows)) + "\n"


def caveat(claims: Sequence[Claim]) -> str:
    """What to keep in mind of the verdicts on so many claims."""
    count = sum(claim.interval is not None for claim in claims)
    return (
        f"Each interval is for one claim alone, not corrected for there being {count} of them: a "
        "few verdicts may be chance."
    )


def _of_table1(record: Record) -> Iterator[Claim]:
    for better, worse, text in (
        ("more-steps", "i-fgsm", "more steps improve the attack"),
        ("larger-epsilon", "i-fgsm", "a larger ε improves the attack"),
        ("mi-fgsm", "i-fgsm", "MI-FGSM improves on I-FGSM"),
        ("apgd", "mi-fgsm", "APGD improves on MI-FGSM"),
        ("apgd", "i-fgsm", "APGD improves on I-FGSM"),
    ):
        yield _difference(record, "§4.2", text, better, worse)
        yield _difference(record, "§4.2", text, better, worse, "avg_l")
    yield _of_time("§4.2", "MI-FGSM and APGD cost about as much computation as I-FGSM")
    yield from _fragile_models(record)


def _fragile_models(record: Record) -> Iterator[Claim]:
    """StarGAN and U-GAT-IT against AttGAN and STGAN, in the default column."""
    models = list(record["losses"][record["default"]])
    pairs = (("stargan", "ugatit"), ("attgan", "stgan"))
    if not all(name in models for pair in pairs for name in pair):
        return
    text = "StarGAN and U-GAT-IT are more vulnerable than AttGAN and STGAN"
    for metric in ("attack_rate", "avg_l"):
        values = _values(record, record["default"])[metric]
        fragile, robust = (
            values[:, [models.index(name) for name in pair]].mean(1) for pair in pairs
        )
        quantity = f"{_unit(metric)} of the two less that of the other two"
        yield _claim(record, "§4.2", text, quantity, _scale(metric) * (fragile - robust))


def _of_table2(record: Record) -> Iterator[Claim]:
    for worse in ("single", "iterative"):
        text = f"uniform weighting of domains beats the {worse} gradient"
        yield _difference(record, "§4.3.1", text, "uniform", worse)
    for worse in ("single", "iterative"):
        if "attgan" in record["losses"]["uniform"]:
            text = f"uniform weighting beats the {worse} gradient on AttGAN's many domains"
            yield _difference(record, "§4.3.1", text, "uniform", worse, model="attgan")
    for worse in ("single", "iterative"):
        text = f"the effect of the {worse} gradient varies more between domains"
        yield from _balance(record, "§4.3.1", text, "uniform", worse)
    yield _closeness(record, "§4.3.1", "uniform weighting is not far off MGDA", "uniform", "mgda")
    yield _of_time("§4.3.1", "uniform weighting takes much less time than MGDA")


def _of_table3(record: Record) -> Iterator[Claim]:
    for worse in ("single", "iterative", "uniform"):
        text = f"MGDA across models beats {_NAMES[worse]}"
        yield _difference(record, "§4.3.2", text, "mgda", worse)
    all_models = list(record["losses"]["mgda"])
    for worse, models in (("single", all_models[1:]), ("uniform", all_models)):
        for model in [name for name in ("attgan", "stgan") if name in models]:
            text = f"{_NAMES[worse]} does less than MGDA on models that are robust"
            yield _difference(record, "§4.3.2", text, "mgda", worse, model=model)
    fragile = next((name for name in ("stargan", "ugatit") if name in all_models), all_models[0])
    text = "uniform weighting drives L of fragile models beyond MGDA's"
    yield _difference(record, "§4.3.2", text, "uniform", "mgda", "avg_l", model=fragile)


def _of_table4(record: Record) -> Iterator[Claim]:
    for worse in ("none", "l2", "log"):
        text = f"the penalty beats {_NAMES[worse]}"
        yield _difference(record, "§4.3.3", text, "penalty", worse)
    for worse in ("none", "l2", "log"):
        text = f"the penalty spreads the effect more evenly than {_NAMES[worse]}"
        yield _evenness(record, "§4.3.3", text, "penalty", worse)


def _of_figure2(record: Record) -> Iterator[Claim]:
    domains, models = record["between_domains"], record["between_models"]
    for metric, text in (
        ("cosine", "gradients of domains have more similar directions than gradients of models"),
        ("norm_ratio", "gradients of domains have more similar norms than gradients of models"),
    ):
        if domains and models:
            within = np.mean([one[metric]["by_image"] for one in domains.values()], axis=0)
            between = np.array(models[metric]["by_image"])
            quantity = f"mean {metric.replace('_', ' ')} between domains less that between models"
            yield _claim(record, "Figure 2", text, quantity, within - between)
    for way, text in (
        ("w", "w raises the loss of every model to first order (Theorem 1)"),
        ("sign(w)", "the sign that a step takes of w can be ignored (equation 27)"),
        ("step", "what clipping leaves of a step raises the loss of every model to first order"),
    ):
        yield _share(record, way, text)


def _of_related(record: Record) -> Iterator[Claim]:
    for name, heading in record["headings"].items():
        if name not in (record["default"], *VARIANTS):
            text = f"CDMAA protects from all models better than {heading}"
            yield _difference(record, "§2", text, record["default"], name)
    losses = record["losses"][record["default"]]
    alone = {name.removeprefix("alone-"): name for name in record["losses"] if "alone-" in name}
    for model, name in alone.items():
        others = [j for j, other in enumerate(losses) if other != model]
        own = list(losses).index(model)
        if others:
            rates = _values(record, name)["attack_rate"]
            quantity = "attack_rate on it less that on the others, points"
            text = f"what is made against {model} alone does less to other models"
            yield _claim(
                record, "§2", text, quantity, POINTS * (rates[:, own] - rates[:, others].mean(1))
            )


def _difference(
    record: Record,
    source: str,
    text: str,
    better: str,
    worse: str,
    metric: str = "attack_rate",
    model: str = MEAN,
) -> Claim:
    """The claim that one column is above another, on one model or in the mean of all."""
    at = -1 if model == MEAN else list(record["losses"][better]).index(model)
    ours, theirs = (_values(record, name)[metric][:, at] for name in (better, worse))
    where = "" if model == MEAN else f" on {model}"
    quantity = f"{_unit(metric)}{where}, {_heading(record, better)} less {_heading(record, worse)}"
    return _claim(record, source, text, quantity, _scale(metric) * (ours - theirs))


def _closeness(record: Record, source: str, text: str, one: str, other: str) -> Claim:
    """The claim that the means of two columns over all models are within a few points."""
    ours, theirs = (_values(record, name)["attack_rate"][:, -1] for name in (one, other))
    value, (low, high) = _estimate(record, POINTS * (ours - theirs))
    verdict = HOLDS if low > -CLOSE and high < CLOSE else OPEN
    verdict = FAILS if low > CLOSE or high < -CLOSE else verdict
    verdict = OPEN if len(ours) < FEWEST else verdict
    quantity = f"points, {_heading(record, one)} less {_heading(record, other)}, within {CLOSE:g}"
    return Claim(source, text, quantity, value, (low, high), verdict)


def _evenness(record: Record, source: str, text: str, one: str, other: str) -> Claim:
    """The claim that avg_L has a smaller range over the models in one column than in another."""
    ours, theirs = (_values(record, name)["avg_l"][:, :-1] for name in (one, other))
    quantity = f"range of avg_L over models, {_heading(record, other)} less {_heading(record, one)}"
    return _less_spread(record, source, text, quantity, ours, theirs, _range)


def _balance(record: Record, source: str, text: str, one: str, other: str) -> Iterator[Claim]:
    """The claim that mean L has a smaller range over a model's domains in one column.

    The range is the mean over the models that have several domains; without any there is no claim.
    """
    counts = {name: len(rows[0]) for name, rows in record["losses"][one].items()}
    models = [name for name, count in counts.items() if count > 1]
    if not models:
        return
    ends = np.cumsum([counts[name] for name in models])[:-1]
    ours, theirs = (
        np.concatenate([np.array(record["losses"][column][name]) for name in models], axis=1)
        for column in (one, other)
    )

    def spread(means: np.ndarray) -> np.ndarray:
        return np.mean([_range(part) for part in np.split(means, ends, axis=-1)], axis=0)

    headings = f"{_heading(record, other)} less {_heading(record, one)}"
    quantity = f"range of mean L over a model's domains, {headings}"
    yield _less_spread(record, source, text, quantity, ours, theirs, spread)


def _less_spread(
    record: Record,
    source: str,
    text: str,
    quantity: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    spread: Callable[[np.ndarray], np.ndarray],
) -> Claim:
    """The claim that the means [D] over images of our values [N,D] spread less than theirs."""

    def statistic(means: np.ndarray) -> np.ndarray:
        return spread(means[..., 1, :]) - spread(means[..., 0, :])

    return _claim(record, source, text, quantity, np.stack([ours, theirs], axis=1), statistic)


def _range(values: np.ndarray) -> np.ndarray:
    return values.max(-1) - values.min(-1)


def _of_time(source: str, text: str) -> Claim:
    """A claim on computing time, which these records cannot decide."""
    reason = "nothing: the seconds of the columns include compilation, and each is a single timing"
    return Claim(source, text, reason, None, None, NOT_JUDGED)


def _share(record: Record, way: str, text: str) -> Claim:
    """The claim that a property holds in all steps of all images; a single exception refutes it."""
    figures = record["theorem1"][way]
    low, high = figures["interval"]
    way = "(x_{t+1} - x_t)" if way == "step" else way
    quantity = f"share of steps in which {way} · grad is positive for every model"
    verdict = HOLDS if len(figures["by_image"]) >= FEWEST else OPEN
    verdict = verdict if figures["mean"] == 1 else FAILS
    return Claim("Figure 2, §3.3", text, quantity, figures["mean"], (low, high), verdict)


def _claim(
    record: Record,
    source: str,
    text: str,
    quantity: str,
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> Claim:
    """The claim that a statistic of the means of values [N,...] over images is positive."""
    value, (low, high) = _estimate(record, values, statistic)
    verdict = HOLDS if low > 0 else FAILS if high < 0 else OPEN
    verdict = OPEN if len(values) < FEWEST else verdict
    return Claim(source, text, quantity, value, (low, high), verdict)


def _estimate(
    record: Record,
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means,
) -> tuple[float, tuple[float, float]]:
    low, high = interval(values, resampling(len(values), record["seed"]), statistic)
    return float(statistic(values.mean(0))), (float(low), float(high))


def _values(record: Record, column: str) -> dict[str, np.ndarray]:
    """Each image's contribution to a column's figures, from ``statistics.per_image``."""
    losses = {model: np.array(rows) for model, rows in record["losses"][column].items()}
    return per_image(losses, record["threshold"])


def _signed(value: float) -> str:
    return f"{value:+.{digits_of(value)}g}"


def _heading(record: Record, column: str) -> str:
    return record["headings"][column]


def _scale(metric: str) -> float:
    return POINTS if metric == "attack_rate" else 1


def _unit(metric: str) -> str:
    return "attack_rate in points" if metric == "attack_rate" else "avg_L"


_NAMES = {
    "single": "the single gradient",
    "iterative": "the iterative gradient",
    "uniform": "uniform weighting",
    "none": "no regularization",
    "l2": "L2 regularization",
    "log": "logarithmic regularization",
}
_CLAIMS: dict[str, Callable[[Record], Iterator[Claim]]] = {
    "table1": _of_table1,
    "table2": _of_table2,
    "table3": _of_table3,
    "table4": _of_table4,
    "figure2": _of_figure2,
    "related": _of_related,
}
