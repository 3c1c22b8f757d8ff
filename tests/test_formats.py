"""The format registry: the right reader for a file, one sentence for everything that is not one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from format_cases import assert_same, small_cnn

from edgekit.errors import EdgekitError, FormatError, InputError, UnsupportedError
from edgekit.formats import base, load, save
from edgekit.formats.base import FORMATS, find, malformed_is_format_error, split_factory


@pytest.mark.parametrize("suffix", [".tflite", ".ekg", ".TFLITE"])
def test_save_and_load(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"net{suffix}"
    save(small_cnn(), path)
    graph = load(str(path))
    assert_same(small_cnn(), graph) if suffix == ".ekg" else graph.validate()
    assert graph.metadata == {"source": path.name, "format": suffix[1:].lower()}
    assert os.listdir(tmp_path) == [path.name]


def test_wrong_suffix_is_named(tmp_path: Path) -> None:
    save(small_cnn(), tmp_path / "m.tflite")
    model = (tmp_path / "m.tflite").read_bytes()
    for name, message in (
        ("m.onnx", r"'m.onnx' is called .onnx but its content is that of a .tflite file"),
        ("m.h5", r"called .h5 but its content is that of a .tflite file"),
        ("m.bin", r"no suffix of a known model format; its content is that of a .tflite file"),
        ("m", r"no suffix of a known model format"),
    ):
        (tmp_path / name).write_bytes(model)
        with pytest.raises(FormatError, match=message):
            load(tmp_path / name)


@pytest.mark.parametrize("suffix", [".tflite", ".onnx", ".h5", ".keras", ".ekg"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"garbage " * 100, bytes(range(256)) * 8, b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"],
    ids=["empty", "zero", "text", "bytes", "zip", "hdf5"],
)
def test_garbage_of_every_format_is_one_sentence(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(EdgekitError) as e:
        load(path)
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)
    assert "bad" in str(e.value)


def test_missing_folders_and_odd_specs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file 'no.tflite'"):
        load(tmp_path / "no.tflite")
    with pytest.raises(FormatError, match=r"folder without a saved_model.pb"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"there is no file 'net.py'"):
        load(f"{tmp_path}/net.py:make")
    (tmp_path / "net.py").write_text("def make(): ...\n")
    with pytest.raises(InputError, match=r"names no function; write net.py:factory"):
        load(tmp_path / "net.py")
    assert find(f"{tmp_path}/net.py:make").name == "torch"
    with pytest.raises(InputError):
        load("a\0b.tflite")
    with pytest.raises(InputError, match="not a regular file"):
        load("/dev/null")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    assert find(tmp_path / "saved").name == "savedmodel"


def test_huge_files_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.tflite"
    with path.open("wb") as f:
        f.write(b"\0\0\0\0TFL3")
        f.truncate(base.MAX_BYTES + 1)  # sparse: takes no space
    with pytest.raises(FormatError, match="has 2147483649 bytes; a model has at most 2147483648"):
        load(path)


def test_factories_are_told_from_paths() -> None:
    assert split_factory("a/b.py:make") == (Path("a/b.py"), "make")
    assert split_factory("b.py:nets.small") == (Path("b.py"), "nets.small")
    assert split_factory("b.py") is None
    assert split_factory("b.py:") is None
    assert split_factory("m.tflite") is None


def test_save_refuses_and_leaves_nothing_behind(tmp_path: Path) -> None:
    graph = small_cnn()
    with pytest.raises(InputError, match=r"accepted suffixes are .tflite, .onnx, .ekg"):
        save(graph, tmp_path / "m.h5")
    with pytest.raises(InputError, match="cannot be written"):
        save(graph, tmp_path / "no" / "m.tflite")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "d.tflite").mkdir()
        save(graph, tmp_path / "d.tflite")
    old = tmp_path / "m.tflite"
    old.write_bytes(b"old")
    graph.nodes[1] = graph.nodes[1].with_(type="AVERAGE_POOL_2D")
    graph.nodes[1] = graph.nodes[1].with_attrs(padding=(0, 0, 1, 0), filter=(2, 3))
    with pytest.raises(UnsupportedError, match="AVERAGE_POOL_2D"):
        save(graph, old)
    assert old.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["d.tflite", "m.tflite"]


@pytest.mark.parametrize(
    "error", [ValueError("a\nb"), KeyError("k"), MemoryError(), RecursionError(), TypeError()]
)
def test_whatever_a_parser_raises_becomes_one_sentence(error: Exception) -> None:
    with pytest.raises(FormatError, match=r"^'f.x'") as e, malformed_is_format_error("f.x", "x"):
        raise error
    assert "\n" not in str(e.value)
    assert e.value.__cause__ is error


def test_every_row_of_the_table_names_a_module_that_is_there() -> None:
    here = Path(base.__file__).parent
    for fmt in FORMATS:
        for where in filter(None, (fmt.reader, fmt.writer)):
            module, _, function = where.partition(":")
            text = (here / f"{module}.py").read_text()
            assert f"def {function}(" in text or f" {function}" in text


def test_importing_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, edgekit.formats; "
        "print([m for m in ('torch', 'onnx', 'keras', 'tensorflow', 'ai_edge_litert', "
        "'onnxruntime', 'h5py', 'flatbuffers') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.strip() == "[]"
