"""Network families in miniature, as torch modules: what people deploy, seeded, a few channels wide.

Every entry of :data:`ARCHITECTURES` is a function without arguments that returns a module in
evaluation mode whose batch statistics come from random data, and its example inputs (batch 1, NCHW).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, tuple[Tensor, ...]]
ARCHITECTURES: dict[str, Callable[[], Made]] = {}


def arch(*shapes: tuple[int, ...]) -> Callable[[Callable[[], nn.Module]], Callable[[], Made]]:
    """Register a function that builds a module; ``shapes`` are its inputs without the batch."""

    def wrap(build: Callable[[], nn.Module]) -> Callable[[], Made]:
        def made() -> Made:
            torch.manual_seed(len(build.__name__) * 7919 + sum(map(ord, build.__name__)))
            module = build()
            settle(module, shapes)
            return module, tuple(torch.randn(1, *s) for s in shapes)

        ARCHITECTURES[build.__name__] = made
        return made

    return wrap


def settle(module: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> None:
    """Random affine parameters for the normalizations, and batch statistics from random data."""
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.uniform_(m.weight, 0.6, 1.4)
            nn.init.uniform_(m.bias, -0.3, 0.3)
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.momentum = 0.5
    module.train()
    with torch.no_grad():
        for _ in range(4):
            module(*(torch.randn(8, *s) for s in shapes))
    module.eval()


def conv_bn(
    cin: int, cout: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    parts = [nn.Conv2d(cin, cout, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*parts, *([] if act is None else [act()]))


def head(cin: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, classes))


# -- mobile ----------------------------------------------------------------------------------------


class SqueezeExcite(nn.Module):
    def __init__(self, c: int, gate: type[nn.Module], act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(c, max(2, c // 4), 1), nn.Conv2d(max(2, c // 4), c, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.up(self.act(self.down(s))))


class Inverted(nn.Module):
    def __init__(
        self,
        cin: int,
        cout: int,
        s: int,
        k: int = 3,
        expand: int = 3,
        act: type[nn.Module] = nn.ReLU6,
        gate: type[nn.Module] | None = None,
    ) -> None:
        super().__init__()
        mid = cin * expand
        self.body = nn.Sequential(
            conv_bn(cin, mid, 1, act=act),
            conv_bn(mid, mid, k, s, mid, act=act),
            *([] if gate is None else [SqueezeExcite(mid, gate)]),
            conv_bn(mid, cout, 1, act=None),
        )
        self.residual = s == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


@arch((3, 32, 32))
def mobilenet_v1() -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, 8, 3, 2)]
    for cin, cout, s in ((8, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2)):
        layers += [conv_bn(cin, cin, 3, s, cin), conv_bn(cin, cout, 1)]
    return nn.Sequential(*layers, head(40), nn.Softmax(-1))


@arch((3, 32, 32))
def mobilenet_v2() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=nn.ReLU6),
        Inverted(8, 12, 2),
        Inverted(12, 12, 1),
        Inverted(12, 20, 2, 5),
        Inverted(20, 20, 1),
        head(20),
    )


@arch((3, 32, 32))
def mobilenet_v3() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=nn.Hardswish),
        Inverted(8, 12, 2, 3, 2, nn.ReLU, nn.Sigmoid),
        Inverted(12, 12, 1, 5, 3, nn.Hardswish, nn.Hardsigmoid),
        Inverted(12, 16, 2, 5, 3, nn.Hardswish, nn.Hardsigmoid),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(16, 24, 1),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


@arch((3, 32, 32))
def efficientnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2, act=nn.SiLU),
        Inverted(8, 12, 2, 3, 2, nn.SiLU, nn.Sigmoid),
        Inverted(12, 12, 1, 5, 2, nn.SiLU, nn.Sigmoid),
        conv_bn(12, 24, 1, act=nn.SiLU),
        head(24),
    )


class ChannelShuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2)
        return x.reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """ShuffleNetV2: split, transform one half, concatenate, shuffle."""

    def __init__(self, c: int) -> None:
        super().__init__()
        h = c // 2
        self.body = nn.Sequential(
            conv_bn(h, h, 1), conv_bn(h, h, 3, 1, h, act=None), conv_bn(h, h, 1)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return self.shuffle(torch.cat((a, self.body(b)), 1))


@arch((3, 24, 24))
def shufflenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 12, 3, 2),
        nn.MaxPool2d(3, 2, 1),
        conv_bn(12, 24, 1, 1, 3),
        ChannelShuffle(3),
        conv_bn(24, 24, 3, 1, 24, act=None),
        conv_bn(24, 24, 1, 1, 3),
        ShuffleUnit(24),
        ShuffleUnit(24),
        head(24),
    )


# -- residual, dense, branching --------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, cin: int, cout: int, s: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(cin, cout, 3, s), conv_bn(cout, cout, 3, act=None))
        self.skip = conv_bn(cin, cout, 1, s, act=None) if s > 1 or cin != cout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


@arch((3, 48, 48))
def resnet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 7, 2),
        nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1),
        Residual(8, 16, 2),
        Residual(16, 16, 1),
        head(16),
    )


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(cin)
        self.conv = nn.Conv2d(cin, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(F.relu(self.norm(x)))), 1)


@arch((3, 24, 24))
def densenet() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2),
        DenseLayer(8, 5),
        DenseLayer(13, 5),
        DenseLayer(18, 5),
        conv_bn(23, 12, 1),
        nn.AvgPool2d(2),
        DenseLayer(12, 7),
        DenseLayer(19, 7),
        nn.BatchNorm2d(26),
        nn.ReLU(),
        head(26),
    )


class InceptionBlock(nn.Module):
    def __init__(self, cin: int) -> None:
        super().__init__()
        self.a = conv_bn(cin, 6, 1)
        self.b = nn.Sequential(conv_bn(cin, 5, 1), conv_bn(5, 7, 3))
        self.c = nn.Sequential(conv_bn(cin, 4, 1), conv_bn(4, 4, 5))
        self.d = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(cin, 3, 1))
        self.e = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv_bn(cin, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([m(x) for m in (self.a, self.b, self.c, self.d, self.e)], 1)


@arch((3, 20, 20))
def inception() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8, 3, 2), InceptionBlock(8), InceptionBlock(23), head(23))


# -- dense prediction ------------------------------------------------------------------------------


class UNet(nn.Module):
    def __init__(self, up: Callable[[int, int], nn.Module], classes: int = 3) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = conv_bn(3, 6), conv_bn(6, 10), conv_bn(10, 14)
        self.up2, self.up1 = up(14, 10), up(10, 6)
        self.u2, self.u1 = conv_bn(20, 10), conv_bn(12, 6)
        self.out = nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        m = self.mid(F.max_pool2d(b, 2))
        y = self.u2(torch.cat((self.up2(m), b), 1))
        return self.out(self.u1(torch.cat((self.up1(y), a), 1)))


@arch((3, 16, 16))
def unet_transposed() -> nn.Module:
    return UNet(lambda i, o: nn.ConvTranspose2d(i, o, 2, 2))


@arch((3, 16, 16))
def unet_transposed_overlap() -> nn.Module:
    return UNet(lambda i, o: nn.ConvTranspose2d(i, o, 3, 2, padding=1, output_padding=1))


@arch((3, 16, 16))
def unet_bilinear() -> nn.Module:
    return UNet(
        lambda i, o: nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Conv2d(i, o, 1)
        )
    )


@arch((3, 16, 16))
def unet_bilinear_corners() -> nn.Module:
    return UNet(
        lambda i, o: nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(i, o, 1)
        )
    )


@arch((3, 16, 16))
def unet_nearest() -> nn.Module:
    return UNet(lambda i, o: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(i, o, 1)))


class Aspp(nn.Module):
    def __init__(self, cin: int, c: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(cin, c, 1 if d == 0 else 3, padding=d, dilation=max(d, 1)) for d in (0, 2, 4)
        )
        self.pooled = nn.Conv2d(cin, c, 1)
        self.out = conv_bn(4 * c, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        p = F.relu(self.pooled(F.adaptive_avg_pool2d(x, 1)))
        p = F.interpolate(p, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.out(torch.cat([*(F.relu(m(x)) for m in self.convs), p], 1))


@arch((3, 24, 24))
def aspp() -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8, 3, 2), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8), Aspp(8, 5)
    )


@arch((3, 12, 12))
def pixel_shuffle() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))


@arch((2, 12, 12))
def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(2), conv_bn(8, 8), head(8))


class ArgMaxNet(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 8, 3, 2), nn.Conv2d(8, 4, 1))
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).argmax(self.dim)


@arch((3, 12, 12))
def segmentation_argmax() -> nn.Module:
    return ArgMaxNet(1)


class ClassArgMax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(3, 8, 3, 2), head(8, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).argmax(-1)


@arch((3, 12, 12))
def class_argmax() -> nn.Module:
    return ClassArgMax()


# -- audio, sequences, tables ----------------------------------------------------------------------


@arch((1, 49, 10))
def keyword_spotting() -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(1, 16, (10, 4), (2, 2), (5, 1), bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    for _ in range(3):
        layers += [conv_bn(16, 16, 3, 1, 16), conv_bn(16, 16, 1)]
    return nn.Sequential(*layers, nn.AvgPool2d((25, 5)), nn.Flatten(), nn.Linear(16, 12))


@arch((3, 64))
def conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(8, 8, 5, padding=4, dilation=2, groups=8),
        nn.Conv1d(8, 12, 1),
        nn.ReLU(),
        nn.AvgPool1d(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )


@arch((1, 5, 16))
def conv1d_over_time() -> nn.Module:
    """A recording as an image of height 1, squeezed to a sequence and back."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 6, (5, 3), padding=(0, 1))
            self.b = nn.Conv1d(6, 6, 3, padding=1)
            self.fc = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.a(x)).squeeze(2)
            y = F.relu(self.b(y)).unsqueeze(2)
            return self.fc(y.amax((2, 3)))

    return Net()


