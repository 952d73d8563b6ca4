"""Each photo's own figures stand below its own edits, and are of the photos they should be of."""

import dataclasses
import json

import numpy as np
import pytest

from cdmaa_jax.attack.config import Config
from cdmaa_jax.experiments import figures
from cdmaa_jax.experiments.columns import Column, paper_tables
from cdmaa_jax.experiments.gradients import Trace, summarize_trace
from tests.experiments.studies import LABELS, crops_in, measured_of, study_in


def edits(generator, images, conditions):
    """Edits that tell which picture they are of, and of which condition."""
    offsets = conditions[:, :, None, None, :1] - conditions[:, :, None, None, 2:]
    return images[:, None] + 0.1 * offsets


@pytest.fixture
def drawn(monkeypatch):
    """The rows of the sheets that are drawn, as (title, pictures, captions, red or not)."""
    rows = []

    def draw_sheet(groups, columns, given):
        for row in given:
            assert len(groups) == len(columns) == len(row.tiles)
            pictures = [float(tile.image[0, 0, 0]) for tile in row.tiles]
            captions = [tile.caption for tile in row.tiles]
            rows.append((row.title, pictures, captions, [tile.holds for tile in row.tiles]))
        return b""

    monkeypatch.setattr(figures, "draw_sheet", draw_sheet)
    monkeypatch.setattr(figures.metrics, "edits", edits)
    return rows


def labelled(study):
    """The same study with labels that differ from photo to photo."""
    crops = [dataclasses.replace(c, labels=(i % 2,)) for i, c in enumerate(study.crops)]
    return dataclasses.replace(study, crops=tuple(crops), labels=LABELS)


def pictures_of(shade, label):
    """What is seen of a crop, and both generators' edits of it."""
    seen = shade / 127.5 - 1
    return pytest.approx([seen] + 2 * [seen + 0.1, seen, seen - 0.1 * (1 - label)], abs=1e-6)


def captions_of(losses):
    return ["", *(f"L {loss:.3f}" for loss in losses)]


def test_figure_4_shows_each_photos_edits_with_its_labels_and_its_l(drawn, tmp_path):
    study = labelled(study_in(tmp_path, 2, batch_size=2))
    copies = crops_in(tmp_path / "copies", 2, first=5)
    folder, names = copies[0].path.parent, tuple(copy.path.name for copy in copies)
    measured = measured_of(Column(Config()), study, folder=folder, files=names)
    record, _ = figures.figure4(measured, study)
    losses = np.concatenate([*measured.losses.values()], axis=1)
    for i in range(2):
        (title, before, *nothing), (_, after, captions, red) = drawn[2 * i : 2 * i + 2]
        assert title.startswith(f"{i}.png")
        assert before == pictures_of(20 * (1 + i), i) and after == pictures_of(20 * (6 + i), i)
        assert nothing == [[""] * 7, [False] * 7]
        assert captions == captions_of(losses[i])
        assert red == [False, *(losses[i] <= 0.05)] and 0 < sum(red) < 6
    assert len(drawn) == 4
    for name, values in measured.losses.items():
        np.testing.assert_allclose(record["losses"][name], values, rtol=1e-5)


def test_the_sheet_of_an_ablation_is_of_the_first_photo(drawn, tmp_path):
    study, table = labelled(study_in(tmp_path, 3, batch_size=2)), paper_tables()["table4"]
    measured = {}
    for i, (name, column) in enumerate(table.columns.items()):
        copies = crops_in(tmp_path / name, 3, first=3 * i)
        changes = {"folder": copies[0].path.parent, "files": tuple(c.path.name for c in copies)}
        measured[name] = measured_of(column, study, seed=i, **changes)
    figures.draw_outputs(table, measured, study)
    (_, before, _, _), *rows = drawn
    assert before == pictures_of(20, 0) and len(rows) == 4
    for i, (title, after, captions, _) in enumerate(rows):
        name = list(table.columns)[i]
        assert title == table.headings[name] and after == pictures_of(20 * (1 + 3 * i), 0)
        assert captions == captions_of(
            np.concatenate([v[0] for v in measured[name].losses.values()])
        )


@pytest.mark.parametrize("most, count, batch", [(2, 2, 2), (3, 2, 2), (4, 4, 2), (1, 2, 2)])
def test_gradients_are_traced_in_whole_batches(monkeypatch, tmp_path, most, count, batch):
    monkeypatch.setattr(figures, "MOST_TRACED", most)
    study = study_in(tmp_path, 5, batch_size=batch)
    assert figures.traced(study).crops == study.crops[:count]


def test_the_chart_of_figure_2_has_every_line(monkeypatch):
    """By the numbers alone, which are all different."""
    numbers, given, lines = iter(range(100)), [], []

    def line():
        lines.append([next(numbers) / 128, next(numbers) / 128])
        return {"by_step": lines[-1]}

    def draw(*what, **options):
        given.append((what, options))
        return b""

    record = {
        "title": "Figure 2",
        "between_domains": {"a": {"cosine": line(), "norm_ratio": line()}},
        "between_models": {name: {"pairs": {"a, b": line()}} for name in ("cosine", "norm_ratio")},
        "theorem1": {way: line() for way in ("w", "sign(w)", "step")},
    }
    monkeypatch.setattr(figures.charts, "draw_lines", draw)
    figures._draw_figure2(record)
    text = json.dumps(given)
    assert [text.count(json.dumps(one)) for one in lines] == [1] * len(lines)


def test_intervals_of_figure_2_are_of_the_seed():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(2, 30, 2, 5))
    gram = np.einsum("tnma,tnka->tnmk", vectors, vectors)
    trace = Trace(gram, *random.normal(size=(3, 2, 30, 2)))

    def found(seed):
        return summarize_trace(trace, {"a": ("x",), "b": ("y",)}, seed)["between_models"]["cosine"]

    assert found(1)["mean"] == found(2)["mean"]
    assert found(1)["interval"] == found(1)["interval"] != found(2)["interval"]
