"""The text of build.ninja: an object for every source, one library, dependencies by depfile.

Ninja runs in the root of the tree and every path of ours is relative to it, so that neither the
objects nor the debugger's line tables know where the tree was.
"""

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
_COMPILE = ("-c", "$in", "-o", "$out")
# -MMD leaves out system headers: a changed toolkit or torch shows in these paths instead.
_DEPFILE = ("-MMD", "-MF", "$out.d")
# Without it ninja would take the object to depend on nothing, and never compile it again.
CHECK_DEPFILE = " && test -s $out.d"


def ninja_file(
    toolchain: Toolchain,
    architectures: tuple[str, ...],
    root: Path,
    build: str,
    *,
    line_info: bool = False,
) -> str:
    """Rules and edges for everything under `root`/kernels; outputs go to `build`."""
    files = sorted(path.relative_to(root) for path in root.glob("kernels/**/*.*"))
    sources = [path for path in files if path.suffix in (".cu", ".cpp")]
    headers = [path for path in files if path.suffix in (".cuh", ".h")]
    objects = [_path(f"{build}/objects/{source}.o") for source in sources]
    checked = [_path(f"{build}/headers/{header}.ok") for header in headers]
    return "\n".join(
        [
            "ninja_required_version = 1.8",
            f"# CUDA {toolchain.cuda.version}",
            f"builddir = {build}",
            *_rules(toolchain, architectures, build, line_info),
            *map(_edge, objects, sources),
            *map(_edge, checked, headers),
            f"build {build}/stub/libtorch.so: stub",
            f"build {build}/_C.so: link {' '.join(objects)} | {build}/stub/libtorch.so",
            f"build headers: phony {' '.join(checked)}",
            f"default {build}/_C.so",
            "",
        ]
    )


def _edge(target: str, source: Path) -> str:
    return f"build {target}: {source.suffix[1:]} {_path(source)}"


def _rules(
    toolchain: Toolchain, architectures: tuple[str, ...], build: str, line_info: bool
) -> list[str]:
    """One rule a suffix; a header is compiled as if it were the whole of a source."""
    launcher = [toolchain.ccache] if toolchain.ccache else []
    nvcc = [toolchain.cuda.nvcc, "-ccbin", toolchain.cxx, *flags.NVCC_FLAGS, "-I", "kernels"]
    if line_info:
        nvcc.append("-lineinfo")
    cxx = [
        *(toolchain.cxx, *flags.CXX_FLAGS, "-I", "kernels", "-I", f"{build}/generated"),
        *("-isystem", toolchain.torch_include, "-isystem", toolchain.cuda.include),
        # torch's error messages name the header that they come from.
        f"-ffile-prefix-map={toolchain.torch_include}=torch",
    ]
    cu = [*launcher, *nvcc, *flags.gencode(architectures), *_DEPFILE, *_COMPILE]
    cuh = [
        *(*nvcc, f"-arch=compute_{flags.PTX_ARCHITECTURE}", "-ptx", *_DEPFILE),
        *("-x", "cu", "-include", "$in", "/dev/null", "-o", "$out"),
    ]
    h = [*cxx, "-fsyntax-only", *_DEPFILE, "-x", "c++", "-include", "$in", "/dev/null"]
    stub = [
        *(toolchain.cxx, "-shared", "-nostdlib", "-Wl,-soname,libtorch.so"),
        *("-x", "c++", "/dev/null", "-o", "$out"),
    ]
    link = [
        *(toolchain.cxx, "-o", "$out", "$in", "-L", f"{build}/stub", "-L", toolchain.cuda.library),
        *flags.LINK_FLAGS,
    ]
    return [
        *_rule("cu", _command(cu) + LOG_REDIRECT + _SHOW_WARNINGS, compiles=True),
        *_rule("cpp", _command([*launcher, *cxx, *_DEPFILE, *_COMPILE]), compiles=True),
        *_rule("cuh", _command(cuh), compiles=True),
        *_rule("h", _command(h) + " && touch $out", compiles=True),
        *_rule("stub", _command(stub)),
        *_rule("link", _command(link)),
    ]


def _rule(name: str, command: str, *, compiles: bool = False) -> list[str]:
    if not compiles:
        return [f"rule {name}", f"  command = {command}", f"  description = {name} $out"]
    return [
        *_rule(name, command + CHECK_DEPFILE),
        "  depfile = $out.d",
        "  deps = gcc",
    ]


def _command(words: list[object]) -> str:
    return " ".join(_word(str(word)) for word in words)


def _word(word: str) -> str:
    """Quote for the shell, keeping ninja's own `$in` and `$out`."""
    ninjas_own = word.startswith(("$in", "$out"))
    return word if ninjas_own else shlex.quote(word).replace("$", "$$")


def _path(path: object) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")
