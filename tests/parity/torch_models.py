"""The six generators in PyTorch, with the state-dict keys of the official code, for comparison.

Written for these tests, with every option of the official modules in one place. Layout NCHW.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


def planes(c: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Labels [B,n] as constant planes with the height and width of ``like`` [B,C,H,W]."""
    return c[:, :, None, None].expand(-1, -1, *like.shape[2:])


def _instance_norm(features: int) -> nn.Module:
    return nn.InstanceNorm2d(features, affine=True, track_running_stats=True)


class _StarBlock(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(features, features, 3, 1, 1, bias=False),
            _instance_norm(features),
            nn.ReLU(),
            nn.Conv2d(features, features, 3, 1, 1, bias=False),
            _instance_norm(features),
        )

    def forward(self, x):
        return x + self.main(x)


class StarGAN(nn.Module):
    """Keys ``main.*``. The official code never leaves training mode, so neither does this."""

    def __init__(self, config):
        super().__init__()
        w, n = config.width, len(config.attributes)

        def stage(conv, features):
            return [conv, _instance_norm(features), nn.ReLU()]

        stages = stage(nn.Conv2d(3 + n, w, 7, 1, 3, bias=False), w)
        for f in (2 * w, 4 * w):
            stages += stage(nn.Conv2d(f // 2, f, 4, 2, 1, bias=False), f)
        stages += [_StarBlock(4 * w) for _ in range(config.blocks)]
        for f in (2 * w, w):
            stages += stage(nn.ConvTranspose2d(2 * f, f, 4, 2, 1, bias=False), f)
        stages += [nn.Conv2d(w, 3, 7, 1, 3, bias=False), nn.Tanh()]
        self.main = nn.Sequential(*stages)

    def train(self, mode: bool = True):
        return super().train(True)

    def forward(self, x, c):
        return self.main(torch.cat([x, planes(c, x)], 1))


class _AttBlock(nn.Module):
    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class AttGAN(nn.Module):
    """Keys ``enc_layers.*`` and ``dec_layers.*``."""

    def __init__(self, config):
        super().__init__()
        self.config, n, depth = config, len(config.attributes), config.decoder_layers
        widths = [min(config.encoder_width * 2**i, 1024) for i in range(depth)]
        self.enc_layers = nn.ModuleList(
            _AttBlock(nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.01))
            for i, o in zip([3, *widths], widths, strict=False)
        )
        self.dec_layers = nn.ModuleList()
        inputs = widths[-1] + n
        for i in range(depth - 1):
            o = min(config.decoder_width * 2 ** (depth - 1 - i), 1024)
            conv = nn.ConvTranspose2d(inputs, o, 4, 2, 1, bias=False)
            self.dec_layers.append(_AttBlock(conv, nn.BatchNorm2d(o), nn.ReLU()))
            inputs = o + (widths[depth - 2 - i] if i < config.shortcut_layers else 0)
            inputs += n if i < config.inject_layers else 0
        self.dec_layers.append(_AttBlock(nn.ConvTranspose2d(inputs, 3, 4, 2, 1), nn.Tanh()))

    def forward(self, x, c):
        levels = []
        for layer in self.enc_layers:
            x = layer(x)
            levels.append(x)
        x = torch.cat([x, planes(c, x)], 1)
        for i, layer in enumerate(self.dec_layers):
            x = layer(x)
            if i < self.config.shortcut_layers:
                x = torch.cat([x, levels[len(levels) - 2 - i]], 1)
            if i < self.config.inject_layers:
                x = torch.cat([x, planes(c, x)], 1)
        return x


def _gate(features: int, size: int, activation: nn.Module) -> nn.Module:
    conv = nn.Conv2d(2 * features, features, size, 1, (size - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features), activation)


class _TransferUnit(nn.Module):
    def __init__(self, features: int, n: int, size: int):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(2 * features + n, features, 4, 2, 1, bias=False)
        self.reset_gate = _gate(features, size, nn.Sigmoid())
        self.update_gate = _gate(features, size, nn.Sigmoid())
        self.hidden = _gate(features, size, nn.Tanh())

    def forward(self, x, state, c):
        hat = self.upsample(torch.cat([state, planes(c, state)], 1))
        both = torch.cat([x, hat], 1)
        z, state = self.update_gate(both), self.reset_gate(both) * hat
        return (1 - z) * hat + z * self.hidden(torch.cat([x, state], 1)), state


class STGAN(nn.Module):
    """Keys ``encoder.*``, ``decoder.*`` and ``stu.*``."""

    def __init__(self, config):
        super().__init__()
        self.config, n, w, depth = config, len(config.attributes), config.width, config.layers
        f = [w * 2**i for i in range(depth)]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 4, 2, 1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.2)
            )
            for i, o in zip([3, *f], f, strict=False)
        )
        units = config.shortcut_layers if config.use_stu else 0
        self.stu = nn.ModuleList(
            _TransferUnit(f[depth - 2 - i], n, config.stu_kernel_size) for i in range(units)
        )
        inputs = [f[-1] + n]
        for i in range(1, depth):
            joined = f[depth - 1 - i] if i <= config.shortcut_layers else 0
            inputs.append(f[depth - i] + joined)
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(inputs[i], f[depth - 1 - i], 4, 2, 1, bias=False),
                nn.BatchNorm2d(f[depth - 1 - i]),
                nn.ReLU(),
            )
            for i in range(depth - 1)
        )
        head = [nn.ConvTranspose2d(inputs[-1], 3, 4, 2, 1, bias=False), nn.Tanh()]
        if config.one_more_conv:
            head = [
                nn.ConvTranspose2d(inputs[-1], w // 4, 4, 2, 1, bias=False),
                nn.BatchNorm2d(w // 4),
                nn.ReLU(),
                nn.ConvTranspose2d(w // 4, 3, 3, 1, 1, bias=False),
                nn.Tanh(),
            ]
        self.decoder.append(nn.Sequential(*head))

    def forward(self, x, c):
        levels = []
        for layer in self.encoder:
            x = layer(x)
            levels.append(x)
        state = x
        x = self.decoder[0](torch.cat([x, planes(c, x)], 1))
        for i, layer in enumerate(self.decoder[1:], start=1):
            if i <= self.config.shortcut_layers:
                shortcut = levels[-1 - i]
                if self.config.use_stu:
                    shortcut, state = self.stu[i - 1](shortcut, state, c)
                x = torch.cat([x, shortcut], 1)
            x = layer(x)
        return x


def _standardize(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Standardizes with the unbiased variance."""
    return (x - x.mean(axes, True)) / torch.sqrt(x.var(axes, keepdim=True) + 1e-5)


class AdaptiveLayerInstanceNorm(nn.Module):
    """Key ``rho``; scale and bias are [B,C]."""

    def __init__(self, features: int):
        super().__init__()
        self.rho = nn.Parameter(torch.full((1, features, 1, 1), 0.9))

    def forward(self, x, scale, bias):
        x = self.rho * _standardize(x, (2, 3)) + (1 - self.rho) * _standardize(x, (1, 2, 3))
        return x * scale[:, :, None, None] + bias[:, :, None, None]


class LayerInstanceNorm(AdaptiveLayerInstanceNorm):
    """Keys ``rho``, ``gamma`` and ``beta``."""

    def __init__(self, features: int):
        super().__init__(features)
        self.gamma = nn.Parameter(torch.ones(1, features, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, features, 1, 1))

    def forward(self, x):
        return super().forward(x, self.gamma[:, :, 0, 0], self.beta[:, :, 0, 0])


def _reflected(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, size, stride, bias=False)
    return [nn.ReflectionPad2d(size // 2), conv]


class _UgatBlock(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.conv_block = nn.Sequential(
            *_reflected(features, features, 3),
            nn.InstanceNorm2d(features),
            nn.ReLU(),
            *_reflected(features, features, 3),
            nn.InstanceNorm2d(features),
        )

    def forward(self, x):
        return x + self.conv_block(x)


class _AdaptiveBlock(nn.Module):
    def __init__(self, features: int):
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv1 = nn.Conv2d(features, features, 3, bias=False)
        self.norm1 = AdaptiveLayerInstanceNorm(features)
        self.conv2 = nn.Conv2d(features, features, 3, bias=False)
        self.norm2 = AdaptiveLayerInstanceNorm(features)

    def forward(self, x, scale, bias):
        y = F.relu(self.norm1(self.conv1(self.pad(x)), scale, bias))
        return x + self.norm2(self.conv2(self.pad(y)), scale, bias)


class UGATIT(nn.Module):
    """Keys ``DownBlock.*``, ``gap_fc``, ``FC.*``, ``UpBlock1_*.*`` and ``UpBlock2.*``."""

    def __init__(self, config):
        super().__init__()
        self.config, w, f = config, config.width, 4 * config.width
        down = [*_reflected(3, w, 7), nn.InstanceNorm2d(w), nn.ReLU()]
        for o in (2 * w, f):
            down += [*_reflected(o // 2, o, 3, 2), nn.InstanceNorm2d(o), nn.ReLU()]
        self.DownBlock = nn.Sequential(*down, *(_UgatBlock(f) for _ in range(config.blocks)))
        self.gap_fc = nn.Linear(f, 1, bias=False)
        self.gmp_fc = nn.Linear(f, 1, bias=False)
        self.conv1x1 = nn.Conv2d(2 * f, f, 1)
        flat = f if config.light else f * (config.image_size // 4) ** 2
        self.FC = nn.Sequential(
            nn.Linear(flat, f, bias=False), nn.ReLU(), nn.Linear(f, f, bias=False), nn.ReLU()
        )
        self.gamma = nn.Linear(f, f, bias=False)
        self.beta = nn.Linear(f, f, bias=False)
        for i in range(config.blocks):
            setattr(self, f"UpBlock1_{i + 1}", _AdaptiveBlock(f))
        up: list[nn.Module] = []
        for i in (f, 2 * w):
            up += [nn.Upsample(scale_factor=2), *_reflected(i, i // 2, 3)]
            up += [LayerInstanceNorm(i // 2), nn.ReLU()]
        self.UpBlock2 = nn.Sequential(*up, *_reflected(w, 3, 7), nn.Tanh())

    def forward(self, x, c=None):
        x = self.DownBlock(x)
        x = torch.cat([x * fc.weight[:, :, None, None] for fc in (self.gap_fc, self.gmp_fc)], 1)
        x = F.relu(self.conv1x1(x))
        y = self.FC(x.mean((2, 3)) if self.config.light else x.flatten(1))
        scale, bias = self.gamma(y), self.beta(y)
        for i in range(self.config.blocks):
            x = getattr(self, f"UpBlock1_{i + 1}")(x, scale, bias)
        return self.UpBlock2(x)


class _BatchNorm(nn.BatchNorm2d):
    """Stays in training mode, as in the authors' test, if ``statistics`` are per instance.

    A momentum of zero leaves the running statistics as they are.
    """

    def __init__(self, features: int, statistics: str):
        super().__init__(features, momentum=0.0)
        self.statistics = statistics

    def train(self, mode: bool = True):
        return super().train(mode or self.statistics == "instance")


def _norm(config, features: int) -> nn.Module:
    if config.norm == "batch":
        return _BatchNorm(features, config.statistics)
    return nn.InstanceNorm2d(features) if config.norm == "instance" else nn.Identity()


class _OneByOne(nn.Module):
    """Applies ``model`` to each image separately, as the authors' test does."""

    model: nn.Module

    def forward(self, x, c=None):
        return torch.cat([self.model(image) for image in x.split(1)])


class _CycleBlock(nn.Module):
    def __init__(self, features: int, config):
        super().__init__()
        pads = {"reflect": [nn.ReflectionPad2d(1)], "replicate": [nn.ReplicationPad2d(1)]}

        def stage() -> list[nn.Module]:
            pad, bias = pads.get(config.padding, []), config.norm == "instance"
            conv = nn.Conv2d(features, features, 3, padding=int(not pad), bias=bias)
            return [*pad, conv, _norm(config, features)]

        dropout = [nn.Dropout(0.5)] if config.dropout else []
        self.conv_block = nn.Sequential(*stage(), nn.ReLU(True), *dropout, *stage())

    def forward(self, x):
        return x + self.conv_block(x)


class CycleGAN(_OneByOne):
    """Keys ``model.*``."""

    def __init__(self, config):
        super().__init__()
        w, bias = config.width, config.norm == "instance"

        def stage(conv: nn.Module, features: int) -> list[nn.Module]:
            return [conv, _norm(config, features), nn.ReLU(True)]

        stages = [nn.ReflectionPad2d(3), *stage(nn.Conv2d(3, w, 7, bias=bias), w)]
        for f in (2 * w, 4 * w):
            stages += stage(nn.Conv2d(f // 2, f, 3, 2, 1, bias=bias), f)
        stages += [_CycleBlock(4 * w, config) for _ in range(config.blocks)]
        for f in (2 * w, w):
            stages += stage(nn.ConvTranspose2d(2 * f, f, 3, 2, 1, output_padding=1, bias=bias), f)
        stages += [nn.ReflectionPad2d(3), nn.Conv2d(w, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*stages)


class _UnetLevel(nn.Module):
    """A level and all those inside it; the first activation works in place on the skip's input."""

    def __init__(self, config, level: int = 0):
        super().__init__()
        self.level, deepest, bias = level, config.layers - 1, config.norm == "instance"
        outer, inner = ((3, *config.features)[level], config.features[level])
        down = [nn.LeakyReLU(0.2, inplace=True)] if level else []
        down.append(nn.Conv2d(outer, inner, 4, 2, 1, bias=bias))
        if 0 < level < deepest:
            down.append(_norm(config, inner))
        inside = [_UnetLevel(config, level + 1)] if level < deepest else []
        joined = (1 + len(inside)) * inner
        up = nn.ConvTranspose2d(joined, outer, 4, 2, 1, bias=bias or not level)
        tail = [_norm(config, outer)] if level else [nn.Tanh()]
        tail += [nn.Dropout(0.5)] if 4 <= level < deepest else []
        self.model = nn.Sequential(*down, *inside, nn.ReLU(True), up, *tail)

    def forward(self, x):
        y = self.model(x)  # changes x
        return torch.cat([x, y], 1) if self.level else y


class Pix2Pix(_OneByOne):
    """Keys ``model.model.*``, a level inside a level."""

    def __init__(self, config):
        super().__init__()
        self.model = _UnetLevel(config)


MODELS = {
    "stargan": StarGAN,
    "attgan": AttGAN,
    "stgan": STGAN,
    "ugatit": UGATIT,
    "cyclegan": CycleGAN,
    "pix2pix": Pix2Pix,
}


def random_model(arch: str, config, seed: int = 0, dtype=torch.float32) -> nn.Module:
    """A module in evaluation mode; weights, affine parameters and running statistics are random.

    Every tensor is drawn in float32, so that any ``dtype`` holds the values the converter reads.
    """
    generator = torch.Generator().manual_seed(seed)
    model = MODELS[arch](config).eval().requires_grad_(False)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(_draw(name, tensor, generator))
    return model.to(dtype)


def _draw(name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=generator)
    if name.endswith("running_var"):
        return 0.5 + noise.abs()
    if name.endswith("rho"):
        return torch.rand(tensor.shape, generator=generator)
    if tensor.dim() == 1 or name.endswith(("gamma", "beta")):
        return name.endswith(("weight", "gamma")) + 0.2 * noise
    fan = tensor[0].numel()
    return noise * (2 / fan) ** 0.5
