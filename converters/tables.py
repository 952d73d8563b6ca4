"""The parts of an architecture's table, which says which official tensor is which parameter.

A table is a tuple of ``Tensor`` and ``Ignored`` rows. A tensor without a row is never accepted.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""The shape of every tensor of a state dict."""


class ConversionError(ValueError):
    """A file does not match its table; the one-line message names the file's key or option."""


class Layout(enum.Enum):
    """How the axes of a PyTorch tensor become those of the parameter."""

    CONV = "OIHW to HWIO; a transposed convolution's IOHW to HWOI"
    LINEAR = "outputs, inputs to inputs, outputs"
    VECTOR = "as it is"
    CHANNELS = "[1,C,1,1] to [C]"


class Fill(enum.Enum):
    """The value of an ignored tensor in a written state dict: a module's initial value."""

    ZEROS = "float zeros, like the parameter"
    ONES = "float ones, like the parameter"
    COUNT = "the integer scalar zero"


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is a parameter; ``path`` is dotted, as in ``down.0.conv.kernel``."""

    key: str
    path: str
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Ignored:
    """A tensor that files may contain and no output depends on.

    Its shape is that of ``like``, or () for a count.

    One that only old files contain is not ``written``: current modules have no such tensor.
    """

    key: str
    fill: Fill
    like: str
    written: bool = True


LARGEST_IMAGE = 4096
"""Pixels a side; a generator of larger images would not fit into any memory."""
Table: TypeAlias = tuple[Tensor | Ignored, ...]


@dataclasses.dataclass(frozen=True)
class Given:
    """The caller's answers about a file; None leaves one to the tensors."""

    image_size: int | None = None
    attributes: tuple[str, ...] | None = None
    shortcut_layers: int | None = None
    inject_layers: int | None = None
    padding: str | None = None
    statistics: str | None = None


def conv(key: str, path: str, bias: bool = False) -> Table:
    """A convolution, transposed or not."""
    weight = Tensor(f"{key}.weight", f"{path}.kernel", Layout.CONV)
    return (weight, Tensor(f"{key}.bias", f"{path}.bias", Layout.VECTOR)) if bias else (weight,)


def linear(key: str, path: str) -> Table:
    """A linear layer without bias."""
    return (Tensor(f"{key}.weight", f"{path}.kernel", Layout.LINEAR),)


def affine(key: str, path: str) -> Table:
    """The scale and the bias of a normalization."""
    return (
        Tensor(f"{key}.weight", f"{path}.scale", Layout.VECTOR),
        Tensor(f"{key}.bias", f"{path}.bias", Layout.VECTOR),
    )


def batch_norm(key: str, path: str) -> Table:
    """A batch normalization; its count of batches matters only to training without momentum."""
    return (
        *affine(key, path),
        Tensor(f"{key}.running_mean", f"{path}.mean", Layout.VECTOR),
        Tensor(f"{key}.running_var", f"{path}.var", Layout.VECTOR),
        Ignored(f"{key}.num_batches_tracked", Fill.COUNT, f"{path}.scale"),
    )


def instance_norm(key: str, path: str) -> Table:
    """An affine instance normalization; its running statistics are recorded but never used."""
    return (
        *affine(key, path),
        Ignored(f"{key}.running_mean", Fill.ZEROS, f"{path}.scale"),
        Ignored(f"{key}.running_var", Fill.ONES, f"{path}.scale"),
        Ignored(f"{key}.num_batches_tracked", Fill.COUNT, f"{path}.scale"),
    )


def norm_of_kind(kind: str, key: str, path: str, like: str) -> Table:
    """A normalization of a kind in ``norms.KINDS``; ``like`` is a parameter of as many channels.

    The non-affine instance normalization has no tensors. It once recorded statistics, which old
    files contain; they were not used, and the official code drops them too.
    """
    if kind == "batch":
        return batch_norm(key, path)
    if kind == "none":
        return ()
    fills = {
        "running_mean": Fill.ZEROS,
        "running_var": Fill.ONES,
        "num_batches_tracked": Fill.COUNT,
    }
    return tuple(
        Ignored(f"{key}.{name}", fill, like, written=False) for name, fill in fills.items()
    )


