"""Compiles kernels/ into build/native/_C.so; knows nothing of wheels."""

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

from build_tools import environment, ninja_file
from build_tools.check_symbols import unresolved_symbols
from build_tools.environment import BuildError
from build_tools.toolchain import find_toolchain

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "torch_sm80moe"
# One folder for every Python and every torch, because the library depends on neither.
BUILD = ROOT / "build" / "native"
GENERATED = BUILD / "generated"
LIBRARY = BUILD / "_C.so"
_NINJA_FILE = BUILD / "build.ninja"


def build_library() -> Path:
    """Bring the library up to date and return its path; raises BuildError if that fails."""
    if subprocess.run(ninja_command("-j", str(environment.max_jobs()))).returncode != 0:
        raise BuildError("build: the kernels must compile, see the first error above")
    # The stub of libtorch.so leaves every symbol unresolved, so ld cannot tell ours from torch's.
    missing = unresolved_symbols(LIBRARY)
    if missing:
        raise BuildError(f"build: every symbol must be defined here or be torch's, got {missing}")
    return LIBRARY


def ninja_command(*arguments: str) -> list[str]:
    """A call of ninja, after writing what it reads: the generated sources and build.ninja."""
    toolchain = find_toolchain()
    schemas = runpy.run_path(str(PACKAGE / "_schemas.py"))["SCHEMAS"]
    _write_if_changed(GENERATED / "schemas.inc", _schema_definitions(schemas))
    formats = runpy.run_path(str(PACKAGE / "_formats.py"))
    _write_if_changed(GENERATED / "weight_formats.inc", _weight_formats(formats))
    build = BUILD.relative_to(ROOT).as_posix()
    text = ninja_file.ninja_file(
        toolchain, environment.architectures(), ROOT, build, line_info=environment.line_info()
    )
    _write_if_changed(_NINJA_FILE, text)
    return [str(toolchain.ninja), "-C", str(ROOT), "-f", str(_NINJA_FILE), *arguments]


def _schema_definitions(schemas: tuple[str, ...]) -> str:
    return "".join(f"m.def({json.dumps(schema)});\n" for schema in schemas)


def _weight_formats(formats: dict[str, Any]) -> str:
    """Return a line a format: name, bits, group sizes and those in words."""
    lines = []
    for name in formats["WEIGHT_FORMATS"]:
        sizes = ", ".join(map(str, formats["GROUP_SIZES"][name]))
        words = formats["group_sizes_in_words"](name)
        lines.append(f'{{"{name}", {formats["WEIGHT_BITS"][name]}, {{{sizes}}}, "{words}"}},\n')
    return "".join(lines)


def _write_if_changed(path: Path, text: str) -> None:
    # An untouched time stamp keeps ninja from compiling again.
    if path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
