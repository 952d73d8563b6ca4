"""Measures the demonstration ensemble on portraits that no generator was trained on.

    python -m checkpoints.measure edits --portraits DIR --out DIR    how well each does its edits
    python -m checkpoints.measure attacks --portraits DIR --out DIR  how well the attack spoils them
    python -m checkpoints.measure posted --portraits DIR --out DIR   what JPEG leaves of that
    python -m checkpoints.measure cropped --portraits DIR --out DIR  what another crop leaves of it
    python -m checkpoints.measure groups --portraits DIR --out DIR   of two faces side by side

edits trains a separate classifier on the training portraits, with the drawn attributes, and counts
the edited test portraits in which it finds the attribute; it also writes a picture of every edit.
attacks protects the test portraits, cropped to the generators' input as in the paper, against each
generator alone by PGD, and against all together with uniform weights, with the default settings,
and with these in bfloat16; then the whole photos with the default settings. The saved 8-bit files
are measured, in float32. --only selects among these attacks; attacks.json is written after each,
and keeps the results of the others. posted protects the whole photos, at their own size and
enlarged, and measures the copies again as JPEG files of several qualities (Pillow's, 4:2:0).
cropped protects the whole photos, and gives the generators squares of the copies that are moved or
scaled a little. groups protects photos of two people, which it makes of the faces' squares, side by
side and overlapping.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image, ImageDraw
from tqdm import tqdm

from cdmaa_jax import cli, disk
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation.measure import Pair, measure, see_pair
from cdmaa_jax.evaluation.metrics import attack_rate
from cdmaa_jax.evaluation.report import OTHERS, squares_of, summary
from cdmaa_jax.generators.checkpoint import load_generator, read_metadata
from cdmaa_jax.generators.ensembles import Ensemble, load_ensemble
from cdmaa_jax.images import squares
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import read_photo
from cdmaa_jax.photos import evaluate_photos
from cdmaa_jax.types import Generator
from checkpoints import commands
from checkpoints.discriminators import Critic
from checkpoints.portraits import (
    STATED,
    TABLE,
    Portraits,
    check_labels,
    is_test,
    load,
    read_table,
)
from checkpoints.train import SIZE, augment, draw, to_unit

ENSEMBLE = Path(__file__).parent / "demo"
NAMES = ("stargan", "attgan", "stgan", "ugatit")
COMIC = "Comic"
WHOLE = "together, default, whole photos"
STEPS, BATCH = 1500, 48
SCALES, QUALITIES = (1, 2, 4), (95, 85, 75, 60)
PIXEL = 1 / SIZE
"""A pixel of what the generators see, as a share of the square's side."""
CROPS = {
    "as protected": (0.0, 1.0),
    "moved by a quarter of a pixel": (PIXEL / 4, 1.0),
    "moved by half a pixel": (PIXEL / 2, 1.0),
    "moved by 1 pixel": (PIXEL, 1.0),
    "moved by 2 pixels": (2 * PIXEL, 1.0),
    "moved by 4 pixels": (4 * PIXEL, 1.0),
    "5 % smaller": (0.0, 0.95),
    "10 % smaller": (0.0, 0.9),
}
"""How far along the rows the generators' square is moved, in sides, and by what it is scaled."""
DISTANCES, GROUP_SIDE = (1.0, 0.8, 0.6), 330
"""Of neighbouring faces, in sides of their squares, and the side of these in pixels."""


class Square(NamedTuple):
    """A square in a photo, in pixels: its corner and its side need not be whole."""

    top: float
    left: float
    size: float


class Faces(NamedTuple):
    """Portraits on the device; labels are 1, 0 or -1 where unknown or drawn."""

    images: jax.Array
    comic: jax.Array
    labels: jax.Array
    overlays: jax.Array
    drawn: jax.Array


def faces(portraits: Portraits, keep: np.ndarray) -> tuple[tuple[str, ...], Faces]:
    """The names of all attributes, the comic style last, and the chosen portraits."""
    names = (*portraits.labels, *portraits.overlays)
    blank = np.zeros((keep.sum(), SIZE, SIZE, 4), np.uint8)
    unknown = np.full(keep.sum(), -1)
    labels = [portraits.labels[n][keep] if n in portraits.labels else unknown for n in names]
    overlays = [portraits.overlays[n][keep] if n in portraits.overlays else blank for n in names]
    return (*names, COMIC), Faces(
        jnp.asarray(portraits.images[keep]),
        jnp.asarray(portraits.comic[keep]),
        jnp.asarray(np.stack(labels, 1), jnp.float32),
        jnp.asarray(np.stack(overlays)),
        jnp.asarray([n in portraits.overlays for n in names], jnp.float32),
    )


