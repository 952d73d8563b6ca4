"""Photo files: decoded from any size and mode, and encoded as PNG.

A photo in memory is uint8, ``[H, W, 3]``, RGB, upright. Its colour profile and transparency are
kept; metadata such as EXIF and the place where it was taken are not.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from cdmaa_jax.disk import TO_READ, FileError, read_bytes, refuse_pipes, translated
from cdmaa_jax.images.profiles import colours_of

MAX_PIXELS = 100_000_000
MIN_SIDE = 16
_RAW = (
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw",
)  # fmt: skip
"""Suffixes of cameras' raw files, many of them TIFFs that begin with a small preview."""
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif",
    ".ppm", ".pgm", ".heic", ".heif", ".hif", *_RAW,
)  # fmt: skip
"""Suffixes of pictures; raw files too, so that users learn they are not supported."""
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
_SEVERAL = {
    **dict.fromkeys(("GIF", "PNG", "WEBP", "AVIF"), "animated: only its first frame is used"),
    "TIFF": "of several pages: only its first is used",
    "HEIF": "of several pictures: only its main one is used",
}
"""The note on a file that holds several pictures, by its format."""
_UNUSABLE = "its colour profile cannot be used: colours may differ"
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_HEIC = (
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
)  # fmt: skip
"""Brands of HEIF files."""
_LIKE_SRGB, _GAMMAS = (1, 2, 5, 6), (1, 2, 4, 6, 13, 14, 15)
"""Colour primaries and transfer characteristics of ITU-T H.273 that may be taken for sRGB's."""
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_GREY = ("1", "L", "LA")
_TO_SRGB = ("CMYK", "LAB")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _VERSION_OF_DNG = 258, 262, 50706  # tags of a TIFF file
_WHITE_IS_ZERO = 0
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition to upright, by Exif orientation."""
_EXPORT = "export it as JPEG or PNG"
_LARGEST_TEXT = 64 * 2**20
"""Most bytes of a PNG's unpacked colour profile or text; printers' profiles take a few million."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Markers in a JPEG that a length follows, and the end's."""
_MOST_SCANS = 100
"""Most scans of a JPEG, each of which takes a pass over all pixels; progressive ones have ten."""
_PLAIN, _MOST_COMMENTS = (b"P1", b"P2", b"P3"), 1000
"""Signatures of PPMs in digits, and most comments, each of which takes a copy of a megabyte."""
_COMPRESSION = 4
"""Of PNGs. Pillow's default, 6, takes a third longer for a noisy photo of 12 megapixels, whose
file is no smaller, and twice as long for a smooth one, whose file is 7 % smaller."""
_GAMMA = 1 / 2.2
"""The gamma that stands for sRGB in a PNG."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo.

    Attributes:
      pixels: uint8 ``[H, W, 3]``, RGB.
      alpha: uint8 ``[H, W]``, or None where the photo is opaque.
      profile: the ICC profile of the pixels, or None (then they are sRGB).
      sha256: of the file.
      notes: what was lost in decoding, for people; empty if nothing.
    """

    pixels: np.ndarray = field(repr=False)
    alpha: np.ndarray | None = field(default=None, repr=False)
    profile: bytes | None = field(default=None, repr=False)
    sha256: str = ""
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.pixels.shape[:2]
        return height, width


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decodes a photo of any mode and turns it upright.

    Args:
      path: a JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF (its first frame) or PPM file, or HEIC if
        ``pillow_heif`` is installed.
      max_pixels: larger photos are refused before they are decoded.

    Raises:
      FileError: the file is missing, damaged, no photo, too large or too small, or no regular file.
    """
    refuse_pipes(path)
    if path.suffix.lower() in _RAW:
        raise _raw(path)
    data = read_bytes(path)
    image, notes = _decode(path, data, max_pixels)
    profile = image.info.get("icc_profile") or None
    alpha = np.asarray(image.getchannel("A")) if image.mode == "RGBA" else None
    pixels = np.asarray(image.convert("RGB"))
    return Photo(pixels, alpha, profile, hashlib.sha256(data).hexdigest(), tuple(notes))


def size_of(path: Path) -> tuple[int, int] | None:
    """A photo's width and height, by its header; None if that cannot be read."""
    try:
        refuse_pipes(path)
        with _UNLIMITED, _identify(path) as image:
            return image.size
    except Exception:  # a damaged header can make decoders raise anything
        return None


def count_pixels(path: Path) -> int:
    """How many pixels a photo has, by its header; 0 if that cannot be read."""
    width, height = size_of(path) or (0, 0)
    return width * height


def pictures_in(folder: Path) -> list[Path]:
    """The pictures directly in a folder, found by suffix and sorted by name, without hidden ones.

    Broken links are included: reading them reports the error.

    Raises:
      FileError: there are none, or the folder cannot be read.
    """
    with translated(folder, TO_READ):
        inside = sorted(folder.iterdir())
    pictures = [
        path
        for path in inside
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not os.path.isdir(path)
    ]
    if not pictures:
        what = "there is no picture in this folder (its subfolders are not searched)"
        raise FileError(folder, what, "give one with JPEG, PNG or WebP files")
    return pictures


