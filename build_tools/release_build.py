"""The steps of a release without a container: a wheel of the last commit, repaired and tested.

    CUDA_HOME=FOLDER python -m build_tools.release_build [--python PATH ...] [--twice]

What is not committed is not built. The wheel goes to dist/ with the oldest manylinux tag that this
machine's compiler and toolkit allow; the one for everybody comes from cibuildwheel's container,
by the configuration in pyproject.toml. Both need CUDA 12, for the sake of older drivers. Every
Python named must have torch and pytest; the tests run in an empty folder into which the wheel was
installed. `--twice` compiles again and compares.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from build_tools.gpu_suite import Suite
from build_tools.native import ROOT
from build_tools.toolchain import find_cuda_toolkit

# Not a temporary folder: nvcc puts a hash of the source's path into the names of kernels, so equal
# bytes need equal paths.
TREE = ROOT / "build" / "release" / "tree"

# CUDA 13's binaries load on drivers from R580 on only, CUDA 12's from R525 on.
CUDA_MAJOR = "12"

# As in [tool.cibuildwheel] of pyproject.toml.
KERNELS_ARE_THERE = "import torch_sm80moe; assert torch_sm80moe.tactic_table()"
TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow and not compile")

_VERSIONS = "import platform, torch; print(platform.python_version(), 'torch', torch.__version__)"


def call(*command: str, cwd: Path = ROOT) -> None:
    """Run a step; the release ends where one fails."""
    print("+", " ".join(command), flush=True)
    # The tools of the build lie beside this Python, also where its environment was not activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    code = subprocess.run(command, cwd=cwd, env={**os.environ, "PATH": path}).returncode
    if code != 0:
        sys.exit(f"release_build: every step must succeed, got exit code {code} of {command[:4]}")


def check_compiler(version: str) -> None:
    """Ends the release before it began if users with older drivers would be left out."""
    if version.partition(".")[0] != CUDA_MAJOR:
        sys.exit(
            f"release_build: CUDA_HOME must name a toolkit of CUDA {CUDA_MAJOR}, got {version}; "
            "`python -m build_tools.debian_cuda FOLDER` makes one"
        )


def build(folder: Path) -> Path:
    """A wheel of the last commit, compiled from nothing."""
    shutil.rmtree(TREE, ignore_errors=True)
    call("git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", str(TREE))
    pip = (sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps")
    call(*pip, "--wheel-dir", str(folder), cwd=TREE)
    return _only_wheel(folder)


def repair(wheel: Path, folder: Path) -> Path:
    """The wheel with the tag of the oldest systems it runs on; torch stays outside."""
    auditwheel = (sys.executable, "-m", "auditwheel")
    call(*auditwheel, "show", str(wheel))
    options = ("--exclude", "libtorch.so", "--wheel-dir", str(folder))
    call(*auditwheel, "repair", *options, str(wheel))
    return _only_wheel(folder)


def check_same(first: Path, second: Path) -> None:
    """Ends the release if two builds of one commit differ."""
    if first.read_bytes() != second.read_bytes():
        with zipfile.ZipFile(first) as one, zipfile.ZipFile(second) as other:
            entries = [
                {(e.filename, e.CRC, e.date_time) for e in z.infolist()} for z in (one, other)
            ]
        names = sorted({entry[0] for entry in entries[0] ^ entries[1]})
        sys.exit(f"release_build: two builds must give the same bytes, got others in {names}")
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    print(f"two builds, the same bytes: {digest}", flush=True)


def test(wheel: Path, python: str) -> None:
    """Install the wheel into an empty folder and run the quick tests there, on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        suite = Suite.install(wheel, Path(folder))
        output = suite.folder / "output.log"
        for arguments in (("-c", _VERSIONS), ("-c", KERNELS_ARE_THERE), (*TESTS, "tests/python")):
            code = suite.run(output, python, *arguments)
            print(output.read_text(), flush=True)
            if code != 0:
                sys.exit(f"release_build: the wheel must pass its tests, got a failure in {python}")


def _only_wheel(folder: Path) -> Path:
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> None:
    """Exits with a sentence at the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m build_tools.release_build")
    parser.add_argument("--python", action="append", help="test with this one; may be repeated")
    parser.add_argument("--twice", action="store_true", help="compile again and compare")
    options = parser.parse_args()
    check_compiler(find_cuda_toolkit().version)

    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary, name) for name in ("first", "second", "repaired")]
        wheel = build(folders[0])
        # Each compiler has its own way with registers, and CI has only the other one.
        call(sys.executable, "-m", "build_tools.check_resources", cwd=TREE)
        if options.twice:
            check_same(wheel, build(folders[1]))
        repaired = repair(wheel, folders[2])
        call(sys.executable, "-m", "twine", "check", "--strict", str(repaired))
        for python in options.python or [sys.executable]:
            test(repaired, python)
        (ROOT / "dist").mkdir(exist_ok=True)
        released = Path(shutil.copy2(repaired, ROOT / "dist"))
    print(f"{released.relative_to(ROOT)}: {released.stat().st_size} bytes")


if __name__ == "__main__":
    main()