def labelled(data: Faces, index: Any, key: Any) -> tuple[jax.Array, jax.Array]:
    """Images with random overlays, some as comics, and their labels [B,n+1], -1 where unknown."""
    coin, style = jax.random.split(key)
    present = jax.random.bernoulli(coin, 0.3, (len(index), data.drawn.shape[0]))
    comic = jax.random.bernoulli(style, 0.2, (len(index), 1))
    x = draw(to_unit(data.images[index]), data.overlays[:, index], present * data.drawn)
    x = jnp.where(comic[..., None, None], to_unit(data.comic[index]), x)
    labels = jnp.where(data.drawn > 0, present, data.labels[index])
    labels = jnp.where(comic, -1.0, labels)
    return x, jnp.concatenate([labels, comic], axis=1)


def train_classifier(data: Faces, attributes: int, seed: int) -> Any:
    """A classifier ``x [B,64,64,3] -> logits [B,n+1]`` trained on ``data``."""
    graph, params = nnx.split(Critic(SIZE, attributes, 24, 4, nnx.Rngs(seed)))
    params = nnx.to_pure_dict(params)
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, STEPS), weight_decay=1e-2)

    def loss(params, x, labels):
        logits = nnx.merge(graph, params)(x)[1]
        errors = optax.sigmoid_binary_cross_entropy(logits, labels) * (labels >= 0)
        return errors.sum() / (labels >= 0).sum()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, data, i):
        pick, make, look = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), 3)
        index = jax.random.randint(pick, (BATCH,), 0, data.images.shape[0])
        x, labels = labelled(data, index, make)
        grads = jax.grad(loss)(params, augment(x, look), labels)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for i in tqdm(range(STEPS), desc="classifier", unit="step"):
        params, moments = step(params, moments, data, i)
    return jax.jit(lambda x: nnx.merge(graph, params)(x)[1])


def edit(generator: Generator, x: Any) -> np.ndarray:
    """Every edit of every image, [B,K,s,s,3]."""
    conditions = jnp.asarray(generator.conditions(None))

    @jax.jit
    def apply(x, c):
        return generator(x, jnp.broadcast_to(c, (x.shape[0], c.shape[-1])))

    return np.stack([apply(x, c) for c in conditions[0]], axis=1)


def measure_edits(portraits: Portraits, ensemble: Path, seed: int) -> dict[str, Any]:
    """Per generator and domain, how often the classifier finds the attribute.

    Raises:
      FileError: a generator has a domain that is no attribute of the portraits.
    """
    names, train = faces(portraits, ~portraits.test)
    _, test = faces(portraits, portraits.test)
    generators = {name: load_generator(ensemble / name) for name in NAMES}
    for name, generator in generators.items():
        if unknown := set(generator.domains) - set(names):
            what = f"it edits {min(unknown)}, which no classifier is trained for"
            raise FileError(ensemble / name, what, "give generators of checkpoints.train")
    classify = train_classifier(train, len(names), seed)
    everyone = jnp.arange(test.images.shape[0])
    x, labels = labelled(test, everyone, jax.random.key(seed + 1))
    right = ((classify(x) > 0) == (labels > 0.5)) & (labels >= 0)
    known = np.asarray((labels >= 0).sum(0))
    accuracy = {
        name: float(count / total) if total else None
        for name, count, total in zip(names, np.asarray(right.sum(0)), known, strict=True)
    }
    plain = to_unit(test.images)
    before = dict(zip(names, np.asarray((classify(plain) > 0).mean(0)), strict=True))
    found: dict[str, Any] = {}
    for name, generator in generators.items():
        outputs = edit(generator, plain)
        found[name] = {
            domain: {
                "before": float(before[domain]),
                "after": float((classify(outputs[:, k])[:, names.index(domain)] > 0).mean()),
                "classifier_accuracy": accuracy[domain],
                "change": float(np.abs(outputs[:, k] - plain).mean()),
            }
            for k, domain in enumerate(generator.domains)
        }
    return {"portraits": int(portraits.test.sum()), "models": found}


