"""What a device does in one iteration of a loop, read from a program as XLA prints it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\bcalls=%([\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_ELSEWHERE = re.compile(r"S\([1-9]")  # in the layout of an array outside the device's main memory
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
_NO_KERNELS = {
    "parameter",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "constant",
    "copy-done",
    "slice-done",
    "while",
}
_COPIES = {"copy-start", "slice-start"}  # meanwhile; their results include what is copied


class Kernel(NamedTuple):
    """One operation that a device runs.

    Attributes:
      kind: "convolution", "product", "copy" for one that other kernels run beside, or "other".
      size: the bytes of what it reads from the device's main memory and writes to it.
    """

    kind: str
    size: int


def loop_kernels(text: str) -> list[Kernel]:
    """The kernels of one iteration of the longest loop, except those of loops inside it.

    Raises:
      ValueError: there is no loop.
    """
    computations = _computations(text)
    bodies = re.findall(r"\bwhile\(.*\bbody=%([\w.\-]+)", text)
    if not bodies:
        raise ValueError("the program has no loop")
    lines = computations[max(bodies, key=lambda name: len(computations[name]))]
    kernels, results = [], {}
    for line in lines:
        if (found := _OPERATION.match(line)) is None:
            continue
        name, result, operation, operands, rest = found.groups()
        results[name] = result
        if operation in _COPIES:
            kernels.append(Kernel("copy", _size_of_copy(operation, result)))
        elif operation not in _NO_KERNELS:
            sizes = [_size(results.get(source, "")) for source in _NAME.findall(operands)]
            fused = (part for name in _CALLED.findall(rest) for part in computations.get(name, ()))
            kind = _kind(operation, rest, "\n".join(fused))
            kernels.append(Kernel(kind, _size(result) + sum(sizes)))
    return kernels


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    inside: list[str] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = found.setdefault(head.group(1), [])
        else:
            inside.append(line)
    return found


def _kind(operation: str, rest: str, fused: str) -> str:
    if "__cudnn$conv" in rest or operation == "convolution" or " convolution(" in fused:
        return "convolution"
    return "product" if "gemm" in rest or "cublas" in rest or operation == "dot" else "other"


def _size(result: str) -> int:
    """The bytes of one or more arrays in the device's main memory."""
    return sum(_bytes_of(array) for array in _ARRAY.findall(result) if _is_in_memory(array))


def _size_of_copy(operation: str, result: str) -> int:
    """The bytes that a copy of an array, or of a slice of it, reads and writes there.

    The result is two arrays and a handle; of a slice, the whole array and then the slice.
    """
    one, other = _ARRAY.findall(result)[:2]
    moved = _bytes_of(other if operation == "slice-start" else one)
    return moved * (_is_in_memory(one) + _is_in_memory(other))


def _bytes_of(array: tuple[str, str, str]) -> int:
    kind, shape, _ = array
    return _BYTES.get(kind, 4) * math.prod(map(int, filter(None, shape.split(","))))


def _is_in_memory(array: tuple[str, str, str]) -> bool:
    return not _ELSEWHERE.search(array[2])
