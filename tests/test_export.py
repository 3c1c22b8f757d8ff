"""Exports built with the real tools where they can be had, and held to the published layouts elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import yaml
from engine_case import compile_with, float_net
from mcu_case import compile_to, small_net

from edgekit import api, export
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.errors import InputError
from edgekit.export.base import identifier
from edgekit.export.vector import expected, pattern
from edgekit.graph.reference import run

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-ffp-contract=off")
ARM = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-mthumb")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network for a Cortex-M4, kernels of the DSP extension among them."""
    return compile_to(tmp_path_factory.mktemp("m4") / "a", small_net(), "cortex-m4")


@pytest.fixture(scope="module")
def litert(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_with(tmp_path_factory.mktemp("l") / "a", float_net(), "x86-64-avx2", "litert")


def written(artifact: Artifact, form: str, tmp_path: Path, name: str = "net") -> Path:
    out = tmp_path / "out"
    document = export.write(artifact, form, out, name=name)
    assert document["files"] == sorted(
        p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()
    )
    return out


def sh(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- C ------------------------------------------------------------------------------------------------


def test_single_file_gives_the_reference_bytes(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "c", tmp_path)
    assert sorted(p.name for p in out.glob("*.c")) == ["main.c", "net.c", "net_selftest.c"]
    sh("gcc", *WARNINGS, "net.c", "net_selftest.c", "main.c", "-o", "t", cwd=out)
    assert sh(out / "t") == "net: 0 wrong values\n"
    sh("arm-none-eabi-gcc", *ARM, *WARNINGS, "-c", "net.c", cwd=out)


def test_self_test_finds_wrong_weights(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "c", tmp_path)
    text = (out / "net.c").read_text()
    table = re.search(r"const \w+ net_c\d+_(?:stream|weights)\[\d+\] = \{\n([-\d,]+)\n", text)
    assert table is not None
    zeros = re.sub(r"-?\d+", "0", table[1])
    changed = text[: table.start(1)] + zeros + text[table.end(1) :]
    (out / "net.c").write_text(changed)
    sh("gcc", *WARNINGS, "net.c", "net_selftest.c", "main.c", "-o", "t", cwd=out)
    done = subprocess.run([out / "t"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and re.fullmatch(r"net: [1-9]\d* wrong values\n", done.stdout)


def test_two_models_in_one_program(artifact: Artifact, tmp_path: Path) -> None:
    """As CMake sub-projects, and installed and found by find_package."""
    export.write(artifact, "cmake", tmp_path / "first", name="first")
    export.write(artifact, "cmake", tmp_path / "second", name="second")
    prefix = tmp_path / "prefix"
    sh(
        "cmake",
        "-S",
        tmp_path / "second",
        "-B",
        tmp_path / "b2",
        f"-DCMAKE_INSTALL_PREFIX={prefix}",
    )
    sh("cmake", "--build", tmp_path / "b2")
    assert "100% tests passed" in sh("ctest", "--test-dir", tmp_path / "b2")
    sh("cmake", "--install", tmp_path / "b2")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\nadd_subdirectory(first)\n"
        "find_package(second REQUIRED)\nadd_executable(app app.c)\n"
        "target_link_libraries(app PRIVATE first::first second::second)\n"
    )
    (tmp_path / "app.c").write_text(
        '#include "first.h"\n#include "second.h"\n#include <string.h>\nint main(void) {\n'
        "  memset(first_input(0), 3, FIRST_INPUT_0_BYTES);\n"
        "  memset(second_input(0), 3, SECOND_INPUT_0_BYTES);\n"
        "  if (first_invoke() || second_invoke()) return 2;\n"
        "  return memcmp(first_output(0), second_output(0), SECOND_OUTPUT_0_BYTES) != 0;\n}\n"
    )
    sh("cmake", "-S", tmp_path, "-B", tmp_path / "b", f"-DCMAKE_PREFIX_PATH={prefix}")
    sh("cmake", "--build", tmp_path / "b")
    sh(tmp_path / "b" / "app")


def test_cmake_cross_compiles(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "cmake", tmp_path)
    sh("cmake", "-S", out, "-B", tmp_path / "b", "-DCMAKE_SYSTEM_NAME=Generic",
       "-DCMAKE_C_COMPILER=arm-none-eabi-gcc", f"-DCMAKE_C_FLAGS={' '.join(ARM)}",
       "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY")  # fmt: skip
    sh("cmake", "--build", tmp_path / "b")
    assert (tmp_path / "b" / "libnet.a").stat().st_size > 1000


#: The CMake functions of the two build systems, as their documentation describes them.
_ZEPHYR = """
function(zephyr_include_directories)
  include_directories(${ARGN})
endfunction()
macro(zephyr_library_named name)
  add_library(${name} STATIC)
  set(ZEPHYR_CURRENT_LIBRARY ${name})
endmacro()
function(zephyr_library_sources)
  target_sources(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
function(zephyr_library_include_directories)
  target_include_directories(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
function(zephyr_library_compile_options)
  target_compile_options(${ZEPHYR_CURRENT_LIBRARY} PRIVATE ${ARGN})
endfunction()
"""
_IDF = """
function(idf_component_register)
  cmake_parse_arguments(A "" "" "SRCS;INCLUDE_DIRS;PRIV_INCLUDE_DIRS;PRIV_REQUIRES" ${ARGN})
  add_library(component STATIC ${A_SRCS})
  target_include_directories(component PUBLIC ${A_INCLUDE_DIRS} PRIVATE ${A_PRIV_INCLUDE_DIRS})
  set(COMPONENT_LIB component PARENT_SCOPE)
endfunction()
"""


def test_zephyr_module(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "zephyr", tmp_path)
    module = yaml.safe_load((out / "zephyr/module.yml").read_text())
    # The keys that Zephyr's schema has (scripts/zephyr_module.py).
    assert set(module) <= {"name", "build", "samples", "tests", "boards", "blobs", "runners"}
    assert (out / module["build"]["kconfig"]).is_file()
    assert (out / module["build"]["cmake"] / "CMakeLists.txt").is_file()
    assert (out / "zephyr/Kconfig").read_text().count("config NET\n") == 1
    sample = yaml.safe_load((out / "samples/selftest/sample.yaml").read_text())
    assert list(sample["tests"]) == ["sample.net.selftest"]
    assert (out / "samples/selftest/prj.conf").read_text() == "CONFIG_NET=y\n"
    (tmp_path / "zephyr/sys").mkdir(parents=True)
    (tmp_path / "zephyr/sys/printk.h").write_text("#include <stdio.h>\n#define printk printf\n")
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nproject(zephyr C)\n{_ZEPHYR}\nset(CONFIG_NET y)\n"
        "add_subdirectory(out/zephyr)\ninclude_directories(. out/include)\n"
        "add_executable(app out/samples/selftest/src/main.c)\ntarget_link_libraries(app net)\n"
    )
    sh("cmake", "-S", tmp_path, "-B", tmp_path / "b")
    sh("cmake", "--build", tmp_path / "b")
    assert sh(tmp_path / "b" / "app") == "net: 0 wrong values\n"


def test_esp_idf_component(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "esp-idf", tmp_path)
    about = yaml.safe_load((out / "idf_component.yml").read_text())
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"]) and "idf" in about["dependencies"]
    (tmp_path / "main.c").write_text(
        "void app_main(void);\nint main(void) { app_main(); return 0; }\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.16)\nproject(idf C)\n{_IDF}\nadd_subdirectory(out)\n"
        "add_executable(app main.c out/examples/selftest/main/main.c)\n"
        "target_link_libraries(app component)\n"
    )
    sh("cmake", "-S", tmp_path, "-B", tmp_path / "b")
    sh("cmake", "--build", tmp_path / "b")
    assert sh(tmp_path / "b" / "app") == "net: 0 wrong values\n"


def test_arduino_library(artifact: Artifact, tmp_path: Path) -> None:
    """Compiled as the Arduino builder does: every source of src/ on its own with src/ as the only
    include folder, the sketch as C++ with Arduino.h in front."""
    out = written(artifact, "arduino", tmp_path)
    fields = dict(
        line.split("=", 1) for line in (out / "library.properties").read_text().splitlines()
    )
    assert {"name", "version", "author", "maintainer", "sentence", "paragraph", "category", "url",
            "architectures"} <= set(fields)  # fmt: skip
    assert fields["includes"] == "net.h" and fields["category"] == "Data Processing"
    build = tmp_path / "b"
    build.mkdir()
    objects = []
    for source in sorted((out / "src").glob("*.c")):
        objects.append(build / f"{source.stem}.o")
        sh("gcc", *WARNINGS, f"-I{out / 'src'}", "-c", source, "-o", objects[-1])
    (build / "Arduino.h").write_text(
        "#pragma once\n#include <stdint.h>\n#include <stdio.h>\n"
        "struct Port { void begin(long) {} void print(const char *s) { fputs(s, stdout); }\n"
        'void println(long v) { printf("%ld\\n", v); } };\nextern Port Serial;\n'
        "unsigned long micros(); void delay(unsigned long);\n"
    )
    (build / "core.cpp").write_text(
        '#include "Arduino.h"\nPort Serial;\nunsigned long micros() { return 7; }\n'
        "void delay(unsigned long) {}\nvoid setup(); void loop();\n"
        "int main() { setup(); loop(); }\n"
    )
    sketch = out / "examples/net_example/net_example.ino"
    sh("g++", "-std=c++17", "-Wall", "-Werror", f"-I{build}", f"-I{out / 'src'}", "-x", "c++",
       "-include", "Arduino.h", sketch, build / "core.cpp", "-x", "none", *objects,
       "-o", build / "app")  # fmt: skip
    assert sh(build / "app").startswith("net: wrong values in the self-test: 0\n")


def test_cmsis_pack(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "cmsis-pack", tmp_path)
    root = ET.parse(out / "edgekit.net.pdsc").getroot()
    # The order of the schema (PACK.xsd, an xs:sequence in its first part).
    assert [e.tag for e in root] == ["vendor", "name", "description", "url", "license", "releases",
                                     "keywords", "taxonomy", "conditions", "components"]  # fmt: skip
    release = root.find("releases/release")
    assert release is not None
    version = release.get("version")
    pack = out / f"edgekit.net.{version}.pack"
    component = root.find("components/component")
    assert component is not None and component.get("Cversion") == version
    known = {c.get("id") for c in root.findall("conditions/condition")}
    assert component.get("condition") in known
    with zipfile.ZipFile(pack) as z:
        names = set(z.namelist())
        assert z.testzip() is None and "edgekit.net.pdsc" in names
        for file in component.findall("files/file"):
            name = file.get("name", "")
            assert name in names or any(n.startswith(name) for n in names if name.endswith("/"))
            assert file.get("category") in {"source", "header", "include", "doc"}
        z.extractall(tmp_path / "pack")
    folders = [f"-I{tmp_path / 'pack' / d}" for d in ("include", "src")]
    for source in component.findall("files/file[@category='source']"):
        sh("arm-none-eabi-gcc", *ARM, *WARNINGS, *folders, "-c",
           tmp_path / "pack" / source.get("name", ""), "-o", tmp_path / "x.o")  # fmt: skip


# -- Android ------------------------------------------------------------------------------------------

JNI = Path("/usr/include/android/nativehelper")  # Debian's android-libnativehelper-dev


def test_android_native(artifact: Artifact, tmp_path: Path) -> None:
    """The JNI library against Android's own jni.h, called through a JNI environment of the test's."""
    out = written(artifact, "android", tmp_path, name="my_net")
    main = out / "my_net/src/main"
    kotlin = (main / "kotlin/dev/edgekit/my_net/Model.kt").read_text()
    assert "package dev.edgekit.my_net" in kotlin and "$" not in kotlin
    declared = set(re.findall(r"external fun (\w+)", kotlin))
    jni = (main / "cpp/jni.cpp").read_text()
    assert set(re.findall(r"Java_dev_edgekit_my_1net_Model_(\w+)\(", jni)) == declared
    if not (JNI / "jni.h").is_file():
        pytest.skip("no jni.h: install android-libnativehelper-dev")
    (tmp_path / "env.cpp").write_text(_JNI_TEST)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C CXX)\n"
        f"include_directories(SYSTEM {JNI})\nadd_subdirectory({main}/cpp jni)\n"
        "add_executable(app env.cpp)\ntarget_link_libraries(app my_net_jni)\n"
    )
    sh("cmake", "-S", tmp_path, "-B", tmp_path / "b", "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror",
       "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror")  # fmt: skip
    sh("cmake", "--build", tmp_path / "b")
    graph = artifact.reference
    inputs = pattern([graph.tensor(i) for i in graph.inputs])
    want = expected(graph)[0].tobytes()
    (tmp_path / "in").write_bytes(inputs[0].tobytes())
    text = sh(tmp_path / "b" / "app", tmp_path / "in", tmp_path / "out.bin", str(len(want)))
    assert text == "init 0, thrown 1, invoke 0, self-test 0\n"
    assert (tmp_path / "out.bin").read_bytes() == want


