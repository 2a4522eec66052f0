"""What the assembler made of the kernels, read out of the library; no GPU needed."""

import os
import re
from pathlib import Path

import pytest

from build_tools import flags
from build_tools.check_resources import Kernel, cuobjdump, kernels_of, log_warnings
from build_tools.native import BUILD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernels(library: Path) -> list[Kernel]:
    return kernels_of(library)


def test_no_kernel_spills_or_outgrows_its_launch(kernels: list[Kernel]) -> None:
    assert kernels
    assert [line for kernel in kernels for line in kernel.problems()] == []


def test_the_compiler_warned_of_nothing() -> None:
    assert log_warnings(BUILD) == []


def test_every_kernel_exists_for_every_promised_architecture(
    kernels: list[Kernel], build_info: dict[str, object]
) -> None:
    promised = set(build_info["architectures"])
    for name in {kernel.name for kernel in kernels}:
        assert {kernel.architecture for kernel in kernels if kernel.name == name} == promised


def test_newer_gpus_get_ptx(library: Path, build_info: dict[str, object]) -> None:
    assert build_info["ptx"] == f"compute_{flags.PTX_ARCHITECTURE}"
    listing = cuobjdump(library, "--list-ptx")
    assert listing.count(f"sm_{flags.PTX_ARCHITECTURE}.ptx") == listing.count(".ptx") > 0


@pytest.mark.skipif("SM80MOE_CUDA_ARCHS" in os.environ, reason="SM80MOE_CUDA_ARCHS narrows it")
def test_a_default_build_has_all_architectures(build_info: dict[str, object]) -> None:
    promised = [f"sm_{arch}" for arch in flags.ARCHITECTURES]
    assert build_info["architectures"] == promised, "built narrower, by SM80MOE_CUDA_ARCHS"


def test_the_mma_ceiling_is_mma_and_fragment_loads(kernels: list[Kernel]) -> None:
    found = [kernel for kernel in kernels if re.search("8ceilings.*10mma_kernel", kernel.name)]
    assert len(found) == 3 * len({kernel.architecture for kernel in found}) > 0
    for kernel in found:
        # A round of four steps, unrolled once, and the loads before the first.
        assert kernel.instructions["HMMA"] + kernel.instructions["IMMA"] == 4 * 32
        assert kernel.instructions["LDSM"] == 4 * 8 + 8


def test_every_tactic_has_a_gemm_kernel(kernels: list[Kernel], library: Path) -> None:
    import torch_sm80moe

    gemms = {kernel.name for kernel in kernels if kernel.is_in("gemm")}
    tactics = torch_sm80moe.tactic_table()
    with_options = [tactic for tactic in tactics if tactic.cta_m <= 128]
    # Two element types; two epilogues, and one with options.
    dense = {name for name in gemms if "DenseWeight" in name}
    assert len(dense) == 2 * (2 * len(tactics) + len(with_options))
    # Packed weights; int8 that has no groups has the tallest tile, too.
    int8 = {name for name in gemms if "Int8PairWeight" in name}
    packed = [len(torch_sm80moe.tactic_table(name)) for name in ("int8", "int4", "fp8", "mxfp4")]
    assert len(gemms - dense - int8) == 2 * (sum(packed) + packed[0] - 1)
    assert min(packed) >= 4


def test_int8_activations_have_kernels_that_both_types_share(kernels: list[Kernel]) -> None:
    """Two epilogues and one with options, of each tactic whose registers suffice."""
    import torch_sm80moe

    found = [kernel for kernel in kernels if "8Int8PairE" in kernel.name]
    tactics = torch_sm80moe.tactic_table("w8a8")
    assert len({kernel.name for kernel in found}) == 3 * len(tactics) == 12
    assert all(kernel.instructions["IMMA"] and not kernel.instructions["HMMA"] for kernel in found)


def test_few_rows_have_four_kernels_for_each_type(kernels: list[Kernel]) -> None:
    """Their first half for SwiGLU, gated and not gated, for SwiGLU with and without options."""
    names = {kernel.name for kernel in kernels if kernel.is_in("decode")}
    dense = {name for name in names if "DenseRows" in name}
    assert len(dense) == 2 * 4
    # Four formats of packed weights, int8 also in groups, these and int4 also without zero points,
    # and int8 activations; with options alone.
    assert len(names - dense) == 2 * 8 * 3
