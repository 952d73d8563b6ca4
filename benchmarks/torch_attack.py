"""CDMAA in PyTorch, and the variants in which a good engineer would try to run it."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import solver
from benchmarks.torch_layers import Flavour

EPSILON, STEP_SIZE, ZETA = 0.05, 0.01, 1e-8


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run the attack in PyTorch.

    Attributes:
      flavour: how the networks are written.
      channels_last: the memory layout of weights and images.
      compiled: "" for eager; "networks" for ``torch.compile`` of each network's loss and of the
        update; "step" for one graph of the whole step, gradients by ``torch.func``, with the
        weights frozen into it.
      mode: ``torch.compile``'s mode.
    """

    flavour: Flavour
    channels_last: bool
    compiled: str = ""
    mode: str = "default"


JOINED, SPLIT = Flavour(), Flavour(split=True)
JOINED_LAST = Flavour(native_norm=False)
SPLIT_LAST = Flavour(split=True, native_norm=False)
EAGER = {
    "eager": Variant(JOINED, False),
    "eager, channels_last": Variant(JOINED_LAST, True),
    "eager, split": Variant(SPLIT, False),
    "eager, split, channels_last": Variant(SPLIT_LAST, True),
}
COMPILED = {
    "compile, split, channels_last": Variant(SPLIT_LAST, True, "networks"),
    "compile, one graph, split, channels_last": Variant(SPLIT_LAST, True, "step"),
    "compile": Variant(JOINED, False, "networks"),
    "compile, split": Variant(SPLIT, False, "networks"),
}
GPU_ONLY = {
    "compile, one graph, split, channels_last, reduce-overhead": Variant(
        SPLIT_LAST, True, "step", "reduce-overhead"
    ),
    "compile, split, channels_last, reduce-overhead": Variant(
        SPLIT_LAST, True, "networks", "reduce-overhead"
    ),
    "compile, split, channels_last, max-autotune": Variant(
        SPLIT_LAST, True, "networks", "max-autotune"
    ),
}
_EAGER_SPLIT = tuple(name for name, variant in EAGER.items() if variant.flavour.split)
QUICK = (
    *_EAGER_SPLIT, "compile, split, channels_last", "compile, one graph, split, channels_last"
)  # fmt: skip
QUICK_ON_GPU = (*_EAGER_SPLIT, *list(GPU_ONLY)[:2], "compile, split, channels_last")
"""The last needs no CUDA graph, in case a PyTorch cannot record one of these steps."""


class Progress(NamedTuple):
    """What a step returns: the images, and the loss and the weight of each model, both [B,J]."""

    images: Tensor
    losses: Tensor
    weights: Tensor


class Attack:
    """CDMAA with the default options on fixed networks, photos and conditions."""

    def __init__(self, networks: Sequence[Any], variant: Variant, clean: Tensor, autocast: Any):
        self._networks, self._variant, self._autocast = list(networks), variant, autocast
        self._layout = layout(variant)
        self._clean = clean.contiguous(memory_format=self._layout)
        self._faces = solver.faces(len(self._networks)).to(clean.device)
        self._references: list[Tensor] = []
        self._step = self._make_step()

    def init(self) -> None:
        """The outputs for the clean photos."""
        with torch.no_grad():
            self._references = [self._outputs(n, self._clean) for n in self._networks]

    def run(self, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images after T steps, and the losses and weights [T,B,J]."""
        x, losses, weights = start.contiguous(memory_format=self._layout), [], []
        for _ in range(steps):
            x, loss, weight = self._step(x)
            losses.append(loss)
            weights.append(weight)
        return x, torch.stack(losses), torch.stack(weights)

    def _outputs(self, network: Any, x: Tensor) -> Tensor:
        with self._autocast():
            return network(x).float()

    def _loss(self, index: int, x: Tensor) -> Tensor:
        """The loss [B] of a model, the mean over its domains."""
        outputs = self._outputs(self._networks[index], x)
        return ((outputs - self._references[index]) ** 2).reshape(len(x), -1).mean(1)

    def _update(self, x: Tensor, losses: list[Tensor], gradients: list[Tensor]) -> Progress:
        loss = torch.stack(losses, 1)
        scaled = torch.stack(gradients, 1) * loss.clamp(min=ZETA)[:, :, None, None, None]
        weights = solver.min_norm_weights(scaled, self._faces)
        direction = (weights[:, :, None, None, None] * scaled).sum(1)
        x = x + STEP_SIZE * direction.sign()
        x = torch.clamp(x, self._clean - EPSILON, self._clean + EPSILON).clamp(-1, 1)
        return Progress(x, loss, weights)

    def _make_step(self) -> Callable[[Tensor], Progress]:
        if self._variant.compiled == "step":
            return self._one_graph()
        parts = [_Loss(self, i) for i in range(len(self._networks))]
        update: Callable[..., Progress] = self._update
        if self._variant.compiled:
            compiler = _compiler(self._variant.mode)
            parts, update = [compiler(part) for part in parts], compiler(update)

        def step(x: Tensor) -> Progress:
            if self._variant.compiled:
                torch.compiler.cudagraph_mark_step_begin()
            found = [_value_and_gradient(part, x) for part in parts]
            with torch.no_grad():
                return Progress(*(t.clone() for t in update(x, *map(list, zip(*found)))))  # noqa: B905

        return step

    def _one_graph(self) -> Callable[[Tensor], Progress]:
        def total(index: int, x: Tensor) -> tuple[Tensor, Tensor]:
            loss = self._loss(index, x)
            return loss.sum(), loss

        def whole(x: Tensor) -> Progress:
            # Read while gradients are off: a weight first read within ``grad`` would be an input
            # of the graph, and freezing leaves inputs alone.
            _ = [
                tensor
                for network in self._networks
                for tensor in (*network.parameters(), *network.buffers())
            ]
            found = [
                torch.func.grad(lambda y, i=i: total(i, y), has_aux=True)(x)
                for i in range(len(self._networks))
            ]
            return self._update(x, [loss for _, loss in found], [g for g, _ in found])

        compiled = _compiler(self._variant.mode)(whole)

        def step(x: Tensor) -> Progress:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad(), _freezing():
                return Progress(*(t.clone() for t in compiled(x)))

        return step


class _Loss:
    """The loss of one model as a function of the images."""

    def __init__(self, attack: Attack, index: int):
        self._attack, self._index = attack, index

    def __call__(self, x: Tensor) -> Tensor:
        return self._attack._loss(self._index, x)


def _value_and_gradient(loss_of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    loss = loss_of(x)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def _compiler(mode: str) -> Callable[[Any], Any]:
    """``torch.compile`` for a function with fixed shapes.

    All losses are instances of one class, whose compilations PyTorch counts together: without
    isolation, or a higher limit in versions without it, PyTorch would refuse the ninth, whichever
    the variant.
    """
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True
    else:
        import torch._dynamo.config as config

        config.recompile_limit = 64
    return lambda function: torch.compile(function, mode=mode, **options)


@contextlib.contextmanager
def _freezing() -> Iterator[None]:
    import torch._inductor.config as config

    before, config.freezing = config.freezing, True
    try:
        yield
    finally:
        config.freezing = before


def layout(variant: Variant) -> torch.memory_format:
    """The memory layout of a variant's weights and images."""
    return torch.channels_last if variant.channels_last else torch.contiguous_format
