"""The setuptools commands: what goes into a wheel, and under which name."""

import json
import os
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
from build_tools.native import LIBRARY, PACKAGE, ROOT, build_library
from build_tools.receipt import GEMM_SOURCES, sources_sha256
from build_tools.toolchain import find_cuda_toolkit


class Build(build):
    """Starts from an empty folder: setuptools would pack what an earlier build left there."""

    def run(self) -> None:
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildPy(build_py):
    """Completes a package for which nothing is compiled."""

    def run(self) -> None:
        super().run()
        if environment.cpu_only():
            _complete_package(self, in_place=self.editable_mode)


class BuildExt(build_ext):
    """Completes a package with the compiled library."""

    def run(self) -> None:
        _complete_package(self, in_place=self.inplace or self.editable_mode)

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"


class BdistWheel(bdist_wheel):
    """One wheel for every Python: the library has no Python symbol in it."""

    def run(self) -> None:
        # The same tree makes the same bytes, so a file in the wheel is as old as the commit.
        date = _commit_date()
        if date:
            os.environ.setdefault("SOURCE_DATE_EPOCH", date)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def extensions() -> list[Extension]:
    """What makes setuptools call `BuildExt` and name the platform in the wheel."""
    return [] if environment.cpu_only() else [Extension(f"{PACKAGE.name}._C", sources=[])]


def _complete_package(command: build_py | build_ext, *, in_place: bool) -> None:
    """Put `_C.so`, unless this is a CPU-only build, and `_build_info.json` into the package."""
    package = PACKAGE if in_place else Path(command.build_lib, PACKAGE.name)
    package.mkdir(parents=True, exist_ok=True)
    library = package / LIBRARY.name
    try:
        built = None if environment.cpu_only() else build_library()
        # Never written over: a process that has the old library mapped would crash.
        library.unlink(missing_ok=True)
        if built:
            shutil.copy2(built, library)
        info = json.dumps(_build_info(command.distribution.get_version()), indent=2)
    except BuildError as error:
        raise BaseError(str(error)) from error
    (package / "_build_info.json").write_text(info + "\n")


def _build_info(version: str) -> dict[str, object]:
    cpu_only = environment.cpu_only()
    return {
        "version": version,
        "commit": _commit(),
        "sources_sha256": sources_sha256(),
        "gemm_sha256": sources_sha256(sources=GEMM_SOURCES),
        "cpu_only": cpu_only,
        "nvcc": None if cpu_only else find_cuda_toolkit().version,
        "architectures": [] if cpu_only else [f"sm_{arch}" for arch in environment.architectures()],
        "ptx": None if cpu_only else f"compute_{flags.PTX_ARCHITECTURE}",
    }


def _commit() -> str | None:
    """The commit of the tree; None in an unpacked sdist."""
    return _git("rev-parse", "HEAD")


def _commit_date() -> str | None:
    """The commit's date in seconds; None in an unpacked sdist."""
    return _git("log", "-1", "--format=%ct")


def _git(*arguments: str) -> str | None:
    if not Path(ROOT, ".git").exists() or shutil.which("git") is None:
        return None
    found = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return found.stdout.strip() or None