def encode_png(photo: Photo) -> bytes:
    """The photo as a PNG file, with its transparency and its colour profile and nothing else."""
    image = Image.fromarray(photo.pixels)
    if photo.alpha is not None:
        image.putalpha(Image.fromarray(photo.alpha))
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=photo.profile, compress_level=_COMPRESSION)
    return file.getvalue()


def _decode(path: Path, data: bytes, max_pixels: int) -> tuple[Image.Image, list[str]]:
    """An upright image of mode RGB or RGBA whose ``info`` has the profile of its pixels, if any."""
    notes: list[str] = []
    with translated(path, TO_READ), _UNLIMITED:
        image = _open(path, data)
        if image.format == "TIFF" and _VERSION_OF_DNG in _tags(image):
            raise _raw(path)
        _check_size(path, *image.size, max_pixels)
        _check_effort(path, data)
        with _damaged(path):
            bits = _bits(image, data)
            image.load()
            if getattr(image, "is_animated", False) and (what := _SEVERAL.get(image.format or "")):
                notes.append(what)
            if not _are_colours_known(image):
                notes.append(_UNUSABLE)
            if bits > 8:
                notes.append(f"{bits} bits per channel were reduced to 8")
            _fit_key(image, bits)
            turn, rgb = _turn(image), _to_rgb(path, image, notes)
            return rgb if turn is None else rgb.transpose(turn), notes


def _open(path: Path, data: bytes) -> Image.Image:
    if not data:
        raise FileError(path, "the file is empty", "copy it again")
    try:
        return _identify(io.BytesIO(data))
    except UnidentifiedImageError:
        raise _unidentified(path, data) from None
    except ImportError as error:
        how = "is not installed" if isinstance(error, ModuleNotFoundError) else "does not work"
        what = f"HEIC is read with the package pillow-heif, which {how}"
        raise FileError(path, what, f"pip install -U pillow-heif, or {_EXPORT}") from error
    except Exception as error:  # a damaged header can make decoders raise anything
        raise _damage(path, error) from error


def _identify(file: Path | io.BytesIO) -> Image.Image:
    """The picture in a file, not yet decoded.

    Raises:
      ImportError: it is HEIC, and ``pillow_heif`` is not installed or does not work.
    """
    Image.init()
    try:
        return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        start = read_bytes(file, 12) if isinstance(file, Path) else file.getvalue()[:12]
        if start[4:8] != b"ftyp" or start[8:] not in _HEIC:
            raise
    import pillow_heif

    if isinstance(file, Path):
        return pillow_heif.HeifImageFile(file)
    _check_boxes(file.getvalue())
    file.seek(0)
    return pillow_heif.HeifImageFile(file)


def _check_boxes(data: bytes) -> None:
    """Raises EOFError if a HEIF file is cut short: tiles that are missing would be left green."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        if size == 0:  # the last box, to the end
            return
        if size < 8 or at + size > len(data):
            raise EOFError("truncated")
        at += size


def _raw(path: Path) -> FileError:
    return FileError(path, "it is a camera raw file, which is not supported", _EXPORT)


def _unidentified(path: Path, data: bytes) -> FileError:
    if data.startswith(_SIGNATURES):
        return FileError(path, "its beginning is damaged", "copy it again")
    return FileError(path, "it is no picture of a kind that is read", _EXPORT)


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise FileError(
            path,
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}",
            "shrink it, or raise the limit with --max-pixels if you trust the file",
        )
    if min(width, height) < MIN_SIDE:
        raise FileError(
            path,
            f"{width} x {height} pixels are too few to hold a face",
            f"give a picture of at least {MIN_SIDE} pixels a side",
        )


def _check_effort(path: Path, data: bytes) -> None:
    """Checks that a small file does not take minutes to decode."""
    if data.startswith(b"\xff\xd8") and _scans(data) > _MOST_SCANS:
        what = f"more than {_MOST_SCANS} scans"
    elif data.startswith(_PLAIN) and data.count(b"#") > _MOST_COMMENTS:
        what = f"more than {_MOST_COMMENTS} comments"
    else:
        return
    remedy = "save it again with another program"
    raise FileError(path, f"it has {what}, which would take long to decode", remedy)


def _scans(data: bytes) -> int:
    """How many scans a JPEG has, without those of thumbnails in its segments."""
    if data.count(_SCAN) <= _MOST_SCANS:  # nearly always, and quicker
        return data.count(_SCAN)
    scans, at = 0, 2
    while (found := _MARKER.search(data, at)) and found[0] != _END:
        scans += found[0] == _SCAN
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return scans


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits per channel of a file that is opened, not yet loaded; Pillow reduces RGB to 8."""
    if image.format == "TIFF":
        return max(_tags(image).get(_BITS_PER_SAMPLE, (1,)))
    if image.format == "PNG":
        return data[24]
    if image.format == "HEIF":
        return image.info["bit_depth"]
    if image.format == "PPM" and isinstance(options := _tile(image).args, tuple):
        return int(options[1]).bit_length()  # of the largest level
    return 16 if image.mode in _GREY_16 else 8


