"""The part of a photo that generators see, and the way back to full resolution."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmaa_jax.images import views
from cdmaa_jax.images.faces import Box, centre_square
from cdmaa_jax.images.squares import look, see, to_levels, to_unit, write_back
from tests.tiny import astronaut


def photo(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def changed(original, box, perturbation, epsilon):
    """The photo with a perturbation written back into one square."""
    return write_back(original, [box], [perturbation], epsilon)


def test_look_finds_faces_or_takes_the_centre():
    (found,) = look(astronaut())
    assert found.face is not None and found.square.size > found.face.size
    both = look(np.concatenate([astronaut()[:300, 60:360]] * 2, axis=1))
    assert [one.face is not None for one in both] == [True, True]
    for photo, aligned in ((np.zeros((50, 70, 3), np.uint8), False), (astronaut(), True)):
        (nothing,) = look(photo, aligned)
        assert nothing.face is None and nothing.square == centre_square(*photo.shape[:2])


def test_see_is_the_view_of_the_square():
    box = Box(3, 10, 44)
    seen = see(photo(), box, 16)
    assert seen.dtype == np.float32
    floats = photo()[None].astype(np.float32) / 127.5 - 1
    expected = views.compose(views.crop(box), views.resize(16))(floats)[0]
    np.testing.assert_allclose(seen, expected, atol=3e-6)


def test_levels_and_the_unit_range_are_inverse():
    levels = np.arange(256, dtype=np.uint8)
    unit = to_unit(levels)
    assert unit.dtype == np.float32 and (unit[0], unit[-1]) == (-1, 1)
    np.testing.assert_allclose(unit, levels / 127.5 - 1, atol=2e-7)
    back = to_levels(unit)
    assert back.dtype == np.uint8 and (back == levels).all()


def test_values_are_brought_to_the_nearest_level_and_those_outside_to_the_ends():
    between = to_unit(np.array([0.4, 0.6, 100.4, 100.6, 254.6]))
    assert to_levels(between).tolist() == [0, 1, 100, 101, 255]
    assert to_levels(np.array([-1.1, 1.1])).tolist() == [0, 255]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(16, 60), st.integers(4, 40), st.floats(0.008, 0.3))
def test_the_file_stays_within_epsilon_and_outside_the_square_nothing_changes(
    seed, side, canonical, epsilon
):
    original = photo(seed=seed, height=side + 5, width=side + 9)
    box = Box(2, 4, side)
    random = np.random.default_rng(seed)
    perturbation = random.uniform(-epsilon, epsilon, (canonical, canonical, 3)).astype(np.float32)
    protected = changed(original, box, perturbation, epsilon)
    change = protected.astype(int) - original
    assert np.abs(change).max() / 127.5 <= epsilon
    box.crop(change)[...] = 0
    assert not change.any()


def boxes(height, width):
    sides = st.integers(1, min(height, width))
    return sides.flatmap(
        lambda side: st.builds(
            Box, st.integers(0, height - side), st.integers(0, width - side), st.just(side)
        )
    )


@settings(max_examples=60)
@given(st.lists(boxes(40, 50), min_size=1, max_size=4))
def test_each_pixel_of_overlapping_squares_is_changed_for_the_one_it_is_most_central_in(squares):
    grey = np.full((40, 50, 3), 128, np.uint8)
    levels = range(1, 1 + len(squares))  # of each square's change: it tells whose a pixel is
    perturbations = [np.full((8, 8, 3), level / 127.5, np.float32) for level in levels]
    change = write_back(grey, squares, perturbations, 0.05).astype(int) - 128
    assert (change == change[..., :1]).all()
    for y, x in np.ndindex(40, 50):
        distances = {
            number: max(
                abs(2 * (y - box.top) + 1 - box.size), abs(2 * (x - box.left) + 1 - box.size)
            )
            / box.size
            for number, box in enumerate(squares)
            if 0 <= y - box.top < box.size and 0 <= x - box.left < box.size
        }
        nearest = {n for n, far in distances.items() if far <= min(distances.values()) + 1e-6}
        assert change[y, x, 0] - 1 in nearest if nearest else change[y, x, 0] == 0


def test_between_equals_the_first_square_wins():
    grey = np.full((20, 30, 3), 128, np.uint8)
    perturbations = [np.full((8, 8, 3), level / 127.5, np.float32) for level in (1, 2)]
    twice = write_back(grey, [Box(0, 0, 20)] * 2, perturbations, 0.05)
    assert (twice[:, :20] == 129).all()
    beside = write_back(grey, [Box(0, 0, 20), Box(0, 10, 20)], perturbations, 0.05)
    assert (beside[10, :15] == 129).all() and (beside[10, 15:] == 130).all()


@pytest.mark.parametrize(("epsilon", "levels"), [(0.05, 6), (1 / 127.5, 1), (8 / 127.5, 8)])
def test_epsilon_in_grey_levels(epsilon, levels):
    grey = np.full((20, 20, 3), 128, np.uint8)
    perturbation = np.full((8, 8, 3), epsilon, np.float32)
    assert (changed(grey, Box(0, 0, 20), perturbation, epsilon) == 128 + levels).all()


def test_what_was_found_at_the_generators_scale_is_seen_again():
    grey = np.full((200, 200, 3), 128, np.uint8)
    coarse = np.random.default_rng(0).choice([-1.0, 1.0], (6, 6, 3))
    perturbation = np.kron(coarse, np.ones((4, 4, 1))).astype(np.float32) * np.float32(0.2)
    box = Box(10, 20, 150)
    protected = changed(grey, box, perturbation, 0.2)
    seen = see(protected, box, 24) - see(grey, box, 24)
    assert np.corrcoef(seen.ravel(), perturbation.ravel())[0, 1] > 0.95


@pytest.mark.parametrize("side", [110, 150, 256, 700])
def test_seen_at_the_size_at_which_it_was_found_a_change_is_nearly_itself(side):
    """With plain interpolation, more than half of such a fine change is lost."""
    grey = np.full((side, side, 3), 128, np.uint8)
    wanted = np.random.default_rng(0).choice([-3, 3], (64, 64, 3)).astype(np.float32) / 127.5
    box = Box(0, 0, side)

    def error(protected):
        seen = see(protected, box, 64) - see(grey, box, 64)
        return np.sqrt(np.mean((seen - wanted) ** 2) / np.mean(wanted**2))

    plain = np.asarray(views.resize(side)(wanted[None]))[0]
    plain = np.uint8(grey + np.rint(plain * 127.5))
    assert error(plain) > 0.5
    assert error(changed(grey, box, wanted, 0.05)) < 0.4


@pytest.mark.parametrize("value", [0, 2, 253, 255])
def test_what_cannot_be_seen_for_want_of_colours_does_not_wrap_around(value):
    photo = np.full((90, 90, 3), value, np.uint8)
    coarse = np.random.default_rng(0).choice([-0.05, 0.05], (24, 24, 3)).astype(np.float32)
    protected = changed(photo, Box(0, 0, 90), coarse, 0.05).astype(int)
    assert np.abs(protected - value).max() == 6


def test_at_its_own_size_a_change_is_added_as_it_is():
    grey = np.full((24, 24, 3), 128, np.uint8)
    change = np.random.default_rng(0).uniform(-0.05, 0.05, (24, 24, 3)).astype(np.float32)
    moved = changed(grey, Box(0, 0, 24), change, 0.05)
    assert (moved == 128 + np.rint(change * 127.5).clip(-6, 6)).all()


def test_whole_levels_are_the_nearest():
    grey = np.full((8, 8, 3), 128, np.uint8)
    moved = changed(grey, Box(0, 0, 8), np.full((8, 8, 3), 1.6 / 127.5, np.float32), 0.05)
    assert (moved == 130).all()