_JNI_TEST = r"""
#include <jni.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

// Arrays of this environment are vectors of bytes.
struct Bytes : _jbyteArray { std::vector<char> data; };
static int thrown;
static jsize length(JNIEnv *, jarray a) { return (jsize) reinterpret_cast<Bytes *>(a)->data.size(); }
static void get(JNIEnv *, jbyteArray a, jsize s, jsize n, jbyte *to) {
  memcpy(to, static_cast<Bytes *>(a)->data.data() + s, n);
}
static void set(JNIEnv *, jbyteArray a, jsize s, jsize n, const jbyte *from) {
  memcpy(static_cast<Bytes *>(a)->data.data() + s, from, n);
}
static jbyteArray make(JNIEnv *, jsize n) { auto *b = new Bytes; b->data.resize(n); return b; }
static jclass find(JNIEnv *, const char *) { return nullptr; }
static jint throw_new(JNIEnv *, jclass, const char *) { return thrown++; }

extern "C" {
jint Java_dev_edgekit_my_1net_Model_nativeInit(JNIEnv *, jobject);
void Java_dev_edgekit_my_1net_Model_nativeSetInput(JNIEnv *, jobject, jint, jbyteArray);
jint Java_dev_edgekit_my_1net_Model_nativeInvoke(JNIEnv *, jobject);
jbyteArray Java_dev_edgekit_my_1net_Model_nativeGetOutput(JNIEnv *, jobject, jint);
jint Java_dev_edgekit_my_1net_Model_nativeSelfTest(JNIEnv *, jobject);
}

int main(int, char **argv) {
  JNINativeInterface table{};
  table.GetArrayLength = length;
  table.GetByteArrayRegion = get;
  table.SetByteArrayRegion = set;
  table.NewByteArray = make;
  table.FindClass = find;
  table.ThrowNew = throw_new;
  JNIEnv env;
  env.functions = &table;
  Bytes input;
  if (FILE *f = fopen(argv[1], "rb")) {
    for (int c; (c = fgetc(f)) != EOF;) input.data.push_back((char)c);
    fclose(f);
  }
  const int init = Java_dev_edgekit_my_1net_Model_nativeInit(&env, nullptr);
  Bytes wrong;
  Java_dev_edgekit_my_1net_Model_nativeSetInput(&env, nullptr, 0, &wrong);
  Java_dev_edgekit_my_1net_Model_nativeSetInput(&env, nullptr, 0, &input);
  const int invoke = Java_dev_edgekit_my_1net_Model_nativeInvoke(&env, nullptr);
  auto *out = static_cast<Bytes *>(Java_dev_edgekit_my_1net_Model_nativeGetOutput(&env, nullptr, 0));
  if (FILE *f = fopen(argv[2], "wb")) {
    fwrite(out->data.data(), 1, out->data.size(), f);
    fclose(f);
  }
  if ((int)out->data.size() != atoi(argv[3])) return 1;
  const int test = Java_dev_edgekit_my_1net_Model_nativeSelfTest(&env, nullptr);
  printf("init %d, thrown %d, invoke %d, self-test %d\n", init, thrown, invoke, test);
}
"""