@arch((64,))
def autoencoder() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()]

    return nn.Sequential(*block(64, 32), *block(32, 8), *block(8, 32), nn.Linear(32, 64))


class Attention(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        return self.out((a @ v).transpose(1, 2).reshape(n, t, d))


class Encoder(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.n1, self.n2, self.att = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d, heads)
        self.mlp = nn.Sequential(nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.att(self.n1(x))
        return x + self.mlp(self.n2(x))


@arch((12, 16))
def transformer() -> nn.Module:
    return Encoder(16, 4)


@arch((12, 16))
def torch_encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.position = nn.Parameter(torch.randn(1, 16, 16) * 0.3)
        self.encoder, self.norm, self.fc = Encoder(16, 2), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.norm(self.encoder(x)).mean(1))


@arch((3, 16, 16))
def vision_transformer() -> nn.Module:
    return VisionTransformer()


# -- several inputs and outputs --------------------------------------------------------------------


class TwoImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8, 3, 2), conv_bn(1, 8, 3, 2)
        self.head = head(16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(torch.cat((self.a(x), self.b(y)), 1))


@arch((3, 16, 16), (1, 16, 16))
def two_images() -> nn.Module:
    return TwoImages()


class ImageAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = nn.Sequential(conv_bn(3, 8, 3, 2), head(8, 6)), nn.Linear(5, 6)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(torch.cat((self.image(x), torch.tanh(self.table(y))), 1))


@arch((3, 12, 12), (5,))
def image_and_table() -> nn.Module:
    return ImageAndTable()


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.classes = conv_bn(3, 8, 3, 2), nn.Conv2d(8, 4, 1), head(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(x)
        return self.boxes(y).permute(0, 2, 3, 1).reshape(y.shape[0], -1, 4), self.classes(
            y
        ).softmax(-1)


@arch((3, 16, 16))
def two_heads() -> nn.Module:
    return TwoHeads()


class FeaturePyramid(nn.Module):
    """Outputs at three scales, one of them read by the others."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8, 3, 2), conv_bn(8, 12, 3, 2)
        self.lat = nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a = self.a(x)
        b = self.b(a)
        return a, b, self.lat(a) + F.interpolate(b, scale_factor=2.0)


@arch((3, 16, 16))
def feature_pyramid() -> nn.Module:
    return FeaturePyramid()


# -- activations and odd corners -------------------------------------------------------------------


def activated(act: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, 2, 1), act(), nn.Conv2d(7, 5, 3, padding=1), act(), head(5, 4)
    )


for _name, _act in {
    "prelu": lambda: nn.PReLU(init=0.2),
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardsigmoid": nn.Hardsigmoid,
    "softsign": nn.Softsign,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "mish": nn.Mish,
    "selu": nn.SELU,
    "elu": nn.ELU,
}.items():

    def _build(act: Callable[[], nn.Module] = _act) -> nn.Module:
        return activated(act)

    _build.__name__ = f"act_{_name}"
    arch((3, 12, 12))(_build)


@arch((3, 12, 12))
def act_prelu_channels() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, 2, 1), nn.PReLU(7), nn.Conv2d(7, 5, 3), nn.PReLU(5), head(5, 4)
    )


@arch((5, 13, 11))
def odd_channels() -> nn.Module:
    return nn.Sequential(
        conv_bn(5, 7), conv_bn(7, 13, 3, 2), conv_bn(13, 13, 5, 1, 13), conv_bn(13, 3, 1), head(3)
    )


@arch((1, 1, 1))
def one_pixel() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1))


@arch((1,))
def one_number() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))


@arch((3, 10, 10))
def depth_multiplier() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1, groups=3), nn.ReLU(), nn.Conv2d(24, 48, 3, 2, groups=24), head(48)
    )


@arch((2, 24, 24))
def big_kernels() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 11, 4, 2), nn.ReLU(), nn.Conv2d(6, 6, 7, padding=3, groups=6), head(6)
    )


@arch((3, 21, 23))
def stride_over_kernel() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 2, 3), nn.ReLU(), nn.MaxPool2d(1, 2), nn.Conv2d(6, 5, 1, (1, 2)), head(5)
    )


@arch((3, 15, 17))
def asymmetric() -> nn.Module:
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 2, 0)),
        nn.Conv2d(3, 6, (1, 5), (2, 1)),
        nn.ReLU(),
        nn.Conv2d(6, 6, (5, 1), (1, 2), (2, 0)),
        nn.AvgPool2d(2, 2, ceil_mode=False),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


@arch((4, 9, 9))
def global_max() -> nn.Module:
    return nn.Sequential(conv_bn(4, 9), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(9, 3))


@arch((4, 8, 8))
def adaptive_pool() -> nn.Module:
    return nn.Sequential(
        conv_bn(4, 6), nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten(), nn.Linear(48, 3)
    )


class Permutes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc, self.fc2 = conv_bn(3, 6), nn.Linear(10, 10), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(self.a(x))  # a dense layer over the width
        y = y.permute(0, 3, 2, 1).contiguous()
        return self.fc2(y).unsqueeze(1).squeeze(1)[:, 1:9:2, :, 1:]


@arch((3, 8, 10))
def permutes() -> nn.Module:
    return Permutes()


class ConstantBranch(nn.Module):
    """One branch has no weights left, so that it says the same whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.c, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 4, 3)
        with torch.no_grad():
            self.b.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        b = F.relu(self.c(F.relu(self.b(x))))
        return self.out(torch.cat((F.relu(self.a(x)), b), 1))


@arch((3, 10, 10))
def constant_branch() -> nn.Module:
    return ConstantBranch()


class AddsAndScales(nn.Module):
    """Arithmetic with constants of every broadcast form, both operand orders."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.register_buffer("row", torch.randn(1, 1, 1, 8))
        self.register_buffer("map", torch.randn(1, 1, 8, 8))
        self.register_buffer("channel", torch.rand(1, 6, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x * 0.5 + 0.25))
        y = (1.0 - y) * self.channel + self.row
        y = torch.maximum(self.b(y) - self.map, torch.minimum(y, self.channel))
        return y.abs() / 3.0


@arch((3, 8, 8))
def adds_and_scales() -> nn.Module:
    return AddsAndScales()


class Normalized(nn.Module):
    """Reductions that feed broadcasts: subtract the mean, sum the squares."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y = y - y.mean((2, 3), keepdim=True)
        return (y * y).sum((2, 3))


@arch((3, 8, 8))
def reductions() -> nn.Module:
    return Normalized()


def prune_filters(module: nn.Module, share: float = 0.5) -> int:
    """Zero the given share of the filters of every convolution but the last two, biases kept; returns
    how many."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)][:-1]
    cut = 0
    with torch.no_grad():
        for m in convs:
            n = int(m.out_channels * share)
            m.weight[torch.randperm(m.out_channels)[:n]] = 0.0
            cut += n
    return cut


@arch((3, 16, 16))
def pruned_valid() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2),
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        head(24),
    )
    prune_filters(net)
    return net


@arch((3, 16, 16))
def pruned_padded() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16),
        nn.ReLU6(),
        nn.Conv2d(16, 24, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        head(24),
    )
    prune_filters(net)
    return net


@arch((3, 16, 16))
def pruned_unet() -> nn.Module:
    net = UNet(lambda i, o: nn.ConvTranspose2d(i, o, 2, 2))
    prune_filters(net)
    return net


# -- blocks of larger networks ---------------------------------------------------------------------


class ConvNextBlock(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, 2 * c), nn.Linear(2 * c, c)
        self.scale = nn.Parameter(torch.rand(c) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


@arch((3, 16, 16))
def convnext() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNextBlock(8), ConvNextBlock(8), head(8))


class MixerBlock(nn.Module):
    def __init__(self, t: int, d: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.t1, self.t2 = nn.Linear(t, 2 * t), nn.Linear(2 * t, t)
        self.c1, self.c2 = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        y = self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + y
        return x + self.c2(F.gelu(self.c1(self.n2(x))))


@arch((9, 8))
def mlp_mixer() -> nn.Module:
    return MixerBlock(9, 8)


class Focus(nn.Module):
    """YOLOv5's first layer: four strided slices side by side."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return torch.cat(parts, 1)


class Spp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (3, 5, 9))], 1)


