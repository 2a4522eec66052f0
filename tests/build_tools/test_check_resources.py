"""Each fault of a kernel is found, in texts as cuobjdump and ptxas print them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from build_tools import check_resources
from build_tools.check_resources import Kernel, log_warnings

GEMM = Kernel(
    name="_ZN7sm80moe4gemm19grouped_gemm_kernelEv",
    architecture="sm_80",
    threads=256,
    registers=255,
    local_bytes=0,
    instructions=Counter(HMMA=64, LDGSTS=8, LDSM=16),
)
DECODE = replace(
    GEMM,
    name="_ZN7sm80moe6decode41_GLOBAL__N__df902709_9_decode_cu_663af7e214gate_up_kernelEv",
    instructions=Counter(HMMA=64, LDGSTS=8),
)
ROUTING = replace(GEMM, name="_ZN7sm80moe7routing11topk_kernelEv", instructions=Counter(LDG=1))


INT8_GEMM = replace(GEMM, instructions=Counter(IMMA=64, LDGSTS=8, LDSM=16))


@pytest.mark.parametrize("kernel", [GEMM, INT8_GEMM, DECODE, ROUTING])
def test_a_good_kernel_has_no_problems(kernel: Kernel) -> None:
    assert kernel.problems() == []


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (replace(GEMM, local_bytes=8), "must not use local memory, got 8 bytes"),
        (replace(ROUTING, instructions=Counter(STL=1)), "must not use local memory"),
        (replace(GEMM, registers=256), "must use at most 255 registers, got 256"),
        (replace(GEMM, threads=None), "must declare its __launch_bounds__"),
        (replace(GEMM, threads=384), "must fit an SM, got 384 threads x 255 registers"),
        (replace(GEMM, instructions=Counter(HMMA=1, LDSM=1)), "got no LDGSTS"),
        (replace(GEMM, instructions=Counter(LDGSTS=1, LDSM=1)), "got no MMA"),
        (replace(DECODE, instructions=Counter(HMMA=1, LDG=1)), "got no LDGSTS"),
    ],
)
def test_a_fault_is_named(kernel: Kernel, expected: str) -> None:
    (problem,) = kernel.problems()
    assert expected in problem
    assert problem.startswith(f"{kernel.name} (sm_80): ")


def test_cuobjdumps_texts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "--dump-sass": (
            "\tcode for sm_80\n"
            "\t\tFunction : a\n"
            '\t.headerflags\t@"EF_CUDA_SM80"\n'
            "        /*0000*/                   MOV R1, c[0x0][0x28] ;     /* 0x00 */\n"
            "        /*0010*/              @!P0 STL.64 [R1+0x8], R2 ;      /* 0x01 */\n"
            "                                                              /* 0x02 */\n"
            "        /*0020*/             @!UP1 HMMA.16816.F32 R4, R8 ;    /* 0x03 */\n"
        ),
        "--dump-ptx": ".visible .entry a(\n\t.param .u64 a_param_0\n)\n.maxntid 128, 1, 1\n{\n}\n",
        "--dump-resource-usage": (
            "arch = sm_80\n"
            "Resource usage:\n"
            " Function a:\n"
            "  REG:40 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:592 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
        ),
    }
    monkeypatch.setattr(check_resources, "cuobjdump", lambda library, option: texts[option])
    assert check_resources.kernels_of(Path("any.so")) == [
        Kernel(
            name="a",
            architecture="sm_80",
            threads=128,
            registers=40,
            local_bytes=16,
            instructions=Counter(MOV=1, STL=1, HMMA=1),
        )
    ]


def test_a_complaint_in_the_compilers_log_is_found(tmp_path: Path) -> None:
    clean = "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    spill = "    16 bytes stack frame, 20 bytes spill stores, 12 bytes spill loads\n"
    (tmp_path / "clean.cu.o.log").write_text(clean)
    (tmp_path / "spill.cu.o.log").write_text(clean + spill)
    warning = "kernels/gemm/a.cuh(1): warning #39-D: division by zero\n"
    (tmp_path / "warning.cu.o.log").write_text(warning + clean)
    assert log_warnings(tmp_path) == [
        f"spill.cu.o.log: {spill.strip()}",
        f"warning.cu.o.log: {warning.strip()}",
    ]
