"""The PEP 517 backend: setuptools, plus build requirements that depend on the machine."""

from collections.abc import Mapping

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from build_tools import environment
from build_tools.toolchain import CUDA_COMPILER, find_nvcc

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

# Only headers are read from it. Pinned, so that a build does not change when torch releases; the
# library runs on every torch >= 2.10 whatever this is. Without isolation the installed one serves.
TORCH_HEADERS = "torch==2.13.0"

Settings = Mapping[str, str | list[str] | None] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """What pip installs into the isolated environment of a wheel's build."""
    return build_meta.get_requires_for_build_wheel(config_settings) + isolated_requirements()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """What pip installs into the isolated environment of an editable install."""
    return build_meta.get_requires_for_build_editable(config_settings) + isolated_requirements()


def native_requirements() -> list[str]:
    """The tools from PyPI that compile the kernels on this machine, beside torch's headers."""
    if environment.cpu_only():
        return []
    return ["ninja"] if find_nvcc() else ["ninja", CUDA_COMPILER]


def isolated_requirements() -> list[str]:
    """What an isolated build lacks."""
    tools = native_requirements()
    return [*tools, TORCH_HEADERS] if tools else []


if __name__ == "__main__":
    print("\n".join(native_requirements()))
