"""The routing kernels on the CPU, against plain loops."""

from pathlib import Path

import pytest

from tests.host.running import run_ok

pytestmark = pytest.mark.host

SCORINGS = ["softmax", "sigmoid", "sqrtsoftplus"]


# The last number of experts of each kernel and the first of the next.
@pytest.mark.parametrize("experts", [1, 8, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1024])
@pytest.mark.parametrize("type_", ["fp32", "fp16", "bf16"])
def test_topk_of_every_size(program: Path, seed: int, type_: str, experts: int) -> None:
    top_k = min(experts, 8)
    run_ok(program, "topk", type=type_, experts=experts, top_k=top_k, tokens=5, pad=1, seed=seed)


@pytest.mark.parametrize("values", ["ties", "wild", "nan", "zeros"])
@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_values(
    program: Path, seed: int, scoring: str, values: str, renormalize: bool
) -> None:
    run_ok(
        program,
        "topk",
        type="fp32",
        values=values,
        scoring=scoring,
        experts=40,
        top_k=40,
        tokens=3,
        renormalize=renormalize,
        seed=seed,
    )


# One group a lane, groups across lanes, of one expert, of a warp's width.
@pytest.mark.parametrize(
    ("experts", "n_group"), [(64, 32), (40, 5), (33, 3), (9, 9), (256, 8), (1024, 16)]
)
@pytest.mark.parametrize("top2_sum", [True, False])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_topk_with_all_arguments(
    program: Path, seed: int, scoring: str, top2_sum: bool, experts: int, n_group: int
) -> None:
    topk_group = (n_group + 1) // 2
    run_ok(
        program,
        "topk",
        type="fp32",
        values="distinct",
        scoring=scoring,
        experts=experts,
        n_group=n_group,
        topk_group=topk_group,
        top2_sum=top2_sum,
        top_k=min(8, experts // n_group * topk_group),
        tokens=5,
        bias=True,
        map=True,
        count=True,
        factor=2,
        seed=seed,
    )


# More choices than a warp has lanes.
@pytest.mark.parametrize("top_k", [32, 33, 64, 100])
def test_topk_of_more_than_a_lane_each(program: Path, seed: int, top_k: int) -> None:
    run_ok(program, "topk", experts=100, top_k=top_k, count=True, map=True, seed=seed)


# Pairs around what a thread reads at once, what a warp has, what a CTA has.
@pytest.mark.parametrize("tokens", [0, 1, 3, 4, 5, 127, 129, 4095, 4096, 4097, 8193])
@pytest.mark.parametrize("int64", [False, True])
@pytest.mark.parametrize("pad", [0, 3])
def test_sort_by_expert(program: Path, seed: int, tokens: int, int64: bool, pad: int) -> None:
    run_ok(program, "sort", tokens=tokens, top_k=2, int64=int64, invalid=True, pad=pad, seed=seed)


@pytest.mark.parametrize("tokens", [40, 3000])
@pytest.mark.parametrize("int64", [False, True])
def test_sort_with_an_expert_map(program: Path, seed: int, tokens: int, int64: bool) -> None:
    run_ok(program, "sort", tokens=tokens, int64=int64, invalid=True, map=True, pad=1, seed=seed)


@pytest.mark.parametrize(("experts", "tokens"), [(1, 2100), (31, 2100), (33, 70), (1024, 70)])
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


# Ends at zero and within the rows, fewer and more groups than threads, more chunks than threads.
@pytest.mark.parametrize("rows", [[0], [3], [0, 5, 0, 2], [1] * 700])
@pytest.mark.parametrize("tail", [0, 1, 40])
@pytest.mark.parametrize("columns", [8, 136])
def test_group_ends(program: Path, seed: int, columns: int, tail: int, rows: list[int]) -> None:
    run_ok(program, "ends", rows=rows, tail=tail, columns=columns, sms=1, seed=seed)


def test_group_ends_that_are_garbage(program: Path, seed: int) -> None:
    for garbage in ("low", "high"):
        run_ok(program, "ends", rows=[2, 3], tail=2, garbage=garbage, seed=seed)


def test_combine_with_wrong_positions(program: Path, seed: int) -> None:
    run_ok(program, "combine", tokens=9, top_k=3, wrong_position=True, seed=seed)


@pytest.mark.parametrize(
    "options", [{"unweighted": 1}, {"residual": 1}, {"bias": 5}, {"bias": 3, "residual": 1}]
)
@pytest.mark.parametrize("type_", ["fp16", "bf16"])
def test_combine_with_options(
    program: Path, seed: int, type_: str, options: dict[str, object]
) -> None:
    for shape in ({"hidden": 72, "top_k": 5}, {"hidden": 1032, "top_k": 1, "wrong_position": 1}):
        run_ok(program, "combine", type=type_, tokens=7, pad=8, seed=seed, **shape, **options)
