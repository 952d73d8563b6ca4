"""Measures the demonstration ensemble on portraits that no generator was trained on.

    python -m checkpoints.measure edits --portraits DIR --out DIR    how well each does its edits
    python -m checkpoints.measure attacks --portraits DIR --out DIR  how well the attack spoils them
    python -m checkpoints.measure posted --portraits DIR --out DIR   what JPEG leaves of that

edits trains a classifier of its own on the training portraits, with the drawn attributes, and
counts the edited test portraits in which it finds the attribute; it also writes a picture of every
edit. attacks protects the test portraits, cropped to what the generators take as in the paper,
each generator alone by PGD and all together by uniform weights, by the default settings, and by
these in bfloat16; then the whole photos by the default settings. What is measured, in float32, are
the saved 8-bit files. --only chooses among these. posted protects the whole photos, as they are and
enlarged, and measures the copies again as JPEG files of several qualities (Pillow's, 4:2:0).
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image, ImageDraw
from tqdm import tqdm

from cdmaa_jax import cli
from cdmaa_jax.evaluation.metrics import attack_rate
from cdmaa_jax.generators.checkpoint import load_generator
from cdmaa_jax.generators.ensembles import Ensemble, load_ensemble
from cdmaa_jax.photos import evaluate_photos
from cdmaa_jax.types import Generator
from checkpoints.discriminators import Critic
from checkpoints.portraits import Portraits, load
from checkpoints.train import SIZE, augment, draw, to_unit

ENSEMBLE = Path(__file__).parent / "demo"
NAMES = ("stargan", "attgan", "stgan", "ugatit")
COMIC = "Comic"
WHOLE = "together, default, whole photos"
STEPS, BATCH = 1500, 48
SCALES, QUALITIES = (1, 2, 4), (95, 85, 75, 60)


class Faces(NamedTuple):
    """Portraits on the device; labels are 1, 0 or -1 where unknown or drawn."""

    images: jax.Array
    comic: jax.Array
    labels: jax.Array
    overlays: jax.Array
    drawn: jax.Array


def faces(portraits: Portraits, keep: np.ndarray) -> tuple[tuple[str, ...], Faces]:
    """The chosen portraits and the names of all attributes, the comic style last."""
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
    """Images with overlays at random, some as comics, and their labels [B,n+1] with -1 unknown."""
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
    """Per generator and domain, how often the classifier finds the attribute."""
    names, train = faces(portraits, ~portraits.test)
    _, test = faces(portraits, portraits.test)
    classify = train_classifier(train, len(names), seed)
    everyone = jnp.arange(test.images.shape[0])
    x, labels = labelled(test, everyone, jax.random.key(seed + 1))
    right = ((classify(x) > 0) == (labels > 0.5)) & (labels >= 0)
    accuracy = dict(zip(names, np.asarray(right.sum(0) / (labels >= 0).sum(0)), strict=True))
    plain = to_unit(test.images)
    before = dict(zip(names, np.asarray((classify(plain) > 0).mean(0)), strict=True))
    found: dict[str, Any] = {}
    for name in NAMES:
        generator = load_generator(ensemble / name)
        outputs = edit(generator, plain)
        found[name] = {
            domain: {
                "before": float(before[domain]),
                "after": float((classify(outputs[:, k])[:, names.index(domain)] > 0).mean()),
                "classifier_accuracy": float(accuracy[domain]),
                "change": float(np.abs(outputs[:, k] - plain).mean()),
            }
            for k, domain in enumerate(generator.domains)
        }
    return {"portraits": int(portraits.test.sum()), "models": found}


def picture_of_edits(portraits: Portraits, ensemble: Path, count: int = 6) -> Image.Image:
    """A sheet: test portraits, one a row, beside every edit of every generator."""
    x = to_unit(jnp.asarray(portraits.images[portraits.test][:count]))
    columns, titles = [np.asarray(x)], ["original"]
    for name in NAMES:
        generator = load_generator(ensemble / name)
        outputs = edit(generator, x)
        columns += [outputs[:, k] for k in range(outputs.shape[1])]
        titles += [f"{name}\n{domain}" for domain in generator.domains]
    pixels = np.concatenate([np.concatenate(list(column), 0) for column in columns], 1)
    scale, head = 2, 40
    sheet = Image.fromarray(np.uint8(np.clip((pixels + 1) * 127.5, 0, 255).round()))
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
    """The aligned test portraits as 64×64 PNG files: what the generators take, 8 bits a value."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.flatnonzero(portraits.test)[:count]
    paths = [folder / Path(portraits.files[i]).with_suffix(".png").name for i in chosen]
    for i, path in zip(chosen, paths, strict=True):
        Image.fromarray(portraits.images[i]).save(path)
    return paths


def measure_attacks(
    crops: list[Path], photos: list[Path], ensemble: Path, out: Path, seed: int, only: list[str]
) -> dict[str, Any]:
    """Protects once per row; per row and model avg_l and attack_rate of the saved files.

    Raises:
      RuntimeError: a photo could not be protected.
    """
    rows = {}
    for number, (title, options) in enumerate(attacks(ensemble).items()):
        if only and title not in only:
            continue
        folder, files = out / f"attack{number}", photos if title == WHOLE else crops
        arguments = ["protect", *map(str, files), "--out", str(folder), "--seed", str(seed)]
        if cli.main([*arguments, *options]):
            raise RuntimeError(f"{title}: not every photo could be protected, see above")
        report = json.loads((folder / "report.json").read_text())
        rows[title] = {
            name: {key: figures[key] for key in ("avg_l", "attack_rate")}
            for name, figures in report["models"].items()
        }
    return {"portraits": len(photos), "seed": seed, "rows": rows}


