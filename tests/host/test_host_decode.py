"""The layer for few rows on the CPU, by hazard, against fp64."""

from pathlib import Path

import pytest

from tests.host.hazards import EPILOGUE_OPTIONS
from tests.host.running import run_ok

pytestmark = pytest.mark.host

LANES = 32 * 8  # elements that a warp reads at a time, of one row or of several

HAZARDS: dict[str, dict[str, object]] = {
    "one_token": {"tokens": 1, "top_k": 8, "experts": 64},
    "one_pair": {"tokens": 1, "top_k": 1},
    "one_expert": {"tokens": 4, "top_k": 1, "experts": 1},
    "repeated_ids": {"tokens": 2, "top_k": 4, "ids": "last"},
    "most_choices": {"tokens": 1, "top_k": 32, "experts": 4},
    "most_tokens": {"tokens": 32, "top_k": 1, "experts": 4},
    "two_pairs_an_expert": {"tokens": 2, "top_k": 1, "ids": "last", "hidden": LANES},
    "three_pairs_an_expert": {"tokens": 3, "top_k": 1, "ids": "last", "intermediate": LANES + 8},
    "five_pairs_an_expert": {"tokens": 5, "top_k": 1, "ids": "last"},
    "groups_of_several_sizes": {"tokens": 7, "top_k": 4, "experts": 5, "hidden": 136},
    "more_pairs_than_a_group": {"tokens": 9, "top_k": 3, "ids": "last"},
    "all_invalid": {"tokens": 3, "top_k": 4, "ids": "invalid"},
    "some_invalid": {"tokens": 5, "top_k": 6, "ids": "mixed"},
    "expert_map": {"tokens": 5, "top_k": 6, "ids": "mixed", "map": True},
    "expert_map_of_wide_ids": {"tokens": 4, "top_k": 8, "ids": "mixed", "int64": True, "map": True},
    "wide_ids": {"tokens": 5, "top_k": 6, "ids": "mixed", "int64": True},
    "smallest": {"tokens": 2, "top_k": 2, "hidden": 8, "intermediate": 8},
    "whole_steps": {"top_k": 3, "hidden": 2 * LANES, "intermediate": LANES},
    "a_chunk_more": {"top_k": 3, "hidden": LANES + 8, "intermediate": 2 * LANES + 8},
    "a_chunk_less": {"top_k": 3, "hidden": 2 * LANES - 8, "intermediate": LANES - 8},
    "rows_longer_than_the_ring": {"hidden": 7 * LANES, "intermediate": 8, "sms": 1},
    "padded_rows": {"tokens": 3, "top_k": 5, "pad": 8},
    "one_sm": {"tokens": 2, "top_k": 6, "sms": 1},
    "more_sms_than_columns": {"tokens": 2, "top_k": 1, "hidden": 8, "intermediate": 8, "sms": 40},
    "products_in_turns": {"top_k": 32, "hidden": 264, "intermediate": 8, "sms": 1},
}


@pytest.mark.parametrize("type_", ["fp16", "bf16"])
@pytest.mark.parametrize("hazard", HAZARDS)
def test_layer_of_few_rows(program: Path, seed: int, hazard: str, type_: str) -> None:
    outcome = run_ok(program, "decode", type=type_, seed=seed, **HAZARDS[hazard])
    assert outcome.bank_conflicts()["cp.async"] == 0, str(outcome)


