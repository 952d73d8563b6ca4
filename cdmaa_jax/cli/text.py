"""Output for people: a report's tables, the counts of photos, durations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cdmaa_jax.cli.output import printable

if TYPE_CHECKING:
    from cdmaa_jax.photos import Outcome


def report_as_text(report: dict[str, Any]) -> str:
    """A report's figures as two tables, one of the generators and one of the photos."""
    return f"{_table(_model_rows(report))}\n\n{_table(_photo_rows(report))}"


def outcomes_as_text(outcomes: Sequence[Outcome], seconds: float) -> str:
    """How many photos were done now, done before, and failed, and how fast."""
    words = {"done": "done", "skipped": "done before", "failed": "failed"}
    counts = {status: sum(o.status == status for o in outcomes) for status in words}
    parts = [f"{n} {words[status]}" for status, n in counts.items() if n or status == "done"]
    if counts["done"]:
        parts[0] += f" in {seconds:.1f} s ({counts['done'] / seconds:.2f} photos/s)"
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds in readable form: 40 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _model_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "generator", "edit", "avg L", f"L > {report['threshold']:g}"
    for name, model in report["models"].items():
        yield name, "all", f"{model['avg_l']:.4f}", f"{model['attack_rate']:.1%}"
        for domain, figures in model["domains"].items() if len(model["domains"]) > 1 else ():
            yield "", domain, f"{figures['avg_l']:.4f}", f"{figures['attack_rate']:.1%}"


def _photo_rows(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    from cdmaa_jax.evaluation.report import squares_of

    yield "photo", "faces", "edits spoiled", "largest change", "PSNR", "SSIM"
    without = "aligned" if report.get("aligned") else "none: centre"
    for photo in report["photos"]:
        squares = squares_of(photo)
        models = [model for square in squares for model in square["models"].values()]
        values = [loss for model in models for loss in model.values()]
        spoiled = sum(loss > report["threshold"] for loss in values)
        psnr = min((s["psnr"] for s in squares if s["psnr"] is not None), default=None)
        yield (
            photo["protected"],
            f"{len(squares)} found" if photo["face"] else without,
            f"{spoiled} of {len(values)}",
            f"{round(photo['linf'] * 127.5)} of 255",
            "equal" if psnr is None else f"{psnr:.1f} dB",
            f"{min(square['ssim'] for square in squares):.4f}",
        )


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Rows as lines of text, with words aligned to the left and figures to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = [i > 0 and any(c.isdigit() for c in rows[1][i]) for i in range(len(widths))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join((lines[0], "-" * max(map(len, lines)), *lines[1:]))
