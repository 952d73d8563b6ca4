"""Label files."""

from pathlib import Path

import numpy as np
import pytest

from cdmaa_jax.disk import FileError
from cdmaa_jax.images.labels import read_labels

CELEBA = "2\nBald Male Young \n000001.jpg -1  1 -1\n000002.jpg  1 -1  1\n"


def write(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_celeba(tmp_path):
    table = read_labels(write(tmp_path, CELEBA, "list_attr_celeba.txt"))
    labels = table.labels([Path("x/000002.jpg"), Path("000001.jpg")])
    assert {k: v.tolist() for k, v in labels.items()} == {
        "Bald": [1, 0], "Male": [0, 1], "Young": [1, 0],
    }  # fmt: skip


@pytest.mark.parametrize("absent, present, folder", [
    ("0", "1", "folder/"), ("-1", "1", "two/folders/"), ("0.0", "1.0", "folder\\"),
    ("-1.0", "1.0", "two\\folders\\"), ("False", "TRUE", ""),
])  # fmt: skip
def test_csv(tmp_path, absent, present, folder):
    rows = f"{present},a.png,{absent}\r\n\r\n {absent},{folder}b.png,{present}\r\n"
    text = f"\ufeffMale,file,Young\r\n{rows}"
    table = read_labels(write(tmp_path, text))
    assert table.attributes == ("Male", "Young")
    labels = table.labels([Path("a.png"), Path("b.png")])
    np.testing.assert_array_equal(labels["Male"], [1, 0])
    np.testing.assert_array_equal(labels["Young"], [0, 1])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no column named 'file'"),
        ("name,Male\na.png,1\n", "no column named 'file'"),
        ("file\na.png\n", "names are missing"),
        ("file,Male,Male\na.png,1,1\n", "not unique"),
        ("file,Male\na.png,2\n", "line 2 has the label '2'"),
        ("file,Male\na.png,\n", "line 2 has the label ''"),
        ("file,Male\na.png,1\nb.png,1,0\n", "line 3: labels: 2, attributes: 1"),
        ("file,Male\na.png,1\na.png,1\n", "line 3 gives a.png a second time"),
        ("Male,Young,file\n1,0,a.png\n1,b.png\n", "line 3 ends before its column 'file'"),
        ("file,Male,\na.png,1,0\n", "names are missing"),
        (CELEBA.replace("2\n", "3\n", 1), "number of images as 3, not 2"),
        (CELEBA.replace(" -1  1 -1", " -1  1", 1), "line 3: labels: 2, attributes: 3"),
        ("7\n", "number of images as 7, not 0"),
        ("1" * 5000 + "\n", "no column named 'file'"),
        ("file,Male\na.png," + "1" * 200_000 + "\n", "line 2: field larger than"),
    ],
)
def test_clear_errors(tmp_path, text, what):
    with pytest.raises(FileError, match=what):
        read_labels(write(tmp_path, text))


def test_binary_and_missing_files(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for name, what in (("b", "not a text file"), ("c", "no such file")):
        with pytest.raises(FileError, match=what):
            read_labels(tmp_path / name)


@pytest.mark.parametrize(("written", "named"), [("é", "e\u0301"), ("e\u0301", "é")])
def test_accents_are_the_same_however_they_are_written(tmp_path, written, named):
    table = read_labels(write(tmp_path, f"file,Male\nJos{written}.jpg,1\n"))
    assert table.row(Path(f"x/Jos{named}.jpg")) == (1,)


def test_a_photo_without_labels(tmp_path):
    table = read_labels(write(tmp_path, CELEBA))
    with pytest.raises(FileError, match="has no line for it"):
        table.labels([Path("z.jpg")])
