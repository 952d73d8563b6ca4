"""The target label vector of each edit, for all networks that take attributes.

Attributes among CelebA's forty go by CelebA's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cdmaa_jax.types import Labels

HAIR_COLOURS = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
_CONTRADICTIONS = (
    (("Bald", "Receding_Hairline"), ("Bangs",)),
    (("Bangs",), ("Bald", "Receding_Hairline")),
    *(((colour,), HAIR_COLOURS) for colour in HAIR_COLOURS),
    (("Straight_Hair",), ("Wavy_Hair",)),
    (("Wavy_Hair",), ("Straight_Hair",)),
    (("Mustache",), ("No_Beard",)),
    (("No_Beard",), ("Mustache",)),
)


def source_vectors(labels: Labels | None, attributes: Sequence[str]) -> np.ndarray:
    """The images' own attributes, float32 [B,n] of 0 and 1; zeros [1,n] without labels.

    Raises:
      ValueError: an attribute is missing from the labels, holds a value other than 0 and 1, or has
        another length than the others.
    """
    if labels is None:
        return np.zeros((1, len(attributes)), np.float32)
    missing = [name for name in attributes if name not in labels]
    if missing:
        raise ValueError(f"the labels lack {', '.join(missing)}; they have {', '.join(labels)}")
    columns = [np.asarray(labels[name], np.float32).reshape(-1) for name in attributes]
    if len({len(column) for column in columns}) != 1:
        raise ValueError("the labels of the attributes differ in length")
    vectors = np.stack(columns, axis=1)
    if not np.isin(vectors, (0, 1)).all():
        raise ValueError("labels must be 0 (absent) or 1 (present)")
    return vectors


def no_conditions(config: Any, labels: Labels | None) -> np.ndarray:
    """Empty condition vectors [B,1,0] of a network with one domain; [1,1,0] without labels.

    A network's ``conditions(config, labels)``, whatever its configuration.

    Raises:
      ValueError: the labels do not tell how many images there are.
    """
    del config
    if labels is None:
        return np.zeros((1, 1, 0), np.float32)
    lengths = {len(np.atleast_1d(column)) for column in labels.values()}
    if not lengths:
        raise ValueError("there are labels of no attribute; give None for photos without labels")
    if len(lengths) > 1:
        raise ValueError("the labels of the attributes differ in length")
    return np.zeros((lengths.pop(), 1, 0), np.float32)


def flip_exclusive_hair(source: np.ndarray, attributes: Sequence[str], index: int) -> np.ndarray:
    """StarGAN's and STGAN's target of edit ``index``.

    A hair colour is set and the others are cleared; any other attribute is flipped.
    Follows ``create_labels`` of the official StarGAN ``solver.py``.
    """
    target = source.copy()
    if attributes[index] not in HAIR_COLOURS:
        target[:, index] = 1 - target[:, index]
        return target
    for i, name in enumerate(attributes):
        if name in HAIR_COLOURS:
            target[:, i] = i == index
    return target


def flip_consistent(source: np.ndarray, attributes: Sequence[str], index: int) -> np.ndarray:
    """AttGAN's target of edit ``index``: flips it and, if now set, clears what contradicts it.

    Follows ``check_attribute_conflict`` of the official AttGAN ``data.py``.
    """
    target = source.copy()
    target[:, index] = 1 - target[:, index]
    chosen = target[:, index] != 0
    for names, contradicted in _CONTRADICTIONS:
        if attributes[index] in names:
            for i, name in enumerate(attributes):
                if name in contradicted and i != index:
                    target[chosen, i] = 0
    return target
