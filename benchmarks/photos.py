"""How fast photos become protected photos, from files to files, and how long the device works."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from benchmarks.memory import peak_bytes
from benchmarks.session import Say, check_precision
from benchmarks.statistics import summary
from benchmarks.workers import BenchmarkError

NOISE = 2.5
"""Standard deviation of what stands in for a camera's noise, in grey levels."""
QUALITY = 92
"""Of the JPEG files."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What is protected, and how.

    Attributes:
      photos: how many.
      megapixels: of each, in portrait format 3:4.
      batch: photos that are attacked at once.
      steps: of the attack.
      ensemble: names of ensembles or checkpoint directories.
      precision: of the generators, as in ``Job``.
      rounds: how often all photos are protected; one batch is before, untimed.
    """

    photos: int = 24
    megapixels: float = 12.0
    batch: int = 8
    steps: int = 80
    ensemble: tuple[str, ...] = ("demo",)
    precision: str | None = None
    rounds: int = 3


def measure(options: Options, say: Say) -> dict[str, Any]:
    """Everything that ``python -m benchmarks photos`` reports, for JSON.

    Raises:
      BenchmarkError: a photo could not be protected.
      FileError: an ensemble cannot be loaded, or the temporary folder is full.
    """
    import jax

    from cdmaa_jax import disk, processor
    from cdmaa_jax.evaluation.report import versions
    from cdmaa_jax.generators.ensembles import load_ensemble

    processor.make_devices()
    check_precision(options.precision, jax.devices()[0].platform)
    ensemble = load_ensemble(list(options.ensemble))
    with tempfile.TemporaryDirectory(prefix="cdmaa-benchmark-") as name:
        folder = Path(name)
        say(f"making {options.photos} photos of {options.megapixels:g} megapixels")
        with disk.translated(folder, "set TMPDIR to another folder"):
            sources = make_photos(folder / "photos", options)
        say("one batch untimed, with compilation (minutes on a CPU)")
        protect(sources, folder / "untimed", ensemble, options, only_first=True)
        rounds = []
        for turn in range(options.rounds):
            rounds.append(protect(sources, folder / str(turn), ensemble, options))
            say(f"round {turn + 1} of {options.rounds}: {rounds[-1][0]:.1f} s")
    each = [seconds / options.photos for seconds, _ in rounds]
    return {
        "benchmark": "photos",
        "settings": dataclasses.asdict(options),
        "machine": machine(),
        "versions": versions(),
        "device": jax.devices()[0].device_kind,
        "seconds_per_photo": summary(each),
        "photos_per_second": 1 / summary(each)["median"],
        "share_of_time_in_attacks": summary([inside / seconds for seconds, inside in rounds]),
        "memory": peak_bytes(),
    }


def make_photos(folder: Path, options: Options) -> list[Path]:
    """Writes JPEG files of a portrait, enlarged, with noise of a camera's kind, each its own."""
    import skimage.data

    folder.mkdir()
    width = round(1000 * (0.75 * options.megapixels) ** 0.5)
    size = width, round(width * 4 / 3)
    portrait = Image.fromarray(skimage.data.astronaut()[:400, 75:375])
    pixels = np.asarray(portrait.resize(size, Image.Resampling.BICUBIC), np.float32)
    paths = []
    for number in range(options.photos):
        noise = np.random.default_rng(number).standard_normal(pixels.shape, np.float32)
        noisy = np.clip(np.rint(pixels + np.float32(NOISE) * noise), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04}.jpg")
        Image.fromarray(noisy).save(paths[-1], quality=QUALITY)
    return paths


def protect(
    sources: list[Path], out: Path, ensemble: Any, options: Options, only_first: bool = False
) -> tuple[float, float]:
    """Protects photos, or only the first batch of them; seconds in total, and of them in attacks.

    Raises:
      BenchmarkError: a photo could not be protected.
    """
    from cdmaa_jax import photos
    from cdmaa_jax.attack.config import Config

    config = Config(steps=options.steps)
    attack = Timed(photos.against(ensemble.generators, config))
    job = photos.Job(
        ensemble, out, config, photos.default_canonical_size(ensemble),
        batch_size=options.batch, precision=options.precision, attack=attack,
    )  # fmt: skip
    begin = time.perf_counter()
    with contextlib.closing(photos.protect_photos(sources, job)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise BenchmarkError(f"a photo could not be protected: {outcome.error}")
            if only_first:
                break
    return time.perf_counter() - begin, attack.seconds


class Timed:
    """A function that counts the seconds spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self.seconds = function, 0.0

    def __call__(self, *arguments: Any) -> Any:
        begin = time.perf_counter()
        result = self._function(*arguments)
        self.seconds += time.perf_counter() - begin
        return result


def text(report: dict[str, Any]) -> str:
    """The figures in words."""
    s, m, seconds = report["settings"], report["machine"], report["seconds_per_photo"]
    share = report["share_of_time_in_attacks"]["median"]
    return "\n".join(
        [
            f"{s['photos']} photos of {s['megapixels']:g} megapixels, {s['batch']} at a time, "
            f"{s['steps']} steps against {' + '.join(s['ensemble'])}",
            f"{m['processor']}, {m['cores']} cores; {report['device']}",
            f"{seconds['median']:.2f} s a photo ({seconds['min']:.2f} to {seconds['max']:.2f}), "
            f"{report['photos_per_second']:.3g} photos a second, from files to files",
            f"attacks take {share:.0%} of the time; the rest is reading, writing and comparing",
            f"peak of the process: {report['memory'] / 2**30:.2f} GiB",
        ]
    )
