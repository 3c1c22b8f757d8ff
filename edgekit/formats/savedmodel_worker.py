"""``python -m edgekit.formats.savedmodel_worker FOLDER OUT SHAPES``: the process TensorFlow runs in.

Writes OUT (.tflite, float32). SHAPES is JSON, input name -> shape. A failure is one line on stdout
that starts with ``error: ``, and exit status 1.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def convert(folder: str, shapes: dict[str, list[int]]) -> bytes:
    """The float32 .tflite bytes of a SavedModel's serving signature, batch 1."""
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    signatures = getattr(model, "signatures", {})
    if not signatures:
        raise ValueError("it has no serving signature")
    key = "serving_default" if "serving_default" in signatures else sorted(signatures)[0]
    function = signatures[key]
    named = function.structured_input_signature[1]
    unknown = sorted(set(shapes) - set(named))
    if unknown:
        raise ValueError(f"no input '{unknown[0]}'; its inputs are {', '.join(sorted(named))}")
    specs = {}
    for name, spec in named.items():
        dims = shapes.get(name)
        if dims is None:
            if spec.shape.rank is None:
                raise ValueError(
                    f"input '{name}' has no rank; fix it with --input-shape {name}=..."
                )
            dims = list(spec.shape.as_list())
            dims[:1] = [dims[0] or 1] if dims else []
            open_ = next((k for k, d in enumerate(dims) if d is None), None)
            if open_ is not None:
                raise ValueError(
                    f"dimension {open_} of input '{name}' is dynamic; fix it with "
                    f"--input-shape {name}={','.join(str(d or 32) for d in dims)}"
                )
        specs[name] = tf.TensorSpec(dims, spec.dtype, name)

    @tf.function(autograph=False)
    def call(**inputs: Any) -> Any:
        return function(**inputs)

    concrete = call.get_concrete_function(**specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    return bytes(converter.convert())


def main(argv: list[str]) -> int:
    folder, out, shapes = argv
    try:
        data = convert(folder, json.loads(shapes))
    except Exception as e:  # the parent shows one sentence, whatever TensorFlow raised
        lines = [x.strip() for x in str(e).splitlines() if x.strip()] or [type(e).__name__]
        print(f"error: {lines[0][:200]}")
        return 1
    Path(out).write_bytes(data)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