def _are_colours_known(image: Image.Image) -> bool:
    """Whether the colours of a HEIC file without a profile may be taken for sRGB."""
    said = image.info.get("nclx_profile") if image.format == "HEIF" else None
    if not said or image.info.get("icc_profile"):
        return True
    return said["color_primaries"] in _LIKE_SRGB and said["transfer_characteristics"] in _GAMMAS


def _tile(image: Image.Image) -> Any:
    """What Pillow's decoder is told."""
    return image.tile[0]  # type: ignore[attr-defined]


def _tags(image: Image.Image) -> Any:
    """The tags of a TIFF file."""
    return image.tag_v2  # type: ignore[attr-defined]


def _fit_key(image: Image.Image, bits: int) -> None:
    """Converts the grey or colour that a PNG makes transparent to the range of Pillow's pixels.

    Pillow gives the file's own value, but 8-bit pixels if the file has 2, 4, or 16 bits.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or key is None:
        return
    if image.mode == "L" and isinstance(key, int) and bits < 8:
        image.info["transparency"] = key * (255 // (2**bits - 1))
    if image.mode == "RGB" and isinstance(key, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The transposition to upright, by Exif orientation; a damaged entry is ignored.

    Pillow's own function also rewrites the other entries, and turns nothing if one is damaged.
    """
    if image.format == "HEIF":  # turned already, as the file's own entry says
        return None
    try:
        return _TURNS.get(image.getexif()[ExifTags.Base.Orientation])
    except Exception:
        return None


def _to_rgb(path: Path, image: Image.Image, notes: list[str]) -> Image.Image:
    """8-bit RGB or RGBA. Profiles of grey, CMYK and Lab pictures are applied and dropped.

    Those of RGB are kept, without what is no colour.
    """
    profile = image.info.get("icc_profile")
    gamma = None if "srgb" in image.info else image.info.get("gamma")
    if image.mode in _GREY_16:
        image = _grey_8(path, image)
    if image.mode == "F":
        raise FileError(path, "its pixels are floating-point numbers", "save it with 8 bits first")
    if image.mode in _TO_SRGB:
        return _to_srgb(image, profile, notes)
    rgb = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if profile and _space(profile) == b"GRAY" and image.mode in _GREY:
        rgb = _grey_to_srgb(rgb, profile, notes)
    elif profile and _space(profile) == b"RGB ":
        if (colours := colours_of(profile)) is not None:
            rgb.info["icc_profile"] = colours
            return rgb
        notes.append(_UNUSABLE)
    elif gamma and not profile:
        rgb = _of_gamma(rgb, gamma)
    rgb.info.pop("icc_profile", None)
    return rgb


def _grey_8(path: Path, image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        what = "its pixels have 32 bits, or levels below 0"
        raise FileError(path, what, "save it with 8 or 16 bits first")
    largest, key = 65535, image.info.get("transparency")
    if image.format == "TIFF":
        largest = 2 ** min(16, *_tags(image).get(_BITS_PER_SAMPLE, (16,))) - 1
        if image.mode.startswith("I;16") and _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
            levels = largest - levels
    grey = Image.fromarray(np.rint(levels * (255 / largest)).clip(0, 255).astype(np.uint8))
    if key is not None:
        grey.putalpha(Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8)))
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """CMYK, Lab or grey as sRGB, using the picture's own profile if that works."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            converted.info.pop("icc_profile", None)
            return converted
        notes.append(_UNUSABLE)
    rgb = image.convert("RGB")
    rgb.info.pop("icc_profile", None)
    return rgb


def _grey_to_srgb(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image:
    """A grey picture, as RGB or RGBA, using its own profile."""
    rgb = _to_srgb(image.getchannel(0), profile, notes)
    if image.mode == "RGBA":
        rgb.putalpha(image.getchannel("A"))
    return rgb


def _of_gamma(image: Image.Image, gamma: float) -> Image.Image:
    """A PNG's pixels as sRGB, from its gamma: level**(1/gamma) is the light, in 0 to 1."""
    if not 0.01 < gamma < 10 or abs(gamma / _GAMMA - 1) < 0.05:
        return image
    light = (np.arange(256) / 255) ** (1 / gamma)
    levels = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    table = np.rint(255 * levels).astype(int).tolist()
    return image.point(table * 3 + (list(range(256)) if image.mode == "RGBA" else []))


def _space(profile: bytes) -> bytes:
    """The colour space named in an ICC profile's header; empty for other bytes."""
    return profile[16:20] if len(profile) >= 128 and profile[36:40] == b"acsp" else b""


class _Unlimited:
    """Without Pillow's pixel limit, left to ``_check_size``, and with a higher text limit.

    Both are global, so this lasts from the first thread's entry to the last's exit.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = None, _LARGEST_TEXT
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = self._before


_UNLIMITED = _Unlimited()


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make decoders raise anything
        raise _damage(path, error) from error


def _damage(path: Path, error: Exception) -> FileError:
    reason = " ".join(str(error).split()) or type(error).__name__
    what = "it is cut short" if "truncated" in reason else f"it is damaged ({reason})"
    return FileError(path, what, "copy it again")
