"""PyTorch's side of the comparison: the variants that a good engineer would try, and commands."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks import memory, peak, solver, work
from benchmarks.torch_layers import Flavour
from benchmarks.torch_models import make_network

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
    "compile, split, channels_last, reduce-overhead": Variant(
        SPLIT_LAST, True, "networks", "reduce-overhead"
    ),
    "compile, split, channels_last, max-autotune": Variant(
        SPLIT_LAST, True, "networks", "max-autotune"
    ),
}
QUICK = (*EAGER, "compile, split, channels_last", "compile, one graph, split, channels_last")


class Progress(NamedTuple):
    """What a step returns: the images, and of each model the loss and the weight, both [B,J]."""

    images: Tensor
    losses: Tensor
    weights: Tensor


class Attack:
    """CDMAA with the default options on fixed networks, photos and conditions."""

    def __init__(self, networks: Sequence[Any], variant: Variant, clean: Tensor, autocast: Any):
        self._networks, self._variant, self._autocast = list(networks), variant, autocast
        self._layout = _layout(variant)
        self._clean = clean.contiguous(memory_format=self._layout)
        self._faces = solver.faces(len(self._networks)).to(clean.device)
        self._references: list[Tensor] = []
        self._step = self._make_step()

    def init(self) -> None:
        """The outputs for the clean photos."""
        with torch.no_grad():
            self._references = [self._outputs(n, self._clean) for n in self._networks]

    def run(self, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """The images after T steps, and losses and weights [T,B,J]."""
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
            found = [
                torch.func.grad(lambda y, i=i: total(i, y), has_aux=True)(x)
                for i in range(len(self._networks))
            ]
            return self._update(x, [loss for _, loss in found], [g for g, _ in found])

        compiled = _compiler(self._variant.mode)(whole)

        def step(x: Tensor) -> Progress:
            with torch.no_grad(), _freezing():
                return compiled(x)

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
    return lambda function: torch.compile(function, fullgraph=True, dynamic=False, mode=mode)


@contextlib.contextmanager
def _freezing() -> Iterator[None]:
    import torch._inductor.config as config

    before, config.freezing = config.freezing, True
    try:
        yield
    finally:
        config.freezing = before


def _layout(variant: Variant) -> torch.memory_format:
    return torch.channels_last if variant.channels_last else torch.contiguous_format


class Side:
    """Holds the networks and attacks of one piece of work; each public method is a command."""

    def open(self, folder: str, precision: str = "float32") -> dict[str, Any]:
        """Sets PyTorch up; tells what it runs on and the variants that apply there."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._precision = precision
        torch.backends.cuda.matmul.allow_tf32 = precision != "float32"
        torch.backends.cudnn.allow_tf32 = precision != "float32"
        self._work, self._inputs = work.read(folder), work.read_inputs(folder)
        self._networks: dict[tuple[int, Flavour, bool], Any] = {}
        self._attacks: dict[tuple[str, ...], Attack] = {}
        gpu = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if gpu else "cpu",
            "platform": self._device.type,
            "threads": torch.get_num_threads(),
            "compiler": gpu or bool(cpp_compiler()),
            "eager": list(EAGER),
            "compiled": [*COMPILED, *(GPU_ONLY if gpu else ())],
            "quick": list(QUICK),
        }

    def run(self, models: Sequence[str], steps: int, variant: str) -> dict[str, Any]:
        """One attack, timed: the first call with its arguments compiles what it compiles."""
        attack = self._attack(tuple(models), variant)
        start = self._images("start")
        self._wait()
        begin = time.perf_counter()
        attack.init()
        self._wait()
        middle = time.perf_counter()
        _, losses, weights = attack.run(start, steps)
        self._wait()
        end = time.perf_counter()
        return {
            "init": middle - begin,
            "steps": end - middle,
            "losses": losses.tolist(),
            "weights": weights.tolist(),
        }

    def forget(self, variant: str) -> None:
        """Frees what a variant that is not run any more holds, but for its compiled code."""
        gone = {**EAGER, **COMPILED, **GPU_ONLY}[variant]
        self._attacks = {k: a for k, a in self._attacks.items() if k[0] != variant}
        kept = [_key(0, a._variant)[1:] for a in self._attacks.values()]
        if _key(0, gone)[1:] not in kept:
            drop = [key for key in self._networks if key[1:] == _key(0, gone)[1:]]
            for key in drop:
                del self._networks[key]

    def solve(self, models: int, repeats: int = 50) -> float:
        """Seconds that the min-norm solver takes per step, Gram matrix included, eager."""
        images = self._images("images")
        gradients = torch.randn(len(images), models, *images.shape[1:], device=self._device)
        used = solver.faces(models).to(self._device)
        solver.min_norm_weights(gradients, used)
        self._wait()
        begin = time.perf_counter()
        for _ in range(repeats):
            solver.min_norm_weights(gradients, used)
        self._wait()
        return (time.perf_counter() - begin) / repeats

    def matmul(self) -> float:
        """The best FLOP per second of a large matrix product."""
        return peak.torch_rate(self._precision, self._device)

    def memory(self) -> dict[str, Any]:
        """Peak bytes of this process, and of the device if there is one."""
        gpu = self._device.type == "cuda"
        device = torch.cuda.max_memory_allocated() if gpu else None
        return {"process": memory.peak_bytes(), "device": device}

    def _attack(self, models: tuple[str, ...], name: str) -> Attack:
        if (name, *models) not in self._attacks:
            variant = {**EAGER, **COMPILED, **GPU_ONLY}[name]
            networks = [self._network(place, variant) for place in self._work.of(models)]
            attack = Attack(networks, variant, self._images("images"), self._autocast)
            self._attacks[name, *models] = attack
        return self._attacks[name, *models]

    def _network(self, place: int, variant: Variant) -> Any:
        key = _key(place, variant)
        if key not in self._networks:
            model = self._work.models[place]
            conditions = torch.from_numpy(self._inputs[f"conditions{place}"])
            state = load_file(model.state)
            network: Any = make_network(
                model.arch, model.config, state, conditions, self._work.size, variant.flavour
            )
            network = network.to(self._device, memory_format=_layout(variant))
            self._networks[key] = network
        return self._networks[key]

    def _images(self, name: str) -> Tensor:
        return torch.from_numpy(self._inputs[name]).permute(0, 3, 1, 2).to(self._device)

    def _autocast(self) -> Any:
        if self._precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _key(place: int, variant: Variant) -> tuple[int, Flavour, bool]:
    return place, variant.flavour, variant.channels_last


def cpp_compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would use on a CPU, None if there is none."""
    from torch._inductor import cpp_builder, exc

    try:
        found = cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return None
    return shutil.which(found)