class YoloHead(nn.Module):
    """Boxes from a grid: sigmoid, offsets of the cells, anchors."""

    def __init__(self, c: int, n: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, 6, 1)
        y, x = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        self.register_buffer("grid", torch.stack((x, y))[None].float())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).sigmoid()
        xy = (y[:, :2] * 2.0 - 0.5 + self.grid) * 4.0
        wh = (y[:, 2:4] * 2.0) ** 2 * 8.0
        return torch.cat((xy, wh, y[:, 4:]), 1).flatten(2).transpose(1, 2)


@arch((3, 16, 16))
def yolo() -> nn.Module:
    return nn.Sequential(
        Focus(), conv_bn(12, 8, act=nn.SiLU), conv_bn(8, 8, 3, 2, act=nn.SiLU), Spp(),
        YoloHead(32, 4),
    )  # fmt: skip


class Cbam(nn.Module):
    """Channel and spatial attention (Woo et al., ECCV 2018)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(c, 4, 1), nn.ReLU(), nn.Conv2d(4, c, 1))
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(a)
        s = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.conv(s))


@arch((3, 12, 12))
def cbam() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8), Cbam(8), head(8))


class RepVgg(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            conv_bn(c, c, act=None),
            conv_bn(c, c, 1, act=None),
            nn.BatchNorm2d(c),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x) + self.b(x) + self.c(x))


@arch((3, 12, 12))
def repvgg() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8, 3, 2), RepVgg(8), RepVgg(8), head(8))


class Ghost(nn.Module):
    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.main, self.cheap = (
            conv_bn(cin, cout // 2, 1),
            conv_bn(cout // 2, cout // 2, 3, 1, cout // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        return torch.cat((y, self.cheap(y)), 1)[:, :-1]


@arch((3, 12, 12))
def ghostnet() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8, 3, 2), Ghost(8, 12), Ghost(11, 10), head(9))


class WaveBlock(nn.Module):
    """Causal, dilated and gated."""

    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.f, self.g = nn.Conv1d(c, c, 2, dilation=d), nn.Conv1d(c, c, 2, dilation=d)
        self.out, self.d = nn.Conv1d(c, c, 1), d

    def forward(self, x: Tensor) -> Tensor:
        p = F.pad(x, (self.d, 0))
        return x + self.out(torch.tanh(self.f(p)) * torch.sigmoid(self.g(p)))


@arch((2, 40))
def wavenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 6, 1), WaveBlock(6, 1), WaveBlock(6, 2), WaveBlock(6, 4), nn.Conv1d(6, 3, 1)
    )


class Siamese(nn.Module):
    """One tower for two images: the same weights under different activation scales."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.fc = nn.Sequential(conv_bn(1, 6, 3, 2), head(6, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc((self.tower(x) - self.tower(y * 3.0)).abs())


