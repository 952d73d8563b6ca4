"""The tables of the bundled ensemble, here of a tiny one."""

import pytest

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
