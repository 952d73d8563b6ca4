"""Photos on disk: awkward pictures in, complete files out."""

import io
import os
import struct
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from cdmaa_jax import disk
from cdmaa_jax.disk import FileError
from cdmaa_jax.images import files
from cdmaa_jax.images.files import Photo, read_photo
from tests.images.test_profiles import srgb, with_tags


def picture(mode="RGB", height=20, width=30, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(values)
    return image.convert("RGB").convert(mode) if mode == "P" else image.convert(mode)


def flat(value, dtype):
    return Image.fromarray(np.full((20, 20), value, dtype))


def saved(tmp_path, image, name="a.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc


def begun_png(width, height):
    return png_header(width, height) + struct.pack(">I", 1000) + b"IDAT" + bytes(9)


@pytest.mark.parametrize(
    ("mode", "name", "alpha"),
    [
        ("RGB", "a.jpg", False),
        ("RGB", "a.png", False),
        ("RGB", "a.webp", False),
        ("RGB", "a.tiff", False),
        ("RGB", "a.bmp", False),
        ("RGB", "a.gif", False),
        ("RGB", "a.ppm", False),
        ("L", "a.png", False),
        ("L", "a.jpg", False),
        ("1", "a.png", False),
        ("LA", "a.png", True),
        ("RGBA", "a.png", True),
        ("RGBA", "a.webp", True),
        ("P", "a.png", False),
        ("CMYK", "a.jpg", False),
        ("CMYK", "a.tiff", False),
        ("LAB", "a.tiff", False),
    ],
)
def test_every_mode_is_rgb(tmp_path, mode, name, alpha):
    photo = read_photo(saved(tmp_path, picture(mode), name))
    assert photo.pixels.shape == (20, 30, 3) and photo.pixels.dtype == np.uint8
    assert (photo.alpha is not None) == alpha
    assert photo.notes == ()


def test_lossless_pixels_are_exact(tmp_path):
    image = picture("RGBA")
    photo = read_photo(saved(tmp_path, image))
    np.testing.assert_array_equal(np.dstack([photo.pixels, photo.alpha]), np.asarray(image))


def test_palette_with_transparency(tmp_path):
    image = picture("P")
    photo = read_photo(saved(tmp_path, image, transparency=bytes([0] * 128 + [255] * 128)))
    assert set(np.unique(photo.alpha)) <= {0, 255} and photo.alpha.min() == 0


def test_sixteen_bit_grey(tmp_path):
    levels = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    photo = read_photo(saved(tmp_path, Image.fromarray(levels)))
    np.testing.assert_array_equal(photo.pixels[..., 1], np.rint(levels / 257))
    assert "16 bits" in photo.notes[0]


def test_sixteen_bit_colour(tmp_path):
    rows = np.full((20, 20, 3), 0x8000, ">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = png_header(20, 20)
    header = header[:24] + b"\x10" + header[25:29]
    header += struct.pack(">I", zlib.crc32(header[12:29]))
    path = tmp_path / "a.png"
    chunk = b"IDAT" + body
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    crc = struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(header + struct.pack(">I", len(body)) + chunk + crc + end)
    photo = read_photo(path)
    assert (photo.pixels == 128).all() and "16 bits" in photo.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_dropped(tmp_path, orientation):
    upright = Image.fromarray(
        np.arange(20 * 30 * 3, dtype=np.uint32).astype(np.uint8).reshape(20, 30, 3)
    )
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    photo = read_photo(saved(tmp_path, stored, exif=exif.tobytes()))
    np.testing.assert_array_equal(photo.pixels, np.asarray(upright))
    written = Image.open(io.BytesIO(files.encode_png(photo)))
    assert not written.getexif() and "exif" not in written.info


def exif_with(orientation, *entries):
    """Exif data with an orientation and entries (tag, type, count, four bytes), built by hand."""
    entries = sorted([(0x0112, 3, 1, struct.pack("<HH", orientation, 0)), *entries])
    table = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)


@pytest.mark.parametrize("tag", [0x011A, 0x0128, 0x0213])
def test_a_note_that_is_damaged_does_not_leave_a_photo_on_its_side(tmp_path, tag):
    """A number stored as text, which Pillow cannot write back."""
    stored = Image.fromarray(np.arange(20 * 30 * 3).astype(np.uint8).reshape(20, 30, 3))
    exif = exif_with(6, (tag, 2, 4, b"72x\0"))
    photo = read_photo(saved(tmp_path, stored, exif=exif))
    np.testing.assert_array_equal(photo.pixels, np.rot90(np.asarray(stored), -1))


def test_a_large_profile_is_kept(tmp_path):
    """Larger than the million bytes above which Pillow suspects an attack."""
    noise = np.random.default_rng(0).integers(0, 256, 2 * 2**20, np.uint8).tobytes()
    large = with_tags(srgb(), {b"A2B0": noise})
    photo = read_photo(saved(tmp_path, Image.new("RGB", (20, 20)), icc_profile=large))
    again = tmp_path / "b.png"
    again.write_bytes(files.encode_png(photo))
    assert read_photo(again).profile == photo.profile == large


def png_with_key(levels, bits, colour, key):
    """A PNG file of grey (0) or RGB (2) levels that declares one of them transparent."""

    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    height, width = levels.shape[:2]
    rows = levels.reshape(height, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    else:
        digits = [((row[:, None] >> np.arange(bits)[::-1]) & 1).ravel() for row in rows]
        lines = [np.packbits(row.astype(np.uint8)).tobytes() for row in digits]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("bits", "colour"), [(2, 0), (4, 0), (8, 0), (16, 0), (8, 2), (16, 2)])
def test_a_level_that_is_named_as_transparent_is(tmp_path, bits, colour):
    shape = (20, 20, 3) if colour == 2 else (20, 20)
    levels = np.random.default_rng(bits).integers(0, 2**bits, shape)
    key = (2**bits - 2,) * (3 if colour == 2 else 1)
    levels[5:10, 5:10] = key
    (tmp_path / "a.png").write_bytes(png_with_key(levels, bits, colour, key))
    photo = read_photo(tmp_path / "a.png")
    same = (levels == key).all(-1) if colour == 2 else levels == key[0]
    np.testing.assert_array_equal(photo.alpha, np.where(same, 0, 255))
    expected = np.rint(levels * 255 / (2**bits - 1)).reshape(20, 20, -1)
    assert np.abs(photo.pixels.astype(int) - expected).max() <= 1


def test_what_is_private_in_a_profile_is_not_kept(tmp_path):
    private = with_tags(srgb(), {b"mmod": b"serial C02XYZ"})
    path = saved(tmp_path, picture(), "a.jpg", icc_profile=private)
    photo = read_photo(path)
    assert photo.profile is not None and photo.notes == ()
    assert b"C02XYZ" in path.read_bytes() and b"C02XYZ" not in photo.profile


def test_a_profile_that_is_none_is_told_of(tmp_path):
    junk = srgb()[:128] + b"GPS 52.1 4.9, serial C02XYZ"
    photo = read_photo(saved(tmp_path, picture(), icc_profile=junk))
    assert photo.profile is None and "colour profile" in photo.notes[0]


def test_profile_of_rgb_is_kept(tmp_path):
    profile = srgb()
    photo = read_photo(saved(tmp_path, picture("RGBA"), icc_profile=profile))
    assert photo.profile == profile
    written = Image.open(io.BytesIO(files.encode_png(photo)))
    assert written.info["icc_profile"] == profile


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_profile_of_another_space_is_not(tmp_path, mode):
    profile = srgb()
    foreign = profile[:16] + b"GRAY" + profile[20:]
    photo = read_photo(saved(tmp_path, picture(mode), "a.jpg", icc_profile=foreign))
    assert photo.profile is None


def grey_profile(curve):
    """A minimal grey ICC profile, version 2, whose light is level**curve."""

    def tag(name, data):
        return name + bytes(4) + data

    text = tag(b"text", b"none\0\0\0\0")
    white = tag(b"XYZ ", struct.pack(">3i", 63190, 65536, 54061))
    trc = tag(b"curv", struct.pack(">IHH", 1, round(curve * 256), 0))
    description = tag(b"desc", struct.pack(">I", 5) + b"grey\0" + bytes(78))
    parts = {b"cprt": text, b"desc": description + bytes(-len(description) % 4), b"wtpt": white}
    parts[b"kTRC"] = trc
    offset, table, body = 128 + 4 + 12 * len(parts), b"", b""
    for name, data in parts.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    rest = struct.pack(">I", len(parts)) + table + body
    header = struct.pack(">I", 128 + len(rest)) + bytes(4) + struct.pack(">I", 0x02100000)
    header += b"mntrGRAYXYZ " + struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + rest


def as_srgb(light):
    return 255 * np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("mode", ["L", "LA"])
@pytest.mark.parametrize("curve", [1.8, 2.4])
def test_profile_of_grey_is_applied(tmp_path, mode, curve):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(levels).convert(mode)
    photo = read_photo(saved(tmp_path, image, icc_profile=grey_profile(curve)))
    assert photo.profile is None and photo.notes == ()
    assert (photo.alpha is not None) == (mode == "LA")
    expected = as_srgb((levels / 255) ** curve)
    assert np.abs(photo.pixels.mean(-1) - expected).max() <= 1.5


def test_profile_that_cannot_be_used_is_told_of(tmp_path):
    broken = srgb()[:16] + b"GRAY" + srgb()[20:]
    photo = read_photo(saved(tmp_path, picture("L"), icc_profile=broken))
    assert "colour profile" in photo.notes[0]
    np.testing.assert_array_equal(photo.pixels[..., 0], np.asarray(picture("L")))


def png_with_gamma(image, gamma):
    file = io.BytesIO()
    image.save(file, "PNG")
    chunk = b"gAMA" + struct.pack(">I", round(gamma * 100_000))
    inserted = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return file.getvalue()[:33] + inserted + file.getvalue()[33:]


@pytest.mark.parametrize("gamma", [1.0, 1 / 1.9])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_gamma_of_png_is_applied(tmp_path, mode, gamma):
    image, path = picture(mode), tmp_path / "a.png"
    path.write_bytes(png_with_gamma(image, gamma))
    photo, levels = read_photo(path), np.asarray(image.convert("RGB"))
    assert np.abs(photo.pixels - as_srgb((levels / 255) ** (1 / gamma))).max() <= 0.5
    if mode == "RGBA":
        np.testing.assert_array_equal(photo.alpha, np.asarray(image)[..., 3])
    path.write_bytes(png_with_gamma(image, 0.45455))
    np.testing.assert_array_equal(read_photo(path).pixels, levels)


def tiff_of_16_bits(levels):
    """An uncompressed RGB TIFF file with 16 bits per channel."""
    height, width, _ = levels.shape
    data, entries = levels.astype("<u2").tobytes(), 9
    after = 8 + 2 + 12 * entries + 4
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, after), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, after + 6), (277, 3, 1, 3), (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, entries) + table + bytes(4)
    return head + struct.pack("<3H", 16, 16, 16) + data


