"""The environment variables of a build, each read here and nowhere else."""

import os

from build_tools.flags import ARCHITECTURES


class BuildError(Exception):
    """A build cannot go on; the message is one sentence that says what to do."""


def cpu_only() -> bool:
    """SM80MOE_CPU_ONLY=1: a pure Python wheel, for which no compiler is needed."""
    return _is_set("SM80MOE_CPU_ONLY")


def line_info() -> bool:
    """SM80MOE_LINE_INFO=1: profilers can show kernels' source lines. The wheel is much larger."""
    return _is_set("SM80MOE_LINE_INFO")


def architectures() -> tuple[str, ...]:
    """SM80MOE_CUDA_ARCHS="80;86": compute capabilities that get machine code (all by default)."""
    value = os.environ.get("SM80MOE_CUDA_ARCHS", "")
    if not value:
        return ARCHITECTURES
    chosen = tuple(dict.fromkeys(value.split(";")))
    if not all(arch.isdecimal() and int(arch) >= 80 for arch in chosen):
        raise BuildError(
            f"build: SM80MOE_CUDA_ARCHS must look like {';'.join(ARCHITECTURES)!r} "
            f"with every number at least 80, got {value!r}"
        )
    return chosen


def max_jobs() -> int:
    """MAX_JOBS: compilers that run at the same time (the CPUs of this process by default)."""
    value = os.environ.get("MAX_JOBS", "")
    if not value:
        return len(os.sched_getaffinity(0))
    if not value.isdecimal() or int(value) < 1:
        raise BuildError(f"build: MAX_JOBS must be a positive number, got {value!r}")
    return int(value)


def cuda_home() -> str | None:
    """CUDA_HOME: the toolkit to use, before any that is found on the machine."""
    return os.environ.get("CUDA_HOME") or None


def host_compiler() -> str:
    """CXX: the C++ compiler, for nvcc's host code too."""
    return os.environ.get("CXX") or "g++"


def _is_set(name: str) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise BuildError(f"build: {name} must be 0 or 1, got {value!r}")
    return value == "1"
