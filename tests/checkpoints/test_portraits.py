"""The training data's splitting and drawing; the photographs themselves are not here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.portraits import composite, is_test


@given(st.text(min_size=1))
def test_the_split_depends_on_the_name_alone(name):
    assert is_test(name) == is_test(name)


def test_about_a_seventh_is_for_testing():
    share = np.mean([is_test(f"{i:06d}.jpg") for i in range(4000)])
    assert 0.12 < share < 0.18


@pytest.mark.parametrize(("opacity", "expected"), [(0, 10), (255, 200)])
def test_overlays_cover_by_their_opacity(opacity, expected):
    image = np.full((4, 4, 3), 10, np.uint8)
    overlay = np.full((4, 4, 4), 200, np.uint8)
    overlay[..., 3] = opacity
    assert (composite(image, overlay) == expected).all()