def test_sixteen_bits_of_tiff_are_told_of(tmp_path):
    (tmp_path / "a.tiff").write_bytes(tiff_of_16_bits(np.full((20, 20, 3), 0x8000)))
    photo = read_photo(tmp_path / "a.tiff")
    assert (photo.pixels == 128).all() and "16 bits" in photo.notes[0]


@pytest.mark.parametrize(("bits", "white_is_zero"), [(12, False), (16, False), (16, True)])
def test_grey_tiff_of_many_bits(tmp_path, bits, white_is_zero):
    levels = np.linspace(0, 2**bits - 1, 400).astype(np.uint16).reshape(20, 20)
    data = levels.tobytes()
    if bits == 12:
        pairs = levels.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12) | pairs[:, 1]
        data = b"".join(int(one).to_bytes(3, "big") for one in packed)
    tags = [
        (256, 4, 1, 20), (257, 4, 1, 20), (258, 3, 1, bits), (259, 3, 1, 1),
        (262, 3, 1, 0 if white_is_zero else 1), (273, 4, 1, 8 + 2 + 12 * 9 + 4), (277, 3, 1, 1),
        (278, 4, 1, 20), (279, 4, 1, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4)
    (tmp_path / "a.tif").write_bytes(head + data)
    photo = read_photo(tmp_path / "a.tif")
    expected = np.rint(levels * (255 / (2**bits - 1)))
    expected = 255 - expected if white_is_zero else expected
    assert np.abs(photo.pixels[..., 0] - expected).max() <= 1
    assert f"{bits} bits per channel" in photo.notes[0]


def test_pictures_that_cannot_be_read_are_not_passed_over(tmp_path):
    for name in ("a.HEIC", "b.jfif", "c.jpe"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.png").symlink_to("nowhere")
    (tmp_path / "e.png").symlink_to("e.png")
    (tmp_path / "f.png").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"")
    found = files.pictures_in(tmp_path)
    assert [path.name for path in found] == ["a.HEIC", "b.jfif", "c.jpe", "d.png", "e.png"]
    with pytest.raises(FileError, match="no such file"):
        read_photo(tmp_path / "d.png")
    with pytest.raises(FileError, match="leads back to itself"):
        read_photo(tmp_path / "e.png")
    assert disk.real_path(tmp_path / "e.png") == tmp_path / "e.png"


def test_animation_is_its_first_frame(tmp_path):
    first = picture("RGB")
    path = saved(
        tmp_path, first, "a.webp", save_all=True, append_images=[picture(seed=1)], lossless=True
    )
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, np.asarray(first))
    assert "animated" in photo.notes[0]


