"""HEIC photos, as phones write them."""

import builtins
import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from cdmaa_jax.disk import FileError
from cdmaa_jax.images import files
from cdmaa_jax.images.files import count_pixels, read_photo
from tests.images.test_profiles import srgb
from tests.tiny import astronaut, save_photo

HEVC = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}  # lossless


def photo(mode="RGB"):
    """A portrait of 100 x 128 pixels, whose left part is darker."""
    image = Image.fromarray(astronaut()[::4, ::4])
    image.paste(0, (0, 0, 40, 100))
    return image.convert(mode)


def saved(path, image, **options):
    pillow_heif.from_pillow(image).save(path, **HEVC | options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.jpg"])
def test_lossless_pixels_are_exact(tmp_path, mode, name):
    image = photo(mode)
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(np.tile(np.uint8([0, 255]), (100, 64))))
    buffer = io.BytesIO()
    saved(buffer, image)
    path = tmp_path / name
    path.write_bytes(buffer.getvalue())
    found = read_photo(path)
    rgb = image.convert("RGBA" if found.alpha is not None else "RGB")
    opaque = np.asarray(rgb)[..., 3:] != 0 if mode.endswith("A") else True
    assert (found.alpha is not None) == mode.endswith("A")
    if found.alpha is not None:
        np.testing.assert_array_equal(found.alpha, np.asarray(rgb)[..., 3])
    assert np.abs((found.pixels - np.asarray(rgb)[..., :3].astype(int)) * opaque).max() <= 1
    assert found.notes == () and found.profile is None
    assert count_pixels(path) == 100 * 128


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, orientation):
    exif, image = Image.Exif(), photo()
    exif[0x0112] = orientation
    heif = pillow_heif.from_pillow(image)
    heif.info["exif"] = exif.tobytes()
    heif.save(tmp_path / "a.heic", **HEVC)
    turn = files._TURNS.get(orientation)
    upright = np.asarray(image if turn is None else image.transpose(turn)).astype(int)
    found = read_photo(tmp_path / "a.heic").pixels
    assert found.shape == upright.shape and np.abs(found - upright).max() <= 1


def test_the_colours_of_a_profile_are_kept(tmp_path):
    image = photo()
    image.info["icc_profile"] = srgb()
    found = read_photo(saved(tmp_path / "a.heic", image))
    assert found.profile and found.notes == ()


@pytest.mark.parametrize(("primaries", "transfer", "known"), [
    (1, 13, True), (2, 2, True), (12, 13, False), (9, 16, False), (1, 18, False),
])  # fmt: skip
def test_colours_that_are_not_srgb_are_told_of(tmp_path, primaries, transfer, known):
    about = {"color_primaries": primaries, "transfer_characteristics": transfer}
    found = read_photo(saved(tmp_path / "a.heic", photo(), **about))
    assert found.notes == (() if known else (files._UNUSABLE,))


def test_ten_bits_are_told_of(tmp_path):
    levels = np.linspace(0, 65535, 100 * 128).astype(np.uint16).reshape(100, 128)
    for mode, values in (("I;16", levels), ("RGB;16", np.stack([levels] * 3, 2))):
        heif = pillow_heif.from_bytes(mode=mode, size=(128, 100), data=values.tobytes())
        heif.save(tmp_path / "a.heic", **HEVC)
        found = read_photo(tmp_path / "a.heic")
        assert found.notes == ("10 bits per channel were reduced to 8",)
        assert np.abs(found.pixels[..., 0] - levels / 257).max() <= 1


def test_of_several_pictures_it_is_the_main_one(tmp_path):
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red"))
    heif.add_from_pillow(Image.new("RGB", (32, 48), "lime"))
    heif.save(tmp_path / "a.heic", primary_index=1, **HEVC)
    found = read_photo(tmp_path / "a.heic")
    assert found.size == (48, 32) and (found.pixels[..., 1] > 250).all()
    assert found.notes == ("of several pictures: only its main one is used",)


def test_limits_are_those_of_other_photos(tmp_path):
    path = saved(tmp_path / "a.heic", photo())
    with pytest.raises(FileError, match="128 x 100 pixels are more than the limit of 9,999"):
        read_photo(path, 9999)
    small = saved(tmp_path / "b.heic", Image.new("RGB", (64, 8)))
    with pytest.raises(FileError, match="64 x 8 pixels are too few"):
        read_photo(small)


@pytest.mark.parametrize("tile", [0, 64])  # phones write tiles
@pytest.mark.parametrize("kept", [12, 40, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_one_line(tmp_path, kept, tile):
    whole = saved(tmp_path / "a.heic", photo(), tile_size=tile).read_bytes()
    assert read_photo(tmp_path / "a.heic").size == (100, 128)
    path = tmp_path / "b.heic"
    path.write_bytes(whole[: kept if kept > 1 else int(kept * len(whole))])
    with pytest.raises(FileError, match=r"it is (damaged|cut short).*; copy it again") as caught:
        read_photo(path)
    assert "\n" not in str(caught.value)
    assert count_pixels(path) in (0, 100 * 128)


def test_damage_is_a_photo_error_or_a_photo(tmp_path):
    whole, random = saved(tmp_path / "a.heic", photo()).read_bytes(), np.random.default_rng(0)
    path = tmp_path / "b.heic"
    for _ in range(200):
        data = bytearray(whole)
        for place in random.integers(4, len(data), 3):
            data[place if random.random() < 0.5 else place % 600] = random.integers(256)
        path.write_bytes(data)
        try:
            assert read_photo(path).pixels.dtype == np.uint8
        except FileError as error:
            assert "\n" not in str(error)


def test_what_the_file_says_of_its_orientation_beside_it_does_not_count(tmp_path):
    xmp = '<tiff:Orientation xmlns:tiff="http://ns.adobe.com/tiff/1.0/">6 </tiff:Orientation>'
    heif = pillow_heif.from_pillow(photo())
    heif.info["xmp"] = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{xmp}</x:xmpmeta>".encode()
    heif.save(tmp_path / "a.heic", **HEVC)
    with pillow_heif.HeifImageFile(tmp_path / "a.heic") as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(read_photo(tmp_path / "a.heic").pixels, expected)


@pytest.mark.parametrize(("error", "what"), [
    (ModuleNotFoundError, "is not installed"), (ImportError, "does not work"),
])  # fmt: skip
def test_without_the_package_it_is_said_how_to_install_it(tmp_path, monkeypatch, error, what):
    path, load = saved(tmp_path / "a.heic", photo()), builtins.__import__

    def without(name, *arguments):
        if name == "pillow_heif":
            raise error(name)
        return load(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FileError, match=f"which {what}; pip install -U pillow-heif, or export"):
        read_photo(path)
    assert count_pixels(path) == 0
    assert read_photo(save_photo(tmp_path / "a.png")).size == (40, 48)
