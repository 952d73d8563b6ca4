"""The tables of the bundled ensemble, here of a tiny one."""

import json

import numpy as np
import pytest
from PIL import Image

from cdmaa_jax import cli
from checkpoints import measure
from tests.tiny import save_ensemble, save_photo

NAMES = ("stargan", "ugatit")


def test_every_row_is_a_command_that_exists():
    for title, options in measure.attacks(measure.ENSEMBLE).items():
        args = cli._parser().parse_args(["protect", "a.png", "--out", "b", *options])
        assert args.aligned == (title != measure.WHOLE)
        assert len(args.ensemble) == (1 if "alone" in title else len(measure.NAMES))


def test_rows_are_measured_and_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "NAMES", NAMES)
    ensemble = save_ensemble(tmp_path / "ensemble")
    rows = {title: [*o, "--steps", "2"] for title, o in measure.attacks(ensemble).items()}
    monkeypatch.setattr(measure, "attacks", lambda _: rows)
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    chosen = ["ugatit alone, PGD"]
    found = measure.measure_attacks(photos, photos, ensemble, tmp_path / "out", 0, chosen)
    assert list(found["rows"]) == chosen and found["portraits"] == 2
    assert list(found["rows"]["ugatit alone, PGD"]) == ["ugatit"]
    capsys.readouterr()
    measure.print_attacks(found)
    head, _, alone = capsys.readouterr().out.splitlines()
    assert head == "| attack | stargan | ugatit | mean |"
    figures = found["rows"]["ugatit alone, PGD"]["ugatit"]
    rate = f"{100 * figures['attack_rate']:.1f} %"
    assert alone == f"| ugatit alone, PGD |  | {rate} ({figures['avg_l']:.3f}) | {rate} |"

    broken = [tmp_path / "none.png"]
    with pytest.raises(RuntimeError, match="not every photo"):
        measure.measure_attacks(broken, broken, ensemble, tmp_path / "again", 0, [measure.WHOLE])


def test_what_compression_leaves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "NAMES", NAMES)
    monkeypatch.setattr(measure, "SCALES", (1, 3))
    monkeypatch.setattr(measure, "QUALITIES", (90, 1))
    ensemble = save_ensemble(tmp_path / "ensemble")
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    options = ["--steps", "2", "--epsilon", "0.5", "--step-size", "0.5"]
    found = measure.measure_posted(photos, ensemble, tmp_path / "out", 0, options)
    assert [row["square"] for row in found["rows"]][1] == 3 * found["rows"][0]["square"]
    for row in found["rows"]:
        assert list(row["attack_rate"]) == ["png", "q90", "q1"]
    copies = sorted((tmp_path / "out" / "posted3" / "q1").iterdir())
    assert [path.suffix for path in copies] == [".jpg", ".jpg"]
    with Image.open(copies[0]) as large, Image.open(photos[0]) as small:
        assert large.size == (3 * small.width, 3 * small.height)
    report = json.loads((tmp_path / "out" / "posted1" / "protected" / "report.json").read_text())
    rates = [model["attack_rate"] for model in report["models"].values()]
    assert found["rows"][0]["attack_rate"]["png"] == pytest.approx(np.mean(rates))
    capsys.readouterr()
    measure.print_posted(found)
    head, _, first, _ = capsys.readouterr().out.splitlines()
    assert head == "| side of the face square | PNG | JPEG 90 | JPEG 1 |"
    assert first.count("%") == 3
