"""The arguments of ``cdmaa``, and its help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cdmaa_jax.cli import commands
from cdmaa_jax.cli.cache import CACHE_VARIABLE, JAX_VARIABLE
from cdmaa_jax.cli.output import show

if TYPE_CHECKING:
    _Subparsers = argparse._SubParsersAction["_Parser"]

_OVERVIEW = """\
Protects photos from face-editing generators: adds a change too small to notice
that spoils what the generators make of the photo.

  cdmaa demo                           tries it on the included sample photo
  cdmaa protect photo.jpg --out safe   protects your own photo
"""
_EXIT_STATUS = """\
Exit status: 0 success; 1 something failed, and the message says what; 2 the
command line cannot be understood; 129 terminal closed; 130 interrupted;
143 terminated."""


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser; ``run`` of the parsed arguments is the command to call."""
    parser = _Parser(
        prog="cdmaa", description=_OVERVIEW, epilog=_EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    parsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_demo, _add_protect, _add_evaluate, _add_reproduce, _add_info):
        add(parsers)
    return parser


def _path(text: str) -> Path:
    """A path as it was typed; an empty one, as of a variable without value, names nothing."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path, or . for this folder")
    return Path(text)


def _add_demo(parsers: _Subparsers) -> None:
    demo = parsers.add_parser(
        "demo",
        help="protect the included sample photo and show the result",
        description="Protects a portrait that comes with scikit-image against the bundled "
        "generators. Writes original.png, protected.png, report.json, and report.png, the picture "
        "to look at. Downloads nothing; takes about a minute, less when run again.",
    )
    demo.set_defaults(run=commands.demo)
    demo.add_argument(
        "--out",
        type=_path,
        default=Path("cdmaa-demo"),
        metavar="DIR",
        help="output folder; default: cdmaa-demo",
    )
    _add_force(demo, "overwrite existing files of these names")
    _add_common(demo)


def _add_protect(parsers: _Subparsers) -> None:
    protect = parsers.add_parser(
        "protect",
        help="protect photos",
        description="Writes a protected copy of every photo, a PNG of the same size, and "
        "report.json, which says how well each generator's edits are spoiled. All faces that are "
        "found in a photo are protected. Running again with the same settings skips photos that "
        "are done; other settings need another --out, or --force.",
    )
    protect.set_defaults(run=commands.protect)
    protect.add_argument(
        "photos", nargs="+", type=_path, metavar="PHOTO_OR_FOLDER",
        help="JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF or PPM files, or HEIC if pillow-heif is "
        "installed; a folder stands for all pictures directly in it",
    )  # fmt: skip
    protect.add_argument("--out", type=_path, required=True, metavar="DIR", help="output folder")
    _add_ensemble(protect)
    _add_labels(protect)
    _add_batch_size(protect)
    protect.add_argument(
        "--chunk", type=int, metavar="N",
        help="faces of a batch that a generator takes at once, on each device, or each core of a "
        "CPU whose cores share the batch; fewer need less memory; default: what suits the device",
    )  # fmt: skip
    protect.add_argument(
        "--precision", choices=("float32", "tf32", "bfloat16"), metavar="NAME",
        help="what the attacked generators compute in: float32, tf32 or bfloat16; default: the "
        "device's own: float32 on a CPU, where bfloat16 is slower, tf32 on a GPU, and on a TPU "
        "float32 with bfloat16 factors in products",
    )  # fmt: skip
    protect.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the random start; default: 0"
    )
    protect.add_argument(
        "--canonical-size", type=int, metavar="PIXELS",
        help="size to which a face's square is resized to compute the change; default: three "
        "times the generators' size, or that size with --aligned",
    )  # fmt: skip
    _add_aligned(protect)
    _add_max_pixels(protect)
    _add_force(
        protect,
        "overwrite existing copies and report.json, also those of other settings; never a photo "
        "that is given as input",
    )
    _add_common(protect)
    _add_config(protect)


def _add_evaluate(parsers: _Subparsers) -> None:
    evaluate = parsers.add_parser(
        "evaluate",
        help="measure existing protected copies",
        description="Measures how well existing copies of photos are protected, as PNG files or as "
        "downloaded from a site that may have changed them. In folders, report.json in PROTECTED "
        "says which copy belongs to which original; where it does not, names must be equal but for "
        "the suffix. Give the same --ensemble, --labels and --aligned as when the photos were "
        "protected.",
    )
    evaluate.set_defaults(run=commands.evaluate)
    evaluate.add_argument("originals", type=_path, metavar="ORIGINALS", help="a photo or a folder")
    evaluate.add_argument("protected", type=_path, metavar="PROTECTED", help="a photo or a folder")
    _add_ensemble(evaluate)
    _add_labels(evaluate)
    _add_batch_size(evaluate)
    _add_threshold(evaluate)
    _add_aligned(evaluate)
    _add_max_pixels(evaluate)
    _add_common(evaluate)


_RESULTS = (
    "table1", "table2", "table3", "table4",
    "figure2", "figure4", "figure5", "figure6", "figure7", "related",
)  # fmt: skip


def _add_reproduce(parsers: _Subparsers) -> None:
    reproduce = parsers.add_parser(
        "reproduce",
        help="measure the paper's tables and figures",
        description="Protects photos in every way that the paper compares, measures the saved "
        "files, and writes JSON, Markdown and pictures, with intervals and the paper's own figures "
        "alongside. Running again resumes where it stopped.",
    )
    reproduce.set_defaults(run=commands.reproduce)
    reproduce.add_argument(
        "what", nargs="+", choices=(*_RESULTS, "all"), metavar="WHAT",
        help=f"one or more of {', '.join(_RESULTS)}; or all",
    )  # fmt: skip
    reproduce.add_argument(
        "--photos", type=_path, required=True, metavar="DIR",
        help="a folder of portraits, CelebA's img_align_celeba or any other",
    )  # fmt: skip
    reproduce.add_argument("--out", type=_path, required=True, metavar="DIR", help="output folder")
    _add_ensemble(reproduce)
    reproduce.add_argument(
        "--attributes", type=_path, metavar="FILE",
        help="labels of the photos: a CSV with a column 'file', or list_attr_celeba.txt, which is "
        "found automatically beside CelebA's photos",
    )  # fmt: skip
    reproduce.add_argument(
        "--partition", type=_path, metavar="FILE",
        help="CelebA's list_eval_partition.txt, found automatically beside the photos: only the "
        "test photos are used",
    )  # fmt: skip
    reproduce.add_argument(
        "--images", type=int, default=100, metavar="N",
        help="how many photos, the first by name, equal files once; default: 100",
    )  # fmt: skip
    reproduce.add_argument(
        "--tune-photos", type=_path, metavar="DIR",
        help="photos to tune related methods on before they are tested; --attributes must list "
        "them, too; default: those of --photos that come after the tested ones",
    )  # fmt: skip
    reproduce.add_argument(
        "--steps", type=int, default=80, metavar="N",
        help="steps of each attack, the paper's T; default: 80",
    )  # fmt: skip
    reproduce.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the random starts and the intervals; default: 0",
    )
    _add_batch_size(reproduce, None, "10, or 100 on a GPU or TPU")
    _add_aligned(reproduce)
    _add_max_pixels(reproduce)
    _add_common(reproduce)


def _add_aligned(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--aligned", action="store_true",
        help="the photos are already face crops, as in data sets: no face is looked for, and the "
        "square in the middle is used",
    )  # fmt: skip


def _add_info(parsers: _Subparsers) -> None:
    info = parsers.add_parser(
        "info",
        help="list devices, versions, architectures and ensembles",
        description="Prints devices, versions and architectures, and for each ensemble its "
        "generators, their edits, and the attributes that a label file must have.",
    )
    info.set_defaults(run=commands.info)
    info.add_argument(
        "--ensemble", nargs="+", metavar="NAME_OR_DIR",
        help="only this ensemble: a name, or folders that cdmaa-convert wrote",
    )  # fmt: skip
    _add_json(info)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)
    parser.add_argument(
        "--no-cache", action="store_true",
        help=f"neither use nor keep compiled programs (they are kept in the user's cache folder, "
        f"or in ${CACHE_VARIABLE} or ${JAX_VARIABLE})",
    )  # fmt: skip


def _add_force(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument("--force", action="store_true", help=text)


def _add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ensemble", nargs="+", default=["demo"], metavar="NAME_OR_DIR",
        help="a named ensemble (see cdmaa info), or folders that cdmaa-convert wrote; default: "
        "demo, small generators for demonstration; give this option last",
    )  # fmt: skip


def _add_labels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", type=_path, metavar="FILE",
        help="attributes of the photos, for all faces of each: a CSV with a column 'file', or "
        "list_attr_celeba.txt",
    )  # fmt: skip


def _add_batch_size(
    parser: argparse.ArgumentParser, default: int | None = 8, meaning: str = "8"
) -> None:
    parser.add_argument(
        "--batch-size", type=int, default=default, metavar="N",
        help=f"faces computed at once, at most; fewer need less memory; default: {meaning}",
    )  # fmt: skip


def _add_max_pixels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-pixels", type=int, default=100_000_000, metavar="N",
        help="refuse photos with more pixels; default: 100000000",
    )  # fmt: skip


def _add_threshold(parser: argparse._ActionsContainer, note: str = "") -> None:
    parser.add_argument(
        "--threshold", type=float, default=0.05, metavar="L",
        help=f"an edit whose mean squared change exceeds this is spoiled{note}; default: 0.05",
    )  # fmt: skip


def _add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``Config``, whose defaults and choices are repeated here to start fast.

    ``perturbation`` is left out: a universal perturbation must be fitted before it is added to
    photos.
    """
    group = parser.add_argument_group(
        "attack",
        "defaults are those of the CDMAA paper; colours are in [-1, 1]; epsilon may be 0.00785 to "
        "2, step size up to 2, zeta and threshold up to 4 (with the loss latent: any)",
    )

    def choice(option: str, values: str, text: str, note: str = "") -> None:
        first, *rest = values.split()
        group.add_argument(
            option, choices=(first, *rest), default=first, metavar="NAME",
            help=f"{text}: {', '.join((f'{first} (default)', *rest))}{note}",
        )  # fmt: skip

    def number(option: str, kind: type, default: float, text: str) -> None:
        group.add_argument(
            option, type=kind, default=default, metavar="N", help=f"{text}; default: {default}"
        )

    number("--steps", int, 80, "steps of the attack")
    number("--epsilon", float, 0.05, "largest change of a colour value; 0.05 is 6 of 255")
    number("--step-size", float, 0.01, "change in one step")
    choice(
        "--update", "i-fgsm fgsm pgd mi-fgsm apgd", "update rule",
        "; fgsm ignores --steps and --step-size, pgd ignores --start, apgd ignores --step-size",
    )  # fmt: skip
    choice(
        "--across-domains",
        "uniform single iterative mgda",
        "how the gradients of a generator's edits, the paper's domains, are combined",
    )
    choice(
        "--across-models", "mgda single iterative uniform weighted",
        "how the gradients of the generators, the paper's models, are combined",
    )  # fmt: skip
    group.add_argument(
        "--model-weights", type=float, nargs="+", metavar="N",
        help="for weighted: each generator's weight, in the order of --ensemble; they need not sum "
        "to 1",
    )  # fmt: skip
    choice("--regularization", "penalty none l2 log", "how the generators' gradients are scaled")
    number("--zeta", float, 1e-8, "lower bound of the loss in the regularization")
    choice(
        "--start", "jitter uniform", "random start",
        "; within 0.001 of the photo (jitter), or anywhere within --epsilon (uniform)",
    )  # fmt: skip
    choice(
        "--loss", "mse face-weighted latent", "what is maximized",
        "; latent needs generators with an encoder, which StarGAN lacks",
    )  # fmt: skip
    _add_threshold(group, "; apgd also caps the loss at it")


class OneLineParser(argparse.ArgumentParser):
    """A parser that reports an error in a command line on one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the error and ends the process."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


class _Parser(OneLineParser):
    """The parser of ``cdmaa`` and its commands, whose errors all begin alike."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("the following arguments are required") and "--ensemble" in sys.argv:
            message += " (what follows --ensemble belongs to it: give it last)"
        self.exit(2, f"cdmaa: error: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """An option that prints the version, which is looked up only when needed."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import importlib.metadata

        try:
            version = importlib.metadata.version("cdmaa-jax")
        except importlib.metadata.PackageNotFoundError:
            version = "from a checkout that is not installed"
        show(f"cdmaa-jax {version}")
        parser.exit()