def test_android_litert(litert: Artifact, tmp_path: Path) -> None:
    out = written(litert, "android", tmp_path)
    kotlin = (out / "net/src/main/kotlin/dev/edgekit/net/Model.kt").read_text()
    assert 'openFd("net.tflite")' in kotlin and "$" not in kotlin
    gradle = (out / "net/build.gradle.kts").read_text()
    assert "com.google.ai.edge.litert:litert" in gradle and gradle.count("{") == gradle.count("}")
    data = (out / "net/src/main/assets/net.tflite").read_bytes()
    assert data == litert.file("model.tflite").read_bytes() and data[4:8] == b"TFL3"


# -- Python and servers -------------------------------------------------------------------------------


def test_python_folder_of_c(artifact: Artifact, tmp_path: Path) -> None:
    """The shared library by ctypes: same bytes as the reference, real values quantized on the way."""
    out = written(artifact, "python", tmp_path)
    sh("sh", "build.sh", cwd=out)
    assert sh(sys.executable, "model.py", "--self-test", cwd=out).endswith("reference: 0\n")
    graph = artifact.reference
    t = graph.tensor(graph.inputs[0])
    x = np.random.default_rng(0).integers(-128, 128, (5, *t.shape[1:])).astype(np.int8)
    np.savez(tmp_path / "in.npz", x=x)
    sh(sys.executable, "model.py", tmp_path / "in.npz", tmp_path / "out.npz", cwd=out)
    want = run(graph, [x])[graph.outputs[0]]
    with np.load(tmp_path / "out.npz") as d:
        found = d[next(iter(d.files))]
    assert found.dtype == np.int8 and np.array_equal(found, want)
    assert t.quant is not None
    np.savez(tmp_path / "in.npz", x=(x.astype(np.float32) - t.quant.zp) * np.float32(t.quant.s))
    sh(sys.executable, "model.py", tmp_path / "in.npz", tmp_path / "real.npz", cwd=out)
    with np.load(tmp_path / "real.npz") as d:
        assert np.array_equal(d[next(iter(d.files))], want)