def test_of_several_pages_it_is_the_first(tmp_path):
    first = picture("RGB")
    path = saved(tmp_path, first, "a.tiff", save_all=True, append_images=[picture(seed=1)])
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, np.asarray(first.convert("RGB")))
    assert photo.notes == ("of several pages: only its first is used",)


@pytest.mark.parametrize(("largest", "notes"), [
    (65535, ("16 bits per channel were reduced to 8",)),
    (1023, ("10 bits per channel were reduced to 8",)),
    (255, ()),
])  # fmt: skip
@pytest.mark.parametrize("kind", [b"P5", b"P6"])
def test_what_a_ppm_file_loses_is_told_of(tmp_path, kind, largest, notes):
    count = 20 * 20 * (3 if kind == b"P6" else 1)
    level = largest.to_bytes(1 if largest < 256 else 2, "big")
    head = b"%s\n# by hand 7 7 7\n20 20 # wide and high\n%d\n" % (kind, largest)
    (tmp_path / "a.ppm").write_bytes(head + level * count)
    photo = read_photo(tmp_path / "a.ppm")
    assert (photo.pixels == 255).all() and photo.notes == notes


@pytest.mark.parametrize("head", [
    b"P6\n#" + 5000 * b"a" + b"\n20 20\n255\n", b"P6\r#c\r20 20\r255\r", b"P6\n#c\r20 20\n255\n",
])  # fmt: skip
def test_any_comment_in_a_ppm_file(tmp_path, head):
    (tmp_path / "a.ppm").write_bytes(head + 1200 * b"\x07")
    photo = read_photo(tmp_path / "a.ppm")
    assert (photo.pixels == 7).all() and photo.notes == ()


