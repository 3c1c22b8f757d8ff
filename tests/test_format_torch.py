"""torch factories and modules: what is accepted, what is refused, and that the numbers agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.errors import InputError, UnsupportedError
from edgekit.formats import load, torch_
from edgekit.formats.torch_ import from_module
from edgekit.graph.reference import run

torch = pytest.importorskip("torch", reason="torch is an extra")
pytest.importorskip("onnxscript", reason="torch.onnx needs onnxscript")

FILE = """
import torch
from torch import nn
from torch.nn import functional as F

print("a factory may talk")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.n = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.drop = nn.Dropout(0.5)
        self.f = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x):
        x = F.relu6(self.n(self.a(x)))
        x = F.hardswish(self.b(x)) + x
        return F.softmax(self.f(self.drop(x).flatten(1)), -1)


def plain():
    torch.manual_seed(0)
    return Net()


def pair():
    return plain(), torch.zeros(1, 3, 8, 8)


def attribute():
    net = plain()
    net.example_input = torch.zeros(1, 3, 8, 8)
    return net


def broken():
    raise RuntimeError("no luck\\ntoday")


def number():
    return 3


def mismatch():
    return plain(), torch.zeros(1, 3, 9, 40)


def leaves():
    raise SystemExit(4)


class Odd(nn.Module):
    def forward(self, x):
        return torch.sin(x) + torch.cumsum(x, 1)


def odd():
    return Odd(), torch.zeros(1, 4)


constant = 5
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "net.py"
    path.write_text(FILE)
    return path


def test_factory_with_example_inputs(file: Path, capsys: Any) -> None:
    graph = load(f"{file}:pair")
    assert capsys.readouterr().out == ""  # stdout belongs to the command line's JSON
    assert graph.tensor(graph.inputs[0]).shape == (1, 8, 8, 3)
    assert not any(n.type == "TRANSPOSE" for n in graph.nodes)
    assert graph.metadata["source"] == "net.py:pair" and graph.metadata["format"] == "torch"
    module = torch_._call(file, "plain")
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        want = module.eval()(torch.from_numpy(x)).numpy()
    got = run(graph, {graph.inputs[0]: np.ascontiguousarray(x.transpose(0, 2, 3, 1))})
    np.testing.assert_allclose(got[graph.outputs[0]], want, atol=1e-5)


def test_shape_from_the_module_or_the_option(file: Path) -> None:
    assert load(f"{file}:attribute").inputs == load(f"{file}:pair").inputs
    graph = load(f"{file}:plain", input_shapes={"image": (1, 3, 8, 8)})
    assert graph.inputs == ("image",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("plain", r"net\.py:plain gives no example input.*--input-shape"),
        ("broken", r"net\.py:broken fails \(RuntimeError: no luck\)"),
        ("number", r"net\.py:number returned int"),
        ("leaves", r"net\.py:leaves fails \(SystemExit"),
        ("missing", r"'net\.py' has no function 'missing'"),
        ("constant", r"'net\.py' has no function 'constant'"),
        ("mismatch", r"torch cannot export net\.py:mismatch \(.*same reduction dim"),
    ],
)
def test_refusals(file: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as e:
        load(f"{file}:{name}")
    assert "\n" not in str(e.value)


def test_operators_that_are_not_implemented_are_named(file: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"\(Sin\).*\(CumSum\)"):
        load(f"{file}:odd")


def test_files_that_do_not_import(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def make(:\n")
    with pytest.raises(InputError, match=r"'bad\.py' fails when imported \(SyntaxError"):
        load(f"{path}:make")
    path.write_bytes(b"\x00\xff\xfe")
    with pytest.raises(InputError, match=r"'bad\.py' fails when imported"):
        load(f"{path}:make")


def test_module_at_hand_keeps_its_mode() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5))
    net.train()
    graph = from_module(net, torch.zeros(7, 4))
    assert graph.tensor(graph.inputs[0]).shape == (1, 4)
    assert net.training
    assert [n.type for n in graph.nodes] == ["FULLY_CONNECTED"]
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        from_module(len, torch.zeros(1, 4))
    with pytest.raises(InputError, match="are not tensors"):
        from_module(net, [1, 2])
