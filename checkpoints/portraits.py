"""The training data of the bundled generators: aligned faces, their labels and accessories.

A folder of portraits holds ``portraits.csv`` (with the columns ``file``, ``gender`` and
``birth_year``) and ``photos/``. Everything made from it is deterministic, and whether a portrait
is a test portrait depends only on its file name.

    python -m checkpoints.portraits FOLDER --cache FILE.npz
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import io
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage import color
from skimage.feature import match_template
from skimage.restoration import denoise_tv_chambolle
from tqdm import tqdm

from cdmaa_jax import disk
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.disk import FileError
from cdmaa_jax.images.faces import face_square, find_face
from cdmaa_jax.images.files import pictures_in, read_photo
from checkpoints import commands

TABLE = "portraits.csv"
COLUMNS = ("file", "gender", "birth_year")
GENDERS = {"M": 1, "F": 0, "": -1}
"""The label ``Male`` of what may be in the column."""
TEST_SHARE = 0.15
SENIOR_BEFORE = 1950
LARGEST = 1024
"""The largest faces that are made, in pixels."""

_SMALLEST = 0.58  # share of the portrait's width: smaller squares are mostly around one eye
_WORK = 128  # side of the crops on which landmarks, labels and comics are computed
_SUPERSAMPLING = 4
_UNLIKE = 14.0  # Lab distance from which a colour is not background
_GREY = 3.0  # Lab chroma of skin in a greyscale picture is below this
_LANDMARKS = np.array([[0.363, 0.453], [0.647, 0.453], [0.505, 0.737]])  # eyes and mouth, (x, y)
_PATCHES = ((11, 7), (11, 7), (15, 8))  # half width and height of the templates, in work pixels
_REACH = 12  # how far a landmark may lie from its mean place, in work pixels
_FAR = 0.35  # correlation that a landmark at distance _REACH must make up for


def load(folder: Path, size: int = 64, cache: Path | None = None) -> Portraits:
    """The portraits of ``folder`` as faces of ``size`` x ``size`` pixels.

    Args:
        folder: holds ``portraits.csv`` and ``photos/``.
        size: side of the faces, in pixels.
        cache: an ``.npz`` file; read where it exists, otherwise written.

    Raises:
        FileError: the table or a photo is missing or damaged, no face is found, or the cache is
            of another table or another size, or cannot be written.
    """
    table = folder / TABLE
    rows, digest = read_table(table), disk.sha256_of(table)
    if cache is not None and cache.exists():
        return _read(cache, size, digest)
    if cache is not None:
        disk.check_place(cache, "choose another --cache")
    _check_photos(folder, rows)
    rows, squares = _faces(folder, rows)
    if not rows:
        raise FileError(folder, "no face is found in its photos", "give larger faces")
    portraits = _assemble(rows, squares, size)
    if cache is not None:
        _write(portraits, cache, digest)
    return portraits


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of ``portraits.csv``, by file name.

    Raises:
        FileError: it is missing, is no such table, or has a row that cannot be understood.
    """
    try:
        text = disk.read_bytes(path).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""))
        missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
        rows = [] if missing else list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(path, "it is no CSV file in UTF-8", "save it as one") from error
    if missing:
        what = f"it has no column {missing[0]!r}"
        raise FileError(path, what, f"its first line must name {', '.join(COLUMNS)}")
    if not rows:
        raise FileError(path, "it lists no portrait", "add a line for each photo")
    for number, row in enumerate(rows, 2):
        _check_row(path, number, row)
    (file, count), *_ = Counter(row["file"] for row in rows).most_common()
    if count > 1:
        raise FileError(path, f"it lists {file} {count} times", "keep one of these lines")
    return sorted(rows, key=lambda row: row["file"])


def _check_row(path: Path, number: int, row: dict[str, str]) -> None:
    if not row["file"]:
        raise FileError(path, f"portrait {number - 1} has no file", "fill it in, or drop the line")
    if Path(row["file"]).name != row["file"]:
        what = f"the file {row['file']} is named with its folder"
        raise FileError(path, what, "give its name in photos/ alone")
    if (row["gender"] or "") not in GENDERS:
        what = f"the gender of {row['file']} is {row['gender']!r}"
        raise FileError(path, what, "make it M or F, or leave it empty")
    try:
        _senior(row["birth_year"])
    except ValueError:
        what = f"the birth_year of {row['file']} is {row['birth_year']!r}"
        raise FileError(path, what, "make it a year, or leave it empty") from None


