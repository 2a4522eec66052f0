"""The text of build.ninja: an object for every source, one library, dependencies by depfile."""

import shlex
from pathlib import Path

from build_tools import flags
from build_tools.toolchain import Toolchain

# nvcc prints the resources of every kernel: they belong in a file, warnings on the screen.
LOG_REDIRECT = " > $out.log 2>&1"
_SHOW_WARNINGS = (
    " && { grep -v -e '^ptxas info' -e 'bytes stack frame' $out.log || true; }"
    " || { cat $out.log; false; }"
)


def ninja_file(
    toolchain: Toolchain, architectures: tuple[str, ...], kernels: Path, build: Path
) -> str:
    """Rules and edges for every .cu and .cpp under `kernels`, sorted: the text is stable."""
    sources = sorted(path for path in kernels.rglob("*") if path.suffix in (".cu", ".cpp"))
    objects = {source: f"objects/{source.relative_to(kernels)}.o" for source in sources}
    edges = [
        f"build {_path(target)}: {source.suffix[1:]} {_path(source)}"
        for source, target in objects.items()
    ]
    return "\n".join(
        [
            *_rules(toolchain, architectures, kernels, build),
            *edges,
            "build stub/libtorch.so: stub",
            f"build _C.so: link {' '.join(map(_path, objects.values()))} | stub/libtorch.so",
            "default _C.so",
            "",
        ]
    )


def _rules(
    toolchain: Toolchain, architectures: tuple[str, ...], kernels: Path, build: Path
) -> list[str]:
    launcher = [toolchain.ccache] if toolchain.ccache else []
    ours = ["-I", kernels]
    # -MMD leaves out system headers: a changed toolkit or torch shows in these paths instead.
    depfile = ["-MMD", "-MF", "$out.d"]
    cu = [
        *(*launcher, toolchain.cuda.nvcc, "-ccbin", toolchain.cxx),
        *(*flags.NVCC_FLAGS, *flags.gencode(architectures), *ours, *depfile),
        *("-c", "$in", "-o", "$out"),
    ]
    cpp = [
        *(*launcher, toolchain.cxx, *flags.CXX_FLAGS, *ours, "-I", build / "generated"),
        *("-isystem", toolchain.torch_include, "-isystem", toolchain.cuda.include, *depfile),
        *("-c", "$in", "-o", "$out"),
    ]
    stub = [
        *(toolchain.cxx, "-shared", "-nostdlib", "-Wl,-soname,libtorch.so"),
        *("-x", "c++", "/dev/null", "-o", "$out"),
    ]
    link = [
        *(toolchain.cxx, "-o", "$out", "$in", "-L", "stub", "-L", toolchain.cuda.library),
        *flags.LINK_FLAGS,
    ]
    return [
        "ninja_required_version = 1.8",
        f"# CUDA {toolchain.cuda.version}",
        *_rule("cu", _command(cu) + LOG_REDIRECT + _SHOW_WARNINGS, compiles=True),
        *_rule("cpp", _command(cpp), compiles=True),
        *_rule("stub", _command(stub)),
        *_rule("link", _command(link)),
    ]


def _rule(name: str, command: str, *, compiles: bool = False) -> list[str]:
    lines = [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
    if compiles:
        lines += ["  depfile = $out.d", "  deps = gcc"]
    return lines


def _command(words: list[object]) -> str:
    return " ".join(word if word in ("$in", "$out") else _word(str(word)) for word in words)


def _word(word: str) -> str:
    """Quote for the shell, keeping ninja's own `$out`."""
    return word if word.startswith("$out") else shlex.quote(word).replace("$", "$$")


def _path(path: object) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
