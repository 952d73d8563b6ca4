"""The condition vectors of each architecture, as in its official code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmaa_jax.generators import attgan, stargan, stgan
from cdmaa_jax.generators.attributes import HAIR_COLOURS
from cdmaa_jax.generators.registry import architecture

PAIRS = (("Bald", "Bangs"), ("Receding_Hairline", "Bangs"), ("Straight_Hair", "Wavy_Hair"),
         ("Mustache", "No_Beard"))  # fmt: skip


def labels_of(rows, names):
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def rows_of(names):
    return st.lists(st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names)),
                    min_size=1, max_size=4)  # fmt: skip


def star_target(row, names, i):
    """A hair colour replaces any other; other attributes are flipped."""
    if names[i] not in HAIR_COLOURS:
        return [1 - v if k == i else v for k, v in enumerate(row)]
    return [int(k == i) if n in HAIR_COLOURS else row[k] for k, n in enumerate(names)]


def att_target(row, names, i):
    """The attribute is flipped; if it is now set, attributes that contradict it are cleared."""
    target = [1 - v if k == i else v for k, v in enumerate(row)]
    for k, other in enumerate(names):
        clash = {names[i], other} in [set(pair) for pair in PAIRS] or (
            names[i] in HAIR_COLOURS and other in HAIR_COLOURS
        )
        if target[i] and clash and k != i:
            target[k] = 0
    return target


@given(rows_of(stargan.OFFICIAL_ATTRIBUTES))
def test_stargan(rows):
    names = stargan.OFFICIAL_ATTRIBUTES
    vectors = stargan.conditions(stargan.Config(), labels_of(rows, names))
    want = [[star_target(row, names, i) for i in range(5)] for row in rows]
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, want)


@given(rows_of(attgan.OFFICIAL_ATTRIBUTES))
def test_attgan(rows):
    names = attgan.OFFICIAL_ATTRIBUTES
    vectors = attgan.conditions(attgan.Config(), labels_of(rows, names))
    assert vectors.shape == (len(rows), 13, 13) and vectors.dtype == np.float32
    for row, found in zip(rows, vectors, strict=True):
        for i in range(13):
            want = np.array(att_target(row, names, i)) - 0.5
            want[i] *= 2
            np.testing.assert_array_equal(found[i], want)


@given(rows_of(("Receding_Hairline", "Bangs", "Straight_Hair", "Wavy_Hair", "Gray_Hair", "Bald")))
def test_attgan_contradictions_outside_the_official_list(rows):
    names = ("Receding_Hairline", "Bangs", "Straight_Hair", "Wavy_Hair", "Gray_Hair", "Bald")
    config = attgan.Config(attributes=names)
    vectors = attgan.conditions(config, labels_of(rows, names))
    want = [[att_target(row, names, i) for i in range(6)] for row in rows]
    np.testing.assert_array_equal(vectors > 0, want)


@given(rows_of(stgan.OFFICIAL_ATTRIBUTES))
def test_stgan(rows):
    names = stgan.OFFICIAL_ATTRIBUTES
    vectors = stgan.conditions(stgan.Config(), labels_of(rows, names))
    want = [[np.subtract(star_target(row, names, i), row) for i in range(10)] for row in rows]
    np.testing.assert_array_equal(vectors, want)


@pytest.mark.parametrize("arch", ["ugatit", "cyclegan", "pix2pix"])
def test_one_domain_without_condition(arch):
    entry = architecture(arch)
    assert entry.conditions(entry.config(), None).shape == (1, 1, 0)
    assert entry.conditions(entry.config(), {"Male": [0, 1, 1]}).shape == (3, 1, 0)
    with pytest.raises(ValueError, match="differ in length"):
        entry.conditions(entry.config(), {"Male": [0], "Young": [0, 1]})


def test_without_labels_each_edit_adds_its_own_attribute():
    np.testing.assert_array_equal(stargan.conditions(stargan.Config(), None), np.eye(5)[None])
    np.testing.assert_array_equal(stgan.conditions(stgan.Config(), None), np.eye(10)[None])
    absent = np.full((13, 13), -0.5) + 1.5 * np.eye(13)
    np.testing.assert_array_equal(attgan.conditions(attgan.Config(), None), absent[None])


@pytest.mark.parametrize("labels, message", [
    ({"Male": [1]}, "the labels lack Young; they have Male"),
    ({"Male": [1], "Young": [0, 1]}, "differ in length"),
    ({"Male": [1], "Young": [-1]}, "labels must be 0 .absent. or 1"),
])  # fmt: skip
@pytest.mark.parametrize("source", [stargan, attgan, stgan])
def test_labels_that_do_not_fit(source, labels, message):
    config = source.Config(attributes=("Male", "Young"))
    with pytest.raises(ValueError, match=message):
        source.conditions(config, labels)


def test_celebas_hair_colours():
    assert HAIR_COLOURS == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
