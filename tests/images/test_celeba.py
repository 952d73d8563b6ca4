"""CelebA's lists."""

from pathlib import Path

import pytest

from cdmaa_jax.disk import FileError
from cdmaa_jax.images import celeba


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_split_is_read_whatever_the_white_space(tmp_path):
    path = write(tmp_path / celeba.PARTITION, "000001.jpg 0\n000002.jpg   2 \r\n\n000003.jpg\t1\n")
    expected = {"000001.jpg": 0, "000002.jpg": 2, "000003.jpg": 1}
    assert celeba.read_partition(path) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [("000001.jpg 0\n000002.jpg\n", "line 2"), ("000001.jpg 3\n", "line 1"), ("\n", "empty")],
)
def test_a_list_that_is_no_split_is_refused(tmp_path, text, what):
    path = write(tmp_path / "list.txt", text)
    with pytest.raises(FileError, match=what) as error:
        celeba.read_partition(path)
    assert "list.txt" in str(error.value)


def test_a_split_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="not a text file"):
        celeba.read_partition(tmp_path / "list.txt")


def test_the_photos_of_the_test_split_and_those_that_are_missing():
    splits = {"a.jpg": 2, "b.jpg": 0, "c.jpg": 2, "d.jpg": 2}
    photos = [Path("in/a.jpg"), Path("in/b.jpg"), Path("in/d.jpg"), Path("in/other.jpg")]
    chosen, missing = celeba.choose_test_split(photos, splits)
    assert chosen == [Path("in/a.jpg"), Path("in/d.jpg")] and missing == ["c.jpg"]


@pytest.mark.parametrize("place", ["img_align_celeba", ".", "Eval", "../Eval"])
def test_lists_are_found_where_the_archive_has_them(tmp_path, place):
    root = tmp_path / "celeba" / "Img"
    (root / "img_align_celeba").mkdir(parents=True)
    there = write(root / place / celeba.PARTITION, "000001.jpg 2\n")
    found = celeba.find_list(root / "img_align_celeba", celeba.PARTITION)
    assert found is not None and found.samefile(there)
    assert celeba.find_list(root / "img_align_celeba", celeba.ATTRIBUTES) is None