# In each a quad's chunks, 64 or 128 weights deep, are of another number of groups.
PACKED: dict[str, dict[str, object]] = {
    "int8": {"format": "int8"},
    "int8_zero_point": {"format": "int8", "zero_points": 1},
    "int8_groups_of_32": {"format": "int8", "group": 32, "zero_points": 1},
    "int8_groups_of_64": {"format": "int8", "group": 64},
    "int4": {"format": "int4"},
    "int4_groups_of_32": {"format": "int4", "group": 32, "zero_points": 1},
    "int4_groups_of_64": {"format": "int4", "group": 64},
    "int4_groups_of_128": {"format": "int4", "group": 128, "zero_points": 1},
    "fp8": {"format": "fp8"},
    "fp8_groups_of_128": {"format": "fp8", "group": 128},
    "mxfp4": {"format": "mxfp4", "group": 32},
    "w8a8": {"format": "w8a8"},
}
PACKED_SHAPES: dict[str, dict[str, object]] = {
    "one_token": {"tokens": 1, "top_k": 3, "hidden": 1544, "intermediate": 40},
    "groups_of_several_sizes": {"tokens": 7, "top_k": 4, "experts": 5, "hidden": 136},
    "padded_rows": {"tokens": 2, "top_k": 5, "pad": 8, "ids": "mixed", "intermediate": 200},
    "wide_tiles": {"top_k": 2, "hidden": 328, "intermediate": 200, "sms": 2},
    "long_rows_on_one_sm": {"tokens": 3, "top_k": 1, "hidden": 8, "intermediate": 1096, "sms": 1},
}


@pytest.mark.parametrize("type_", ["fp16", "bf16"])
@pytest.mark.parametrize("shape", PACKED_SHAPES)
@pytest.mark.parametrize("weights", PACKED)
def test_packed_weights(program: Path, seed: int, weights: str, shape: str, type_: str) -> None:
    chosen = PACKED[weights] | PACKED_SHAPES[shape]
    outcome = run_ok(program, "decode", type=type_, seed=seed, **chosen)
    assert outcome.bank_conflicts()["cp.async"] == 0, str(outcome)


@pytest.mark.parametrize("gated", [0, 1])
@pytest.mark.parametrize("hazard", HAZARDS)
def test_packed_weights_with_options(program: Path, seed: int, hazard: str, gated: int) -> None:
    weights = list(PACKED.values())[list(HAZARDS).index(hazard) % len(PACKED)]
    options = {"gated": gated, "bias": 1, "w2_bias": 1, "residual": 1, "order": 2 * gated}
    run_ok(program, "decode", seed=seed, **HAZARDS[hazard], **weights, **options)


OPTIONS: dict[str, dict[str, object]] = {
    **EPILOGUE_OPTIONS,
    "weigh_input": {"weigh_input": 1},
    "ungated_weigh_input": {"weigh_input": 1, "gated": 0, "bias": 1, "activation": 4},
    "w2_bias": {"w2_bias": 1},
    "residual": {"residual": 1},
    "everything": {
        **dict.fromkeys(("bias", "constants", "weigh_input", "w2_bias", "residual"), 1),
        "order": 2,
    },
}
SHAPES = ("groups_of_several_sizes", "some_invalid", "padded_rows", "most_tokens")


@pytest.mark.parametrize("type_", ["fp16", "bf16"])
@pytest.mark.parametrize("options", OPTIONS)
def test_options(program: Path, seed: int, options: str, type_: str) -> None:
    chosen = {name: value for name, value in OPTIONS[options].items() if name != "scale"}
    for hazard in SHAPES:
        run_ok(program, "decode", type=type_, seed=seed, **HAZARDS[hazard], **chosen)


@pytest.mark.parametrize("gated", [0, 1])
@pytest.mark.parametrize("hazard", HAZARDS)
def test_every_hazard_with_options(program: Path, seed: int, hazard: str, gated: int) -> None:
    options = {"gated": gated, "bias": 1, "w2_bias": 1, "residual": 1, "order": 2 * gated}
    run_ok(program, "decode", seed=seed, **HAZARDS[hazard], **options)


@pytest.mark.parametrize("type_", ["fp16", "bf16"])
def test_sum_is_in_the_order_of_the_choices(program: Path, seed: int, type_: str) -> None:
    shape = {"tokens": 4, "top_k": 6, "hidden": 136, "ids": "last"}
    run_ok(program, "decode", type=type_, weights="cancelling", seed=seed, **shape)
