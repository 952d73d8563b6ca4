"""The report of protected photos, ``report.json``: measurements, and settings to reproduce them.

A batch of another size rounds sums otherwise, which signs of gradients magnify from step to step:
it gives other files, which are as good.

Figures are measured on the saved files, read back. L, linf, epsilon and threshold are in units of
[-1, 1]; psnr (dB, null where nothing changed) and ssim are those of the square that generators see.
A photo of several faces has a square for each, of which its own figures are those of the first.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdmaa_jax.disk import (
    TO_READ,
    FileError,
    is_too_long,
    read_bytes,
    refuse_pipes,
    translated,
)
from cdmaa_jax.evaluation.measure import Pair
from cdmaa_jax.evaluation.metrics import attack_rate, avg_l
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images.faces import Box
from cdmaa_jax.images.files import Photo
from cdmaa_jax.images.squares import Look
from cdmaa_jax.processor import cores

FORMAT = "cdmaa-jax report"
FORMAT_VERSION = 2
EARLIER = "earlier"
"""Key of the existing copies from runs with other settings: their photos, without figures."""
OTHERS = "others"
"""Key of a photo's further faces, each with its square and the figures there."""
_TRACE = ("file", "sha256", "protected", "protected_sha256")
MADE_WITH = "made_with"
"""Key of a photo's versions and device, if they differ from the report's."""
_PACKAGES = (
    "cdmaa-jax", "jax", "jaxlib", "flax", "optax", "numpy", "pillow", "scikit-image",
)  # fmt: skip
_ENTRY: dict[str, Any] = {
    "file": str, "protected": str, "size": dict, "linf": float | int, OTHERS: list,
    "labels": dict | None, "notes": list, "sha256": str, "protected_sha256": str,
}  # fmt: skip
_OF_A_SQUARE: dict[str, Any] = {
    "face": dict | None, "square": dict, "psnr": float | int | None, "ssim": float | int,
    "models": dict,
}  # fmt: skip
_NOT_OURS = "choose another --out, or overwrite with --force"


def photo_entry(
    file: str,
    protected_file: str,
    original: Photo,
    protected_sha256: str,
    looks: Sequence[Look],
    pairs: Sequence[Pair],
    labels: Mapping[str, int] | None,
) -> dict[str, Any]:
    """The report's entry on one photo, without the models' L; ``pairs`` are of its squares."""
    height, width = original.size
    first, *others = (_square_entry(*one) for one in zip(looks, pairs, strict=True))
    return {
        "file": file,
        "protected": protected_file,
        "size": {"width": width, "height": height},
        **first,
        OTHERS: others,
        "linf": pairs[0].linf,
        "labels": None if labels is None else dict(labels),
        "notes": list(original.notes),
        "sha256": original.sha256,
        "protected_sha256": protected_sha256,
    }


def _square_entry(look: Look, pair: Pair) -> dict[str, Any]:
    return {
        "face": None if look.face is None else dataclasses.asdict(look.face),
        "square": dataclasses.asdict(look.square),
        "psnr": pair.psnr if math.isfinite(pair.psnr) else None,
        "ssim": pair.ssim,
        "models": {},
    }


