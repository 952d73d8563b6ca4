"""The face detector and the square that generators look at."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cdmaa_jax.images import faces
from cdmaa_jax.images.faces import (
    Box,
    _groups,
    _hits,
    centre_square,
    face_square,
    find_face,
    find_faces,
)
from tests import tiny

SIDES = st.integers(1, 3000)


@pytest.fixture(scope="module")
def astronaut():
    return tiny.astronaut()


def holds(box, y, x):
    return box.top <= y < box.top + box.size and box.left <= x < box.left + box.size


def test_finds_the_astronaut(astronaut):
    box = find_face(astronaut)
    assert 70 <= box.size <= 130
    assert holds(box, 110, 205) and holds(box, 110, 240)  # her eyes
    assert find_face(astronaut) == box


def test_box_scales_with_the_photo(astronaut):
    box = find_face(astronaut)
    large = find_face(np.repeat(np.repeat(astronaut, 4, axis=0), 4, axis=1))
    assert abs(large.size - 4 * box.size) <= 4
    assert abs(large.top - 4 * box.top) <= 4 and abs(large.left - 4 * box.left) <= 4


def test_finds_a_small_face(astronaut):
    photo = np.zeros((512, 512, 3), np.uint8)
    photo[100:280, 150:380] = Image.fromarray(astronaut).resize((230, 180), Image.Resampling.BOX)
    assert 38 <= find_face(photo).size <= 55


def test_square_holds_hair_and_chin(astronaut):
    square = face_square(find_face(astronaut), *astronaut.shape[:2])
    assert holds(square, 65, 222) and holds(square, 170, 225)
    assert square.crop(astronaut).shape == (square.size, square.size, 3)


def test_finds_a_face_at_the_edge(astronaut):
    box = find_face(astronaut[70:, 170:])
    square = face_square(box, 330, 342)
    assert square.top == 0 and square.size > box.size


def test_all_faces_are_found_and_no_others(astronaut):
    (alone,) = find_faces(astronaut)
    both = find_faces(np.concatenate([astronaut[:300, 60:360]] * 2, axis=1))
    assert len(both) == 2 and abs(both[0].left - both[1].left) >= 290
    assert alone == find_face(astronaut)
    assert find_faces(np.zeros((99, 99, 3), np.uint8)) == []


@pytest.mark.parametrize(("hits", "counts"), [
    ([(0, 0, 100)] * 3 + [(20, 60, 100)] * 2, [3, 2]),  # neighbours whose boxes overlap
    ([(0, 0, 100)] * 3 + [(35, 35, 30)] * 2, [3]),  # a nose
    ([(0, 0, 100)] * 3 + [(0, 52, 100), (0, -48, 100)] * 2, [7]),  # all hits of a face are gone
    ([(0, 0, 100)] * 4 + [(0, 200, 35)] * 2, [4, 2]),
    ([(0, 0, 100)] * 4 + [(0, 200, 25)] * 2, [4]),  # too small
    ([(0, 0, 100)] * 4 + [(0, 200, 35)] * 2 + [(0, 300, 20)] * 2, [4, 2]),  # beside the first
])  # fmt: skip
def test_hits_are_those_of_one_face_or_of_another(hits, counts):
    groups = list(_groups(np.array(hits, np.float64)))
    assert [len(group) for group in groups] == counts


def test_another_face_needs_two_hits(monkeypatch, astronaut):
    for number, found in ((1, 1), (2, 2)):
        hits = [(10, 10, 100)] * 4 + [(10, 200, 60)] * number
        monkeypatch.setattr(faces, "_hits", lambda _, hits=hits: iter(hits))
        assert len(find_faces(astronaut)) == found


def test_the_larger_of_two_faces_wins(astronaut):
    face = astronaut[30:200, 130:310]
    small = np.zeros_like(face)
    small[:85, :90] = face[::2, ::2]
    box, other = find_faces(np.concatenate([small, face], axis=1))
    assert box.left >= 180 and box.size > 70
    assert other.left < 90 and 35 < other.size < 65


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (23, 23), (24, 24), (24, 600)])
def test_small_photos_have_no_face(shape):
    assert find_face(np.zeros((*shape, 3), np.uint8)) is None


def test_noise_has_no_face():
    noise = np.random.default_rng(0).integers(0, 256, (200, 260, 3), dtype=np.uint8)
    assert find_face(noise) is None


@pytest.mark.parametrize(
    "photo", [np.zeros((30, 30), np.uint8), np.zeros((30, 30, 3)), np.zeros((30, 30, 4), np.uint8)]
)
def test_rejects_what_is_no_photo(photo):
    with pytest.raises(ValueError, match="uint8"):
        find_face(photo)


def test_centre_square():
    assert centre_square(275, 225) == Box(25, 0, 225)
    assert centre_square(1, 9) == Box(0, 4, 1)
    with pytest.raises(ValueError, match="no square"):
        centre_square(0, 5)


@given(SIDES, SIDES, st.data())
def test_square_lies_in_the_photo(height, width, data):
    top = data.draw(st.integers(0, height - 1))
    left = data.draw(st.integers(0, width - 1))
    size = data.draw(st.integers(1, min(height - top, width - left)))
    for square in (face_square(Box(top, left, size), height, width), centre_square(height, width)):
        assert square.size >= 1
        assert 0 <= square.top <= height - square.size
        assert 0 <= square.left <= width - square.size


def test_the_square_is_half_as_large_again_and_a_little_higher():
    assert face_square(Box(100, 200, 100), 1000, 1000) == Box(69, 175, 150)


def test_a_mirrored_photo_has_mirrored_hits():
    photo = tiny.astronaut()[:256, 64:384]
    width = photo.shape[1]
    hits = sorted(_hits(photo))
    assert hits and hits == sorted((r, width - c - s, s) for r, c, s in _hits(photo[:, ::-1]))
