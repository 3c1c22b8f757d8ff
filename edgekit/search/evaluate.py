"""What a worker does with a point: make the network, say how good it is, compile and measure it.

Everything is kept by content hash in the study's cache, so that nothing is computed twice: ``q-KEY``
(``graph.ekg``, ``quality.json``) for a recipe, ``m-KEY`` (``profile.json``, ``quality.json``) for a recipe
compiled and measured on a device.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgekit.artifact import json_text
from edgekit.data import Dataset, model_inputs
from edgekit.errors import DeviceUnavailable, EdgekitError, InputError
from edgekit.graph.ir import Graph
from edgekit.search.folder import Cache, StudyFolder, digest
from edgekit.search.space import Fidelity, Point, Space, make_space

#: Samples that the integer form is calibrated on.
CALIBRATION = 100
#: Seconds before a device that could not be reached is asked again.
RETRY_S = (2.0, 15.0)

_T = TypeVar("_T")


def space_of(folder: StudyFolder) -> Space:
    """The search space that the study's spec describes."""
    from edgekit.targets import registry

    spec = folder.spec
    target = registry.get_target(spec["target"])
    s = spec["space"]
    return make_space(
        [folder.graph(i) for i in range(len(spec["models"]))],
        int(s["multiple"] or target.channel_multiple),
        ranks=s["ranks"],
        optimize=s["optimize"],
        engines=s["engines"],
        smallest=s["smallest"],
        importance=s["importance"],
        importance_samples=s["importance_samples"],
        seed=int(spec["seed"]) % 2**32,
        settings={"optimize": s["optimize"][0], "engine": s["engines"][0],
                  "distill": s.get("distill", {})},
    )  # fmt: skip


def patiently(measure: Callable[[], _T], pauses_s: Sequence[float] = RETRY_S) -> _T:
    """``measure()``, again after a pause while the device is unplugged, busy or starting again; its
    DeviceUnavailable once the pauses are used up, which makes the trial fail."""
    for pause in pauses_s:
        try:
            return measure()
        except DeviceUnavailable:
            time.sleep(pause)
    return measure()