def check_labels(path: Path, rows: list[dict[str, str]], attributes: Sequence[str]) -> None:
    """Checks that a table is enough to train these attributes, before the work on its photos.

    Raises:
        FileError: no training portrait has, or none lacks, one of the attributes.
    """
    known = [name for name in attributes if name in STATED]
    rows = [row for row in rows if not is_test(row["file"])]
    if not rows:
        raise FileError(path, "it lists no portrait to train on", "add lines with other names")
    for name in known:
        _check_label(path, rows, name)
    labelled = [row for row in rows if all(_stated(name, row) >= 0 for name in known)]
    for name in known:
        _check_label(path, labelled, name)


def _check_label(path: Path, rows: list[dict[str, str]], name: str) -> None:
    found, (column, _) = {_stated(name, row) for row in rows}, STATED[name]
    for value, word in ((1, "to be"), (0, "not to be")):
        if value not in found:
            what = f"no portrait to train on is known {word} {name}"
            raise FileError(path, what, f"fill in its column {column}")


def _check_photos(folder: Path, rows: list[dict[str, str]]) -> None:
    for row in rows:
        photo = folder / "photos" / row["file"]
        if not photo.is_file():
            what = f"there is no such photo, but {TABLE} lists it"
            raise FileError(photo, what, "add it, or drop the line")


def is_test(file: str) -> bool:
    """Whether the portrait called ``file`` is held out from training, by a hash of its name."""
    return _seed(file) % 10_000 < TEST_SHARE * 10_000


def _faces(
    folder: Path, rows: list[dict[str, str]]
) -> tuple[list[dict[str, str]], list[Image.Image]]:
    """The rows and the face squares of the portraits in which a large enough face is found."""
    with tqdm(rows, "faces", unit="photo") as bar:
        squares = [_square(folder / "photos" / row["file"]) for row in bar]
    found = [(row, square) for row, square in zip(rows, squares, strict=True) if square is not None]
    tqdm.write(
        f"{len(rows) - len(found)} of {len(rows)} portraits dropped: no face, or too small a one"
    )
    return [row for row, _ in found], [square for _, square in found]


def _square(path: Path) -> Image.Image | None:
    photo = read_photo(path).pixels
    box = find_face(photo)
    square = None if box is None else face_square(box, *photo.shape[:2])
    if square is None or square.size < _SMALLEST * photo.shape[1]:
        return None
    return Image.fromarray(square.crop(photo))


def _assemble(rows: list[dict[str, str]], squares: list[Image.Image], size: int) -> Portraits:
    files = tuple(row["file"] for row in rows)
    work = _resized(squares, _WORK)
    frames = _frames(work)
    return Portraits(
        files=files,
        images=_resized(squares, size),
        labels={
            **{name: np.array([_stated(name, row) for row in rows], np.int8) for name in STATED},
            "Dark_Hair": _dark_hair(work, frames),
            "Pale_Skin": _pale_skin(work, frames),
        },
        overlays={
            name: np.stack(
                [
                    _overlay(draw, frame, file, size)
                    for frame, file in zip(frames, files, strict=True)
                ]
            )
            for name, draw in tqdm(_ACCESSORIES.items(), "overlays", unit="accessory")
        },
        comic=_resized(
            [Image.fromarray(_comic(face)) for face in tqdm(work, "comics", unit="photo")], size
        ),
        test=np.array([is_test(file) for file in files]),
    )


def _resized(squares: list[Image.Image], size: int) -> np.ndarray:
    resized = [square.resize((size, size), Image.Resampling.BILINEAR) for square in squares]
    return np.stack([np.asarray(square) for square in resized])


def _seed(file: str) -> int:
    return int.from_bytes(hashlib.sha256(file.encode()).digest()[:8], "big")


