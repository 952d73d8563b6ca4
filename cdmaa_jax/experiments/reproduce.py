"""The paper's tables and figures from photos: the requested ones, in order, each written whole."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdmaa_jax import disk, photos
from cdmaa_jax.attack import apart
from cdmaa_jax.attack.config import check_positive
from cdmaa_jax.attack.keys import check_seed
from cdmaa_jax.disk import FileError
from cdmaa_jax.evaluation import report
from cdmaa_jax.experiments import charts, claims, figures, methods, tables
from cdmaa_jax.experiments.ahead import working_ahead
from cdmaa_jax.experiments.columns import STEPS, Column, Table, paper_tables
from cdmaa_jax.experiments.crops import CROPS, Crop, make_crops
from cdmaa_jax.experiments.forecast import Work
from cdmaa_jax.experiments.records import read_record
from cdmaa_jax.experiments.runner import (
    COLUMNS,
    Measured,
    Study,
    batch_for_device,
    check_names,
    few_steps,
)
from cdmaa_jax.experiments.sources import Source, find_source
from cdmaa_jax.generators.ensembles import Ensemble
from cdmaa_jax.images import files
from cdmaa_jax.tracing import once

TABLES = ("table1", "table2", "table3", "table4", "related")
ABLATIONS = {"figure5": "table2", "figure6": "table3", "figure7": "table4"}
"""Figure to the table whose columns it shows."""
WHAT = (*TABLES[:4], "figure2", "figure4", *ABLATIONS, "related")
RESULTS = "results"
_FORMAT = "cdmaa-jax results"
_FORMATS = (tables.FORMAT, figures.FORMAT, _FORMAT)
SAME_STUDY = ("images", "attributes", "seed", "ensemble", "steps")
"""The keys in which results must agree to be reported together."""


@dataclass(frozen=True)
class Request:
    """What to reproduce, and from what.

    Attributes:
      what: names in ``WHAT``.
      photos: the folder of photos.
      out: the folder to write into.
      ensemble: the generators.
      images: how many photos, the first by name.
      seed: of the attacks' start and of the intervals.
      steps: T.
      batch_size: the most photos that are attacked at once; None for what suits the device.
      attributes: labels of the photos; None for CelebA's, where they are found, or none.
      partition: CelebA's split; None where it is found beside the photos, or for no split.
      aligned: whether the photos are aligned, their face in the middle; CelebA's are.
      max_pixels: photos with more pixels than this are refused.
      tune_photos: a folder of other photos, for the methods that are tuned before they are tested;
        None for those of ``photos`` that come after the tested ones.
    """

    what: tuple[str, ...]
    photos: Path
    out: Path
    ensemble: Ensemble
    images: int = 100
    seed: int = 0
    steps: int = STEPS
    batch_size: int | None = None
    attributes: Path | None = None
    partition: Path | None = None
    aligned: bool = False
    max_pixels: int = files.MAX_PIXELS
    tune_photos: Path | None = None


@dataclass
class Listener:
    """The callbacks that receive progress.

    Attributes:
      say: a notice for people.
      photo: called for each photo that is looked at, with the error of one that is skipped.
      plan: called once with all the work that there is.
      begin: called with the name of a part of that work as it is begun.
      progress: called with a number of pieces of that part as they are done.
    """

    say: Callable[[str], None] = lambda text: None
    photo: Callable[[FileError | None], None] = lambda error: None
    plan: Callable[[list[Work]], None] = lambda works: None
    begin: Callable[[str], None] = lambda name: None
    progress: Callable[[int], None] = lambda count: None


def reproduce(request: Request, listener: Listener) -> Iterator[tuple[Path, str]]:
    """Measures what is requested; yields each result's Markdown file and its text once written.

    Raises:
      FileError: a folder or file cannot be used.
      ValueError: there is no usable photo, or an option does not fit.
    """
    _check(request)
    charts.check()
    disk.make_folder(request.out)
    with disk.locked(request.out) as is_locked:
        if is_locked:
            for folder in (request.out / CROPS, *(request.out / COLUMNS).glob("*")):
                disk.remove_leftovers(folder)
        yield from _reproduced(request, listener)


def _reproduced(request: Request, listener: Listener) -> Iterator[tuple[Path, str]]:
    """``reproduce`` in a folder that no other run can write into."""
    source = find_source(
        request.photos, request.ensemble, request.attributes, request.partition, request.aligned
    )
    for notice in source.notices:
        listener.say(notice)
    study, skipped = _study(request, source, listener)
    lab = _Lab(request, study, skipped, listener)
    listener.plan(lab.works(request.what))
    with working_ahead(lab.preparations(request.what)):
        for name in WHAT:
            if name in request.what:
                yield request.out / f"{name}.md", lab.make(name)
    yield request.out / f"{RESULTS}.md", lab.write_claims()


def _check(request: Request) -> None:
    check_positive(images=request.images, steps=request.steps, max_pixels=request.max_pixels)
    if request.batch_size is not None:
        check_positive(batch_size=request.batch_size)
    check_seed(request.seed)
    check_names(request.ensemble)
    for folder in (request.photos, request.tune_photos):
        if folder is not None and disk.real_path(folder) == disk.real_path(request.out):
            what = "its photos and the charts that are written would be mixed"
            raise FileError(request.out, what, "choose another --out")
    for name in (*request.what, RESULTS):
        _check_place(request.out, name)


def _check_place(out: Path, name: str) -> None:
    """Raises FileError if a result would replace a file that no earlier run wrote."""
    if _is_ours(read_record(out / f"{name}.json")):
        return
    pictures = [] if name == RESULTS else [".png"]
    pictures += ["-outputs.png"] if name in ABLATIONS else []
    for suffix in (".json", ".md", *pictures):
        path = out / f"{name}{suffix}"
        if path.exists():
            what = "it exists and is no result of this program"
            raise FileError(path, what, "move it elsewhere, or choose another --out")


def _is_ours(record: Mapping[str, Any]) -> bool:
    """Whether a result's record is of this program; the claims had no format once."""
    return record.get("format") in _FORMATS or record.keys() >= {"claims", "results", "ensemble"}


