"""Crops of an earlier run are used again, unless what they depend on has changed."""

import pytest
from PIL import Image

from cdmaa_jax.disk import FileError
from cdmaa_jax.experiments import crops as cropping
from cdmaa_jax.experiments.crops import make_crops
from cdmaa_jax.images.labels import LabelTable
from tests.tiny import save_photo


@pytest.fixture
def photos(tmp_path):
    """Four photos without a face."""
    return [save_photo(tmp_path / "in" / f"{i}.png", i) for i in range(4)]


def test_crops_of_other_settings_are_made_again(photos, tmp_path):
    for size, aligned in ((16, False), (16, True), (12, True), (12, False)):
        crops = make_crops(photos, 4, tmp_path / "crops", size, aligned)
        assert [crop.face for crop in crops] == 4 * [None if aligned else False]
        for crop in crops:
            with Image.open(crop.path) as picture:
                assert picture.size == (size, size)


def test_crops_of_other_photos_in_the_same_folder_are_kept(photos, tmp_path, monkeypatch):
    first = make_crops(photos[:2], 2, tmp_path / "crops", 16)
    make_crops(photos[2:], 2, tmp_path / "crops", 16)
    monkeypatch.setattr(cropping, "look", pytest.fail)
    assert make_crops(photos[:2], 2, tmp_path / "crops", 16) == first


def test_crops_have_the_labels_of_this_run(photos, tmp_path):
    for row in ((0, 1), (1, 1)):
        table = LabelTable(tmp_path, ("a", "b"), {photo.name: row for photo in photos})
        crops = make_crops(photos, 4, tmp_path / "crops", 16, labels=table)
        assert [crop.labels for crop in crops] == [row] * 4


def test_a_full_disk_is_no_bad_photo(photos, tmp_path, monkeypatch):
    def full(path, content):
        raise FileError(path, "the disk is full", "free some space")

    monkeypatch.setattr(cropping.disk, "write_whole", full)
    with pytest.raises(FileError, match="the disk is full"):
        make_crops(photos, 4, tmp_path / "crops", 16, made=pytest.fail)