# Positions of the eyes and the mouth


def _frames(work: np.ndarray) -> np.ndarray:
    """The affine frame of every face, ``[N, 2, 3]``: face coordinates to fractions of the crop.

    In face coordinates the eyes (of the picture, left and right) are at (-0.5, 0) and (0.5, 0),
    the mouth at (0, 1).
    """
    left, right, mouth = _landmarks(work).transpose(1, 0, 2)
    middle = (left + right) / 2
    return np.stack([right - left, mouth - middle, middle], axis=-1)


def _landmarks(work: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Eyes and mouth ``[N, 3, 2]`` as fractions of the crop.

    Each round averages the patches at the places found so far and looks for that average near
    the mean place.
    """
    grey = color.rgb2gray(work)
    centre = np.rint(_LANDMARKS * _WORK).astype(int)
    places = np.broadcast_to(centre, (len(grey), 3, 2)).copy()
    for _ in tqdm(range(rounds), "landmarks", unit="round"):
        templates = _templates(grey, places)
        for k, template in enumerate(templates):
            places[:, k] = [_match(face, template, centre[k]) for face in grey]
    return (places + 0.5) / _WORK


def _templates(grey: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    left, right, mouth = (
        np.mean(
            [_patch(g, place, half) for g, place in zip(grey, places[:, k], strict=True)], axis=0
        )
        for k, half in enumerate(_PATCHES)
    )
    eye = (left + right[:, ::-1]) / 2
    return [eye, eye[:, ::-1], (mouth + mouth[:, ::-1]) / 2]


def _patch(grey: np.ndarray, place: np.ndarray, half: tuple[int, int]) -> np.ndarray:
    (x, y), (w, h) = place, half
    patch = grey[y - h : y + h + 1, x - w : x + w + 1]
    return (patch - patch.mean()) / (patch.std() + 1e-6)


def _match(grey: np.ndarray, template: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The place near ``centre`` (x, y) that looks most like ``template``."""
    half_y, half_x = (side // 2 + _REACH for side in template.shape)
    x, y = centre
    window = grey[y - half_y : y + half_y + 1, x - half_x : x + half_x + 1]
    offsets = np.arange(-_REACH, _REACH + 1)
    far = (offsets[:, None] ** 2 + offsets**2) / _REACH**2
    score = match_template(window, template) - _FAR * far
    dy, dx = np.unravel_index(score.argmax(), score.shape)
    return centre + np.array([dx, dy]) - _REACH


# Labels


def _stated(name: str, row: dict[str, str]) -> int:
    """A label from the table: 1, 0, or -1 if the table does not state it."""
    column, read = STATED[name]
    return read(row[column])


def _male(gender: str) -> int:
    return GENDERS.get(gender, -1)


def _senior(birth_year: str) -> int:
    return int(int(birth_year) < SENIOR_BEFORE) if birth_year else -1


STATED: dict[str, tuple[str, Callable[[str], int]]] = {
    "Male": ("gender", _male),
    "Senior": ("birth_year", _senior),
}
"""Labels that the table states, with the column of each and how it is read."""


def _dark_hair(work: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """1 for the darkest 40 % of the hair, 0 for the lightest 40 %, -1 between."""
    light = [_hair_lightness(lab, frame) for lab, frame in _lab(work, frames)]
    return _split(-np.array(light), 0.4, 0.6)


def _hair_lightness(lab: np.ndarray, frame: np.ndarray) -> float:
    """L* of the darkest colours around the forehead that differ from the upper corners."""
    around = _sample(lab, frame, *_HAIR)
    corners = np.stack([np.median(lab[:6, :6], (0, 1)), np.median(lab[:6, -6:], (0, 1))])
    difference = np.linalg.norm(around[:, None] - corners, axis=-1).min(axis=1)
    hair = around[difference > _UNLIKE]
    return float(np.quantile((hair if len(hair) > len(around) / 8 else around)[:, 0], 0.15))


def _pale_skin(work: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """1 for the top third of cheeks by lightness less 0.3 chroma, 0 for the bottom, -1 between.

    Also -1 for greyscale pictures, whose skin has no colour.
    """
    x, y = _CHEEKS
    pale = []
    for lab, frame in _lab(work, frames):
        lightness, a, b = np.median(_sample(lab, frame, x, y), axis=0)
        chroma = np.hypot(a, b)
        pale.append(lightness - 0.3 * chroma if chroma > _GREY else np.nan)
    return _split(np.array(pale), 1 / 3, 2 / 3)


def _lab(work: np.ndarray, frames: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(map(color.rgb2lab, work), frames, strict=True)


def _sample(lab: np.ndarray, frame: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Colours ``[n, 3]`` at the face coordinates ``x``, ``y`` that lie inside the crop."""
    column, row = np.floor(frame @ np.stack([x, y, np.ones_like(x)]) * _WORK).astype(int)
    inside = (column >= 0) & (column < _WORK) & (row >= 0) & (row < _WORK)
    return lab[row[inside], column[inside]]


def _split(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """int8: 0 up to quantile ``low``, 1 from quantile ``high`` on, -1 between and for NaN."""
    bottom, top = np.nanquantile(values, [low, high])
    return np.where(values >= top, 1, np.where(values <= bottom, 0, -1)).astype(np.int8)


def _ring(inner: float, outer: float, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Points between two ellipses around the face, at angles (degrees) from up, both sides."""
    angle, radius = np.meshgrid(
        np.radians(np.linspace(low, high, 40)), np.linspace(inner, outer, 8)
    )
    angles, radii = np.concatenate([angle, -angle]).ravel(), np.tile(radius.ravel(), 2)
    return radii * np.sin(angles), 0.1 - radii * 1.25 * np.cos(angles)


def _cheek_points() -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(0.2, 0.65, 12), np.linspace(0.3, 0.75, 12))
    return np.concatenate([x, -x]).ravel(), np.tile(y.ravel(), 2)


_HAIR = _ring(0.98, 1.2, 5.0, 75.0)
_CHEEKS = _cheek_points()


# Accessories, drawn in face coordinates


def _overlay(draw: Callable[[Pen], None], frame: np.ndarray, file: str, size: int) -> np.ndarray:
    """One accessory on one face: RGBA uint8 ``[size, size, 4]``, drawn large and reduced."""
    pen = Pen(frame, size * _SUPERSAMPLING, np.random.default_rng(_seed(file)))
    draw(pen)
    small = pen.image().resize((size, size), Image.Resampling.BOX)
    return np.asarray(small)


def _eyeglasses(pen: Pen) -> None:
    frame = pen.pick([(15, 15, 18), (35, 18, 12), (14, 18, 42), (70, 12, 16)])
    tint = pen.pick([(30, 40, 60), (60, 40, 20), (25, 50, 40)])
    round_lenses = pen.random.random() < 0.5
    for side in (-1, 1):
        lens = _superellipse(side * 0.51, 0.05, 0.39, 0.30, 2.2 if round_lenses else 3.6)
        pen.fill(lens, tint, 70)
        pen.stroke(lens, frame, 0.1, closed=True)
        pen.stroke([(side * 0.9, -0.06), (side * 1.12, -0.1)], frame, 0.09)
    pen.stroke([(-0.13, 0.0), (0.0, -0.06), (0.13, 0.0)], frame, 0.09)


def _beard(pen: Pen) -> None:
    colour = pen.pick([(24, 18, 15), (42, 27, 18), (34, 30, 30), (58, 34, 18)])
    jaw = [(0.98, 0.55), (0.97, 0.95), (0.86, 1.3), (0.62, 1.62), (0.32, 1.8), (0.0, 1.85)]
    inner = [(0.9, 0.55), (0.8, 0.85), (0.62, 0.92), (0.44, 0.82), (0.2, 0.72), (0.0, 0.75)]
    pen.fill(_spline(_mirrored(jaw)) + _spline(_mirrored(inner))[::-1], colour, 235)
    pen.erase(_superellipse(0.0, 1.02, 0.4, 0.13, 2.0))
    pen.hairs(0.05, 35)
    pen.soften(0.045)


def _bangs(pen: Pen) -> None:
    colour = pen.pick([(26, 18, 14), (48, 30, 18), (70, 42, 20), (20, 20, 24)])
    tips = np.linspace(-1.0, 1.0, 12)
    ragged = pen.random.uniform(-0.05, 0.06, len(tips))
    fringe = [(x, -0.36 + 0.14 * x * x + r) for x, r in zip(tips, ragged, strict=True)]
    dome = [(1.14, -0.05), (1.12, -0.6), (0.95, -1.05), (0.6, -1.38), (0.0, -1.5)]
    pen.fill([*_spline(_mirrored(dome)), (-1.02, -0.1), *fringe, (1.02, -0.1)], colour, 245)
    pen.hairs(0.05, 35)
    pen.soften(0.03)


def _lipstick(pen: Pen) -> None:
    colour = pen.pick([(200, 10, 40), (170, 0, 30), (215, 20, 70), (190, 25, 20)])
    upper = [(0.5, 0.93), (0.3, 0.89), (0.12, 0.85), (0.0, 0.88)]
    lower = [(0.5, 0.93), (0.34, 1.1), (0.15, 1.18), (0.0, 1.19)]
    pen.fill(_spline(_mirrored(upper)) + _spline(_mirrored(lower))[::-1], colour, 225)
    gap = _spline(_mirrored([(0.4, 0.95), (0.2, 0.97), (0.0, 0.98)]))
    pen.erase([*gap, (-0.2, 1.03), (0.2, 1.03)])
    pen.soften(0.02)


_ACCESSORIES: dict[str, Callable[[Pen], None]] = {
    "Eyeglasses": _eyeglasses,
    "Beard": _beard,
    "Bangs": _bangs,
    "Lipstick": _lipstick,
}

Points = list[tuple[float, float]]


def _superellipse(x: float, y: float, a: float, b: float, power: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    px = x + a * np.sign(cos) * np.abs(cos) ** (2 / power)
    py = y + b * np.sign(sin) * np.abs(sin) ** (2 / power)
    return list(zip(px.tolist(), py.tolist(), strict=True))


def _mirrored(half: Points) -> Points:
    """A line from the right side to the middle, mirrored onto the left side."""
    return half + [(-x, y) for x, y in half[-2::-1]]


def _spline(points: Points) -> Points:
    """A smooth line through ``points``."""
    knots = np.array(points)
    t = np.linspace(0, len(knots) - 1, 12 * len(knots))
    smooth = [ndimage.map_coordinates(axis, [t], order=3, mode="nearest") for axis in knots.T]
    return list(zip(*(axis.tolist() for axis in smooth), strict=True))


# Comics


def _comic(face: np.ndarray) -> np.ndarray:
    """A drawing of ``face`` uint8 ``[s, s, 3]``: few saturated colours, thick dark outlines."""
    smooth = denoise_tv_chambolle(face / 255.0, weight=0.12, channel_axis=-1)
    lab = color.rgb2lab(smooth)
    lab[..., 0] = _levels(np.clip((lab[..., 0] - 8) * 1.2, 0, 100), 22.0)
    lab[..., 1:] = _levels(lab[..., 1:] * 1.9, 16.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours outside sRGB: clipped, as intended
        flat = np.clip(color.lab2rgb(ndimage.median_filter(lab, (3, 3, 1))), 0, 1)
    ink = _outlines(
        color.rgb2gray(denoise_tv_chambolle(face / 255.0, weight=0.04, channel_axis=-1))
    )
    dark = np.array([0.06, 0.03, 0.12])
    return np.rint(255 * (flat * (1 - ink) + dark * ink)).astype(np.uint8)


def _levels(values: np.ndarray, step: float) -> np.ndarray:
    return step * np.rint(values / step)


def _outlines(grey: np.ndarray) -> np.ndarray:
    """Ink per pixel, 0 to 1, ``[s, s, 1]``: a difference of Gaussians, and strong edges."""
    lines = ndimage.gaussian_filter(grey, 3.2) - ndimage.gaussian_filter(grey, 1.2)
    edges = ndimage.gaussian_gradient_magnitude(grey, 1.5)
    return np.clip(np.maximum((lines - 0.02) / 0.03, (edges - 0.05) / 0.03), 0, 1)[..., None]


# On disk


def _write(portraits: Portraits, cache: Path, digest: str) -> None:
    """Saves portraits to a file, with the SHA-256 of their table."""
    arrays = {name: getattr(portraits, name) for name in ("images", "comic", "test")}
    for group in ("labels", "overlays"):
        arrays |= {f"{group}/{key}": value for key, value in getattr(portraits, group).items()}
    content = io.BytesIO()
    np.savez_compressed(content, files=np.array(portraits.files), table=np.array(digest), **arrays)
    disk.write_whole(cache, content.getvalue())


def _read(cache: Path, size: int, digest: str) -> Portraits:
    disk.refuse_pipes(cache, "choose another --cache")
    content = disk.read_bytes(cache)
    try:
        portraits, table = _parse(content)
    except Exception as error:  # NumPy, ZIP and zlib raise their own kinds of error
        what = "it is no cache of portraits, or a damaged one"
        raise FileError(cache, what, "choose another --cache") from error
    if table != digest:
        what = "it is a cache of other portraits"
        raise FileError(cache, what, "delete it, or choose another --cache")
    if portraits.images.shape[1] != size:
        what = f"it holds faces of {portraits.images.shape[1]} pixels, not of {size}"
        raise FileError(cache, what, "choose another --cache")
    return portraits


def _parse(content: bytes) -> tuple[Portraits, str]:
    """Reads what ``_write`` wrote: the portraits, and the SHA-256 of their table."""
    with np.load(io.BytesIO(content)) as arrays:
        portraits = Portraits(
            files=tuple(arrays["files"].tolist()),
            labels=_group(arrays, "labels/"),
            overlays=_group(arrays, "overlays/"),
            **{name: arrays[name] for name in ("images", "comic", "test")},
        )
        return portraits, str(arrays["table"])


def _group(arrays: np.lib.npyio.NpzFile, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}


@dataclass(frozen=True)
class Portraits:
    """N aligned faces of s x s pixels, RGB uint8, with their labels and what is drawn onto them."""

    files: tuple[str, ...]
    images: np.ndarray  # uint8 [N, s, s, 3]
    labels: dict[str, np.ndarray]  # int8 [N]: 1, 0, or -1 where unknown
    overlays: dict[str, np.ndarray]  # RGBA uint8 [N, s, s, 4]
    comic: np.ndarray  # uint8 [N, s, s, 3]
    test: np.ndarray  # bool [N]: never train on these


class Pen:
    """Draws shapes given in face coordinates onto a transparent square of ``side`` pixels."""

    def __init__(self, frame: np.ndarray, side: int, random: np.random.Generator) -> None:
        self._frame, self._side, self.random = frame, side, random
        self._unit = side * float(np.linalg.norm(frame[:, 0]))  # the distance between the eyes
        self._colour = np.zeros((side, side, 3))
        self._alpha = np.zeros((side, side))

    def pick(self, colours: list[tuple[int, int, int]]) -> tuple[int, int, int]:
        """One of ``colours``, slightly varied."""
        colour = np.array(colours[self.random.integers(len(colours))])
        r, g, b = np.clip(colour + self.random.integers(-8, 9, 3), 0, 255).tolist()
        return r, g, b

    def fill(self, points: Points, colour: tuple[int, int, int], alpha: int) -> None:
        """Fill the polygon ``points``; ``alpha`` from 0 to 255."""
        self._paint(self._mask(points, None, True), colour, alpha)

    def stroke(
        self, points: Points, colour: tuple[int, int, int], width: float, closed: bool = False
    ) -> None:
        """Draw the line ``points``; ``width`` in eye distances."""
        self._paint(self._mask(points, max(1, round(width * self._unit)), closed), colour, 255)

    def erase(self, points: Points) -> None:
        """Make the polygon ``points`` transparent."""
        self._alpha[self._mask(points, None, True)] = 0

    def hairs(self, width: float, contrast: float) -> None:
        """Draw vertical streaks whose standard deviation is half of ``contrast`` grey levels."""
        noise = self.random.standard_normal((self._side, self._side))
        across, along = 0.3 * width * self._unit, 4 * width * self._unit
        streaks = ndimage.gaussian_filter(noise, (along, across))
        self._colour += contrast * (streaks / (streaks.std() + 1e-9))[..., None] * 0.5

    def soften(self, width: float) -> None:
        """Blur the edges; ``width`` in eye distances."""
        self._alpha = ndimage.gaussian_filter(self._alpha, width * self._unit)

    def image(self) -> Image.Image:
        """The drawing, RGBA."""
        rgba = np.concatenate([self._colour, self._alpha[..., None]], axis=-1)
        return Image.fromarray(np.rint(np.clip(rgba, 0, 255)).astype(np.uint8))

    def _paint(self, mask: np.ndarray, colour: tuple[int, int, int], alpha: int) -> None:
        if not self._alpha.any():
            self._colour[:] = colour  # so that softened edges keep the colour
        self._colour[mask] = colour
        self._alpha[mask] = alpha

    def _mask(self, points: Points, width: int | None, closed: bool) -> np.ndarray:
        homogeneous = np.concatenate([np.array(points), np.ones((len(points), 1))], axis=1)
        pixels = [tuple(p) for p in (homogeneous @ self._frame.T * self._side).tolist()]
        image = Image.new("1", (self._side, self._side))
        pen = ImageDraw.Draw(image)
        if width is None:
            pen.polygon(pixels, fill=1)
        else:
            ends = [*pixels, *pixels[:2]] if closed else pixels
            pen.line(ends, fill=1, width=width, joint="curve")
        return np.asarray(image)


def split(folder: Path, test: Path, rest: Path) -> None:
    """Links the photos held out from training into one folder, and all others into another.

    Existing links are kept; what is no picture by its suffix is left out.

    Raises:
        FileError: there are no photos, the folders are the same, or something else has the name of
            a link.
    """
    if disk.real_path(test) == disk.real_path(rest):
        what = "it is given for the test photos and for the others"
        raise FileError(rest, what, "give two folders")
    for photo in pictures_in(folder / "photos"):
        _link((test if is_test(photo.name) else rest) / photo.name, photo.resolve())


def _link(path: Path, photo: Path) -> None:
    disk.make_folder(path.parent)
    if path.is_symlink() and disk.real_path(path) == photo:
        return
    if path.is_symlink() or path.exists():
        raise FileError(path, f"it is there and no link to {photo}", "choose another folder")
    with disk.translated(path, "choose another folder"):
        path.symlink_to(photo)


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = OneLineParser(
        prog="python -m checkpoints.portraits",
        description="Prepares the training data of the bundled generators and prints the counts of "
        "their labels.",
    )
    parser.add_argument("folder", type=Path, help="folder with portraits.csv and photos/")
    parser.add_argument(
        "--size", type=commands.positive, default=64, metavar="PIXELS",
        help="of the aligned faces; default: 64",
    )  # fmt: skip
    parser.add_argument("--cache", type=Path, metavar="FILE", help="an .npz to keep them in")
    parser.add_argument(
        "--split", type=Path, nargs=2, metavar=("TEST", "REST"),
        help="only link the test photos and the others into two folders",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the data and counts it; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.size > LARGEST:
        parser.error(f"--size must be at most {LARGEST}")
    if args.split and (args.cache or args.size != parser.get_default("size")):
        parser.error("--cache and --size are of no use with --split")
    return commands.run(parser.prog, functools.partial(_run, args))


def _run(args: argparse.Namespace) -> int:
    if args.split:
        split(args.folder, *args.split)
    else:
        _print_counts(load(args.folder, args.size, args.cache))
    return 0


def _print_counts(portraits: Portraits) -> None:
    print(f"{len(portraits.files)} portraits, {int(portraits.test.sum())} of them for the test")
    for name, values in portraits.labels.items():
        counts = {value: int((values == value).sum()) for value in (1, 0, -1)}
        print(f"{name:12} yes {counts[1]:4}  no {counts[0]:4}  unknown {counts[-1]:4}")


if __name__ == "__main__":
    sys.exit(main())