@pytest.mark.parametrize(("largest", "notes"), [
    (65535, ("16 bits per channel were reduced to 8",)), (255, ()),
])  # fmt: skip
def test_a_ppm_file_in_digits(tmp_path, largest, notes):
    comments, path = 1000 * b"# by hand\n", tmp_path / "a.ppm"
    pixels = 1200 * (b"%d " % largest)
    path.write_bytes(b"P3\n20 20\n%d\n" % largest + comments + pixels)
    photo = read_photo(path)
    assert (photo.pixels == 255).all() and photo.notes == notes
    path.write_bytes(path.read_bytes() + b"#")
    with pytest.raises(FileError, match="more than 1000 comments"):
        read_photo(path)


def test_a_preview_in_a_raw_file_is_not_taken_for_the_photo(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    saved(tmp_path, picture("RGB"), "a.tiff", tiffinfo=tags)
    saved(tmp_path, picture("RGB"), "b.tiff").rename(tmp_path / "b.NEF")
    (tmp_path / "c.cr3").write_bytes(b"\0\0\0\x18ftypcrx ")
    for path in files.pictures_in(tmp_path):
        with pytest.raises(FileError, match="camera raw file, which is not supported; export it"):
            read_photo(path)
    assert len(files.pictures_in(tmp_path)) == 3


def _truncated(path):
    whole = io.BytesIO()
    picture("RGB", 200, 200).save(whole, "JPEG")
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: os.mkfifo(path), "a pipe or a device, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a pipe or a device, not a file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("hello, world"), "no picture"),
        (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99), "damaged .*meta box"),
        (lambda path: path.write_bytes(begun_png(20_000, 20_000)), "20000 x 20000 pixels are"),
        (lambda path: path.write_bytes(begun_png(200, 200)), "cut short|damaged"),
        (lambda path: path.write_bytes(png_header(200, 200)), "beginning is damaged"),
        (_truncated, "cut short"),
        (lambda path: picture(height=1, width=1).save(path, "PNG"), "too few"),
        (lambda path: picture(height=400, width=15).save(path, "PNG"), "too few"),
        (lambda path: flat(1.5, np.float32).save(path, "TIFF"), "floating"),
        (lambda path: flat(70_000, np.int32).save(path, "TIFF"), "32 bits"),
    ],
)  # fmt: skip
def test_one_clear_line(tmp_path, make, what):
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(FileError, match=what) as caught:
        read_photo(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_of_hundreds_of_scans_none_is_decoded(tmp_path, monkeypatch):
    whole = saved(tmp_path, picture(height=32, width=32), "a.jpg", progressive=True).read_bytes()
    last = whole[whole.rindex(b"\xff\xda") : -2]
    path = tmp_path / "many.jpg"
    path.write_bytes(whole[:-2] + 80 * last + whole[-2:])
    assert read_photo(path).size == (32, 32)
    path.write_bytes(whole[:-2] + 100 * last + whole[-2:])
    monkeypatch.setattr(
        JpegImagePlugin.JpegImageFile, "load", lambda self: pytest.fail("it is decoded")
    )
    with pytest.raises(FileError, match="more than 100 scans"):
        read_photo(path)


def test_scans_in_a_note_or_after_the_end_are_not_the_photos(tmp_path):
    path = saved(tmp_path, picture(), "a.jpg", comment=300 * b"\xff\xda")
    path.write_bytes(path.read_bytes() + 300 * b"\xff\xda")
    assert read_photo(path).size == (20, 30)


def test_the_process_may_end_while_a_photo_is_decoded(tmp_path, monkeypatch):
    def end():
        if disk.LOCK.acquire(timeout=5):
            disk.LOCK.release()
            free.append(True)

    def load(self):
        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
        raise OSError("no more is needed")

    path, free = saved(tmp_path, picture()), []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(FileError):
        read_photo(path)
    assert free == [True]


def test_the_limit_can_be_raised(tmp_path):
    path = saved(tmp_path, picture(height=50, width=50))
    with pytest.raises(FileError, match="--max-pixels"):
        read_photo(path, max_pixels=2499)
    read_photo(path, max_pixels=2500)


@settings(max_examples=60)
@given(st.integers(0, 10**9), st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]))
def test_damage_is_a_photo_error_or_a_photo(tmp_path_factory, seed, kind):
    file = io.BytesIO()
    picture("RGB", 24, 24).save(file, kind)
    data = bytearray(file.getvalue())
    random = np.random.default_rng(seed)
    for _ in range(random.integers(1, 8)):
        data[random.integers(len(data))] = random.integers(256)
    path = tmp_path_factory.mktemp("damage") / "a.bin"
    path.write_bytes(data[: random.integers(1, len(data) + 1)])
    try:
        assert read_photo(path).pixels.dtype == np.uint8
    except FileError as error:
        assert "\n" not in str(error)