class Evaluator:
    """One study's work, without its database. Keeps what every trial needs: groups, importances, what
    the original says about the samples."""

    def __init__(self, folder: StudyFolder) -> None:
        from edgekit.targets import registry

        self.folder = folder
        self.spec = folder.spec
        self.space = space_of(folder)
        self.target = registry.get_target(self.spec["target"])
        self.cache = Cache(folder.cache)
        self.data = folder.dataset("data")
        self.val = folder.dataset("val")
        self._scores: dict[int, dict[str, np.ndarray]] = {}
        self._says: np.ndarray | None = None

    # -- the network -------------------------------------------------------------------------------

    def scores(self, base: int) -> dict[str, np.ndarray]:
        """float ``[units]`` by group name: the importances by which units go."""
        if base in self._scores:
            return self._scores[base]
        from edgekit.compress.importance import scores

        b = self.space.bases[base]
        key = "s-" + digest(
            self.spec["models"][base]["sha256"], self.spec["data"]["sha256"], self.space.importance,
            self.space.importance_samples, self.space.seed,
        )  # fmt: skip
        kept = self.cache.get(key)
        if kept is None:
            found = scores(
                b.groups, self._context(0, base), self.space.importance, self.space.importance_samples  # type: ignore[arg-type]
            )  # fmt: skip
            import io

            out = io.BytesIO()
            np.savez(out, **{f"g{i}": found[g.name] for i, g in enumerate(b.groups)})  # type: ignore[arg-type]
            kept = self.cache.put(key, {"scores.npz": out.getvalue()})
        with np.load(kept / "scores.npz", allow_pickle=False) as z:
            self._scores[base] = {g.name: z[f"g{i}"] for i, g in enumerate(b.groups)}
        return self._scores[base]

    def _context(self, index: int, base: int = 0) -> Any:
        from edgekit.compress.steps import StepContext

        return StepContext(
            data=self.data, target=self.target, original=self.space.bases[base].graph,
            seed=self.space.seed, index=index,
        )  # fmt: skip

    def cut(self, point: Mapping[str, Any]) -> Graph:
        """The base network without the channels that the point leaves out; nothing is repaired."""
        from edgekit.compress.groups import cut
        from edgekit.compress.prune import keep_masks

        base = self.space.base_of(point)
        groups = self.space.bases[base].groups
        widths = self.space.widths(point)
        if all(k == g.units for k, g in zip(widths, groups, strict=True)):
            return groups.graph
        return cut(groups, keep_masks(groups, self.scores(base), widths))

    def network(self, point: Point, fidelity: Fidelity) -> Graph:
        """The point's float network: what applying its recipe gives, with the importances kept from
        earlier trials."""
        from edgekit.compress import recipe as recipes
        from edgekit.compress.groups import forget_origin
        from edgekit.compress.simplify import clean

        recipe = recipes.parse(self.space.recipe(point, fidelity), "the trial's recipe")
        base = self.space.base_of(point)
        graph = self.space.bases[base].graph
        for i, (name, options) in enumerate(recipe.steps):
            if name == "prune":
                graph = self.cut(point)
            else:
                graph = recipes.run_step(name, graph, self._context(i, base), **options)
        return forget_origin(clean(graph))

    def scaffold(self, point: Point) -> Graph:
        """A network of the point's shapes, whatever its weights: what a cost is predicted for."""
        from edgekit.compress import recipe as recipes
        from edgekit.compress.simplify import clean

        graph = self.cut(point)
        plain = Fidelity(samples=64, rows=1000, ridge=1e-2)
        for i, step in enumerate(self.space.recipe(point, plain)["steps"]):
            if step["step"] == "factorize":
                options = {k: v for k, v in step.items() if k != "step"}
                base = self.space.base_of(point)
                graph = recipes.run_step("factorize", graph, self._context(i, base), **options)
        return clean(graph)

    def key(self, point: Point, fidelity: Fidelity) -> str:
        base = self.space.base_of(point)
        return "q-" + digest(
            self.spec["models"][base]["sha256"], self.space.recipe(point, fidelity),
            self.spec["data"]["sha256"], self.spec["val"]["sha256"], self.spec["edgekit"],
        )  # fmt: skip

    # -- how good it is ----------------------------------------------------------------------------

    def reference(self) -> np.ndarray:
        """What the model as given says about ``--val``."""
        if self._says is None:
            original = self.folder.original(0)
            if all(t.quant is None for t in original.tensors.values()):
                from edgekit.compress.execute import says

                self._says = says(original, model_inputs(original, self.val))
            else:
                self._says = integer_says(original, self.val)
        return self._says

    def compare(self, said: np.ndarray) -> dict[str, Any]:
        """The quality part of a trial's values, and the comparison they come from."""
        from edgekit.compress.execute import compare, is_classifier

        classes = is_classifier(self.space.bases[0].graph)
        labels = self.val.y if classes else None
        c = compare(self.reference(), said, labels, classes)
        if c.accuracy is not None and c.before is not None:
            accuracy, drop = 100 * c.accuracy, 100 * (c.before - c.accuracy)
        elif c.agreement is not None:
            accuracy, drop = 100 * c.agreement, 100 * (1 - c.agreement)
        else:
            accuracy, drop = 100 * (1 - c.distance), 100 * c.distance
        return {
            "values": {"accuracy": accuracy, "accuracy_drop": drop, "distance": c.distance},
            "quality": {**c.to_json(), "by": "accuracy" if c.accuracy is not None else "agreement"},
        }

    def assess(self, point: Point, fidelity: Fidelity) -> dict[str, Any]:
        """Make the network and compare it with the original: ``key``, ``values``, ``quality``."""
        from edgekit.compress.execute import says
        from edgekit.compress.recipe import size_of
        from edgekit.formats import ekg

        key = self.key(point, fidelity)
        kept = self.cache.json(key, "quality.json")
        if kept is not None:
            return {**kept, "cached": True}
        started = time.perf_counter()
        graph = self.network(point, fidelity)
        made = time.perf_counter()
        found = self.compare(says(graph, model_inputs(graph, self.val)))
        size = size_of(graph)
        document = {
            "key": key,
            "recipe": self.space.recipe(point, fidelity),
            "values": {**found["values"], "macs": size["macs"], "parameters": size["parameters"]},
            "quality": found["quality"],
            "seconds": {"make": round(made - started, 3),
                        "compare": round(time.perf_counter() - made, 3)},
        }  # fmt: skip
        self.cache.put(
            key, {"graph.ekg": ekg.write_bytes(graph), "quality.json": json_text(document).encode()}
        )
        return document

    # -- what it costs -----------------------------------------------------------------------------

    def graph_of(self, key: str) -> Graph:
        from edgekit.formats import ekg

        folder = self.cache.get(key)
        if folder is None:
            raise InputError(f"the study's cache has no '{key}'; the trial has to be made again")
        return ekg.read(folder / "graph.ekg")

    def measure(self, key: str, options: Mapping[str, str]) -> dict[str, Any]:
        """Compile the network of ``key`` and measure it: ``values``, ``kinds``, ``profile``; the
        accuracy is that of what was compiled (its integer form where the engine is integer)."""
        from edgekit import api
        from edgekit.compress import QuantizeOptions
        from edgekit.targets.base import CompileOptions

        mkey = "m-" + digest(key, dict(options), self.spec["target"], self.spec["device"])
        kept = self.cache.json(mkey, "measured.json")
        if kept is not None:
            return {**kept, "cached": True}
        started = time.perf_counter()
        graph = self.graph_of(key)
        with tempfile.TemporaryDirectory(prefix="edgekit-trial-") as tmp:
            art = api.compile(
                graph, self.spec["target"], Path(tmp) / "a", data=self.data,
                options=CompileOptions(options["engine"], options["optimize"]),  # type: ignore[arg-type]
                quantize=QuantizeOptions(), calibration_samples=CALIBRATION,
            )  # fmt: skip
            compiled = time.perf_counter()
            profile = patiently(lambda: api.profile(art, device=self.spec["device"], data=self.val))
            measured = time.perf_counter()
            integer = art.reference
        quality: dict[str, Any] = {"values": {}, "quality": None}
        if any(t.quant is not None for t in integer.tensors.values()):
            quality = self.compare(integer_says(integer, self.val))
        total, memory = profile["total"], profile["memory"]
        values = {
            **{m: total.get(m) for m in ("latency_ms", "cycles", "instructions")},
            **{m: memory.get(m) for m in ("ram_bytes", "flash_bytes")},
            **quality["values"],
        }
        kinds = {m: profile["kinds"].get(m, profile["kind"]) for m in total if total[m] is not None}
        document = {
            "key": mkey,
            "values": values,
            "kinds": kinds,
            "quality": quality["quality"],
            "engine": profile["engine"],
            "seconds": {"compile": round(compiled - started, 3),
                        "measure": round(measured - compiled, 3),
                        "compare": round(time.perf_counter() - measured, 3)},
        }  # fmt: skip
        from edgekit.formats import ekg

        self.cache.put(mkey, {
            "measured.json": json_text(document).encode(), "profile.json": json_text(profile).encode(),
            "compiled.ekg": ekg.write_bytes(integer),
        })  # fmt: skip
        return document

    def exact_values(self, measured: str) -> dict[str, float] | None:
        """The quality of a measured network by the reference executor, whose bytes are the device's;
        None where the cache has lost it."""
        from edgekit.compress.job import says_real
        from edgekit.formats import ekg

        folder = self.cache.get(measured)
        if folder is None:
            return None
        kept = self.cache.json("e-" + measured, "exact.json")
        if kept is None:
            graph = ekg.read(folder / "compiled.ekg")
            kept = self.compare(says_real(graph, self.val))
            self.cache.put("e-" + measured, {"exact.json": json_text(kept).encode()})
        return dict(kept["values"])

    # -- by name, as workers are asked -------------------------------------------------------------

    def work(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """``{"do": "assess", "point", "fidelity"}`` or ``{"do": "measure", "key", "compile"}``."""
        if task["do"] == "assess":
            return self.assess(dict(task["point"]), Fidelity(**task["fidelity"]))
        if task["do"] == "measure":
            return self.measure(str(task["key"]), dict(task["compile"]))
        raise InputError(f"a worker knows no task '{task['do']}'")


def assess_task(point: Point, fidelity: Fidelity) -> dict[str, Any]:
    return {"do": "assess", "point": point, "fidelity": asdict(fidelity)}


def measure_task(key: str, options: Mapping[str, str]) -> dict[str, Any]:
    return {"do": "measure", "key": key, "compile": dict(options)}


def integer_says(graph: Graph, data: Dataset) -> np.ndarray:
    """:func:`edgekit.compress.execute.says` of an integer graph: by LiteRT where it takes the model
    (its last bits differ from the oracle's, so winners are checked by the oracle), else by the
    reference executor."""
    try:
        return _litert_says(graph, data)
    except (ImportError, EdgekitError, RuntimeError, ValueError):
        from edgekit.compress.job import says_real

        return says_real(graph, data)


def _litert_says(graph: Graph, data: Dataset) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    from edgekit.compress.execute import is_classifier, log_softmax, logits_graph
    from edgekit.formats import tflite
    from edgekit.graph.numerics import dequantize

    g, _ = logits_graph(graph)
    inputs = model_inputs(graph, data)
    interpreter = Interpreter(model_content=tflite.write_bytes(g), num_threads=1)
    interpreter.allocate_tensors()
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(ins) != len(inputs):
        raise ValueError("inputs")
    rows = []
    for k in range(len(inputs[0])):
        for d, a in zip(ins, inputs, strict=True):
            interpreter.set_tensor(d["index"], a[k].reshape(d["shape"]))
        interpreter.invoke()
        rows.append(np.array(interpreter.get_tensor(outs[0]["index"])).reshape(-1))
    out = np.stack(rows)
    quant = g.tensor(g.outputs[0]).quant
    real = out.astype(np.float64) if quant is None else dequantize(out, quant).astype(np.float64)
    return log_softmax(real) if is_classifier(graph) else real.reshape(len(real), -1)
