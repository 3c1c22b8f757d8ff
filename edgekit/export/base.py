"""What every form works with: the order (artifact, name, folder) and the C library in an artifact."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.artifact import Artifact
from edgekit.errors import InputError

_MODEL_C = "src/edgekit_model.c"
_RESERVED = frozenset(
    (
        "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else",
        "enum", "extern", "float", "for", "goto", "if", "inline", "int", "long", "register",
        "restrict", "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef",
        "union", "unsigned", "void", "volatile", "while", "class", "new", "delete", "this",
        "template", "public", "private", "protected", "operator", "namespace", "try", "catch",
        "throw", "using", "virtual", "friend", "bool", "true", "false", "main", "test",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """artifact: what is handed over. name: a C identifier. out: the new, empty folder. license: SPDX
    expression of the model's licence, where the user named one."""

    artifact: Artifact
    name: str
    out: Path
    license: str | None = None

    @property
    def version(self) -> str:
        """Of the package that is written, three numbers (what package managers take)."""
        return ".".join([*re.findall(r"\d+", __version__), "0", "0", "0"][:3])

    @property
    def title(self) -> str:
        target = self.artifact.manifest["target"]["name"]
        return f"{self.artifact.manifest['model'].get('source') or self.name} for {target}"

    def write(self, files: Mapping[str, str]) -> None:
        """Texts as UTF-8 with Unix line ends, below :attr:`out`."""
        for name, text in files.items():
            self.write_bytes(name, text.encode("utf-8"))

    def write_bytes(self, name: str, data: bytes) -> None:
        path = self.out / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as e:
            raise InputError(f"cannot write '{name}' of the export: {e.strerror or e}") from None


def identifier(name: str) -> str:
    """``name`` when it can be a C identifier, a package name and a Kotlin package at once."""
    if re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name) and name not in _RESERVED:
        return name
    raise InputError(
        f"name '{name}' cannot be a library's; lower-case letters, digits and '_', a letter first, at "
        "most 48, and no keyword would be accepted"
    )


def name_of(artifact: Artifact) -> str:
    """A name made of the model's file name."""
    model = artifact.manifest["model"]
    stem = Path(str(model.get("source") or model.get("name") or "model")).name.split(".")[0]
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")[:40] or "model"
    if not name[0].isalpha():
        name = f"model_{name}"
    return f"{name}_model" if name in _RESERVED else name


@dataclass(frozen=True)
class CLibrary:
    """The C of a model, its symbols named after the order: path -> text.

    headers: of the interface (``NAME.h``); private: headers of weights and kernels; sources: ``.c``.
    Names are flat (no folders): every form lays them out its own way, and no two are equal.
    """

    name: str
    headers: Mapping[str, str]
    private: Mapping[str, str]
    sources: Mapping[str, str]

    @property
    def header(self) -> str:
        return f"{self.name}.h"

    @property
    def upper(self) -> str:
        return self.name.upper()


def has_c(artifact: Artifact) -> bool:
    return _MODEL_C in artifact.manifest["files"]


def c_library(order: Order, form: str) -> CLibrary:
    """The C library in the artifact, renamed: ``edgekit_model_invoke`` is ``NAME_invoke`` and
    ``EDGEKIT_MODEL_INPUT_0_BYTES`` ``NAME_INPUT_0_BYTES``, so that several models fit in one firmware.

    Raises InputError where the artifact holds no C (another engine).
    """
    artifact = order.artifact
    if not has_c(artifact):
        raise InputError(
            f"form '{form}' takes artifacts with C sources; '{artifact.path}' is of engine "
            f"'{artifact.engine}': compile with --engine c"
        )
    rename = _renamer(order.name)
    headers: dict[str, str] = {}
    private: dict[str, str] = {}
    sources: dict[str, str] = {}
    for path in sorted(artifact.manifest["files"]):
        folder, _, base = path.rpartition("/")
        if folder.split("/")[0] not in ("include", "src", "kernels"):
            continue
        text = artifact.file(path).read_text("utf-8")
        if folder.startswith("kernels"):
            kept = private if base.endswith(".h") else sources
            if base.endswith((".h", ".c")):
                kept[base] = text
            continue
        base = _file_name(base, order.name)
        text = rename(text)
        kept = headers if folder == "include" else private if base.endswith(".h") else sources
        kept[base] = text
    return CLibrary(order.name, headers, private, sources)


def _file_name(base: str, name: str) -> str:
    """``edgekit_model.h`` -> ``NAME.h``, ``edgekit_weights.c`` -> ``NAME_weights.c``."""
    return base.replace("edgekit_model", name).replace("edgekit_weights", f"{name}_weights")


def _renamer(name: str) -> Callable[[str], str]:
    """Renames the symbols, macros and includes of generated text."""
    rules = (
        (re.compile(r"\bedgekit_model"), name),
        (re.compile(r"\bEDGEKIT_MODEL"), name.upper()),
        (re.compile(r"\bedgekit_(?=c\d{3}_|layer_|arena|trace|weights)"), f"{name}_"),
        (re.compile(r"\bEDGEKIT_(?=ARENA|TRACE|USER_ARENA|LAYER|WEIGHTS)"), f"{name.upper()}_"),
    )

    def rename(text: str) -> str:
        for pattern, new in rules:
            text = pattern.sub(new, text)
        return text

    return rename
