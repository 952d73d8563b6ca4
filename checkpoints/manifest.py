"""Writes or checks the manifest of the bundled ensemble.

python -m checkpoints.manifest            writes manifest.json
python -m checkpoints.manifest --check    compares it with the files; exit status 1 if they differ
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cdmaa_jax import disk
from cdmaa_jax.cli.parser import OneLineParser
from cdmaa_jax.disk import FileError
from cdmaa_jax.generators.checkpoint import read_metadata
from checkpoints import commands

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"
ENSEMBLE = HERE / "demo"
SOURCE = {
    "photographs": "unitedstates/images, 225x275 (2015); public domain as the collection states",
    "labels": "unitedstates/congress-legislators; CC0",
    "split": "by SHA-256 of the file name, see checkpoints/portraits.py",
}

OFFICIAL = {
    "stargan": {
        "repository": "yunjey/stargan",
        "weights": "bash download.sh pretrained-celeba-128x128 (or 256x256), 200000-G.ckpt",
        "licence": "MIT",
    },
    "attgan": {
        "repository": "elvisyjlin/AttGAN-PyTorch",
        "weights": "'Pretrained models' in its README: bit.ly/attgan-pretrain",
        "licence": "MIT",
    },
    "stgan": {
        "repository": "csmliu/STGAN (official, TensorFlow)",
        "weights": "'pre-trained model' in its README; the layout ported here is that of "
        "bluestyle97/STGAN-pytorch, which publishes none and states no licence",
        "licence": "MIT",
    },
    "ugatit": {
        "repository": "znxlwm/UGATIT-pytorch",
        "weights": "none in its README",
        "licence": "MIT",
    },
}


def describe() -> dict[str, Any]:
    """The contents of the manifest for the files as they are; hidden ones are ignored.

    Raises:
      FileError: a file cannot be read, or a generator does not say how it was trained.
      CheckpointError: a folder of the ensemble is no generator.
    """
    with disk.translated(ENSEMBLE, disk.TO_READ):
        folders = sorted(path for path in ENSEMBLE.iterdir() if path.is_dir())
    return {
        "purpose": "demonstration weights; a photo protected against them is not thereby protected "
        "against other generators",
        "data": SOURCE,
        "script": "checkpoints/train.py",
        "official_weights": OFFICIAL,
        "generators": {
            path.name: _generator(path) for path in folders if not path.name.startswith(".")
        },
    }


def _generator(directory: Path) -> dict[str, Any]:
    metadata = read_metadata(directory)
    if not {"seed", "steps"} <= metadata.extra.keys():
        what = "it does not say the seed and the steps of its training"
        raise FileError(directory, what, "write it with checkpoints.train, or move it elsewhere")
    contents = {name: disk.read_bytes(directory / name) for name in _names(directory)}
    return {
        "command": f"python -m checkpoints.train {metadata.architecture} --portraits PORTRAITS "
        f"--out checkpoints/demo/{directory.name} --overwrite --seed {metadata.extra['seed']} "
        f"--steps {metadata.extra['steps']}",
        **metadata.extra,
        "bytes": sum(map(len, contents.values())),
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }


def _names(directory: Path) -> list[str]:
    """The files under a directory, except those whose names begin with a dot."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return [p.relative_to(directory).as_posix() for p in paths if not p.name.startswith(".")]


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = OneLineParser(
        prog="python -m checkpoints.manifest",
        description="Writes the manifest of the bundled ensemble, or compares it with the files.",
    )
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Writes or compares; returns the exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)
    return commands.run(parser.prog, functools.partial(_run, args.check))


def _run(check: bool) -> int:
    text = (json.dumps(describe(), indent=1) + "\n").encode()
    if not check:
        disk.write_whole(MANIFEST, text)
    elif disk.read_bytes(MANIFEST) == text:
        print("the files are those of the manifest")
    else:
        what = "it and the files differ"
        raise FileError(MANIFEST, what, "restore the files, or write it with checkpoints.manifest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
