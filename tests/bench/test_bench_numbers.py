"""What is computed and not timed: floors, cells, copies, statistics, routings, budgets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from torch_sm80moe.bench import formats
from torch_sm80moe.bench.budget import Budget
from torch_sm80moe.bench.floor import Limits, Work, mean_floor_us
from torch_sm80moe.bench.layer import Case, Layers, copies_wanted
from torch_sm80moe.bench.models import MODELS, find_model, num_active, parse_shape
from torch_sm80moe.bench.plan import Plan
from torch_sm80moe.bench.routings import ROUTINGS, make_routing
from torch_sm80moe.bench.summary import Summary, geometric_mean, summarize
from torch_sm80moe.bench.timing import Loop
from torch_sm80moe.quantization import unpack

CPU = torch.device("cpu")
MIXTRAL = find_model("mixtral")
H100 = Limits(dram_bytes=3.08e12, mma_flops=620e12)


def test_the_floor_of_one_token_is_reading_its_experts():
    work = Work(2 * MIXTRAL.expert_bytes, MIXTRAL.flops(1))
    assert work.floor_us(H100) == pytest.approx(2 * 3 * 4096 * 14336 * 2 / 3.08e6)
    assert work.floor_us(H100) == pytest.approx(229, rel=1e-2)


def test_the_floor_of_many_tokens_is_multiplying():
    work = Work(8 * MIXTRAL.expert_bytes, MIXTRAL.flops(4096))
    assert work.floor_us(H100) == pytest.approx(4096 * 2 * 6 * 4096 * 14336 / 620e6)
    assert work.floor_us(H100) == pytest.approx(4655, rel=1e-2)


def test_floors_of_calls_are_averaged_and_not_their_work():
    reads, multiplies = Work(1000, 0), Work(0, 1000)
    assert mean_floor_us([reads, multiplies], Limits(1e6, 1e6)) == pytest.approx(1000)


def test_only_chosen_experts_are_read():
    ids = torch.tensor([[3, 1], [1, 7]])
    assert num_active(ids) == 3


def test_the_floor_of_a_format_reads_values_and_scales():
    values = 3 * 4096 * 14336
    groups, rows = values // 128, 2 * 14336 + 4096
    wanted = {
        "16bit": 2 * values,
        "w8a16": values + 2 * rows,
        "w8a16-asym": values + 3 * rows,
        "w8a16-tensor": values + 2 * 2,
        "w4a16-g128": values // 2 + 2 * groups,
        "w4a16-g128-asym": values // 2 + 2 * groups + groups // 2,
        "fp8-block": values + 2 * groups // 128,
        "mxfp4": values // 2 + values // 32,
    }
    assert {name: formats.expert_bytes(MIXTRAL, name) for name in wanted} == wanted


def test_int8_activations_have_the_ceiling_of_int8():
    assert formats.mma_ceiling("bfloat16", "w4a16") == "mma_bfloat16"
    assert formats.mma_ceiling("float16", "16bit") == "mma_float16"
    assert formats.mma_ceiling("bfloat16", "w8a8") == "mma_int8"


@pytest.mark.parametrize("name", ["16bit", "w8a16-asym", "w4a16-g64", "fp8-channel", "mxfp4"])
def test_random_weights_are_what_they_mean_and_keep_sizes(name):
    shape = (3, 96, 256)
    weight = formats.random_weight(shape, torch.bfloat16, name, CPU)
    meaning = formats.Meaning(weight)
    assert [meaning.size(dim) for dim in range(3)] == list(shape)
    if name == "16bit":
        whole = weight.float()
    else:
        whole = unpack(weight).dequantize()
        assert str(weight.scheme) == name
    assert torch.equal(torch.stack([meaning[expert].float() for expert in range(3)]), whole)
    assert whole.norm(dim=2).mean() == pytest.approx(1, rel=0.1)
    other = formats.copy(weight)
    assert formats.num_bytes(other) == formats.num_bytes(weight)
    assert torch.equal(formats.Meaning(other)[1], meaning[1])


# What w2 alone has, in L2 sizes: an active expert's half, and all of them.
@pytest.mark.parametrize(("active", "copies"), [(3, 1), (2.5, 1), (2, 2), (1, 3), (0.5, 5)])
def test_two_l2_sizes_lie_between_two_uses_of_a_weight(active, copies):
    l2 = 3000
    assert copies_wanted(3 * l2 // 2, int(3 * active * l2), l2) == copies


def test_percentiles_lie_between_ranks():
    assert summarize([5, 1, 3, 2, 4]) == Summary(3, pytest.approx(1.4), pytest.approx(4.6), 5)
    assert summarize([7]) == Summary(7, 7, 7, 1)


def test_a_rate_has_its_spread_in_order():
    assert Summary(2, 1, 4, 9).as_rate(8) == Summary(4e6, 2e6, 8e6, 9)


def test_geometric_mean():
    assert geometric_mean([1, 4]) == pytest.approx(2)


def test_cells_are_grouped_by_weights():
    plan = Plan(
        dtypes=("bfloat16", "float16"),
        formats=("16bit", "w8a16", "mxfp4"),
        routings=("balanced", "half"),
    )
    cells = plan.cells()
    assert len(cells) == len(set(map(str, cells))) == 6 * 2 * 3 * 2 * 7
    groups = [(cell.model, cell.dtype, cell.format) for cell in cells]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert changes == 6 * 2 * 3 - 1


def test_the_default_run_is_the_table_of_the_targets():
    assert len(Plan().cells()) == 42


@pytest.mark.parametrize("text", ["8,2,256", "8,2,256,x", "0,1,8,8", "2,3,8,8", "8,2,12,8"])
def test_wrong_shapes_are_refused(text):
    with pytest.raises(ValueError, match=r"^must "):
        parse_shape(text)


def test_models_go_by_the_beginnings_of_their_names():
    assert find_model("qwen3").num_experts == 128
    with pytest.raises(ValueError, match=r"must be among mixtral-8x7b, .*, got 'm2'"):
        find_model("m2")
    assert len({model.name for model in MODELS}) == 6


@pytest.mark.parametrize("kind", ROUTINGS)
def test_a_routing_has_distinct_experts_and_weights_that_sum_to_one(kind):
    weights, ids = make_routing(kind, 50, 16, 4, CPU)
    assert weights.shape == ids.shape == (50, 4)
    assert (weights.dtype, ids.dtype) == (torch.float32, torch.int32)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(50))
    assert ids.min() >= 0
    assert ids.max() < 16
    assert all(len(set(row)) == 4 for row in ids.tolist())


def shares(kind: str) -> list[float]:
    """The experts' shares of first choices, largest first."""
    _, ids = make_routing(kind, 20000, 16, 4, CPU)
    counts = torch.bincount(ids[:, 0].long(), minlength=16)
    return (counts.sort(descending=True).values / 20000).tolist()


