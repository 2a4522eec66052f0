"""Finds the CUDA toolkit, the host compiler, ninja and torch's headers, or says what is missing."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from build_tools import environment, flags
from build_tools.environment import BuildError

# The compiler from PyPI. With fewer extras pip mixes versions that do not work together; 13.0's
# binaries run on every driver of CUDA 13.
CUDA_COMPILER = "cuda-toolkit[nvcc,crt,nvvm,cudart,cccl]==13.0.2"

USUAL_TOOLKIT = Path("/usr/local/cuda")

NO_NVCC = (
    "build: nvcc must be installed to compile the GPU kernels, got none in CUDA_HOME, PATH or "
    f"{USUAL_TOOLKIT}; install a CUDA toolkit, or its compiler alone by "
    f"`pip install '{CUDA_COMPILER}'`, or set SM80MOE_CPU_ONLY=1 for a package without GPU kernels"
)


@dataclass(frozen=True)
class CudaToolkit:
    """The parts of a CUDA toolkit that a build uses, wherever they were installed."""

    nvcc: Path
    version: str
    include: Path
    library: Path


@dataclass(frozen=True)
class Toolchain:
    """Everything that is called or included by a build."""

    cuda: CudaToolkit
    cxx: Path
    ninja: Path
    ccache: Path | None
    torch_include: Path


def find_toolchain() -> Toolchain:
    """The tools of this machine; raises BuildError for the first one that is missing."""
    ccache = shutil.which("ccache")
    return Toolchain(
        cuda=find_cuda_toolkit(),
        cxx=_find_host_compiler(),
        ninja=_find_ninja(),
        ccache=Path(ccache) if ccache else None,
        torch_include=find_torch_include(),
    )


def find_nvcc() -> Path | None:
    """CUDA_HOME, then PATH, then the usual folder, then the compiler that pip installed."""
    home = environment.cuda_home()
    if home:
        nvcc = Path(home, "bin", "nvcc")
        if not nvcc.is_file():
            raise BuildError(f"build: CUDA_HOME must be a folder with bin/nvcc, got {home!r}")
        return nvcc
    on_path = shutil.which("nvcc")
    if on_path:
        return Path(on_path)
    from_pip = [Path(entry, "nvidia", "cu13", "bin", "nvcc") for entry in sys.path]
    candidates = [USUAL_TOOLKIT / "bin" / "nvcc", *from_pip]
    return next((nvcc for nvcc in candidates if nvcc.is_file()), None)


def find_cuda_toolkit() -> CudaToolkit:
    """The toolkit around `find_nvcc`'s answer; raises BuildError where a part is missing."""
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError(NO_NVCC)
    root = _toolkit_root(nvcc)
    return CudaToolkit(
        nvcc=nvcc,
        version=_nvcc_version(nvcc),
        include=_folder_of(root, "cuda_runtime_api.h", ("include", "targets/*/include")),
        library=_folder_of(root, "libcudart_static.a", ("lib64", "lib", "targets/*/lib")),
    )


def _toolkit_root(nvcc: Path) -> Path:
    # nvcc may be a script or a link that leads elsewhere: only nvcc itself knows its root.
    dry_run = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        text=True,
    )
    root = re.search(r"^#\$ TOP=(.+)$", dry_run.stderr, re.MULTILINE)
    if root is None:
        raise BuildError(f"build: {nvcc} must be a working nvcc, got {dry_run.stderr.strip()!r}")
    return Path(root[1]).resolve()


def _nvcc_version(nvcc: Path) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"V(\d+\.\d+\.\d+)", text)
    if version is None:
        raise BuildError(f"build: nvcc --version must name a version, got {text!r}")
    return version[1]


def _folder_of(root: Path, name: str, folders: tuple[str, ...]) -> Path:
    found = [path for folder in folders for path in root.glob(f"{folder}/{name}")]
    if not found:
        raise BuildError(f"build: the CUDA toolkit must contain {name}, got none under {root}")
    return found[0].parent


def _find_host_compiler() -> Path:
    name = environment.host_compiler()
    found = shutil.which(name)
    if found is None:
        raise BuildError(f"build: a C++17 compiler must be installed or named by CXX, got {name!r}")
    return Path(found)


def _find_ninja() -> Path:
    found = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if found:
        return Path(found)
    if importlib.util.find_spec("ninja") is None:
        raise BuildError("build: ninja must be installed (`pip install ninja`), got none")
    import ninja

    return Path(ninja.BIN_DIR, "ninja")


def find_torch_include() -> Path:
    # Only headers are needed, so torch itself is not imported: that would take seconds.
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("build: torch >= 2.10 must be installed for its headers, got none")
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in version.split(".")[:2]) < flags.MINIMUM_TORCH:
        raise BuildError(f"build: torch must be at least 2.10, got {version}")
    return Path(spec.submodule_search_locations[0], "include")
