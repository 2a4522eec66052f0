"""Shapes of a grouped GEMM, each chosen for one way in which kernels go wrong."""

from collections.abc import Callable

# The columns of one instance: cta_m, cta_n, cta_k, stages, gated ...
Tactic = dict[str, int]
Options = dict[str, object]


def _columns(tactic: Tactic, output_columns: int) -> int:
    """Rows of W that make so many output columns."""
    return output_columns * (2 if tactic["gated"] else 1)


def one_row(t: Tactic) -> Options:
    return {"rows": [1], "n": t["cta_n"], "k": t["cta_k"]}


def k_shorter_than_the_ring(t: Tactic) -> Options:
    return {"rows": [5, 2], "n": t["cta_n"], "k": 8}


def k_remainder(t: Tactic) -> Options:
    return {"rows": [3], "n": t["cta_n"], "k": t["cta_k"] * t["stages"] + 8}


def ring_wraps_twice(t: Tactic) -> Options:
    return {"rows": [17], "n": t["cta_n"], "k": t["cta_k"] * (2 * t["stages"] + 1)}


def full_tile(t: Tactic) -> Options:
    return {"rows": [t["cta_m"]], "n": t["cta_n"], "k": 2 * t["cta_k"]}


def last_tile_has_one_row(t: Tactic) -> Options:
    return {"rows": [t["cta_m"] + 1], "n": t["cta_n"], "k": t["cta_k"]}


def empty_experts(t: Tactic) -> Options:
    return {"rows": [0, 3, 0, 0, 5, 0], "n": t["cta_n"], "k": t["cta_k"]}


def no_rows_of_any_expert(t: Tactic) -> Options:
    return {"rows": [0, 0], "tail": 4, "n": t["cta_n"], "k": t["cta_k"]}


def more_experts_than_a_warp(t: Tactic) -> Options:
    rows = [expert % 7 == 3 for expert in range(70)]
    return {"rows": [int(row) for row in rows], "n": t["cta_n"], "k": 8}


def n_remainder(t: Tactic) -> Options:
    return {"rows": [4], "n": t["cta_n"] + _columns(t, 8), "k": t["cta_k"]}


def n_of_eight_columns(t: Tactic) -> Options:
    return {"rows": [4], "n": _columns(t, 8), "k": t["cta_k"] + 16}


def unaligned_offsets(t: Tactic) -> Options:
    return {"rows": [1, t["cta_m"] - 1, 3, t["cta_m"], 7], "n": t["cta_n"], "k": t["cta_k"] + 8}


def gathered(t: Tactic) -> Options:
    return {"rows": [6, 0, 9, 1], "tail": 3, "top_k": 3, "n": t["cta_n"], "k": t["cta_k"] + 8}


def wrong_row_index(t: Tactic) -> Options:
    return {"rows": [9, 7], "top_k": 2, "wrong_index": True, "n": t["cta_n"], "k": t["cta_k"]}


def garbage_offsets(t: Tactic) -> Options:
    return {"rows": [9, 7, 20, 4], "garbage_offsets": True, "n": t["cta_n"], "k": t["cta_k"]}


def padded_rows(t: Tactic) -> Options:
    return {"rows": [3, 4], "pad": 8, "n": t["cta_n"], "k": t["cta_k"] + 24}


def several_tiles_of_one_cta(t: Tactic) -> Options:
    """Short and full tiles in turn, so that the ring and the row blocks cross tiles."""
    rows = [2, t["cta_m"] + 5, 0, t["cta_m"]]
    return {"rows": rows, "n": t["cta_n"] + _columns(t, 16), "k": t["cta_k"] + 8, "sms": 1}


def every_number_of_row_blocks(t: Tactic) -> Options:
    """Loops for tall and short tiles in turn, each of which finds what the one before it left."""
    block = min(16, t["cta_m"])
    numbers = range(1, t["cta_m"] // block + 1)
    blocks = [number for pair in zip(numbers, reversed(numbers), strict=True) for number in pair]
    rows = [block * number - 3 for number in blocks[: len(numbers)]]
    return {"rows": rows, "n": t["cta_n"], "k": 2 * t["cta_k"] + 8, "sms": 1}


def more_m_tiles_than_a_band(t: Tactic) -> Options:
    """The scheduler walks the row tiles of an expert in bands of 16."""
    return {"rows": [17 * min(t["cta_m"], 64)], "n": t["cta_n"] + _columns(t, 8), "k": 8, "sms": 2}


HAZARDS: dict[str, Callable[[Tactic], Options]] = {
    function.__name__: function
    for function in (
        one_row,
        k_shorter_than_the_ring,
        k_remainder,
        ring_wraps_twice,
        full_tile,
        last_tile_has_one_row,
        empty_experts,
        no_rows_of_any_expert,
        more_experts_than_a_warp,
        n_remainder,
        n_of_eight_columns,
        unaligned_offsets,
        gathered,
        wrong_row_index,
        garbage_offsets,
        padded_rows,
        several_tiles_of_one_cta,
        every_number_of_row_blocks,
        more_m_tiles_than_a_band,
    )
}

# The general epilogue's options: each alone, and together.
EPILOGUE_OPTIONS: dict[str, Options] = {
    "plain": {},
    **{f"activation_{i}": {"activation": i} for i in range(1, 6)},
    **{f"ungated_{i}": {"activation": i, "gated": 0} for i in range(6)},
    "bias": {"bias": 1},
    "ungated_bias": {"bias": 1, "gated": 0, "activation": 4},
    "interleaved_bias": {"bias": 1, "order": 2, "activation": 2},
    "up_gate_bias": {"bias": 1, "order": 1},
    "constants": {"constants": 1},
    "scale": {"scale": 1},
    "ungated_scale": {"scale": 1, "gated": 0, "activation": 3},
    "all": {"bias": 1, "order": 2, "constants": 1, "scale": 1},
    "ungated_all": {"bias": 1, "scale": 1, "gated": 0, "activation": 1},
}
