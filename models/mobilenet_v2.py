"""A float network of MobileNetV2's kind with seeded random weights: for speed and for exactness, not
for classes. The blocks are those of Sandler et al., "MobileNetV2: Inverted Residuals and Linear
Bottlenecks" (2018), table 2; width multiplier and input size are ours to choose.

    edgekit inspect models/mobilenet_v2.py:factory          1.0, 224x224: 300 million MACs
    edgekit inspect models/mobilenet_v2.py:small            0.35, 96x96
"""

from __future__ import annotations

from typing import Any

SEED = 20
#: expansion, output channels, blocks, stride of the first one
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
          (6, 320, 1, 1))  # fmt: skip


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is not more than a tenth too small."""
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near if near >= 0.9 * channels else near + divisor


def network(width: float = 1.0, classes: int = 1000) -> Any:
    """The module, untrained, in training mode: ``[N, 3, H, W]`` float32 to ``[N, classes]``."""
    from torch import nn

    def unit(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[Any]:
        padding = size // 2
        conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]

    class Block(nn.Module):
        """Expand, filter by channel, project; added to its input where shapes allow it."""

        def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
            super().__init__()
            middle = inputs * expansion
            layers = [] if expansion == 1 else unit(inputs, middle, 1)
            layers += unit(middle, middle, 3, stride, middle)
            layers += [nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
            self.body = nn.Sequential(*layers)
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: Any) -> Any:
            return x + self.body(x) if self.residual else self.body(x)

    channels = rounded(32 * width)
    layers = unit(3, channels, 3, 2)
    for expansion, outputs, blocks, stride in STAGES:
        for k in range(blocks):
            wide = rounded(outputs * width)
            layers.append(Block(channels, wide, stride if k == 0 else 1, expansion))
            channels = wide
    last = rounded(1280 * max(1.0, width))
    layers += [*unit(channels, last, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(last, classes))


def _made(width: float, size: int, classes: int) -> tuple[Any, tuple[Any, ...]]:
    """(module in eval mode, example inputs). Weights as torch's own initialization leaves them would
    let the signal die out; He's keeps its size. Batch statistics are random, so that folding them
    into the convolutions means something."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(SEED)
    net = network(width, classes)
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                fan = m.weight[0].numel()
                m.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
            elif isinstance(m, nn.BatchNorm2d):
                m.weight.uniform_(0.8, 1.2, generator=generator)
                m.bias.uniform_(-0.2, 0.4, generator=generator)
                m.running_mean.uniform_(-0.2, 0.2, generator=generator)
                m.running_var.uniform_(0.8, 1.2, generator=generator)
            elif isinstance(m, nn.Linear):
                m.weight.normal_(0, (1 / m.in_features) ** 0.5, generator=generator)
                m.bias.zero_()
    return net.eval(), (torch.zeros(1, 3, size, size),)


def factory() -> tuple[Any, tuple[Any, ...]]:
    """Width 1.0, 224x224, 1000 classes."""
    return _made(1.0, 224, 1000)


def small() -> tuple[Any, tuple[Any, ...]]:
    """Width 0.35, 96x96, 10 classes."""
    return _made(0.35, 96, 10)
