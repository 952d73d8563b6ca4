"""Tables and Figure 2 as people read them, of made-up figures that are all different."""

from cdmaa_jax.experiments import tables
from cdmaa_jax.experiments.figures import figure2_markdown


def figures(rate, average, **more):
    """Figures of which each number is another."""
    return {
        "attack_rate": rate,
        "interval": [rate - 0.01, rate + 0.02],
        "avg_l": average,
        "avg_l_interval": [average - 0.001, average + 0.002],
        **more,
    }


def column(rate, average, difference, less):
    one = figures(rate, average, difference=figures(difference, less))
    return {"stargan": one, "mean": figures(0.9, 0.3, difference=figures(-0.1, -0.2))}


RECORD = {
    "title": "Table 9. Ways",
    "columns": {
        "ours": column(0.8, 0.2, 0.0, 0.0),
        "theirs": column(0.7, 0.1, -0.125, 0.015),
        "unprinted": column(0.6, 0.05, 0.25, -0.005),
    },
    "headings": {"ours": "(a) ours", "theirs": "(b) theirs", "unprinted": "(c) more"},
    "default": "ours",
    "threshold": 0.05,
    "images": [{"face": True}, {"face": False}, {"face": None}],
    "image_size": 64,
    "steps": 80,
    "seed": 3,
    "purposes": {},
    "ensemble": [{}, {}],
    "facts": {
        "theirs": {"tuned_on": "the tested photos"},
        "unprinted": {"tuned_on": "other photos"},
    },
    "made_with": {},
    "paper": {
        "source": "a paper",
        "columns": {
            "ours": {"stargan": {"avg_l": 0.111, "attack_rate": 0.22}},
            "theirs": {"stargan": {"avg_l": 0.333, "attack_rate": 0.44}},
        },
    },
}
TABLE = """\
| model | (a) ours | paper | (b) theirs | paper | (c) more |
|---|---|---|---|---|---|
| stargan | 80.0 % [79.0, 82.0] (0.200) | 22.0 % (0.111) | 70.0 % [69.0, 72.0] (0.100) \
| 44.0 % (0.333) | 60.0 % [59.0, 62.0] (0.050) |
| mean | 90.0 % [89.0, 92.0] (0.300) |  | 90.0 % [89.0, 92.0] (0.300) \
|  | 90.0 % [89.0, 92.0] (0.300) |
"""
DIFFERENCES = """\
| model | (b) theirs | (c) more |
|---|---|---|
| stargan | -12.5 [-13.5, -10.5] (+0.015) | +25.0 [+24.0, +27.0] (-0.005) |
| mean | -10.0 [-11.0, -8.0] (-0.200) | -10.0 [-11.0, -8.0] (-0.200) |
"""


def test_a_table_says_each_number_in_its_place():
    text = tables.to_markdown(RECORD)
    first, second = ("|" + part for part in text.split("\n\n|")[1:])
    assert first.startswith(TABLE) and second == DIFFERENCES


def test_a_table_says_how_its_photos_were_taken_and_what_was_tuned_on_them():
    text = tables.to_markdown(RECORD)
    assert "; 3 photos (1 without a face found: centre square) as crops of 64 px" in text
    assert "Tuned on the tested photos, for want of others: (b) theirs. " in text


def similarity(first):
    """Cosine and norm ratio, six numbers from ``first`` thousandths on."""
    low, mean, high = (round(first / 1000 + i / 10, 3) for i in range(3))
    cosine = {"mean": mean, "interval": [low, high]}
    ratio = {"mean": mean + 0.5, "interval": [low + 0.5, high + 0.5]}
    return {"cosine": cosine, "norm_ratio": ratio}


def share(mean):
    return {"mean": mean, "interval": [mean - 0.1, mean + 0.05]}


def test_figure_2_says_each_number_in_its_place():
    text = figure2_markdown({
        "title": "Figure 2", "steps": 80, "images": [{}, {}], "made_with": None, "purposes": {},
        "ensemble": [{}], "between_domains": {"stargan": similarity(1)},
        "between_models": similarity(2),
        "theorem1": {"w": share(0.9), "sign(w)": share(0.8), "step": share(0.7)},
    })  # fmt: skip
    assert (
        """
| gradients of | cosine | norm ratio |
|---|---|---|
| the domains of stargan | 0.101 [0.001, 0.201] | 0.601 [0.501, 0.701] |
| the models | 0.102 [0.002, 0.202] | 0.602 [0.502, 0.702] |
"""
        in text
    )
    shares = [part.split(" %")[0].split()[-1] for part in text.splitlines()[-1].split(" in ")[1:]]
    assert shares == ["90", "80", "70"]