def test_popularity_of_experts():
    assert shares("balanced") == pytest.approx([1 / 16] * 16, abs=0.01)
    harmonic = sum(1 / rank for rank in range(1, 17))
    assert shares("zipf") == pytest.approx([1 / r / harmonic for r in range(1, 17)], abs=0.015)
    assert shares("half")[0] == pytest.approx(0.5 + 0.5 / 16, abs=0.015)
    assert shares("half")[1] == pytest.approx(0.5 / 16, abs=0.01)


def test_a_loop_is_as_long_as_it_says():
    loop = Loop(warmup_s=0.2, timed_s=0.4, min_samples=5, max_samples=100)
    assert loop.num_replays(0.01) == (20, 40)
    assert loop.num_replays(0.3) == (1, 5)
    assert loop.num_replays(0.0001) == (2000, 100)


class Clock:
    """Time that passes when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_budget_begins_nothing_that_would_end_too_late():
    clock = Clock()
    budget = Budget(10, clock)
    assert budget.allows("cell")
    with budget.step("cell"):
        clock.now += 4
    assert budget.allows("cell")
    with budget.step("cell"):
        clock.now += 2
    assert budget.spent == 6
    assert not budget.allows("cell"), "the longest took 4 of the 4 that are left"
    assert budget.allows("ceiling"), "of a kind that was never measured"
    clock.now += 4
    assert not budget.allows("ceiling")


def test_without_a_budget_everything_is_begun():
    clock = Clock()
    budget = Budget(None, clock)
    clock.now += 1e9
    assert budget.allows("cell")


@pytest.fixture
def case(imaginary_gpu):
    def make(num_tokens: int, routing: str = "balanced") -> Case:
        return Case(Layers(parse_shape("8,2,64,32"), torch.bfloat16), routing, num_tokens)

    return make


def test_calls_take_turns_on_layers_and_routings(case):
    one = case(1)
    assert len(one.layers) == one.copies_wanted > 8
    num_calls = one.num_calls(floor_us=1e9)
    assert num_calls % len(one.routings) == 0
    assert num_calls >= len(one.layers)
    pointers = [one.inputs(i).w13.data_ptr() for i in range(num_calls)]
    assert len(set(pointers[: len(one.layers)])) == len(one.layers)


def test_a_replay_lasts_a_millisecond_or_has_every_call_that_is_kept(case):
    many = case(100)
    many.layers = many.layers[:1]
    assert many.num_calls(floor_us=100) == 12
    assert many.num_calls(floor_us=1000) == 4
    assert many.num_calls(floor_us=1) == 64


def test_an_output_of_any_call_that_is_wrong_fails(case):
    one = case(20)
    outputs = [call() for call in one.calls(torch.ops.sm80moe.fused_moe, 16)]
    assert 0 < one.check(outputs, 3, "good") < 1e-2
    outputs[11] = torch.zeros_like(outputs[11])
    with pytest.raises(AssertionError, match="broken, call 11"):
        one.check(outputs, 3, "broken")
    outputs[11].fill_(math.nan)
    with pytest.raises(AssertionError, match="broken, call 11"):
        one.check(outputs, 3, "broken")
