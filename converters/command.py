"""The command ``cdmaa-convert``: arguments and printing, nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdmaa_jax.cli import ensure_stderr, print_any_name, printable
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators.checkpoint import DTYPES, CheckpointError, Metadata, read_metadata
from cdmaa_jax.generators.cyclegan import PADDINGS
from cdmaa_jax.generators.norms import STATISTICS
from cdmaa_jax.generators.registry import ARCHITECTURES
from converters.tables import ConversionError, Given

EPILOG = """examples:
  %(prog)s stargan 200000-G.ckpt --image-size 256 --out stargan
  %(prog)s attgan weights.149.pth --image-size 384 --out attgan
  %(prog)s ugatit selfie2anime_params_latest.pt --part genA2B --out anime
  %(prog)s cyclegan latest_net_G.pth --image-size 256 --attributes zebra --out zebra
  %(prog)s stargan stargan --to-torch 200000-G.ckpt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    ensure_stderr()
    print_any_name()
    logging.basicConfig(handlers=[logging.NullHandler()])  # else Orbax adds one that prints
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    try:
        summary = _convert(args) if args.to_torch is None else _convert_back(args)
    except ModuleNotFoundError as error:
        what = "run pip install '.[convert]' in the folder of cdmaa-jax"
        return _fail(f"{error.name} is not installed; {what}")
    except ImportError as error:
        return _fail(f"a library does not work: {error}")
    except (ConversionError, CheckpointError, FileError) as error:
        return _fail(str(error))
    except MemoryError:
        return _fail(f"{args.file}: does not fit into memory; nothing was written")
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)
    try:
        print(json.dumps(summary, indent=2) if args.json else _human(summary), flush=True)
    except OSError as error:  # a full disk, or a closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"{summary['written']} is written, but telling of it failed: {error.strerror}")
    return 0


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command if options conflict."""
    if (args.out is None) == (args.to_torch is None):
        parser.error("give --out DIR, or --to-torch FILE for the way back")
    if args.to_torch is None:
        return
    for name in (*(field.name for field in dataclasses.fields(Given)), "name", "dtype"):
        if getattr(args, name) != parser.get_default(name):
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} is of no use with --to-torch: the checkpoint says it")


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="cdmaa-convert",
        description="Converts a generator's official PyTorch file to a checkpoint, and back.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("arch", metavar="ARCH", choices=sorted(ARCHITECTURES), help=", ".join(ARCHITECTURES))
    add(
        "file",
        metavar="FILE",
        help="PyTorch weights: .pth, .pt, .ckpt or .safetensors; with --to-torch, a checkpoint",
    )
    add("--out", metavar="DIR", help="write a checkpoint to this folder")
    add("--to-torch", metavar="FILE", help="write the checkpoint's weights to this PyTorch file")
    add("--part", metavar="KEY", help="key of the state dict in the file, such as genA2B")
    unclear = "only if the tensors do not show it"
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help=f"side of the pictures that it was trained on; {unclear}",
    )
    add(
        "--attributes",
        type=_names,
        metavar="A,B,...",
        help="names of its attributes, in its order (default: the official ones); of cyclegan, "
        "pix2pix and ugatit, one name for its edit",
    )
    add("--shortcut-layers", type=int, metavar="N", help=f"of attgan, {unclear}")
    add("--inject-layers", type=int, metavar="N", help=f"of attgan, {unclear}")
    add("--padding", choices=PADDINGS, help="of cyclegan's convolutions (default: reflect)")
    add(
        "--statistics",
        choices=STATISTICS,
        help="that batch norms of cyclegan and pix2pix use (default: instance, the image's own)",
    )
    add("--name", help="name of the generator in reports (default: ARCH)")
    add(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored arrays (default: float32)"
    )
    add("--force", action="store_true", help="replace what --out or --to-torch already has")
    add("--json", action="store_true", help="print JSON")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise argparse.ArgumentTypeError("give different names with commas between, A,B,C")
    return names


def _convert(args: argparse.Namespace) -> dict[str, Any]:
    from converters import conversion

    given = Given(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Given)})
    options = {"name": args.name, "dtype": args.dtype, "overwrite": args.force}
    found, record = conversion.convert(args.arch, args.file, args.out, given, args.part, **options)
    return {**_summary(record, args.out), "part": found.part, "ignored": list(found.ignored)}


def _convert_back(args: argparse.Namespace) -> dict[str, Any]:
    from converters import conversion

    part = conversion.write(args.arch, args.file, args.to_torch, args.part, args.force)
    return {**_summary(read_metadata(args.file), args.to_torch), "part": part}


def _summary(record: Metadata, written: str) -> dict[str, Any]:
    return {
        "written": str(Path(written)),
        "architecture": record.architecture,
        "name": record.name,
        "image_size": record.image_size,
        "domains": list(record.domains),
        "config": dataclasses.asdict(record.config),
        "source_sha256": record.source_sha256,
    }


def _human(summary: dict[str, Any]) -> str:
    title = ARCHITECTURES[summary["architecture"]].title
    sizes = {k: v for k, v in summary["config"].items() if k not in ("attributes", "domain")}
    place = f" under {summary['part']}" if summary["part"] else ""
    lines = [
        f"{title} at {summary['image_size']} px; "
        + ", ".join(f"{k} {v}" for k, v in sizes.items()),
        f"edits: {', '.join(summary['domains'])}",
    ]
    if "ignored" not in summary:
        lines.append(f"wrote {summary['written']}{place}")
    else:
        lines += [
            f"read the state dict{place or ' (bare)'}; "
            f"tensors ignored, since no output depends on them: {len(summary['ignored'])}",
            f"wrote {summary['written']}",
            f"next: cdmaa protect PHOTO --out protected --ensemble {summary['written']}",
        ]
    return "\n".join(map(printable, lines))


def _fail(message: str, status: int = 1) -> int:
    print(printable(f"cdmaa-convert: error: {message}"), file=sys.stderr)
    return status
