"""Writes or checks the manifest of the bundled ensemble.

python -m checkpoints.manifest            writes manifest.json
python -m checkpoints.manifest --check    compares it with the files; exit status 1 if they differ
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from cdmaa_jax.generators.checkpoint import read_metadata

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
    """What the manifest should say of the files as they are."""
    return {
        "purpose": "demonstration weights; a photo protected against them is not thereby protected "
        "against other generators",
        "data": SOURCE,
        "script": "checkpoints/train.py",
        "official_weights": OFFICIAL,
        "generators": {
            path.name: _generator(path) for path in sorted(ENSEMBLE.iterdir()) if path.is_dir()
        },
    }


def _generator(directory: Path) -> dict[str, Any]:
    metadata = read_metadata(directory)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        "command": f"python -m checkpoints.train {metadata.architecture} --portraits PORTRAITS "
        f"--out checkpoints/demo/{directory.name} --seed {metadata.extra['seed']} "
        f"--steps {metadata.extra['steps']}",
        **metadata.extra,
        "bytes": sum(path.stat().st_size for path in files),
        "sha256": {
            path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }


def main() -> int:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(prog="python -m checkpoints.manifest")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    text = json.dumps(describe(), indent=1) + "\n"
    if not arguments.check:
        MANIFEST.write_text(text)
        return 0
    if MANIFEST.read_text() == text:
        print("the files are those of the manifest")
        return 0
    print(f"{MANIFEST.name} and the files differ", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
