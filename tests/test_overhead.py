"""What every program has besides its kernels: instructions of an empty inference, bytes of code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from mcu_case import compile_to, small_net

from edgekit.devices.registry import open_device
from edgekit.graph import Graph, QuantParams, Tensor
from edgekit.targets import get_backend
from edgekit_targets.mcu.toolchain import why_missing

MOST_INSTRUCTIONS = 60
MOST_BYTES = 2048
COMPILERS = [
    pytest.param(c, marks=pytest.mark.skipif(why_missing(c) is not None, reason=f"no {c} here"))
    for c in ("zig", "gcc")
]


def empty_net() -> Graph:
    """A RESHAPE, which is nothing at all where it stays in its place."""
    graph = Graph("empty", {}, [], ("x",), ("y",))
    q = QuantParams.per_tensor(0.5, 0)
    graph.tensors["x"] = Tensor("x", (1, 4, 4, 1), "int8", q)
    graph.tensors["y"] = Tensor("y", (1, 16), "int8", q)
    graph.add_node("RESHAPE", ["x"], ["y"], {"new_shape": (1, 16)})
    return graph.validate()


def instructions(folder: Path, graph: Graph, **extra: str) -> tuple[int, int]:
    """(all of an inference, those inside its layers)."""
    artifact = compile_to(folder, graph, **extra)
    with open_device("virtual:cortex-m4", target=artifact.target) as device:
        profile = get_backend("mcu").profile(artifact, device)
    assert profile.instructions is not None
    return profile.instructions, sum(layer.instructions or 0 for layer in profile.layers)


def functions(elf: Path) -> dict[str, int]:
    """Bytes of each function of a firmware."""
    with elf.open("rb") as f:
        table: Any = ELFFile(f).get_section_by_name(".symtab")
        return {
            s.name: s["st_size"]
            for s in table.iter_symbols()
            if s["st_info"]["type"] == "STT_FUNC" and s["st_size"]
        }


@pytest.mark.parametrize("compiler", COMPILERS)
def test_an_empty_inference(compiler: str, tmp_path: Path) -> None:
    whole, layers = instructions(tmp_path / "a", empty_net(), toolchain=compiler)
    assert layers == 0
    assert 0 < whole <= MOST_INSTRUCTIONS


@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
def test_code_besides_kernels(compiler: str, tmp_path: Path) -> None:
    """Of a firmware in which nothing is computed: start-up, semihosting and test program included,
    which a product does not have."""
    artifact = compile_to(tmp_path / "a", empty_net(), toolchain=compiler)
    assert artifact.manifest["memory"]["code_bytes"] <= MOST_BYTES
    # a network adds its layers, a few instructions each, and what its kernels call
    full = compile_to(tmp_path / "b", small_net(), toolchain=compiler)
    sizes = functions(full.file("firmware.elf"))
    own = {n for n in sizes if n.startswith(("edgekit_model_", "edgekit_layer_", "mem", "__aeabi"))}
    assert {"edgekit_model_invoke", "edgekit_model_init"} <= own
    assert sum(sizes[n] for n in own) <= MOST_BYTES