def test_python_folder_runs_the_static_program_without_a_compiler(tmp_path: Path) -> None:
    host = compile_to(tmp_path / "a", small_net(), "host")
    out = written(host, "python", tmp_path)
    assert sh(sys.executable, "model.py", "--self-test", cwd=out).endswith("reference: 0\n")


@pytest.mark.parametrize("engine", ["litert", "onnxruntime"])
def test_python_folder_of_an_interpreter(engine: str, tmp_path: Path) -> None:
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    artifact = compile_with(tmp_path / "a", float_net(), "x86-64-avx2", engine)
    out = written(artifact, "python", tmp_path)
    sh(sys.executable, "model.py", "--self-test", cwd=out)


def test_oci_layout_and_server(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "oci", tmp_path)
    layout = out / "layout"

    def blob(entry: dict[str, object]) -> bytes:
        kind, _, digest = str(entry["digest"]).partition(":")
        data = (layout / "blobs" / kind / digest).read_bytes()
        assert len(data) == entry["size"] and hashlib.sha256(data).hexdigest() == digest
        return data

    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = json.loads(blob(entry))
    assert blob(manifest["config"]) == b"{}" and manifest["schemaVersion"] == 2
    titles = set()
    for layer in manifest["layers"]:
        title = layer["annotations"]["org.opencontainers.image.title"]
        assert blob(layer) == (out / "app" / title).read_bytes()
        titles.add(title)
    assert {"model.py", "server.py", "model.json"} <= titles
    sh("sh", "build.sh", cwd=out / "app")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "server.py", "--port", str(port)],
        cwd=out / "app", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == f"serving net at http://127.0.0.1:{port}\n"
        base = f"http://127.0.0.1:{port}/v2"
        with urllib.request.urlopen(f"{base}/models/net", timeout=20) as r:
            about = json.load(r)
        graph = artifact.reference
        x = pattern([graph.tensor(i) for i in graph.inputs])[0]
        (value,) = about["inputs"]
        request = {"inputs": [{**value, "shape": list(x.shape), "data": x.reshape(-1).tolist()}]}

        def post(body: bytes) -> dict[str, object]:
            asked = urllib.request.Request(f"{base}/models/net/infer", body)
            with urllib.request.urlopen(asked, timeout=20) as r:
                return dict(json.load(r))

        (result,) = post(json.dumps(request).encode())["outputs"]  # type: ignore[misc]
        assert result["data"] == expected(graph)[0].reshape(-1).tolist()
        for bad in (b"{", b"[]", b'{"inputs": []}', b'{"inputs": [{"name": "x", "shape": [1]}]}'):
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(bad)
            assert refused.value.code == 400
        assert post(json.dumps(request).encode())["model_name"] == "net"
    finally:
        server.kill()
        server.wait(20)