def picture_of_edits(portraits: Portraits, ensemble: Path, count: int = 6) -> Image.Image:
    """A sheet of test portraits, one per row, beside every edit by every generator."""
    x = to_unit(jnp.asarray(portraits.images[portraits.test][:count]))
    columns, titles = [np.asarray(x)], ["original"]
    for name in NAMES:
        generator = load_generator(ensemble / name)
        outputs = edit(generator, x)
        columns += [outputs[:, k] for k in range(outputs.shape[1])]
        titles += [f"{name}\n{domain}" for domain in generator.domains]
    pixels = np.concatenate([np.concatenate(list(column), 0) for column in columns], 1)
    scale, head = 2, 40
    sheet = Image.fromarray(squares.to_levels(pixels))
    sheet = sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (sheet.width, sheet.height + head), "white")
    canvas.paste(sheet, (0, head))
    for i, title in enumerate(titles):
        ImageDraw.Draw(canvas).text((i * SIZE * scale + 4, 4), title, fill="black", font_size=14)
    return canvas


def attacks(ensemble: Path) -> dict[str, list[str]]:
    """The options of ``cdmaa protect`` for every row of the table."""
    everyone = [str(ensemble / name) for name in NAMES]
    alone = {
        f"{name} alone, PGD": ["--update", "pgd", "--ensemble", path]
        for name, path in zip(NAMES, everyone, strict=True)
    }
    return {
        **{title: [*options, "--aligned"] for title, options in alone.items()},
        "together, uniform": ["--across-models", "uniform", "--ensemble", *everyone, "--aligned"],
        "together, default": ["--ensemble", *everyone, "--aligned"],
        "together, default, bfloat16": [
            "--ensemble",
            *everyone,
            "--aligned",
            "--precision",
            "bfloat16",
        ],
        WHOLE: ["--ensemble", *everyone],
    }


def save_crops(portraits: Portraits, folder: Path, count: int | None) -> list[Path]:
    """Saves the aligned test portraits as 64×64 PNG files: the generators' input in 8 bits."""
    disk.make_folder(folder)
    chosen = np.flatnonzero(portraits.test)[:count]
    paths = [folder / Path(portraits.files[i]).with_suffix(".png").name for i in chosen]
    for i, path in zip(chosen, paths, strict=True):
        save_picture(Image.fromarray(portraits.images[i]), path)
    return paths


def save_picture(picture: Image.Image, path: Path, **options: Any) -> None:
    """Writes a picture whole or not at all, in the format that its suffix names."""
    content = io.BytesIO()
    picture.save(content, Image.registered_extensions()[path.suffix], **options)
    disk.write_whole(path, content.getvalue())


def write_result(result: dict[str, Any], path: Path) -> None:
    """Writes the measurements as JSON."""
    disk.write_whole(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())


def measure_attacks(
    crops: list[Path], photos: list[Path], ensemble: Path, out: Path, seed: int, only: list[str]
) -> dict[str, Any]:
    """Protects once per row; returns avg_l and attack_rate of the saved files per row and model.

    ``attacks.json`` is written after every row. Rows that it already has are kept.

    Raises:
      FileError: a photo could not be protected, or ``attacks.json`` is of other photos, another
        seed or other generators.
    """
    table, file = attacks(ensemble), out / "attacks.json"
    given = given_of(crops, photos, ensemble, seed)
    rows = rows_before(file, given)
    for number, (title, options) in enumerate(table.items()):
        if only and title not in only:
            continue
        folder, files = out / f"attack{number}", photos if title == WHOLE else crops
        protect(files, folder, seed, options)
        rows[title] = figures(folder / "report.json", files)
        rows = {name: rows[name] for name in table if name in rows}  # in the table's order
        write_result({**given, "rows": rows}, file)
    return {**given, "rows": rows}


def given_of(crops: list[Path], photos: list[Path], ensemble: Path, seed: int) -> dict[str, Any]:
    """What ``attacks.json`` says of what was measured."""
    return {
        "portraits": len(photos),
        "seed": seed,
        "photos_sha256": digest([*crops, *photos]),
        "generators": {name: read_metadata(ensemble / name).arrays_sha256 for name in NAMES},
    }


def digest(files: Sequence[Path]) -> str:
    """The SHA-256 of files' names and contents."""
    each = [f"{path.name} {disk.sha256_of(path)}\n" for path in files]
    return hashlib.sha256("".join(each).encode()).hexdigest()