@arch((1, 12, 12), (1, 12, 12))
def siamese() -> nn.Module:
    return Siamese()


class Embedder(nn.Module):
    """Face or speaker embedding: the output has unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(1, 8, 3, 2), head(8, 12))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.body(x), dim=-1)


@arch((1, 12, 12))
def embedding() -> nn.Module:
    return Embedder()


class PreNorm(nn.Module):
    """BatchNorm and ReLU before a padded convolution: the shift must not leak into the border."""

    def __init__(self) -> None:
        super().__init__()
        self.n, self.c = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1)
        self.n2, self.c2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c2(self.n2(self.c(self.n(x))))


@arch((3, 10, 10))
def preactivation() -> nn.Module:
    return PreNorm()


@arch((3, 12, 12))
def instance_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), head(6))


@arch((3, 12, 12))
def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), head(6))


@arch((3, 13, 13))
def pools() -> nn.Module:
    """Average pools that count the padding, ceil mode, overlapping windows."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.AvgPool2d(3, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.AvgPool2d((1, 3), (1, 2), (0, 1), count_include_pad=False),
        head(6),
    )


@arch((3, 12, 12))
def softmax_channels() -> nn.Module:
    return nn.Sequential(conv_bn(3, 8, 3, 2), nn.Conv2d(8, 4, 1), nn.Softmax(1))


