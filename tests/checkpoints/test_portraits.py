"""The training data's splitting and drawing; the photographs themselves are not here."""

import numpy as np

from checkpoints.portraits import is_test


def test_the_split_stays_what_the_bundled_generators_were_trained_with():
    held_out = {"A000055.jpg", "A000363.jpg"}
    names = {*held_out, "A000014.jpg", "A000069.jpg", "A000109.jpg"}
    assert {name for name in names if is_test(name)} == held_out


def test_about_a_seventh_is_for_testing():
    share = np.mean([is_test(f"{i:06d}.jpg") for i in range(4000)])
    assert 0.12 < share < 0.18