def rows_before(file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The rows that an earlier run wrote; empty if there is no file.

    Raises:
      FileError: the file is none of ``measure_attacks``, or was measured of something else.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(disk.read_bytes(file))
        rows = dict(found.pop("rows"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(file, "it is damaged", "delete it, or choose another --out") from error
    if found != given:
        what = "it is of other portraits, another seed or other generators"
        raise FileError(file, what, "choose another --out, or delete the folder")
    return rows


def protect(files: Sequence[Path], folder: Path, seed: int, options: Sequence[str]) -> None:
    """Runs ``cdmaa protect``, which reports every photo that it cannot protect.

    Raises:
      FileError: there was one.
    """
    arguments = ["protect", *map(str, files), "--out", str(folder), "--seed", str(seed)]
    if cli.main([*arguments, *options]):
        what = "not every photo could be protected"
        raise FileError(folder, what, "mend what is said above, and run again")


def figures(report: Path, files: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Per model, avg_l and attack_rate over these photos alone: a report may list others, too.

    Raises:
      FileError: it does not tell of all of these.
    """
    found = json.loads(disk.read_bytes(report))
    names = {path.name: disk.sha256_of(path) for path in files}
    entries = [e for e in found["photos"] if names.get(e["file"]) == e["sha256"]]
    if len(entries) != len(files):
        raise FileError(report, "it does not tell of every photo", "delete its folder")
    models = summary([of_first_face(entry) for entry in entries], found["threshold"])
    return {
        name: {key: values[key] for key in ("avg_l", "attack_rate")}
        for name, values in models.items()
    }


def measure_posted(
    photos: list[Path], ensemble: Path, out: Path, seed: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """The attack_rate of protected photos after compression, as the mean over the models.

    Raises:
      FileError: a photo could not be protected.
    """
    paths = [str(ensemble / name) for name in NAMES]
    members, rows = load_ensemble(paths), []
    for scale in SCALES:
        folder = out / f"posted{scale}"
        large, safe = folder / "original", folder / "protected"
        originals = [enlarge(photo, scale, large) for photo in photos]
        protect(originals, safe, seed, [*options, "--ensemble", *paths])
        saved = [safe / photo.name for photo in originals]
        entries = measured(originals, saved, members)
        rates = {"png": mean_rate(losses_in(entries))}
        for quality in QUALITIES:
            posted = [compress(path, quality, folder / f"q{quality}") for path in saved]
            rates[f"q{quality}"] = mean_rate(losses_in(measured(originals, posted, members)))
        square = float(np.median([entry["square"]["size"] for entry in entries]))
        rows.append({"scale": scale, "square": square, "attack_rate": rates})
    return {"portraits": len(photos), "seed": seed, "rows": rows}


def measure_cropped(
    photos: list[Path], ensemble: Path, out: Path, seed: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """The attack_rate of protected photos if generators are given another square of them.

    Each square lies in the photo; where none does, the photo is left out, and a row without any.
    Squares begin and end between pixels if they must, so that a move is what it is called in a
    photo of any size.

    Raises:
      FileError: a photo could not be protected.
    """
    paths = [str(ensemble / name) for name in NAMES]
    members, folder = load_ensemble(paths), out / "cropped"
    protect(photos, folder, seed, [*options, "--ensemble", *paths])
    found = json.loads(disk.read_bytes(folder / "report.json"))["photos"]
    entries = {entry["file"]: entry for entry in found}
    pairs: dict[str, list[Pair]] = {title: [] for title in CROPS}
    for photo in tqdm(photos, "squares", unit="photo"):
        entry = entries[photo.name]
        before = read_photo(photo).pixels
        after = read_photo(folder / entry["protected"]).pixels
        box = Box(**entry["square"])
        pair = see_pair(before, after, box, members.generators)
        for title, change in CROPS.items():
            square = another_square(box, *before.shape[:2], *change)
            if square is not None:
                pairs[title].append(seen_elsewhere(pair, before, after, square))
    rows = []
    for title, some in pairs.items():
        if not some:
            continue
        losses = measure(members.generators, some, batch_size=min(len(some), BATCH))
        rate = mean_rate(losses.values())
        rows.append({"square": title, "portraits": len(some), "attack_rate": rate})
    return {"portraits": len(photos), "seed": seed, "rows": rows}


def measure_groups(
    photos: list[Path], ensemble: Path, out: Path, seed: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """The attack_rate of protected photos of two people, made of portraits two by two.

    Raises:
      FileError: a photo could not be protected.
    """
    paths = [str(ensemble / name) for name in NAMES]
    alone, rows = [face_alone(photo) for photo in photos], []
    for distance in DISTANCES:
        folder = out / f"groups-{distance:g}"
        disk.make_folder(folder / "original")
        originals = []
        for number, pair in enumerate(zip(alone[::2], alone[1::2], strict=False)):
            originals.append(folder / "original" / f"{number:03}.png")
            save_picture(Image.fromarray(beside(*pair, distance)), originals[-1])
        protect(originals, folder / "protected", seed, [*options, "--ensemble", *paths])
        listed = json.loads(disk.read_bytes(folder / "protected" / "report.json"))["photos"]
        entries = {entry["file"]: entry for entry in listed}
        found = [one for path in originals for one in squares_of(entries[path.name]) if one["face"]]
        faces = [one for one in found if is_of_group(Box(**one["face"]), distance)]
        rate = mean_rate(losses_in(faces)) if faces else None
        counts = {"faces": 2 * len(originals), "found": len(faces)}
        others = {"found_elsewhere": len(found) - len(faces)}
        rows.append({"distance": distance, **counts, **others, "attack_rate": rate})
    return {"portraits": 2 * len(originals), "seed": seed, "rows": rows}


def face_alone(photo: Path) -> np.ndarray:
    """The square of a portrait's face, uint8 ``[GROUP_SIDE, GROUP_SIDE, 3]``."""
    pixels = read_photo(photo).pixels
    square = Image.fromarray(squares.look(pixels)[0].square.crop(pixels))
    return np.asarray(square.resize((GROUP_SIDE, GROUP_SIDE), Image.Resampling.LANCZOS))


def beside(left: np.ndarray, right: np.ndarray, distance: float) -> np.ndarray:
    """Two squares side by side, cut where they meet so that their middles have this distance."""
    cut = round(len(left) * (1 - distance) / 2)
    return np.concatenate([left[:, : len(left) - cut], right[:, cut:]], axis=1)


def is_of_group(face: Box, distance: float) -> bool:
    """Whether a face is where ``beside`` puts one: in a square's middle, and not too small."""
    y, x = face.top + face.size / 2, face.left + face.size / 2
    first = GROUP_SIDE / 2
    away = min(abs(x - first), abs(x - first - distance * GROUP_SIDE))
    return max(away, abs(y - first)) < GROUP_SIDE / 5 and face.size > GROUP_SIDE / 3


def another_square(
    square: Box, height: int, width: int, moved: float, scale: float
) -> Square | None:
    """The square moved to the right, or to the left, and scaled; None if it is not in the photo."""
    size = square.size * scale
    margin = (square.size - size) / 2
    top = square.top + margin
    for step in (moved * square.size, -moved * square.size):
        left = square.left + margin + step
        if 0 <= left <= width - size and 0 <= top <= height - size:
            return Square(top, left, size)
    return None


def seen_elsewhere(pair: Pair, before: np.ndarray, after: np.ndarray, square: Square) -> Pair:
    """The pair, but for what the generators see: another square of the two photos."""
    sizes = pair.clean
    return dataclasses.replace(
        pair,
        clean={size: see_between(before, square, size) for size in sizes},
        protected={size: see_between(after, square, size) for size in sizes},
    )


def see_between(photo: np.ndarray, square: Square, size: int) -> np.ndarray:
    """``squares.see`` of a square that may begin and end between the pixels of ``photo``."""
    top, left = math.floor(square.top), math.floor(square.left)
    bottom, right = math.ceil(square.top + square.size), math.ceil(square.left + square.size)
    y, x = square.top - top, square.left - left
    box = (x, y, x + square.size, y + square.size)
    channels = np.moveaxis(np.asarray(photo[top:bottom, left:right], np.float32), -1, 0)
    bilinear = Image.Resampling.BILINEAR
    planes = [Image.fromarray(plane).resize((size, size), bilinear, box) for plane in channels]
    return squares.to_unit(np.stack(planes, axis=-1))


def enlarge(photo: Path, scale: int, folder: Path) -> Path:
    """Writes a photo, with its sides ``scale`` times as long, as a PNG file into a folder."""
    disk.make_folder(folder)
    path = folder / f"{photo.stem}.png"
    image = Image.fromarray(read_photo(photo).pixels)
    size = (image.width * scale, image.height * scale)
    save_picture(image.resize(size, Image.Resampling.LANCZOS), path)
    return path


def compress(photo: Path, quality: int, folder: Path) -> Path:
    """Writes a photo as a JPEG file into a folder."""
    disk.make_folder(folder)
    path = folder / f"{photo.stem}.jpg"
    with Image.open(photo) as picture:
        save_picture(picture, path, quality=quality)
    return path


def measured(
    originals: Sequence[Path], copies: Sequence[Path], ensemble: Ensemble
) -> list[dict[str, Any]]:
    """The report's entries on copies, in their order.

    Raises:
      FileError: one of them, or its original, cannot be measured.
    """
    entries = []
    for outcome in evaluate_photos(list(zip(originals, copies, strict=True)), ensemble):
        if outcome.error is not None:
            raise outcome.error
        entries.append(outcome.entry)
    return entries


def of_first_face(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry without further faces, which in a portrait are mostly none."""
    return {**entry, OTHERS: []}


def losses_in(entries: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Each model's L of the copies, or of the faces in them, that the entries are of, [B,K]."""
    return [
        np.array([list(entry["models"][name].values()) for entry in entries])
        for name in entries[0]["models"]
    ]


def mean_rate(losses: Iterable[np.ndarray]) -> float:
    """The attack_rate, as the mean over the models."""
    return float(np.mean([attack_rate(each) for each in losses]))


def print_posted(result: dict[str, Any]) -> None:
    """Prints the result of ``measure_posted`` as a Markdown table."""
    print("| side of the face square | PNG | " + " | ".join(f"JPEG {q}" for q in QUALITIES) + " |")
    print("|---|" + "---|" * (1 + len(QUALITIES)))
    for row in result["rows"]:
        cells = [f"{100 * value:.0f} %" for value in row["attack_rate"].values()]
        print(f"| {row['square']:.0f} px | " + " | ".join(cells) + " |")


def print_cropped(result: dict[str, Any]) -> None:
    """Prints the result of ``measure_cropped`` as a Markdown table."""
    print("| what the generators see | portraits | spoiled |")
    print("|---|---|---|")
    for row in result["rows"]:
        print(f"| {row['square']} | {row['portraits']} | {100 * row['attack_rate']:.0f} % |")


def print_groups(result: dict[str, Any]) -> None:
    """Prints the result of ``measure_groups`` as a Markdown table."""
    title = "distance of the faces, in sides of their squares"
    print(f"| {title} | faces | found | found elsewhere | spoiled |")
    print("|---|---|---|---|---|")
    for row in result["rows"]:
        counts = f"{row['faces']} | {row['found']} | {row['found_elsewhere']}"
        rate = "" if row["attack_rate"] is None else f"{100 * row['attack_rate']:.0f} %"
        print(f"| {row['distance']:g} | {counts} | {rate} |")


def print_attacks(result: dict[str, Any]) -> None:
    """Prints the result of ``measure_attacks`` as a Markdown table."""
    print("| attack | " + " | ".join(NAMES) + " | mean |")
    print("|---|" + "---|" * (len(NAMES) + 1))
    for title, models in result["rows"].items():
        cells = [
            f"{100 * models[name]['attack_rate']:.1f} % ({models[name]['avg_l']:.3f})"
            if name in models
            else ""
            for name in NAMES
        ]
        mean = np.mean([figures["attack_rate"] for figures in models.values()])
        print(f"| {title} | " + " | ".join(cells) + f" | {100 * mean:.1f} % |")


def print_edits(result: dict[str, Any]) -> None:
    """Prints the result of ``measure_edits`` as a Markdown table."""
    print("| generator | edit | found before | found after | classifier right |")
    print("|---|---|---|---|---|")
    for name, domains in result["models"].items():
        for domain, row in domains.items():
            figures = (row["before"], row["after"], row["classifier_accuracy"])
            cells = ("" if share is None else f"{100 * share:.0f} %" for share in figures)
            print(f"| {name} | {domain} | " + " | ".join(cells) + " |")


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = OneLineParser(
        prog="python -m checkpoints.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=tuple(MEASURES))
    parser.add_argument("--portraits", type=Path, required=True, help="folder with portraits.csv")
    parser.add_argument("--cache", type=Path, help="an .npz to keep the aligned portraits in")
    parser.add_argument("--ensemble", type=Path, default=ENSEMBLE, help="default: the bundled one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--images", type=commands.positive,
        help="of all but edits: only the first so many test portraits",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=commands.seed, default=0, help="of everything random; default: 0"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[*attacks(ENSEMBLE)], metavar="ATTACK", default=[],
        help=f"these rows of the attacks' table (default: all): {'; '.join(attacks(ENSEMBLE))}",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the arguments and measures; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.only and args.what != "attacks":
        parser.error(f"--only is of attacks, not of {args.what}")
    if args.images and args.what == "edits":
        parser.error("--images is of the others, not of edits")
    if args.images == 1 and args.what == "groups":
        parser.error("--images must be at least 2 for groups")
    return commands.run(parser.prog, functools.partial(_run, args))


def _run(args: argparse.Namespace) -> int:
    _check(args)
    with disk.locked(args.out):
        portraits = load(args.portraits, SIZE, cache=args.cache)
        _check_portraits(args, portraits)
        MEASURES[args.what](args, portraits)
    return 0


def _check_portraits(args: argparse.Namespace, portraits: Portraits) -> None:
    """Raises FileError if there are too few portraits for what is measured."""
    if not portraits.test.any() or (args.what == "edits" and portraits.test.all()):
        what = "no face is found in a portrait to test on, or in none to train on"
        raise FileError(args.portraits, what, "add portraits with larger faces")
    if args.what == "groups" and len(_photos(args, portraits)) < 2:
        what = "there are no two test portraits for a photo of two people"
        raise FileError(args.portraits, what, "add portraits, or give a larger --images")


def _check(args: argparse.Namespace) -> None:
    """Checks what can be checked before the portraits are prepared, which takes minutes.

    Raises:
      FileError: the table, or what is in --out, is not as it must be.
      CheckpointError: the ensemble lacks a generator.
    """
    table = args.portraits / TABLE
    rows = read_table(table)
    if not any(is_test(row["file"]) for row in rows):
        raise FileError(table, "it lists no portrait to test on", "add lines with other names")
    if args.what == "edits":
        check_labels(table, rows, tuple(STATED))
    for name in NAMES:
        read_metadata(args.ensemble / name)
    disk.make_folder(args.out)
    for suffix in (".json", ".png"):
        path = args.out / (args.what + suffix)
        if path.is_dir():
            raise FileError(path, "it is a folder", "choose another --out")


def _edits(args: argparse.Namespace, portraits: Portraits) -> None:
    result = measure_edits(portraits, args.ensemble, args.seed)
    save_picture(picture_of_edits(portraits, args.ensemble), args.out / "edits.png")
    write_result(result, args.out / "edits.json")
    print_edits(result)


def _attacks(args: argparse.Namespace, portraits: Portraits) -> None:
    photos = _photos(args, portraits)
    with tempfile.TemporaryDirectory() as folder:  # crops of other portraits are not replaced
        crops = save_crops(portraits, Path(folder), args.images)
        given = given_of(crops, photos, args.ensemble, args.seed)
        rows_before(args.out / "attacks.json", given)
    crops = save_crops(portraits, args.out / "crops", args.images)
    print_attacks(measure_attacks(crops, photos, args.ensemble, args.out, args.seed, args.only))


def _posted(args: argparse.Namespace, portraits: Portraits) -> None:
    result = measure_posted(_photos(args, portraits), args.ensemble, args.out, args.seed)
    write_result(result, args.out / "posted.json")
    print_posted(result)


def _cropped(args: argparse.Namespace, portraits: Portraits) -> None:
    result = measure_cropped(_photos(args, portraits), args.ensemble, args.out, args.seed)
    write_result(result, args.out / "cropped.json")
    print_cropped(result)


def _groups(args: argparse.Namespace, portraits: Portraits) -> None:
    result = measure_groups(_photos(args, portraits), args.ensemble, args.out, args.seed)
    write_result(result, args.out / "groups.json")
    print_groups(result)


def _photos(args: argparse.Namespace, portraits: Portraits) -> list[Path]:
    """The files of the test portraits."""
    chosen = np.flatnonzero(portraits.test)[: args.images]
    return [args.portraits / "photos" / portraits.files[i] for i in chosen]


MEASURES = {
    "edits": _edits, "attacks": _attacks, "posted": _posted, "cropped": _cropped, "groups": _groups,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
