"""torch modules: ``file.py:factory`` and modules at hand, through torch.onnx and the ONNX reader.

The file is the user's own code and runs in this process. ``factory()`` returns a module, or
``(module, example_inputs)``; without example inputs the module's attribute ``example_input`` or the
option ``input_shapes`` gives the shape.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, InputError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph

Shapes = Mapping[str, tuple[int, ...]]


def read(spec: Path | str, input_shapes: Shapes | None = None) -> Graph:
    """Read ``file.py:factory``.

    input_shapes: name -> shape in torch's layout (NCHW), in the order of the module's arguments;
    the names become those of the graph's inputs. Raises InputError (the file, the factory or the
    module fails), UnsupportedError (operators that edgekit lacks).
    """
    from edgekit.formats.base import split_factory

    found = split_factory(spec)
    if found is None:
        raise InputError(f"'{Path(spec).name}' names no factory; write file.py:factory")
    path, name = found
    where = f"{path.name}:{name}"
    torch = _torch()
    made = _call(path, name)
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise InputError(
            f"{where} returned {type(module).__name__}; a torch.nn.Module, or a pair of a module "
            "and its example inputs, is needed"
        )
    names = None
    if example is None:
        example = getattr(module, "example_input", None)
    if input_shapes:
        names = list(input_shapes)
        example = tuple(torch.zeros(*shape) for shape in input_shapes.values())
    if example is None:
        raise InputError(
            f"{where} gives no example input; return (module, example_inputs), or fix the shape "
            "with --input-shape x=1,3,32,32"
        )
    graph = from_module(module, example, input_names=names, source=where)
    graph.metadata["source"] = where
    return graph


def from_module(
    module: Any,
    example_inputs: Any,
    *,
    input_names: list[str] | None = None,
    source: str | None = None,
) -> Graph:
    """A torch module as a graph, in evaluation mode.

    example_inputs: a tensor or a tuple of tensors, batch included; where they share a batch larger
    than 1, only the first sample is taken. input_names: names of the graph's inputs. The module's
    mode is restored. Raises InputError when torch cannot export it, UnsupportedError for operators
    that edgekit lacks.
    """
    from edgekit.formats.onnx_read import from_model

    torch = _torch()
    if not isinstance(module, torch.nn.Module):
        raise InputError(f"{type(module).__name__} is not a torch.nn.Module")
    source = source or type(module).__name__
    inputs = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if not inputs or not all(isinstance(i, torch.Tensor) for i in inputs):
        raise InputError(f"the example inputs of {source} are not tensors")
    if all(i.ndim > 1 and i.shape[0] == inputs[0].shape[0] for i in inputs):
        inputs = [i[:1] for i in inputs]
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            model = _export(torch, module, tuple(inputs), input_names, source)
    finally:
        module.train(was_training)
    graph = from_model(model, source=source)
    graph.metadata["format"] = "torch"
    graph.metadata["torch"] = str(torch.__version__)
    return graph


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401  # what torch.onnx needs
        import torch
    except ImportError as e:
        raise InputError(
            f"torch models need {e.name}; install it with pip install edgekit[torch]"
        ) from e
    return torch


def _export(
    torch: Any, module: Any, inputs: tuple[Any, ...], names: list[str] | None, source: str
) -> Any:
    import onnx

    try:
        with _quiet(), tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "model.onnx")
            program = torch.onnx.export(
                module, inputs, dynamo=True, verbose=False, input_names=names
            )
            program.save(file)
            return onnx.load(file)
    except EdgekitError:
        raise
    except Exception as e:
        raise InputError(f"torch cannot export {source} ({_reason(e)})") from e


def _reason(e: BaseException) -> str:
    """The innermost cause in one line."""
    seen = e
    while seen.__cause__ is not None:
        seen = seen.__cause__
    lines = [line.strip() for line in str(seen).splitlines() if line.strip()]
    text = lines[0][:200].rstrip(".") if lines else ""
    return f"{type(seen).__name__}: {text}" if text else type(seen).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, warnings and logged tracebacks from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _call(path: Path, name: str) -> Any:
    """Import the user's file and call the factory in it; whatever fails is one sentence."""
    where = f"{path.name}:{name}"
    spec = importlib.util.spec_from_file_location(f"_edgekit_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"'{path.name}' cannot be imported; a Python file is needed")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # the file's own neighbours
    sys.modules[spec.name] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                spec.loader.exec_module(module)
            except (Exception, SystemExit) as e:
                raise InputError(f"'{path.name}' fails when imported ({_reason(e)})") from e
            factory: Any = module
            for part in name.split("."):
                factory = getattr(factory, part, None)
            if not callable(factory):
                raise InputError(f"'{path.name}' has no function '{name}'")
            try:
                return factory()
            except (Exception, SystemExit) as e:
                if isinstance(e, (InputError, UnsupportedError)):
                    raise
                raise InputError(f"{where} fails ({_reason(e)})") from e
    finally:
        sys.modules.pop(spec.name, None)
        if folder in sys.path:
            sys.path.remove(folder)
