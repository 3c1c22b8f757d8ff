"""Train the digits network that the first command of the README deploys, and write its files.

Data: scikit-learn's bundled handwritten digits (UCI, 1,797 images of 8x8 pixels, values 0..16).
Writes beside this file: ``digits.tflite`` (float32) and ``digits.npz`` (``calibration_x``: 200
training images; ``val_x``, ``val_y``: the held-out images). Seeded; the same versions of the tools
give the same files.

    python models/train_digits.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SEED = 7
EPOCHS = 60
BATCH = 64


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``train_x, train_y, val_x, val_y``; images ``[N, 8, 8, 1]`` float32 in 0..16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images.astype(np.float32)[..., None]
    y = digits.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(x))
    train, val = order[360:], order[:360]
    return x[train], y[train], x[val], y[val]


def network() -> Any:
    """A small depthwise-separable network, 8x8x1 -> 10 classes, about 120,000 MACs."""
    from torch import nn

    def separable(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *separable(16, 32),
        nn.MaxPool2d(2),
        *separable(32, 48),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(48, 10),
    )


def train() -> tuple[Any, float]:
    """The trained module (eval mode) and its accuracy on the held-out images."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    train_x, train_y, val_x, val_y = data()
    net = network()
    x = torch.from_numpy(train_x.transpose(0, 3, 1, 2).copy())
    y = torch.from_numpy(train_y)
    steps = EPOCHS * -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    rng = np.random.default_rng(SEED)
    for _ in range(EPOCHS):
        order = torch.from_numpy(rng.permutation(len(x)))
        for start in range(0, len(x), BATCH):
            pick = order[start : start + BATCH]
            batch = x[pick]
            # One pixel of jitter is all the augmentation 8x8 images bear.
            dy, dx = rng.integers(-1, 2, 2)
            batch = torch.roll(batch, (int(dy), int(dx)), (2, 3)) if rng.random() < 0.5 else batch
            optimizer.zero_grad()
            loss_of(net(batch), y[pick]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        logits = net(torch.from_numpy(val_x.transpose(0, 3, 1, 2).copy()))
    return net, float((logits.argmax(1).numpy() == val_y).mean())


def factory() -> tuple[Any, tuple[Any, ...]]:
    """The untrained network with an example input: ``edgekit inspect models/train_digits.py:factory``."""
    import torch

    torch.manual_seed(SEED)
    return network().eval(), (torch.zeros(1, 1, 8, 8),)


def main() -> None:
    import torch

    from edgekit import formats
    from edgekit.compress import clean
    from edgekit.formats.torch_ import from_module

    net, accuracy = train()
    graph = clean(from_module(net, (torch.zeros(1, 1, 8, 8),)))
    graph.name = "digits"
    formats.save(graph, HERE / "digits.tflite")
    train_x, _, val_x, val_y = data()
    np.savez_compressed(
        HERE / "digits.npz",
        calibration_x=train_x[:200].astype(np.uint8),
        val_x=val_x.astype(np.uint8),
        val_y=val_y.astype(np.uint8),
    )
    print(f"held-out accuracy {accuracy:.4f} on {len(val_y)} images")


if __name__ == "__main__":
    main()
