"""The training data's splitting and drawing; the photographs themselves are not here."""

import os

import numpy as np

from checkpoints.portraits import is_test, split


def test_the_split_stays_what_the_bundled_generators_were_trained_with():
    held_out = {"A000055.jpg", "A000363.jpg"}
    names = {*held_out, "A000014.jpg", "A000069.jpg", "A000109.jpg"}
    assert {name for name in names if is_test(name)} == held_out


def test_about_a_seventh_is_for_testing():
    share = np.mean([is_test(f"{i:06d}.jpg") for i in range(4000)])
    assert 0.12 < share < 0.18


def test_the_split_as_two_folders(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("A000055.jpg", "A000014.jpg"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    split(tmp_path, tmp_path / "test", tmp_path / "rest")
    assert (tmp_path / "test" / "A000055.jpg").read_bytes() == b"A000055.jpg"
    assert (tmp_path / "rest" / "A000014.jpg").read_bytes() == b"A000014.jpg"
    assert len(os.listdir(tmp_path / "test")) == len(os.listdir(tmp_path / "rest")) == 1