def _study(request: Request, source: Source, listener: Listener) -> tuple[Study, list[str]]:
    """The study of the crops to measure, and which photos were skipped and why."""
    skipped: list[str] = []
    unusable: set[Path] = set()

    def made(error: FileError | None) -> None:
        if error is not None:
            skipped.append(error.without_folder)
            unusable.add(error.path)
        listener.photo(error)

    size = photos.default_canonical_size(request.ensemble, aligned=True)
    crops = make_crops(
        source.photos, request.images, request.out / CROPS, size, source.aligned, source.labels,
        made, max_pixels=request.max_pixels,
    )  # fmt: skip
    if not crops:
        raise FileError(request.photos, "none of its photos can be used", "give another folder")
    if len(crops) < request.images:
        listener.say(
            f"--photos has {len(crops)} that can be used, not the {request.images} of --images"
        )
    others = [photo for photo in source.photos if photo not in unusable]
    tuning = _tuning_crops(request, dataclasses.replace(source, photos=others), crops, listener)
    study = Study(
        request.ensemble, tuple(crops), request.out, request.seed, request.steps,
        request.batch_size or batch_for_device(), source.labels, tuple(tuning),
    )  # fmt: skip
    return study, skipped


def _tuning_crops(
    request: Request, source: Source, tested: Sequence[Crop], listener: Listener
) -> list[Crop]:
    """As many crops as are tested, none of them tested ones; empty if none are needed."""
    if "related" not in request.what:
        return []
    taken = {crop.sha256 for crop in tested}
    candidates, labels = source.photos, source.labels
    if request.tune_photos is not None:
        candidates = files.pictures_in(request.tune_photos)
    size = photos.default_canonical_size(request.ensemble, aligned=True)
    names = {crop.file for crop in tested}
    others = [photo for photo in candidates if request.tune_photos or photo.name not in names]
    found = make_crops(
        others, len(tested), request.out / CROPS, size, source.aligned, labels, listener.photo,
        taken, request.max_pixels,
    )  # fmt: skip
    if not found and request.tune_photos is not None:
        what = "none of its photos can be tuned with: they are tested ones, or cannot be used"
        raise FileError(request.tune_photos, what, "give another folder")
    if not found:
        listener.say(
            "there are no photos beside the tested ones to tune methods with: they are tuned on "
            "the tested ones; give --tune-photos or fewer --images"
        )
    return found