def measure_posted(
    photos: list[Path], ensemble: Path, out: Path, seed: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """What compression leaves of protected photos: the mean over the models of their attack_rate.

    Raises:
      RuntimeError: a photo could not be protected.
    """
    paths = [str(ensemble / name) for name in NAMES]
    members, rows = load_ensemble(paths), []
    for scale in SCALES:
        folder = out / f"posted{scale}"
        large, safe = folder / "original", folder / "protected"
        originals = [enlarge(photo, scale, large) for photo in photos]
        arguments = ["protect", str(large), "--out", str(safe), "--seed", str(seed), *options]
        if cli.main([*arguments, "--ensemble", *paths]):
            raise RuntimeError(f"{scale}: not every photo could be protected, see above")
        saved = [safe / photo.name for photo in originals]
        entries = measured(originals, saved, members)
        rates = {"png": mean_rate(entries)}
        for quality in QUALITIES:
            posted = [compress(path, quality, folder / f"q{quality}") for path in saved]
            rates[f"q{quality}"] = mean_rate(measured(originals, posted, members))
        square = float(np.median([entry["square"]["size"] for entry in entries]))
        rows.append({"scale": scale, "square": square, "attack_rate": rates})
    return {"portraits": len(photos), "seed": seed, "rows": rows}


def enlarge(photo: Path, scale: int, folder: Path) -> Path:
    """A photo, its sides ``scale`` times as long, as a PNG file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{photo.stem}.png"
    image = Image.open(photo).convert("RGB")
    size = (image.width * scale, image.height * scale)
    image.resize(size, Image.Resampling.LANCZOS).save(path)
    return path


def compress(photo: Path, quality: int, folder: Path) -> Path:
    """A photo as a JPEG file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{photo.stem}.jpg"
    Image.open(photo).save(path, quality=quality)
    return path


def measured(
    originals: Sequence[Path], copies: Sequence[Path], ensemble: Ensemble
) -> list[dict[str, Any]]:
    """What a report tells of copies."""
    outcomes = evaluate_photos(list(zip(originals, copies, strict=True)), ensemble)
    return [outcome.entry for outcome in outcomes if outcome.entry is not None]


def mean_rate(entries: list[dict[str, Any]]) -> float:
    """The mean over the models of the attack_rate of copies."""
    losses = [[list(e["models"][name].values()) for e in entries] for name in entries[0]["models"]]
    return float(np.mean([attack_rate(np.array(each)) for each in losses]))


def print_posted(result: dict[str, Any]) -> None:
    """A Markdown table of ``measure_posted``."""
    print("| side of the face square | PNG | " + " | ".join(f"JPEG {q}" for q in QUALITIES) + " |")
    print("|---|" + "---|" * (1 + len(QUALITIES)))
    for row in result["rows"]:
        cells = [f"{100 * value:.0f} %" for value in row["attack_rate"].values()]
        print(f"| {row['square']:.0f} px | " + " | ".join(cells) + " |")


def print_attacks(result: dict[str, Any]) -> None:
    """A Markdown table of ``measure_attacks``."""
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
    """A Markdown table of ``measure_edits``."""
    print("| generator | edit | found before | found after | classifier right |")
    print("|---|---|---|---|---|")
    for name, domains in result["models"].items():
        for domain, row in domains.items():
            figures = (row["before"], row["after"], row["classifier_accuracy"])
            print(
                f"| {name} | {domain} | " + " | ".join(f"{100 * f:.0f} %" for f in figures) + " |"
            )


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m checkpoints.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("edits", "attacks", "posted"))
    parser.add_argument("--portraits", type=Path, required=True, help="folder with portraits.csv")
    parser.add_argument("--cache", type=Path, help="an .npz to keep the aligned portraits in")
    parser.add_argument("--ensemble", type=Path, default=ENSEMBLE, help="default: the bundled one")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--images", type=int, help="only the first so many test portraits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", choices=[*attacks(ENSEMBLE)], metavar="ATTACK", default=[],
        help="these rows of the attacks' table (default: all)",
    )  # fmt: skip
    args = parser.parse_args()
    portraits = load(args.portraits, SIZE, cache=args.cache)
    args.out.mkdir(parents=True, exist_ok=True)
    chosen = np.flatnonzero(portraits.test)[: args.images]
    photos = [args.portraits / "photos" / portraits.files[i] for i in chosen]
    if args.what == "edits":
        result = measure_edits(portraits, args.ensemble, args.seed)
        picture_of_edits(portraits, args.ensemble).save(args.out / "edits.png")
        print_edits(result)
    elif args.what == "attacks":
        crops = save_crops(portraits, args.out / "crops", args.images)
        result = measure_attacks(crops, photos, args.ensemble, args.out, args.seed, args.only)
        print_attacks(result)
    else:
        result = measure_posted(photos, args.ensemble, args.out, args.seed)
        print_posted(result)
    (args.out / f"{args.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