def test_onnx(artifact: Artifact, tmp_path: Path) -> None:
    out = written(artifact, "onnx", tmp_path)
    again = api.load(out / "net.onnx")
    graph = artifact.reference
    x = pattern([graph.tensor(i) for i in graph.inputs])
    found = run(again, x if again.is_quantized else [x[0].astype(np.float32)])[again.outputs[0]]
    assert np.array_equal(found.reshape(-1), expected(graph)[0].reshape(-1))


# -- all of them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", sorted(export.FORMS))
def test_every_form_has_a_card_and_is_deterministic(
    form: str, artifact: Artifact, tmp_path: Path
) -> None:
    hashes = []
    for k in range(2):
        out = tmp_path / str(k) / "x"
        export.write(artifact, form, out, name="net", license="MIT")
        hashes.append(
            {
                p.relative_to(out): hashlib.sha256(p.read_bytes()).hexdigest()
                for p in out.rglob("*")
                if p.is_file()
            }
        )
        assert not [p for p in out.rglob("*") if str(tmp_path).encode() in _bytes(p)]
    assert hashes[0] == hashes[1]
    card = json.loads((out / "model_card.json").read_text())
    assert card["form"] == form and card["target"]["name"] == "cortex-m4"
    assert {"part": "the model and its weights", "licence": "MIT"} in card["licences"]


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def test_the_card_shows_figures_with_their_kinds(artifact: Artifact, tmp_path: Path) -> None:
    measured = tmp_path / "a"
    shutil.copytree(artifact.path, measured)
    art = Artifact.open(measured)
    profile = api.profile(art)
    art.store_result("profile", profile)
    out = written(Artifact.open(measured), "c", tmp_path)
    card = json.loads((out / "model_card.json").read_text())
    assert card["profile"]["total"]["instructions"] == profile["total"]["instructions"]
    text = (out / "MODEL_CARD.md").read_text()
    assert f"| instructions | {profile['total']['instructions']:,} | simulated |" in text
    assert "| cycles |" in text and "| estimated |" in text


def code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


def test_refusals(
    artifact: Artifact, litert: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for name in ("", "9x", "a-b", "a b", "a;rm -rf ~", "int", "X", "a" * 60, "../x"):
        with pytest.raises(InputError, match="cannot be a library's"):
            identifier(name)
    with pytest.raises(InputError, match="there is no form 'deb'"):
        export.write(artifact, "deb", out)
    with pytest.raises(InputError, match="takes artifacts with C sources"):
        export.write(litert, "zephyr", out)
    assert not out.exists()
    (out / "mine").mkdir(parents=True)
    with pytest.raises(InputError, match="holds files that are not an"):
        export.write(artifact, "c", out)
    new = ["export", str(artifact.path), "-o", str(tmp_path / "new"), "--as"]
    assert code([*new, "c", "--name", "9"]) == 2
    assert "cannot be a library's" in capsys.readouterr().err
    assert code([*new, "c", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["form"] == "c"
    assert code([*new, "onnx"]) == 0
    assert not (tmp_path / "new" / "main.c").exists()