@arch((4, 9, 9))
def transposed_grouped() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(4, 4, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 3, 1),
        nn.Conv2d(6, 2, 1),
    )


class SameTwice(nn.Module):
    """The same tensor is an output twice, an output feeds on, an input is added at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.a(x))
        return y, self.b(y) + x + y + y


@arch((4, 6, 6))
def same_twice() -> nn.Module:
    return SameTwice()


class GatedLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.glu(self.a(x), dim=-1))


@arch((12,))
def gated_linear() -> nn.Module:
    return GatedLinear()


@arch((7, 12))
def gated_linear_sequence() -> nn.Module:
    return GatedLinear()


class Clamps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).clamp(-0.5, 0.75)
        return torch.sqrt(self.b(y).clamp(min=0.0) + 0.1)


@arch((3, 8, 8))
def clamps() -> nn.Module:
    return Clamps()


class Windows(nn.Module):
    """Window partition and back, as in Swin: six axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        n, c, h, w = y.shape
        y = y.reshape(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = self.fc(y)
        y = y.reshape(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return y.reshape(n, c, h, w)


@arch((3, 8, 8))
def windows() -> nn.Module:
    return Windows()


@arch((3, 16, 16))
def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
        nn.LogSoftmax(-1),
    )  # fmt: skip


@arch((3, 12, 12))
def reflection_padding() -> nn.Module:
    return nn.Sequential(
        nn.ReflectionPad2d(2),
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.ReplicationPad2d((1, 0, 0, 2)),
        head(6),
    )


@arch((1, 28, 28))
def mnist_example() -> nn.Module:
    """The network of PyTorch's own MNIST example, narrower, with its log-softmax."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(0.25), nn.Flatten(), nn.Linear(1728, 16), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(16, 10), nn.LogSoftmax(1),
    )  # fmt: skip
