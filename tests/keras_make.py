"""Run by the Keras tests in a process of its own (``python keras_make.py FOLDER``): makes models.

Keras picks its backend when it is imported, and importing it takes seconds; so one process saves
every model in both formats, with an input and Keras's own output for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from keras import layers as L


def sequential(shape: tuple[int, ...], *layers: Any) -> Any:
    return keras.Sequential([L.Input(shape), *layers])


def norm() -> Any:
    return L.BatchNormalization(
        gamma_initializer="random_normal",
        beta_initializer="random_normal",
        moving_mean_initializer="random_normal",
    )


def bias(cls: Any, *args: Any, **kwargs: Any) -> Any:
    return cls(*args, bias_initializer="random_normal", **kwargs)


def functional() -> Any:
    i = L.Input((12, 10, 3), name="image")
    x = norm()(bias(L.Conv2D, 8, 3, padding="same", activation="relu")(i))
    inner = keras.Sequential(
        [
            L.Input((12, 10, 8)),
            bias(L.DepthwiseConv2D, 3, strides=2, padding="same"),
            L.Conv2D(8, 1),
        ],
        name="inner",
    )
    y = bias(L.SeparableConv2D, 8, 3, strides=2, padding="same", depth_multiplier=2)(x)
    x = L.Add()([inner(x), y])
    x = L.Concatenate()([L.Multiply()([x, y]), L.Subtract()([x, y]), L.Maximum()([x, y])])
    x = L.Dropout(0.5)(L.ReLU(6.0)(x))
    shared = bias(L.Dense, 4, name="shared")
    a = shared(L.GlobalAveragePooling2D()(x))
    b = shared(L.GlobalMaxPooling2D()(x))
    return keras.Model(i, [L.Softmax(name="scores")(L.Average()([a, b])), a])


def models() -> Iterator[tuple[str, Any]]:
    yield "functional", functional()
    yield (
        "convolutions",
        sequential(
            (11, 9, 4),
            bias(L.Conv2D, 6, (3, 2), strides=2, groups=2, activation="swish"),
            L.ZeroPadding2D(((1, 2), (0, 1))),
            L.LeakyReLU(negative_slope=0.1),
            bias(L.Conv2D, 5, 3, dilation_rate=2, padding="same", activation="elu"),
            L.PReLU(alpha_initializer="random_normal", shared_axes=[1, 2]),
            L.MaxPooling2D(2, padding="same"),
            L.AveragePooling2D(2, strides=1, padding="same"),
            L.Cropping2D(((1, 0), (0, 1))),
            L.Flatten(),
            L.Dense(7, activation="hard_sigmoid"),
            L.Dense(3, activation="softmax"),
        ),
    )
    yield (
        "transposed",
        sequential(
            (5, 4, 3),
            bias(L.Conv2DTranspose, 6, 3, strides=2, padding="same", activation="tanh"),
            bias(L.Conv2DTranspose, 4, 3, strides=2, padding="valid"),
            L.UpSampling2D(2),
            L.UpSampling2D((1, 2), interpolation="bilinear"),
            L.Activation("gelu"),
        ),
    )
    yield (
        "tokens",
        sequential(
            (6, 8),
            L.Reshape((4, 12)),
            L.Permute((2, 1)),
            L.LayerNormalization(gamma_initializer="random_normal"),
            bias(L.Dense, 5, activation="relu6"),
            bias(L.Conv1D, 6, 3, padding="causal", activation="sigmoid"),
            L.MaxPooling1D(2),
            L.GlobalAveragePooling1D(),
        ),
    )
    yield (
        "pixels",
        sequential(
            (4, 4, 3),
            L.Rescaling(1 / 127.5, offset=-1.0),
            L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5]),
            bias(L.Conv2D, 4, 3, activation="hard_silu", use_bias=False),
            norm(),
        ),
    )


def main(folder: Path) -> None:
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(0)
    for name, model in models():
        x = rng.normal(size=(2, *model.inputs[0].shape[1:])).astype(np.float32)
        outs = model.predict(x, verbose=0)
        outs = outs if isinstance(outs, list) else [outs]
        np.savez(folder / f"{name}.npz", x=x, **{f"y{i}": y for i, y in enumerate(outs)})
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
    first = keras.Sequential([L.Input((4, 4, 2)), L.Lambda(lambda v: v * 2, name="doubled")])
    first.save(folder / "lambda.keras")
    wrong = keras.Sequential(
        [L.Input((2, 6, 6)), L.Conv2D(3, 3, data_format="channels_first", name="planes")]
    )
    wrong.save(folder / "first.keras")
    sizes = keras.Sequential([L.Input((None, None, 3), name="any"), L.Conv2D(2, 3)])
    sizes.save(folder / "sizes.keras")
    odd = keras.Sequential([L.Input((5,)), L.GaussianNoise(0.1), L.UnitNormalization(name="unit")])
    odd.save(folder / "odd.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