class _Lab:
    """The measurements so far, and the results that are made from them."""

    def __init__(
        self, request: Request, study: Study, skipped: list[str], listener: Listener
    ) -> None:
        self._request, self._study, self._listener = request, study, listener
        self._skipped = skipped
        self._tables = paper_tables(request.steps)
        self._tables["related"] = methods.related_table(study.ensemble.generators, request.steps)
        self._default = self._tables["table3"].columns["mgda"]
        self._measured: dict[Column, Measured] = {}
        self._photo_steps: Counter[Hashable] = Counter()  # by program
        for column in self._columns(WHAT):  # whatever is asked for: no figure depends on that
            program = methods.program_of(column, study)
            self._photo_steps[program] += methods.photo_steps(column, study)

    def works(self, names: Sequence[str]) -> list[Work]:
        """All the work for the given results, each part once."""
        works = [
            work
            for column in self._columns(names)
            for work in methods.works_of(column, self._study)
        ]
        if "figure2" in names:
            works.append(figures.work_of_trace(self._default, self._study))
        return works

    def preparations(self, names: Sequence[str]) -> list[Callable[[], None]]:
        """Tasks that compile the programs of the given results, in order.

        Only if compiling is most of the work: otherwise they would cost more time than they save.
        """
        if not self._study.is_brief:
            return []
        tasks: dict[Hashable, Callable[[], None]] = {}
        for name in WHAT:
            if name in names and name == "figure2":
                tasks[name] = self._prepare_figure2
            elif name in names:
                columns = self._columns([name])
                tasks |= {column: functools.partial(self._prepare, column) for column in columns}
        return list(tasks.values())

    def _prepare(self, column: Column) -> None:
        with apart(self._study.is_brief), once(self._is_brief(column)):
            methods.prepare(column, self._study)

    def _prepare_figure2(self) -> None:
        with apart(self._study.is_brief), once(self._study.is_brief):
            figures.prepare_figure2(self._default, self._study)

    def _is_brief(self, column: Column) -> bool:
        """Whether a column's program runs so briefly that it should be quick to compile."""
        return self._photo_steps[methods.program_of(column, self._study)] < few_steps()

    def make(self, name: str) -> str:
        """Measures and writes a result; returns its text."""
        make = {"figure2": self._figure2, "figure4": self._figure4}
        with apart(self._study.is_brief):
            if name in make:
                return make[name]()
            return self._table(name) if name in TABLES else self._ablation(name)

    def write_claims(self) -> str:
        """Writes the verdicts on the paper's claims by this study's results in the folder."""
        records = self._records()
        found = claims.judge(records)
        judged = [vars(claim) for claim in found]
        record: dict[str, Any] = {"format": _FORMAT, "claims": judged, "results": list(records)}
        elsewhere = _made_elsewhere(records)
        if others := [name for name in WHAT if name not in records and self._has(name)]:
            self._listener.say(
                f"{RESULTS}.md leaves out what {self._request.out} holds of other photos or "
                f"settings: {', '.join(others)}"
            )
        record |= {**tables.about(self._study, self._skipped), "made_with": elsewhere}
        parts = ["# The paper's experiments, measured again", ""]
        if purposes := tables.stated_purposes(record).strip():
            parts += [purposes, ""]
        parts += ["## The paper's claims", ""]
        if len(self._study.crops) < claims.FEWEST:
            parts += [f"Of fewer than {claims.FEWEST} photos no claim can hold.", ""]
        if elsewhere:
            names = ", ".join(elsewhere)
            parts += [
                f"Results of another version, precision, device or number of cores: {names}.",
                "",
            ]
        if found:
            parts += [claims.caveat(found), ""]
        text = "\n".join([*parts, claims.to_markdown(found)])
        for name in records:
            path = self._request.out / f"{name}.md"
            text += "\n" + disk.read_bytes(path).decode() if path.is_file() else ""
        write_result(self._request.out, RESULTS, record, {".md": text.encode()})
        return text

    def _columns(self, names: Sequence[str]) -> list[Column]:
        """The columns that the given results need, each once, in order."""
        wanted: dict[Column, None] = {}
        for name in WHAT:
            if name in names and name == "figure4":
                wanted[self._default] = None
            elif name in names and (table := self._table_of(name)) is not None:
                wanted |= dict.fromkeys(table.columns.values())
        return list(wanted)

    def _table_of(self, name: str) -> Table | None:
        return self._tables.get(ABLATIONS.get(name, name))

    def _get(self, column: Column) -> Measured:
        if column not in self._measured:
            with once(self._is_brief(column)):
                self._measured[column] = methods.measure(
                    column,
                    self._study,
                    begin=self._listener.begin,
                    progress=self._listener.progress,
                )
        return self._measured[column]

    def _table(self, name: str) -> str:
        table = self._tables[name]
        measured = {name: self._get(column) for name, column in table.columns.items()}
        record = tables.build_table(table, measured, self._study, self._skipped)
        chart = figures.shown(name, table.title, figures.caption_of_bars(record))
        text = f"{tables.to_markdown(record)}\n{chart}"
        return self._write(name, record, text, {".png": charts.draw_bars(record)})

    def _ablation(self, name: str) -> str:
        """Makes a figure of an ablation: the bars of its table, and a sheet of outputs."""
        table = self._tables[ABLATIONS[name]]
        measured = {name: self._get(column) for name, column in table.columns.items()}
        title = table.title.replace(f"Table {table.name[-1]}", f"Figure {name[-1]}")
        record = tables.build_table(table, measured, self._study, self._skipped)
        record |= {"format": figures.FORMAT, "figure": name, "title": title}
        sheet = figures.draw_outputs(table, measured, self._study)
        others = {".png": charts.draw_bars(record), "-outputs.png": sheet}
        bars = figures.shown(name, title, figures.caption_of_bars(record))
        outputs = figures.shown(f"{name}-outputs", title, figures.caption_of_outputs(record))
        return self._write(name, record, f"## {title}\n\n{bars}\n{outputs}", others)

    def _figure2(self) -> str:
        self._listener.begin(figures.gradient_column(self._default).slug)
        with once(self._study.is_brief):
            record, chart = figures.measure_figure2(
                self._default, self._study, self._listener.progress, self._skipped
            )
        text = figures.figure2_markdown(record)
        return self._write("figure2", record, text, {".png": chart})

    def _figure4(self) -> str:
        record, sheet = figures.figure4(self._get(self._default), self._study, self._skipped)
        title = record["title"]
        text = f"## {title}\n\n{figures.shown('figure4', title, figures.caption_of_edits(record))}"
        return self._write("figure4", record, text, {".png": sheet})

    def _write(
        self, name: str, record: Mapping[str, Any], text: str, others: Mapping[str, bytes]
    ) -> str:
        write_result(self._request.out, name, record, {".md": text.encode(), **others})
        return text

    def _has(self, name: str) -> bool:
        return bool(read_record(self._request.out / f"{name}.json"))

    def _records(self) -> dict[str, Any]:
        """The results of this study in the folder, whenever they were made."""
        ours = json.loads(json.dumps(tables.about(self._study)))
        images = ours["images"]
        few = [crop.entry() for crop in figures.traced(self._study).crops]
        found = {}
        for name in WHAT:
            record = read_record(self._request.out / f"{name}.json")
            ours["images"] = few if name == "figure2" else images
            if all(record.get(key) == ours[key] for key in SAME_STUDY):
                found[name] = record
        return found


def _made_elsewhere(records: Mapping[str, Any]) -> dict[str, Any]:
    """The versions and so on of results made, wholly or partly, with others than this process's.

    By name; a result that was measured partly elsewhere says which part.
    """
    now = report.made_with()
    found = {}
    for name, record in records.items():
        written = report.made_with_in(record)
        if written != now or record.get("made_with"):
            found[name] = {**written, "made_with": record.get("made_with")}
    return found


def write_result(
    out: Path, name: str, record: Mapping[str, Any], others: Mapping[str, bytes]
) -> None:
    """Writes a result's files, all of them whole, the JSON last."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    contents = {**others, ".json": text.encode()}
    disk.write_together({out / f"{name}{suffix}": data for suffix, data in contents.items()})
