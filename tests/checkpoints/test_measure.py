"""The tables of the bundled ensemble, tested on a tiny one."""

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cdmaa_jax import disk
from cdmaa_jax.cli.parser import make_parser
from cdmaa_jax.disk import FileError
from checkpoints import measure
from tests.checkpoints.test_portraits import HEAD, folder_of
from tests.checkpoints.test_train import made_up_portraits
from tests.tiny import save_ensemble, save_photo

NAMES = ("stargan", "ugatit")


def test_every_row_is_a_command_that_exists():
    for title, options in measure.attacks(measure.ENSEMBLE).items():
        args = make_parser().parse_args(["protect", "a.png", "--out", "b", *options])
        assert args.aligned == (title != measure.WHOLE)
        assert len(args.ensemble) == (1 if "alone" in title else len(measure.NAMES))
        assert args.update == ("pgd" if "alone" in title else "i-fgsm")
        assert args.across_models == ("uniform" if "uniform" in title else "mgda")
        assert args.precision == ("bfloat16" if "bfloat16" in title else None)


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A tiny ensemble, whose attacks take two steps."""
    monkeypatch.setattr(measure, "NAMES", NAMES)
    ensemble = save_ensemble(tmp_path / "ensemble")
    rows = {title: [*o, "--steps", "2"] for title, o in measure.attacks(ensemble).items()}
    monkeypatch.setattr(measure, "attacks", lambda _: rows)
    return ensemble


def test_rows_are_measured_and_printed(tmp_path, quick, capsys):
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    chosen = ["ugatit alone, PGD"]
    found = measure.measure_attacks(photos, photos, quick, tmp_path / "out", 0, chosen)
    assert list(found["rows"]) == chosen and found["portraits"] == 2
    assert list(found["rows"]["ugatit alone, PGD"]) == ["ugatit"]
    assert json.loads((tmp_path / "out" / "attacks.json").read_text()) == found
    capsys.readouterr()
    measure.print_attacks(found)
    head, _, alone = capsys.readouterr().out.splitlines()
    assert head == "| attack | stargan | ugatit | mean |"
    values = found["rows"]["ugatit alone, PGD"]["ugatit"]
    rate = f"{100 * values['attack_rate']:.1f} %"
    assert alone == f"| ugatit alone, PGD |  | {rate} ({values['avg_l']:.3f}) | {rate} |"

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(FileError, match="not every photo could be protected; mend"):
        measure.measure_attacks([broken], [broken], quick, tmp_path / "again", 0, [measure.WHOLE])


def reporting(losses):
    """A stand-in for ``cdmaa protect``, whose report grows with every run; L by photo name."""

    def protect(files, folder, seed, options):
        path = folder / "report.json"
        entries = json.loads(path.read_text())["photos"] if path.exists() else []
        known = {entry["file"] for entry in entries}
        for file in files:
            entry = {"file": file.name, "sha256": measure.hashlib.sha256(file.read_bytes())}
            entry["sha256"] = entry["sha256"].hexdigest()
            entry["models"] = {"ugatit": {"comic": losses[file.stem]}}
            entry["others"] = [{"models": {"ugatit": {"comic": 9.0}}}]  # which is not counted
            entries += [entry] if file.name not in known else []
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"photos": entries, "threshold": 0.05}))

    return protect


def test_figures_are_of_the_photos_of_this_run(tmp_path):
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(3)]
    protect, folder = reporting({"0": 0.01, "1": 0.03, "2": 0.5}), tmp_path / "attack0"
    protect(photos, folder, 0, [])
    found = measure.figures(folder / "report.json", photos[:2])
    assert found == {"ugatit": {"avg_l": pytest.approx(0.02), "attack_rate": 0.0}}
    found = measure.figures(folder / "report.json", photos[1:])
    assert found["ugatit"]["attack_rate"] == 0.5
    save_photo(photos[0], 9)
    with pytest.raises(FileError, match=r"report\.json: it does not tell of every photo; delete"):
        measure.figures(folder / "report.json", photos)


def test_whole_photos_are_protected_in_the_last_row_alone(tmp_path, quick, monkeypatch):
    crops, photos = ([save_photo(tmp_path / w / "0.png", s)] for s, w in enumerate(("crops", "in")))
    given, protect = [], reporting({"0": 0.1})

    def spy(files, *rest):
        given.append(files)
        protect(files, *rest)

    monkeypatch.setattr(measure, "protect", spy)
    found = measure.measure_attacks(crops, photos, quick, tmp_path / "out", 0, [])
    assert list(found["rows"])[-1] == measure.WHOLE
    assert given == [crops] * (len(found["rows"]) - 1) + [photos]


def test_photos_are_protected_with_the_seed_and_the_options_given(monkeypatch):
    given = []
    monkeypatch.setattr(measure.cli, "main", lambda arguments: given.append(arguments) or 0)
    measure.protect([Path("a.png"), Path("b.png")], Path("out"), 7, ["--steps", "3"])
    args = make_parser().parse_args(*given)
    assert (args.photos, args.out) == ([Path("a.png"), Path("b.png")], Path("out"))
    assert (args.seed, args.steps) == (7, 3)


def test_rows_are_kept_and_written_one_by_one(tmp_path, quick, monkeypatch):
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    out, titles = tmp_path / "out", list(measure.attacks(quick))
    losses = {"0": 0.01, "1": 0.03}
    monkeypatch.setattr(measure, "protect", reporting(losses))
    measure_rows = lambda *only, seed=0, files=photos: measure.measure_attacks(  # noqa: E731
        files, files, quick, out, seed, list(only)
    )
    measure_rows(titles[2])
    first = measure_rows(titles[0], titles[2])
    assert list(first["rows"]) == [titles[0], titles[2]]
    before = (out / "attacks.json").read_text()
    assert json.loads(before) == first

    def fail_at_second(files, folder, seed, options):
        if folder.name == "attack3":
            raise FileError(folder, "the disk is full", "free some space")
        reporting(losses)(files, folder, seed, options)

    monkeypatch.setattr(measure, "protect", fail_at_second)
    with pytest.raises(FileError, match="the disk is full"):
        measure_rows(titles[1], titles[3])
    after = (out / "attacks.json").read_text()
    assert list(json.loads(after)["rows"]) == titles[:3]
    for other in ({"seed": 1}, {"files": photos[:1]}):
        with pytest.raises(FileError, match="it is of other portraits, another seed or other gen"):
            measure_rows(titles[0], **other)
    assert (out / "attacks.json").read_text() == after
    (out / "attacks.json").write_text(after[:50])
    with pytest.raises(FileError, match=r"attacks\.json: it is damaged; delete it"):
        measure_rows(titles[0])
    assert sorted(path for path in os.listdir(out) if path.startswith(".")) == []


def test_a_folder_of_other_attacks_is_left_alone(tmp_path, quick):
    portraits, out = made_up_portraits(), tmp_path / "out"
    out.mkdir()
    (tmp_path / "photos").mkdir()
    save_photo(tmp_path / "photos" / "5.png", 5).rename(tmp_path / "photos" / "5.jpg")
    (out / "attacks.json").write_text('{"rows": {}, "seed": 1}')
    args = SimpleNamespace(
        portraits=tmp_path, ensemble=quick, out=out, images=None, seed=0, only=[]
    )
    with pytest.raises(FileError, match="generators; choose another --out, or delete the folder"):
        measure._attacks(args, portraits)
    assert os.listdir(out) == ["attacks.json"]


def test_a_folder_is_one_run_s_at_a_time(tmp_path, capsys):
    folder, out = folder_of(tmp_path / "in", HEAD, "A000055.jpg,M,1940"), tmp_path / "out"
    out.mkdir()
    with disk.locked(out):
        assert measure.main(["attacks", "--portraits", str(folder), "--out", str(out)]) == 1
    assert "another run is writing into this folder; wait for it" in capsys.readouterr().err


def test_edits_that_no_classifier_knows_are_told_of_before_the_training(monkeypatch):
    monkeypatch.setattr(measure, "train_classifier", lambda *_: pytest.fail("it was trained"))
    monkeypatch.setattr(measure, "NAMES", ("one",))
    stub = Stub(None, ("Male", "Moustache"), None)
    monkeypatch.setattr(measure, "load_generator", lambda path: stub)
    with pytest.raises(FileError, match="one: it edits Moustache, which no classifier is trained"):
        measure.measure_edits(made_up_portraits(), measure.ENSEMBLE, seed=0)


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


def test_compressed_copies_are_what_is_measured_after_the_copies_themselves(tmp_path, monkeypatch):
    """Of squares of 40, 40 and 70 pixels."""
    photos = [save_photo(tmp_path / f"{i}.png", i, height=h) for i, h in enumerate((40, 40, 70))]
    losses = {".png": [0.1, 0.2, 0.3], ".jpg": [0.1, 0.02, 0.01]}

    def protect(files, folder, seed, options):
        for file in files:
            measure.enlarge(file, 1, folder)

    def measured(originals, copies, ensemble):
        sides = [len(measure.read_photo(path).pixels) for path in originals]
        (suffix,) = {path.suffix for path in copies}
        return [
            {"models": {"a": {"x": loss}}, "square": {"size": side}}
            for loss, side in zip(losses[suffix], sides, strict=True)
        ]

    for name, stub in {
        "SCALES": (1,), "QUALITIES": (90, 1), "load_ensemble": lambda paths: None,
        "protect": protect, "measured": measured,
    }.items():  # fmt: skip
        monkeypatch.setattr(measure, name, stub)
    (row,) = measure.measure_posted(photos, tmp_path, tmp_path / "out", 0)["rows"]
    third = pytest.approx(1 / 3)
    assert row == {"scale": 1, "square": 40, "attack_rate": {"png": 1, "q90": third, "q1": third}}
    large, small = (
        (tmp_path / "out" / "posted1" / f"q{quality}" / "0.jpg").stat().st_size
        for quality in (90, 1)
    )
    assert small < 0.7 * large


def test_a_copy_that_cannot_be_measured_is_an_error(tmp_path, ensemble):
    photos = [save_photo(tmp_path / f"{i}.png", i) for i in range(2)]
    copies = [photos[0], tmp_path / "broken.jpg"]
    copies[1].write_bytes(b"not a picture")
    with pytest.raises(FileError, match=r"broken\.jpg"):
        measure.measured(photos, copies, ensemble)


def test_of_photos_of_two_people_the_faces_that_were_put_there_count(tmp_path, monkeypatch):
    """Two photos of four portraits, in which one face is found, and something that is none."""
    side, seen = measure.GROUP_SIDE, []
    shades = {f"{i}.png": np.full((side, side, 3), 50 * i, np.uint8) for i in range(4)}

    def entry(file, left, loss):
        face = {"top": side // 4, "left": left, "size": side // 2}
        return {"file": file, "face": face, "models": {"a": {"x": loss}}, "others": []}

    def protect(files, folder, seed, options):
        seen.extend(measure.read_photo(file).pixels for file in files)
        losses = dict(zip(files, (0.1, 0.0), strict=True))
        entries = [entry(file.name, side // 4, loss) for file, loss in losses.items()]
        entries[0]["others"] = [entry(None, 3 * side // 4, 0.9)]  # between the two
        measure.disk.make_folder(folder)
        (folder / "report.json").write_text(json.dumps({"photos": entries}))

    monkeypatch.setattr(measure, "DISTANCES", (1.0,))
    monkeypatch.setattr(measure, "face_alone", lambda photo: shades[photo.name])
    monkeypatch.setattr(measure, "protect", protect)
    found = measure.measure_groups([Path(name) for name in shades], tmp_path, tmp_path / "out", 0)
    assert [(one[0, 0, 0], one[0, -1, 0]) for one in seen] == [(0, 50), (100, 150)]
    counts = {"faces": 4, "found": 2, "found_elsewhere": 1}
    assert found["rows"] == [{"distance": 1.0, **counts, "attack_rate": 0.5}]
    assert found["portraits"] == 4


@pytest.mark.parametrize("distance", measure.DISTANCES)
def test_faces_side_by_side_are_as_far_apart_as_is_said(distance):
    """Both squares are cut by as much, so that the middles stay where they are said to be."""
    side = measure.GROUP_SIDE
    ramp = np.broadcast_to(np.arange(side)[None, :, None], (side, side, 3))
    row = measure.beside(ramp, ramp + side, distance)[0, :, 0]
    first, second = (np.flatnonzero(row == middle) for middle in (side // 2, side + side // 2))
    assert second - first == pytest.approx(distance * side)
    assert len(row) == pytest.approx(side * (1 + distance))


class Linear(nnx.Module):
    """A classifier of mean colours."""

    def __init__(self, size, attributes, width, layers, rngs):
        self.dense = nnx.Linear(3, attributes, rngs=rngs)

    def __call__(self, x):
        return None, self.dense(x.mean((1, 2)))


def test_the_classifier_learns_nothing_from_what_is_unknown(monkeypatch):
    """Whatever the picture with unknown labels shows, what is learned is the same."""
    monkeypatch.setattr(measure, "STEPS", 1)
    monkeypatch.setattr(measure, "Critic", Linear)
    monkeypatch.setattr(measure, "augment", lambda x, key: x)
    _, data = measure.faces(made_up_portraits(), np.ones(6, bool))
    labels = jnp.array([[1.0, 0.0, 1.0], [-1.0, -1.0, -1.0]])
    monkeypatch.setattr(measure, "labelled", lambda data, *_: (data.images, labels))

    def learned(*shades):
        images = np.broadcast_to(np.array(shades)[:, None, None, None], (2, 64, 64, 3))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            classify = measure.train_classifier(data._replace(images=jnp.asarray(images)), 3, 0)
            return np.asarray(classify(jnp.ones((1, 64, 64, 3))))

    np.testing.assert_allclose(learned(0.5, 1.0), learned(0.5, -1.0), rtol=1e-5)
    assert not np.allclose(learned(0.5, 1.0), learned(-0.5, 1.0), rtol=1e-5)


def test_classifier_is_trained_and_gives_a_logit_for_every_attribute(monkeypatch):
    monkeypatch.setattr(measure, "STEPS", 1)
    monkeypatch.setattr(measure, "BATCH", 2)
    portraits = made_up_portraits()
    names, data = measure.faces(portraits, ~portraits.test)
    assert names == ("Male", "Bangs", measure.COMIC)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        classify = measure.train_classifier(data, len(names), seed=0)
        logits = np.asarray(classify(jnp.zeros((2, 64, 64, 3))))
    assert logits.shape == (2, 3) and np.isfinite(logits).all()


def test_made_up_faces_have_the_labels_of_what_is_on_them():
    """Overlays are white, comics black, faces grey."""
    portraits = made_up_portraits()
    portraits = dataclasses.replace(
        portraits,
        images=np.full_like(portraits.images, 128),
        comic=np.zeros_like(portraits.comic),
        overlays={"Bangs": np.full_like(portraits.overlays["Bangs"], 255)},
    )
    _, data = measure.faces(portraits, ~portraits.test)
    index = jnp.asarray(np.arange(200) % 5)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        x, labels = measure.labelled(data, index, jax.random.key(0))
    shade, (male, bangs, comic) = np.asarray(x)[:, 0, 0, 0], np.asarray(labels).T
    np.testing.assert_array_equal(comic, shade == -1)
    np.testing.assert_array_equal(bangs, np.where(comic == 1, -1, shade == 1))
    np.testing.assert_array_equal(male, np.where(comic == 1, -1, np.array([1, 0, 1, 0, -1])[index]))
    assert 0.1 < comic.mean() < 0.3 and 0.2 < (bangs == 1).mean() / (comic == 0).mean() < 0.4


def test_edits_are_judged_by_their_own_attribute_on_test_portraits_alone(monkeypatch):
    """Each generator paints a shade for each edit, by which the classifier finds the attribute."""
    portraits = made_up_portraits()
    shades = {"Male": 0.25, "Bangs": 0.5, measure.COMIC: 0.75}
    order = {"one": ("Bangs", "Male"), "two": (measure.COMIC,)}
    seen = []

    def classify(x):
        colour = x[:, 0, 0, :1]
        return jnp.where(jnp.abs(colour - jnp.array([[*shades.values()]])) < 0.01, 1.0, -1.0)

    def train_classifier(data, attributes, seed):
        seen.append(data)
        assert attributes == 3
        return classify

    def generator_of(path):
        domains = order[path.name]
        conditions = np.array([[[shades[name]] for name in domains]])
        apply = lambda x, c: jnp.zeros_like(x) + c[:, :, None, None]  # noqa: E731
        return Stub(apply, domains, lambda labels: conditions)

    monkeypatch.setattr(measure, "NAMES", tuple(order))
    monkeypatch.setattr(measure, "train_classifier", train_classifier)
    monkeypatch.setattr(measure, "load_generator", generator_of)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = measure.measure_edits(portraits, measure.ENSEMBLE, seed=0)
    (data,) = seen
    np.testing.assert_array_equal(data.images, portraits.images[~portraits.test])
    np.testing.assert_array_equal(data.comic, portraits.comic[~portraits.test])
    np.testing.assert_array_equal(data.overlays[1], portraits.overlays["Bangs"][~portraits.test])
    assert found["portraits"] == 1
    assert {name: tuple(rows) for name, rows in found["models"].items()} == order
    plain = np.asarray(measure.to_unit(jnp.asarray(portraits.images[portraits.test])))
    for rows in found["models"].values():
        for domain, row in rows.items():
            assert (row["before"], row["after"]) == (0.0, 1.0)
            change = np.abs(shades[domain] - plain).mean()
            assert row["change"] == pytest.approx(change, rel=1e-5)


def test_the_classifier_is_right_in_a_share_of_the_labels_that_are_known(monkeypatch):
    portraits = dataclasses.replace(made_up_portraits(), test=np.arange(6) > 1)
    x = jnp.ones((4, 64, 64, 3)) * jnp.array([1.0, 1.0, -1.0, -1.0])[:, None, None, None]
    labels = jnp.array([[1.0, 0, 0], [-1, -1, 1], [-1, -1, 0], [1, -1, 1]])
    generator = Stub(lambda x, c: x, ("Male", "Bangs"), lambda labels: np.zeros((1, 2, 1)))
    for name, stub in {
        "NAMES": ("one",), "load_generator": lambda path: generator,
        "labelled": lambda *_: (x, labels),
        "train_classifier": lambda *_: lambda x: x[:, 0, 0],  # three logits
    }.items():  # fmt: skip
        monkeypatch.setattr(measure, name, stub)
    found = measure.measure_edits(portraits, measure.ENSEMBLE, seed=0)["models"]["one"]
    assert {name: row["classifier_accuracy"] for name, row in found.items()} == {
        "Male": 0.5,  # the first of two
        "Bangs": 0.0,
    }


class Stub(SimpleNamespace):
    """The part of a generator that ``edit`` uses."""

    def __init__(self, apply, domains, conditions):
        super().__init__(apply=apply, domains=domains, conditions=conditions)

    def __call__(self, x, c):
        return self.apply(x, c)


@pytest.mark.parametrize("options, message", [
    (["edits", "--only", measure.WHOLE], "--only is of attacks, not of edits"),
    (["posted", "--only", measure.WHOLE], "--only is of attacks, not of posted"),
    (["edits", "--images", "3"], "--images is of the others, not of edits"),
    (["attacks", "--images", "0"], "--images: '0' is not a whole number above zero"),
    (["edits", "--seed", "4294967296"], "--seed: '4294967296' is not a whole number from 0 to 429"),
    (["attacks", "--images", "-1"], "--images: '-1' is not a whole number above zero"),
])  # fmt: skip
def test_options_that_would_be_ignored_are_refused(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        measure.main([*options, "--portraits", str(tmp_path), "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("what, lines, message", [
    ("edits", [], "portraits.csv: there is no such file or folder"),
    ("edits", [HEAD, "a.png,M,1940"], "it lists no portrait to test on"),
    ("attacks", [HEAD, "A000055.jpg,M,1940"], "ensemble/stargan: there is no such folder"),
    ("edits", [HEAD, "A000055.jpg,M,1940"], "it lists no portrait to train on"),
    ("edits", [HEAD, "A000055.jpg,M,1940", "a.png,M,1940"], "is known not to be Male"),
])  # fmt: skip
def test_mistakes_are_told_of_first(tmp_path, capsys, what, lines, message):
    folder = folder_of(tmp_path / "in", *lines) if lines else tmp_path
    given = [what, "--portraits", str(folder), "--out", str(tmp_path / "out")]
    assert measure.main([*given, "--ensemble", str(tmp_path / "ensemble")]) == 1
    line = capsys.readouterr().err
    assert line.startswith("python -m checkpoints.measure: error: ")
    assert message in line and line.count("\n") == 1


def test_a_taken_out_is_told_of_first(tmp_path, capsys):
    folder = folder_of(tmp_path / "in", HEAD, "A000055.jpg,M,1940")
    (tmp_path / "file").touch()
    (tmp_path / "out" / "attacks.json").mkdir(parents=True)
    cases = {"file": "file: it is a file, not a folder", "out": "attacks.json: it is a folder"}
    for out, message in cases.items():
        given = ["attacks", "--portraits", str(folder), "--out", str(tmp_path / out)]
        assert measure.main(given) == 1
        assert message in capsys.readouterr().err