def with_losses(
    entries: Sequence[Mapping[str, Any]],
    values: Mapping[str, np.ndarray],
    domains: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """The entries of photos, completed with the models' L.

    Args:
      entries: with B squares together.
      values: model name to L, ``[B, K]``.
      domains: model name to the names of its K domains.

    Raises:
      ValueError: there is another number of squares than B.
    """
    count = sum(len(squares_of(entry)) for entry in entries)
    if unlike := [name for name, rows in values.items() if len(rows) != count]:
        raise ValueError(f"L of {unlike[0]} is not that of {count} squares")
    models = (
        {
            name: dict(zip(domains[name], map(float, values[name][i]), strict=True))
            for name in values
        }
        for i in range(count)
    )
    return [
        {
            **entry,
            "models": next(models),
            OTHERS: [{**square, "models": next(models)} for square in entry[OTHERS]],
        }
        for entry in entries
    ]


def squares_of(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The squares of a photo, each with its face and its figures; the most prominent face first."""
    return [entry, *entry[OTHERS]]


def summary(photos: Sequence[Mapping[str, Any]], threshold: float) -> dict[str, Any]:
    """The figures of every model over squares and domains, and of each of its domains."""
    losses = [square["models"] for photo in photos for square in squares_of(photo)]
    names = list(losses[0]) if losses else []
    return {name: _summary_of([each[name] for each in losses], threshold) for name in names}


def describe(ensemble: Ensemble) -> dict[str, Any]:
    """What an ensemble consists of."""
    pairs = zip(ensemble.generators, ensemble.metadata, strict=True)
    return {
        "name": ensemble.name,
        "generators": [
            {
                "name": generator.name,
                "architecture": metadata.architecture,
                "image_size": generator.image_size,
                "domains": list(generator.domains),
                "config": _for_json(dataclasses.asdict(metadata.config)),
                "arrays_sha256": metadata.arrays_sha256,
            }
            for generator, metadata in pairs
        ],
    }


def _for_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as a JSON file would give them back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def build(
    photos: Iterable[Mapping[str, Any]],
    threshold: float,
    given: Mapping[str, Any],
    failed: Iterable[Mapping[str, str]] = (),
    earlier: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The report.

    Args:
      photos: entries.
      threshold: τ of the attack rates.
      given: the settings that the photos were protected with, or the part of them that is known.
      failed: photos that could not be protected, ``{"file": ..., "error": ...}``.
      earlier: entries of copies that were made with other settings.
    """
    photos = list(photos)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "models": summary(photos, threshold),
        "threshold": threshold,
        "photos": photos,
        "failed": list(failed),
        EARLIER: [{name: entry[name] for name in _TRACE} for entry in earlier],
        **given,
        **made_with(),
    }


def made_with() -> dict[str, Any]:
    """The versions, the device and the precision of products that this process's figures have.

    The cores are those of a CPU that this process may use; their number, and that of the devices
    that may share a batch, change rounding. The precision is that of JAX's option; None, the
    backend's default.
    """
    device = jax.devices()[0]
    return {
        "versions": versions(),
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "cores": cores() if device.platform == "cpu" else None,
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
    }


def made_with_in(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a report or a record was made with; None for what it does not tell of."""
    return {name: found.get(name) for name in made_with()}


def dated(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The photos of a report, marked with what it was made with if this process differs.

    They can then be part of this process's report, whose own marks apply to all others.
    """
    then = made_with_in(found)
    note = {} if then == made_with() else {MADE_WITH: then}
    return [{**note, **entry} for entry in found["photos"]]


def versions() -> dict[str, str]:
    """The versions of this package and of those that figures may depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"  # run from a checkout that is not installed
    return found


def to_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text, without NaN and infinities."""
    return json.dumps(report, indent=2, allow_nan=False) + "\n"


def read_report(path: Path) -> dict[str, Any] | None:
    """A previously written report; None if there is no file.

    Raises:
      FileError: the file is something else, or cannot be looked at.
    """
    with translated(path, TO_READ):
        if not path.exists():
            return None
    refuse_pipes(path)
    try:
        report = json.loads(read_bytes(path))
        to_json(report)  # which takes no NaN nor infinity
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise FileError(path, "it exists and is no report of this program", _NOT_OURS)
    if report.get("format_version") != FORMAT_VERSION:
        raise FileError(path, "another version of this program wrote it", _NOT_OURS)
    photos = report.get("photos")
    earlier = report.setdefault(EARLIER, [])
    edits = _edits_of(report)
    whole = isinstance(photos, list) and all(_is_entry(photo, edits) for photo in photos)
    whole &= isinstance(report.get("config"), dict | None)
    if not whole or not isinstance(earlier, list) or not all(map(_is_trace, earlier)):
        raise FileError(path, "it is damaged", _NOT_OURS)
    return report


def _edits_of(report: Mapping[str, Any]) -> dict[str, set[str]]:
    """The names of each model's edits; none if the report does not tell."""
    try:
        return {one["name"]: set(one["domains"]) for one in report["ensemble"]["generators"]}
    except (KeyError, TypeError):
        return {}


def _is_entry(value: Any, edits: Mapping[str, set[str]]) -> bool:
    """Whether a value has the fields of ``photo_entry``, with an L of each of the models' edits."""
    return (
        _has(value, _ENTRY)
        and _is_trace(value)
        and _is_number(value["linf"])
        and all(_is_square(square, edits) for square in squares_of(value))
    )


def _is_square(value: Any, edits: Mapping[str, set[str]]) -> bool:
    if not _has(value, _OF_A_SQUARE):
        return False
    models, square = value["models"], value["square"]
    return (
        all(_is_number(value[name] or 0) for name in ("psnr", "ssim"))
        and square.keys() == {field.name for field in dataclasses.fields(Box)}
        and all(isinstance(number, int) for number in square.values())
        and models.keys() == edits.keys()
        and all(_is_losses(models[name], domains) for name, domains in edits.items())
    )


def _has(value: Any, fields: Mapping[str, Any]) -> bool:
    """Whether a value is an object with these fields, each of its kind."""
    if not isinstance(value, dict) or not value.keys() >= fields.keys():
        return False
    return all(isinstance(value[name], kind) for name, kind in fields.items())


def _is_losses(value: object, domains: set[str]) -> bool:
    if not isinstance(value, dict) or value.keys() != domains:
        return False
    return all(map(_is_number, value.values()))


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and abs(value) <= float(np.finfo(float).max)


def _is_trace(value: Any) -> bool:
    """Whether a value names a photo and its copy, which is a bare file name."""
    if not _has(value, dict.fromkeys(_TRACE, str)):
        return False
    name = value["protected"]
    try:
        usable = "\0" not in name and not is_too_long(name)
    except UnicodeEncodeError:
        return False
    return usable and Path(name).name == name and name not in ("", "..")


def _summary_of(losses: Sequence[Mapping[str, float]], threshold: float) -> dict[str, Any]:
    """The figures of one model: one mapping from domain to L for each square."""
    domains = list(losses[0])
    values = np.array([[one[domain] for domain in domains] for one in losses])
    return {
        "avg_l": avg_l(values),
        "attack_rate": attack_rate(values, threshold),
        "domains": {
            domain: {
                "avg_l": avg_l(values[:, k]),
                "attack_rate": attack_rate(values[:, k], threshold),
            }
            for k, domain in enumerate(domains)
        },
    }