def shape(shapes: Shapes, key: str, rank: int = 4) -> tuple[int, ...]:
    """The shape of the tensor ``key``, from which a size is read.

    Raises:
      ConversionError: there is no such tensor, or it has another rank or an empty axis.
    """
    if key not in shapes:
        raise ConversionError(f"tensor {key} is missing")
    if len(shapes[key]) != rank or 0 in shapes[key]:
        raise ConversionError(f"tensor {key} has shape {list(shapes[key])}, not {rank} axes")
    return shapes[key]


def channels(shapes: Shapes, key: str, axis: int, other: str, other_axis: int) -> int:
    """The channels on which a convolution and the layer that follows it must agree.

    Raises:
      ConversionError: they do not; the message names both.
    """
    rank = 4 if other_axis else 1
    here, there = shape(shapes, key)[axis], shape(shapes, other, rank)[other_axis]
    if here != there:
        raise ConversionError(f"tensor {key} gives {here} channels where {other} takes {there}")
    return here


def count(shapes: Shapes, prefix: str) -> int:
    """The number of layers with keys that begin with ``prefix``; ``*`` is a layer's number."""
    regex = re.compile(re.escape(prefix).replace(r"\*", r"(\d+)"))
    return len({found[1] for key in shapes if (found := regex.match(key))})


def ask_image_size(given: Given, official: Sequence[int]) -> int:
    """The image size, which a convolutional network's tensors do not show.

    Raises:
      ConversionError: it was not given, or is larger than any generator's.
    """
    if given.image_size is None:
        sizes = ", ".join(str(size) for size in official)
        raise ConversionError(
            "the tensors do not tell the image size; give --image-size "
            f"(the official files: {sizes}; the file's name often says)"
        )
    if given.image_size > LARGEST_IMAGE:
        raise ConversionError(
            f"--image-size {given.image_size} is larger than {LARGEST_IMAGE}; give the side, in "
            "pixels, that the generator was trained at"
        )
    return given.image_size


def ask_attributes(
    given: Given, official: tuple[str, ...], number: int, source: str
) -> tuple[str, ...]:
    """The attributes' names: the given ones, or the official ones when their number fits.

    ``source`` names the tensors that the number was read from.

    Raises:
      ConversionError: the number does not fit.
    """
    if number < 1:
        raise ConversionError(f"the network takes no attributes, by {source}")
    names = given.attributes or official
    if len(names) == number:
        return names
    if given.attributes is None:
        reason = f"the official list has {len(official)}"
    else:
        reason = f"--attributes names {len(names)}"
    raise ConversionError(
        f"the network takes {number} attributes, by {source}, and {reason}; "
        f"give all {number} in their order, --attributes A,B,..."
    )


def ask_domain(given: Given, default: str) -> str:
    """The name of a network's one domain: the one attribute that was given, or ``default``.

    Raises:
      ConversionError: several were given.
    """
    names = given.attributes or (default,)
    if len(names) != 1:
        raise ConversionError("the network has one edit; give --attributes one name for it")
    return names[0]


def closest(configs: Iterable[Any], table: Callable[[Any], Table], shapes: Shapes) -> Any:
    """The first configuration whose table has the fewest keys missing and unexpected."""

    def misfits(config: Any) -> int:
        rows = table(config)
        wanted = {row.key for row in rows if isinstance(row, Tensor)}
        return len(wanted - shapes.keys()) + len(shapes.keys() - {row.key for row in rows})

    return min(configs, key=misfits)


def with_statistics(config: Any, given: Given) -> Any:
    """The configuration with the given statistics for its batch norms, if it has any."""
    if given.statistics is None or config.norm != "batch":
        return config
    return build(type(config), **{**vars(config), "statistics": given.statistics})


def build(config: type, **fields: Any) -> Any:
    """A ``Config`` of the fields that were read.

    Raises:
      ConversionError: they contradict each other.
    """
    try:
        return config(**fields)
    except ValueError as error:
        raise ConversionError(str(error)) from error
