"""Runs a .tflite or .onnx model on samples from a file; goes to the device beside the model.

    run IN OUT     every sample of IN (all inputs, one after the other) through the model; OUT gets
                   all outputs of each sample
    time IN N      the first sample: some inferences to warm up, then N, each timed: total_ns=...;
                   of all of them loop_ns=, cpu_ns=, switches=, peak_kb=, and core= at both ends
    count IN N     the first sample, N times, untimed: for devices that count instructions

``model.json`` beside it says which model and what its inputs and outputs are. One thread. Needs
numpy and ai-edge-litert, tflite-runtime or onnxruntime; nothing of edgekit. Results are lines
key=value; exit codes: 0 done, 2 wrong arguments or files, 3 the model failed.
"""

import json
import os
import sys
import time

import numpy as np

WARM_UP_S = 0.05


def size_of(value):
    return int(np.prod(value["shape"], dtype=np.int64)) * np.dtype(value["dtype"]).itemsize


class TfLite:
    """LiteRT, or the older tflite-runtime with the same interface."""

    def __init__(self, description):
        try:
            from ai_edge_litert import interpreter as lite

            self.package = "ai-edge-litert"
        except ImportError:
            from tflite_runtime import interpreter as lite

            self.package = "tflite-runtime"
        options = {"model_path": description["model"], "num_threads": 1}
        if description.get("kernels") == "reference":
            options["experimental_op_resolver_type"] = lite.OpResolverType.BUILTIN_REF
        self.interpreter = lite.Interpreter(**options)
        self.interpreter.allocate_tensors()
        self.inputs = [d["index"] for d in self.interpreter.get_input_details()]
        self.outputs = [d["index"] for d in self.interpreter.get_output_details()]

    def prepare(self, values):
        return values

    def invoke(self, values):
        for index, value in zip(self.inputs, values):  # noqa: B905 (older Python on boards)
            self.interpreter.set_tensor(index, value)
        self.interpreter.invoke()

    def results(self):
        return [self.interpreter.get_tensor(i) for i in self.outputs]


class Onnx:
    """ONNX Runtime. Its models have float32 inputs and outputs where the graph's are integers."""

    def __init__(self, description):
        import onnxruntime as ort

        self.package = "onnxruntime"
        if "providers" in description:
            self.package = "onnxruntime-gpu"
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = description.get("providers", ["CPUExecutionProvider"])
        given = (description["model"], options, providers)
        try:
            self.session = ort.InferenceSession(*given)
        except Exception:
            # ONNX Runtime 1.31 merges a Pad into a pooling window that cannot take it, then stops.
            self.session = ort.InferenceSession(*given, disabled_optimizers=["Pad_Fusion"])
        if providers[0] not in self.session.get_providers():
            raise RuntimeError("ONNX Runtime could not start its " + providers[0])
        self.description = description
        self.names = [i.name for i in self.session.get_inputs()]

    def prepare(self, values):
        described = self.description["inputs"]
        return {
            name: dequantized(v, d)
            for name, v, d in zip(self.names, values, described)  # noqa: B905
        }

    def invoke(self, values):
        self.found = self.session.run(None, values)

    def results(self):
        described = self.description["outputs"]
        return [quantized(v, d) for v, d in zip(self.found, described)]  # noqa: B905


def dequantized(value, described):
    if described["scale"] is None:
        return value
    real = value.astype(np.float32) - np.float32(described["zero_point"])
    return real * np.float32(described["scale"])


def quantized(value, described):
    dtype = np.dtype(described["dtype"])
    if described["scale"] is None:
        return value.astype(dtype, copy=False)
    steps = np.round(value / np.float32(described["scale"])) + described["zero_point"]
    limits = np.iinfo(dtype)
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def installed(package):
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:  # an older Python, or no metadata
        return "unknown"


def split(sample, described):
    values, at = [], 0
    for d in described:
        size = size_of(d)
        values.append(np.frombuffer(sample, d["dtype"], offset=at, count=size //
                                    np.dtype(d["dtype"]).itemsize).reshape(d["shape"]))  # fmt: skip
        at += size
    return values


def fail(text, code):
    print("error=" + " ".join(str(text).split())[:400])
    return code


def samples_of(path, width):
    with open(path, "rb") as f:
        data = f.read()
    if not data or len(data) % width:
        raise ValueError("the input file ends inside a sample")
    return [data[i : i + width] for i in range(0, len(data), width)]


def main(argv):
    if len(argv) != 4 or argv[1] not in ("run", "time", "count"):
        return fail("usage: run IN OUT | time IN N | count IN N", 2)
    try:
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.json")) as f:
            description = json.load(f)
        described = description["inputs"]
        samples = samples_of(argv[2], sum(size_of(d) for d in described))
    except (OSError, ValueError, KeyError) as e:
        return fail(e, 2)
    try:
        model = (Onnx if description["model"].endswith(".onnx") else TfLite)(description)
        print("runtime=" + model.package + " " + installed(model.package))
        if argv[1] == "time":
            return time_it(model, split(samples[0], described), int(argv[3]))
        if argv[1] == "count":
            values = model.prepare(split(samples[0], described))
            for _ in range(int(argv[3])):
                model.invoke(values)
            return 0
        with open(argv[3], "wb") as out:
            for sample in samples:
                model.invoke(model.prepare(split(sample, described)))
                for value, d in zip(model.results(), description["outputs"]):  # noqa: B905
                    out.write(np.ascontiguousarray(value, d["dtype"]).tobytes())
    except Exception as e:
        return fail(e, 3)
    print(f"samples={len(samples)}")
    return 0


def switches():
    """How often this process was put aside for others; None where that is not known."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def show_core():
    try:
        with open("/proc/self/stat") as f:
            print("core=" + f.read().rpartition(")")[2].split()[36])
    except (OSError, IndexError):
        pass


def show_peak():
    try:
        with open("/proc/self/status") as f:
            for line in f:
                if line.startswith("VmHWM:"):
                    print("peak_kb=" + line.split()[1])
    except (OSError, IndexError):
        pass


def time_it(model, values, repeats):
    values = model.prepare(values)
    clock = time.perf_counter_ns
    start = clock()
    warm = 0
    while warm < 3 or clock() - start < WARM_UP_S * 1e9:
        model.invoke(values)
        warm += 1
    show_core()
    before, cpu, loop = switches(), time.process_time_ns(), clock()
    for _ in range(repeats):
        begin = clock()
        model.invoke(values)
        print(f"total_ns={clock() - begin}")
    print(f"loop_ns={clock() - loop}\ncpu_ns={time.process_time_ns() - cpu}")
    if before is not None:
        print(f"switches={switches() - before}")
    show_core()
    show_peak()
    print(f"warm_up={warm}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