@settings(max_examples=25)
@given(
    st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"]),
    st.integers(16, 60),
    st.integers(16, 60),
    st.sampled_from(["PNG", "TIFF"]),
)
def test_written_photos_read_back_the_same(tmp_path_factory, mode, height, width, kind):
    if (mode, kind) in (("CMYK", "PNG"),):
        kind = "TIFF"
    folder = tmp_path_factory.mktemp("roundtrip")
    photo = read_photo(saved(folder, picture(mode, height, width), "a", format=kind))
    disk.write_whole(folder / "b.png", files.encode_png(photo))
    again = read_photo(folder / "b.png")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert (again.alpha is None) == (photo.alpha is None)
    if photo.alpha is not None:
        np.testing.assert_array_equal(again.alpha, photo.alpha)


def test_photo_size():
    assert Photo(np.zeros((4, 7, 3), np.uint8)).size == (4, 7)


def with_chunk(data, name, body):
    chunk = name + body
    return (
        data[:33]
        + struct.pack(">I", len(body))
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + data[33:]
    )


def test_gamma_counts_only_where_nothing_better_is_told(tmp_path):
    """By the PNG format, sRGB and iCCP chunks override gAMA."""
    image, path = picture("RGB"), tmp_path / "a.png"
    path.write_bytes(with_chunk(png_with_gamma(image, 1.0), b"sRGB", b"\0"))
    np.testing.assert_array_equal(read_photo(path).pixels, np.asarray(image))
    path.write_bytes(with_chunk(png_with_gamma(flat(257 * 50, np.uint16), 1.0), b"sRGB", b"\0"))
    assert (read_photo(path).pixels == 50).all()


def test_gamma_beside_a_profile_of_another_space_is_not_applied(tmp_path):
    image, path = picture("RGB"), tmp_path / "a.png"
    foreign = srgb()[:16] + b"CMYK" + srgb()[20:]  # another space: not used, nor is the gamma
    data = png_with_gamma(image, 1.0)
    path.write_bytes(with_chunk(data, b"iCCP", b"x\0\0" + zlib.compress(foreign)))
    np.testing.assert_array_equal(read_photo(path).pixels, np.asarray(image))
