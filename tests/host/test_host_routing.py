"""The routing kernels on the CPU, against plain loops."""

from pathlib import Path

import pytest

from tests.host.running import run_ok

pytestmark = pytest.mark.host


# The last number of experts of each kernel and the first of the next.
@pytest.mark.parametrize("experts", [1, 8, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1024])
@pytest.mark.parametrize("type_", ["fp32", "fp16", "bf16"])
def test_topk_of_every_size(program: Path, seed: int, type_: str, experts: int) -> None:
    top_k = min(experts, 8)
    run_ok(program, "topk", type=type_, experts=experts, top_k=top_k, tokens=5, pad=1, seed=seed)


@pytest.mark.parametrize("values", ["ties", "wild", "nan"])
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_values(program: Path, seed: int, values: str, renormalize: bool) -> None:
    run_ok(
        program,
        "topk",
        type="fp32",
        values=values,
        experts=40,
        top_k=40,
        tokens=3,
        renormalize=renormalize,
        seed=seed,
    )


# Pairs around what one CTA sorts, what a warp takes, what a CTA of the long path takes.
@pytest.mark.parametrize("tokens", [0, 1, 16, 31, 33, 63, 2047, 2048, 2049, 4097, 8191, 8193])
@pytest.mark.parametrize("int64", [False, True])
def test_sort_by_expert(program: Path, seed: int, tokens: int, int64: bool) -> None:
    run_ok(program, "sort", tokens=tokens, top_k=2, int64=int64, invalid=True, pad=3, seed=seed)


@pytest.mark.parametrize("experts", [1, 31, 33, 1024])
@pytest.mark.parametrize("tokens", [70, 2100])
def test_sort_with_few_and_many_experts(
    program: Path, seed: int, tokens: int, experts: int
) -> None:
    run_ok(program, "sort", tokens=tokens, top_k=3, experts=experts, seed=seed)


@pytest.mark.parametrize("tokens", [40, 5000])
def test_sort_all_to_the_last_expert(program: Path, seed: int, tokens: int) -> None:
    run_ok(program, "sort", tokens=tokens, top_k=1, one_expert=True, seed=seed)


@pytest.mark.parametrize("top_k", [1, 4, 5])
@pytest.mark.parametrize("hidden", [8, 1016, 1032])
@pytest.mark.parametrize("type_", ["fp16", "bf16"])
def test_combine(program: Path, seed: int, type_: str, hidden: int, top_k: int) -> None:
    run_ok(program, "combine", type=type_, hidden=hidden, top_k=top_k, tokens=3, pad=8, seed=seed)


def test_combine_with_wrong_positions(program: Path, seed: int) -> None:
    run_ok(program, "combine", tokens=9, top_k=3, wrong_position=True, seed=seed)
