"""Loops whose loop-invariant operations are hoisted out of the body.

XLA hoists them on CPUs. On GPUs it does not: there every step of an attack would slice the same
parts out of the same weights, and multiply the same labels by them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Literal, Primitive

T = TypeVar("T")
_PLATFORMS = {"gpu": ("cuda", "rocm")}  # the names used in lowering
_SPREADING = ("broadcast_in_dim", "concatenate", "convert_element_type", "iota", "pad")
_TURNING = ("reshape", "rev", "squeeze", "transpose")
_FORMS: dict[Primitive, Callable[..., Any]] = {}


def register(primitive: Primitive, form: Callable[..., Any]) -> None:
    """Registers the function that a primitive stands for except on CPUs, given its parameters.

    This exposes the loop-invariant operations within it.
    """
    _FORMS[primitive] = form


def scan(
    body: Callable[[T], tuple[T, Any]], init: T, length: int, platform: str | None
) -> tuple[T, Any]:
    """``lax.scan`` of ``body(carry)``; given a platform, loop-invariant operations are done first.

    The operations are the same, so results differ only by how XLA compiles them. Those that only
    spread few values over many stay in the loop, which then reads a line rather than the plane that
    repeats it. So do those that only rearrange values: XLA recognizes transposed convolutions by
    their reversed kernels.

    Args:
      body: takes the carry to the next one, and to what is stacked.
      init: the first carry.
      length: the number of turns.
      platform: what the program is lowered for, as ``jax.Device.platform``, but no CPU; None leaves
        everything to XLA.
    """
    if platform is None:
        return lax.scan(lambda carry, _: body(carry), init, length=length)
    traced, shape = jax.make_jaxpr(body, return_shape=True)(init)
    first = [_Value() for _ in jax.tree.leaves(init)]
    loop: list[_Operation] = []
    last = _split(traced, first, _PLATFORMS.get(platform, (platform,)), loop)

    def turn(carry: T, _: None) -> tuple[T, Any]:
        arrays = dict(zip(first, jax.tree.leaves(carry), strict=True))
        for operation in loop:
            _compute(operation, arrays)
        done = [_read(value, arrays) for value in last]
        return jax.tree.unflatten(jax.tree.structure(shape), done)

    return lax.scan(turn, init, length=length)


@dataclasses.dataclass(eq=False)
class _Value:
    """A result or operand of an operation.

    Attributes:
      array: None if it changes from turn to turn.
      held: the fewest bytes from which a turn can make it by spreading and turning.
      maker: the operation that makes it from those; None if the array itself is held.
    """

    array: Any = None
    held: int = 0
    maker: _Operation | None = None


@dataclasses.dataclass(eq=False)
class _Operation:
    """``compute(*arrays)`` maps the operands' arrays to a list of results."""

    compute: Callable[..., list[Any]]
    operands: list[_Value]
    results: list[_Value]


def _split(
    traced: Any, arguments: Sequence[_Value], platforms: Sequence[str], loop: list[_Operation]
) -> list[_Value]:
    """The results of a traced function: computed now, or by operations added to the ``loop``."""
    jaxpr = traced.jaxpr
    values = dict(zip(jaxpr.constvars, map(_held, traced.consts), strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> _Value:
        if isinstance(atom, Literal):
            kind: Any = atom.aval
            return _Value(np.asarray(atom.val, kind.dtype))
        return values[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if (inner := _inner(equation, operands, platforms)) is not None:
            results = _split(*inner, platforms, loop)
        else:
            results = _apply(jaxpr, equation, operands, loop)
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _inner(
    equation: Any, operands: list[_Value], platforms: Sequence[str]
) -> tuple[Any, list[_Value]] | None:
    """The function inside an equation and its operands; None if nothing is gained by splitting."""
    parameters = equation.params
    if parameters.get("branches_platforms") is not None:
        branch = _branch(parameters["branches_platforms"], platforms)
        return None if branch is None else (parameters["branches"][branch], operands[1:])
    if len({value.array is None for value in operands}) < 2:  # all or none are invariant
        return None
    if equation.primitive.name == "jit":
        return parameters["jaxpr"], operands
    if equation.primitive in _FORMS:
        form = functools.partial(_FORMS[equation.primitive], **parameters)
        shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
        return jax.make_jaxpr(form)(*shapes), operands
    return None


def _branch(choices: Sequence[Sequence[str] | None], platforms: Sequence[str]) -> int | None:
    """The index of the branch that the platforms choose; None if they differ."""
    found = {
        next((i for i, names in enumerate(choices) if names is None or name in names), None)
        for name in platforms
    }
    return found.pop() if len(found) == 1 else None


def _apply(
    jaxpr: Any, equation: Any, operands: list[_Value], loop: list[_Operation]
) -> list[_Value]:
    """The results of one equation: computed now if possible, else left to the loop."""
    inputs = {
        atom: value
        for atom, value in zip(equation.invars, operands, strict=True)
        if not isinstance(atom, Literal)
    }
    alone = jaxpr.replace(constvars=(), invars=[*inputs], outvars=equation.outvars, eqns=[equation])
    operation = _Operation(functools.partial(eval_jaxpr, alone, ()), [*inputs.values()], [])
    turns = any(value.array is None for value in operation.operands)
    if turns or equation.effects:
        operation.results = [_Value() for _ in equation.outvars]
        loop.append(operation)
        return operation.results
    arrays = operation.compute(*(value.array for value in operation.operands))
    operation.results = [_held(array) for array in arrays]
    held, name = sum(value.held for value in operation.operands), equation.primitive.name
    for result in operation.results:
        if (name in _TURNING and held <= result.held) or (
            name in _SPREADING and held < result.held
        ):
            result.held, result.maker = held, operation
    return operation.results


def _held(array: Any) -> _Value:
    return _Value(array, array.size * array.dtype.itemsize)


def _read(value: _Value, arrays: dict[_Value, Any]) -> Any:
    """A value's array in an iteration; ``arrays`` holds those that are known."""
    if value in arrays:
        return arrays[value]
    if value.maker is not None:
        _compute(value.maker, arrays)
        return arrays[value]
    return value.array


def _compute(operation: _Operation, arrays: dict[_Value, Any]) -> None:
    done = operation.compute(*(_read(value, arrays) for value in operation.operands))
    arrays |= zip(operation.results, done, strict=True)
