"""The setuptools commands: what goes into a wheel, and under which name."""

import json
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import BaseError

from build_tools import environment, flags
from build_tools.environment import BuildError
from build_tools.native import PACKAGE, ROOT, build_library
from build_tools.receipt import sources_sha256
from build_tools.toolchain import find_cuda_toolkit


class Build(build):
    """Starts from an empty folder: setuptools would pack what an earlier build left there."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildPy(build_py):
    """Adds `_build_info.json` to a package that no compiler adds anything to."""

    def run(self) -> None:
        super().run()
        if environment.cpu_only() and not self.editable_mode:
            _write_build_info(Path(self.build_lib, PACKAGE.name), self.distribution.get_version())


class BuildExt(build_ext):
    """Adds `_C.so` and `_build_info.json` to the package."""

    def run(self) -> None:
        in_place = self.inplace or self.editable_mode
        package = PACKAGE if in_place else Path(self.build_lib, PACKAGE.name)
        try:
            library = build_library()
            package.mkdir(parents=True, exist_ok=True)
            # Never written over: a process that has the old file mapped would crash.
            Path(package, library.name).unlink(missing_ok=True)
            shutil.copy2(library, package)
            _write_build_info(package, self.distribution.get_version())
        except BuildError as error:
            raise BaseError(str(error)) from error

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


class BdistWheel(bdist_wheel):
    """One wheel for every Python: the library has no Python symbol in it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """What makes setuptools call `BuildExt` and name the platform in the wheel."""
    return [] if environment.cpu_only() else [Extension(f"{PACKAGE.name}._C", sources=[])]


def _write_build_info(package: Path, version: str) -> None:
    cpu_only = environment.cpu_only()
    info = {
        "version": version,
        "commit": _commit(),
        "sources_sha256": sources_sha256(),
        "cpu_only": cpu_only,
        "nvcc": None if cpu_only else find_cuda_toolkit().version,
        "architectures": [] if cpu_only else [f"sm_{arch}" for arch in environment.architectures()],
        "ptx": None if cpu_only else f"compute_{flags.PTX_ARCHITECTURE}",
    }
    Path(package, "_build_info.json").write_text(json.dumps(info, indent=2) + "\n")


def _commit() -> str | None:
    """The commit of the tree; None in an unpacked sdist."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    if not Path(ROOT, ".git").exists() or shutil.which("git") is None:
        return None
    found = subprocess.run(command, capture_output=True, text=True)
    return found.stdout.strip() or None
