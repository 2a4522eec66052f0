"""The PEP 517 backend: setuptools, plus build requirements that depend on the machine."""

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

from build_tools import environment
from build_tools.toolchain import CUDA_COMPILER, find_nvcc

# Only headers are read from it. Pinned, so that a build does not change when torch releases; the
# library runs on every torch >= 2.10 whatever this is. Without isolation the installed one serves.
TORCH_HEADERS = "torch==2.13.0"


def native_requirements() -> list[str]:
    """What an isolated build must install to compile the kernels on this machine."""
    if environment.cpu_only():
        return []
    compiler = [] if find_nvcc() else [CUDA_COMPILER]
    return ["ninja", TORCH_HEADERS, *compiler]


def get_requires_for_build_wheel(config_settings: dict[str, object] | None = None) -> list[str]:
    """The requirements of a wheel."""
    return build_meta.get_requires_for_build_wheel(config_settings) + native_requirements()


def get_requires_for_build_editable(config_settings: dict[str, object] | None = None) -> list[str]:
    """The requirements of an editable install."""
    return build_meta.get_requires_for_build_editable(config_settings) + native_requirements()
