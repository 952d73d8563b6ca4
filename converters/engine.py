"""Tensors to parameters and back by a table; any tensor not accounted for is an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from cdmaa_jax.types import Params
from converters.tables import ConversionError, Fill, Ignored, Layout, Table, Tensor

_SHOWN = 5
_TO_FLAX = {Layout.CONV: (2, 3, 1, 0), Layout.LINEAR: (1, 0), Layout.VECTOR: (0,)}
_TO_TORCH = {Layout.CONV: (3, 2, 0, 1), Layout.LINEAR: (1, 0), Layout.VECTOR: (0,)}


def strip_module(tensors: Mapping[Any, Any]) -> dict[str, Any]:
    """The state dict without the ``module.`` that ``DataParallel`` puts before each key.

    Raises:
      ConversionError: a key is not text, or is there with the prefix and without.
    """
    stripped: dict[str, Any] = {}
    for key, value in tensors.items():
        if not isinstance(key, str):
            raise ConversionError(f"key {key!r} is not text")
        name = key.removeprefix("module.")
        if name in stripped:
            raise ConversionError(f"tensor {name} is there twice, as {name} and as module.{name}")
        stripped[name] = value
    return stripped


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Checks that every value is a dense tensor that takes no more memory than the file has.

    Raises:
      ConversionError: one is not; the message names it.
    """
    for key, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise ConversionError(f"key {key} holds {type(value).__name__}, not a tensor")
        dense = value.layout is torch.strided and not (value.is_quantized or value.is_nested)
        if not dense or value.device.type == "meta":
            raise ConversionError(f"tensor {key} is not a dense tensor")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ConversionError(f"tensor {key} has fewer numbers in the file than in its shape")


def from_torch(
    table: Table, expected: Params, tensors: Mapping[str, torch.Tensor], source: str
) -> Params:
    """The parameters that a state dict holds, a nested dict of float32 NumPy arrays.

    Args:
      table: one row for each tensor.
      expected: the nested dict of the parameters' shapes.
      tensors: the state dict, without prefixes.
      source: the key from which the widths were read, for the messages.

    Raises:
      ConversionError: a tensor is missing, unexpected, of another shape, not of floats, or not
        finite; the message names it.
    """
    rows = {row.key: row for row in table}
    missing = [r.key for r in table if isinstance(r, Tensor) and r.key not in tensors]
    _refuse(missing, "{} missing")
    _refuse([key for key in tensors if key not in rows], "{} unexpected")
    wanted = {key: _torch_shape(row, expected) for key, row in rows.items()}
    wrong = [key for key in tensors if tuple(tensors[key].shape) != wanted[key]]
    detail = [f"{k} {list(tensors[k].shape)} instead of {list(wanted[k])}" for k in wrong]
    _refuse(detail, "{} of a wrong shape (the width was read from " + source + ")")
    params: Params = {}
    for row in table:
        if isinstance(row, Tensor):
            _put(params, row.path, _to_flax(row, tensors[row.key]))
    return params


def to_torch(table: Table, params: Params) -> dict[str, torch.Tensor]:
    """The state dict of the parameters, with the ignored tensors at a module's initial values."""
    written = (row for row in table if isinstance(row, Tensor) or row.written)
    return {row.key: _fill(row, params) for row in written}


def _refuse(keys: Iterable[str], what: str) -> None:
    """Raises one error for all ``keys``, if there are any."""
    keys = list(keys)
    if not keys:
        return
    more = f", and {len(keys) - _SHOWN} more," if len(keys) > _SHOWN else ""
    verb = "tensor {} is" if len(keys) == 1 else "tensors {} are"
    names = ", ".join(keys[:_SHOWN]) + more
    raise ConversionError(what.format(verb.format(names)))


def _torch_shape(row: Tensor | Ignored, expected: Params) -> tuple[int, ...]:
    if isinstance(row, Ignored):
        return () if row.fill is Fill.COUNT else tuple(_get(expected, row.like).shape)
    shape = tuple(_get(expected, row.path).shape)
    if row.layout is Layout.CHANNELS:
        return (1, *shape, 1, 1)
    return tuple(shape[axis] for axis in _TO_TORCH[row.layout])


def _to_flax(row: Tensor, tensor: torch.Tensor) -> np.ndarray:
    if not tensor.is_floating_point():
        raise ConversionError(f"tensor {row.key} holds {tensor.dtype}, not floats")
    try:
        array = tensor.detach().to(torch.float32).resolve_neg().numpy()
    except NotImplementedError as error:  # such as pairs of 4 bits
        what = "which PyTorch does not convert to float32"
        raise ConversionError(f"tensor {row.key} holds {tensor.dtype}, {what}") from error
    if not np.isfinite(array).all():
        raise ConversionError(f"tensor {row.key} is not finite")
    if row.layout is Layout.CHANNELS:
        return array.reshape(-1).copy()
    return np.ascontiguousarray(array.transpose(_TO_FLAX[row.layout]))


def _fill(row: Tensor | Ignored, params: Params) -> torch.Tensor:
    leaf = np.asarray(_get(params, row.path if isinstance(row, Tensor) else row.like))
    if isinstance(row, Ignored):
        if row.fill is Fill.COUNT:
            return torch.tensor(0)
        return torch.from_numpy(np.full_like(leaf, row.fill is Fill.ONES))
    if row.layout is Layout.CHANNELS:
        return torch.from_numpy(leaf.reshape(1, -1, 1, 1).copy())
    return torch.from_numpy(np.array(leaf.transpose(_TO_TORCH[row.layout]), order="C"))


def _steps(path: str) -> list[str | int]:
    return [int(step) if step.isdecimal() else step for step in path.split(".")]


def _get(tree: Params, path: str) -> Any:
    for step in _steps(path):
        tree = tree[step]
    return tree


def _put(tree: Params, path: str, leaf: np.ndarray) -> None:
    *steps, last = _steps(path)
    for step in steps:
        tree = tree.setdefault(step, {})
    tree[last] = leaf
