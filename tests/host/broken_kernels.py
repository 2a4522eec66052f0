"""Mistakes put into copies of the kernels, and the check that must see each.

A check may stand with others that see the same mistake first under another schedule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.host.build import Patch, kernel_sources
from tests.host.hazards import HAZARDS, Tactic


@dataclass(frozen=True)
class Edit:
    """`old`, which the file has exactly once, becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, sources: dict[str, str]) -> None:
        """Change the file, or say that the kernels have moved on."""
        found = sources[self.file].count(self.old)
        assert found == 1, (
            f"a broken kernel no longer applies: {self.file} must have this text once, got "
            f"{found} times; adapt tests/host/broken_kernels.py:\n{self.old}"
        )
        sources[self.file] = sources[self.file].replace(self.old, self.new)


def _one_warp_in_k(tactic: Tactic) -> bool:
    return tactic["warps_k"] == 1


def _several_warps_in_k(tactic: Tactic) -> bool:
    return tactic["warps_k"] > 1


def _one_stage_a_tile(tactic: Tactic) -> bool:
    return tactic["stages"] > 2


def _tall_warps(tactic: Tactic) -> bool:
    return tactic["cta_m"] // tactic["warps_m"] >= 32


@dataclass(frozen=True)
class BrokenKernel:
    """One mistake and the run that must fail for it."""

    name: str
    checks: set[str]
    edits: list[Edit]
    # A GEMM runs a hazard's shape on the first tactic of the kind; other commands have options.
    hazard: str | None = None
    tactic: Callable[[Tactic], bool] = _one_warp_in_k
    command: str = "gemm"
    options: dict[str, object] = field(default_factory=dict)
    source: str | None = None  # what is compiled, where the edited file's name does not tell
    instance: tuple[str, int] | None = None  # a launch table's kernel that is compiled instead

    def patch(self, tactics: dict[tuple[str, int], Tactic]) -> Patch:
        """Apply the edits to the kernels as they are now."""
        sources = kernel_sources()
        for edit in self.edits:
            edit.apply(sources)
        if self.hazard:
            return Patch(self.name, sources, table_and_tactic=self._instance(tactics))
        if self.instance:
            return Patch(self.name, sources, table_and_tactic=self.instance)
        source = self.source or self.edits[0].file.replace(".cuh", ".cu")
        return Patch(self.name, sources, source=source)

    def run_options(self, tactics: dict[tuple[str, int], Tactic]) -> dict[str, object]:
        """What the program is called with."""
        if not self.hazard:
            return self.options
        table, tactic = self._instance(tactics)
        shape = HAZARDS[self.hazard](tactics[table, tactic])
        return {"table": table, "tactic": tactic, **shape}

    def _instance(self, tactics: dict[tuple[str, int], Tactic]) -> tuple[str, int]:
        return next(
            (table, tactic)
            for (table, tactic), columns in tactics.items()
            if self.tactic(columns) and not columns["gated"]
        )


MAINLOOP = "gemm/mainloop.cuh"
LOADER = "gemm/stage_loader.cuh"
QUEUE = "gemm/tile_queue.cuh"
SCHEDULER = "gemm/tile_scheduler.cuh"
EPILOGUE = "gemm/epilogue.cuh"
FORMATS = "common/stored_numbers.cuh"
DEQUANTIZE = "common/dequantize.cuh"
INT8_EPILOGUE = "gemm/int8_epilogue.cuh"
INT8_STORE = "gemm/int8_store.cuh"
INT8_SCALES = "gemm/int8_scales.cuh"
WEIGHT_GROUPS = "gemm/weight_groups.cuh"
SWAPPED = "gemm/swapped_operands.cuh"
NIBBLES_OF_PART_0 = "b0 = nibble_pair<T, 0>(raw + 0 * part, below);"
SORT = "routing/sort_by_expert.cu"

TOPK_PARTS = "routing/topk.cuh"
DECODE = "decode/decode.cu"
LAYER_KERNELS = "decode/layer_kernels.cuh"
STREAM = "decode/row_stream.cuh"
DENSE_ROWS = "decode/dense_rows.cuh"
PACKED_ROWS = "decode/packed_rows.cuh"
GROUPS = "decode/expert_groups.cuh"
GATE_UP = "decode/gate_up.cuh"
DOWN = "decode/down_combine.cuh"
ACTIVATION_SCALES = "decode/activation_scales.cuh"
GENERAL = "gemm/general_epilogue.cuh"
COMBINE = "routing/combine.cu"

LEAVE = "if (lane_index() >= num_ranks) return;"
DISTINCT = {"values": "distinct", "type": "fp32", "tokens": 20}
WAIT = "ptx::cp_async_wait<Config::kStages - 2>();\n    __syncthreads();"


def broken_decode(name: str, checks: set[str], edit: Edit, **options: object) -> BrokenKernel:
    """One mistake in the kernels for few rows."""
    return BrokenKernel(name, checks, [edit], command="decode", options=options, source=DECODE)


def broken_packed_decode(
    name: str, edit: Edit, checks: set[str] | None = None, **options: object
) -> BrokenKernel:
    """One mistake in what those make of packed weights."""
    checks = checks or {"wrong-result", "out-of-bounds"}
    shape = {"hidden": 328, "intermediate": 200, **options}
    source = "decode/packed.cu"
    return BrokenKernel(name, checks, [edit], command="decode", options=shape, source=source)


def broken_epilogue(name: str, checks: set[str], edit: Edit, **options: object) -> BrokenKernel:
    """One mistake in what the general epilogue makes of its options."""
    shape = {"table": "kBf16General", "tactic": 4, "rows": [130, 0, 9], "n": 272, "k": 72}
    return BrokenKernel(
        name,
        checks,
        [edit],
        options={**shape, "top_k": 3, "pad": 8, **options},
        instance=("kBf16General", 4),
    )


def broken_packed(
    name: str, edit: Edit, table: str, tactic: int = 3, **options: object
) -> BrokenKernel:
    """One mistake in what is made of packed weights."""
    shape = {"rows": [5, 17], "n": 272, "k": 328, "gated": 0, "activation": 5, **options}
    return BrokenKernel(
        name,
        {"wrong-result", "uninitialised", "bank-conflicts", "out-of-bounds"},
        [edit],
        options={"table": table, "tactic": tactic, **shape},
        instance=(table, tactic),
    )


def broken_int8(
    name: str, edit: Edit, checks: set[str], table: str = "kInt8RowsGeneral", **options: object
) -> BrokenKernel:
    """One mistake in what is made of int8 activations."""
    shape = {"rows": [5, 17], "n": 272, "k": 328, "activation": 5, **options}
    return BrokenKernel(
        name,
        checks,
        [edit],
        command="int8_gemm",
        options={"table": table, "tactic": 3, **shape},
        instance=(table, 3),
    )


BROKEN_KERNELS = [
    BrokenKernel(
        "ring_without_barrier",
        {"race", "in-flight", "uninitialised"},
        [Edit(MAINLOOP, WAIT, "ptx::cp_async_wait<Config::kStages - 2>();")],
        "ring_wraps_twice",
    ),
    BrokenKernel(
        "barrier_before_the_wait",
        {"race", "in-flight"},
        [Edit(MAINLOOP, WAIT, "__syncthreads();\n    ptx::cp_async_wait<Config::kStages - 2>();")],
        "ring_wraps_twice",
    ),
    BrokenKernel(
        "one_wait_too_few",
        {"in-flight"},
        [
            Edit(
                MAINLOOP, "cp_async_wait<Config::kStages - 2>", "cp_async_wait<Config::kStages - 1>"
            )
        ],
        "one_row",
    ),
    BrokenKernel(
        "groups_never_committed",
        {"in-flight"},
        [Edit(MAINLOOP, "ptx::cp_async_commit();", "")],
        "one_row",
    ),
    BrokenKernel(
        "ring_one_slot_too_short",
        {"race", "in-flight"},
        [Edit(LOADER, "kRingBytes - kStageBytes", "kRingBytes - 2 * kStageBytes")],
        "ring_wraps_twice",
    ),
    BrokenKernel(
        "fragments_read_without_swizzle",
        {"wrong-result"},
        [
            Edit(
                MAINLOOP,
                "ATile::byte_offset(warp_row(warp) + lane % kRows, lane / kRows)",
                "(warp_row(warp) + lane % 16) * ATile::kRowBytes + lane / 16 * kChunkBytes",
            )
        ],
        "full_tile",
    ),
    BrokenKernel(
        "no_swizzle_at_all",
        {"bank-conflicts"},
        [
            Edit(
                "common/smem_layout.cuh", "kXorMask = min_of(8, kChunksPerRow) - 1", "kXorMask = 0"
            ),
            Edit(
                "common/smem_layout.cuh",
                "static constexpr bool conflict_free() {",
                "static constexpr bool conflict_free() {\n    return true;",
            ),
        ],
        "full_tile",
    ),
    BrokenKernel(
        "shared_memory_not_aligned",
        {"race", "in-flight", "wrong-result", "shared-out-of-bounds"},
        [Edit("gemm/grouped_gemm.cuh", "__align__(1024) ", "")],
        "full_tile",
    ),
    BrokenKernel(
        "shared_memory_of_one_expert_too_few",
        {"shared-out-of-bounds"},
        [
            Edit(
                "gemm/launch_table.cuh",
                "scheduler_smem_bytes(args.num_experts)",
                "scheduler_smem_bytes(args.num_experts - 1)",
            )
        ],
        "one_row",
    ),
    BrokenKernel(
        "rows_past_the_end_not_zeroed",
        {"uninitialised"},
        [
            Edit(
                LOADER,
                "if (!ACopy::owns_pass(pass)) return;",
                "if (!ACopy::owns_pass(pass) || !(live_ & (1u << pass))) return;",
            )
        ],
        "one_row",
    ),
    BrokenKernel(
        "chunk_past_k_copied",
        {"out-of-bounds"},
        [Edit(LOADER, ">= k_in_tile) live_ &= ~kACopies;", "> k_in_tile) live_ &= ~kACopies;")],
        "k_shorter_than_the_ring",
    ),
    BrokenKernel(
        "one_column_of_w_too_many",
        {"out-of-bounds"},
        [Edit(LOADER, "col0 + column < columns.total", "col0 + column <= columns.total")],
        "n_of_eight_columns",
    ),
    BrokenKernel(
        "wrong_row_index_believed",
        {"out-of-bounds"},
        [Edit(LOADER, "source >= args_.num_source_rows", "false")],
        "wrong_row_index",
    ),
    BrokenKernel(
        "garbage_offsets_believed",
        {"out-of-bounds", "undefined-behaviour"},
        [
            Edit(
                SCHEDULER,
                "clamp(args.expert_offsets[e], 0, args.num_rows)",
                "max_of(args.expert_offsets[e], 0)",
            )
        ],
        "garbage_offsets",
    ),
    BrokenKernel(
        "scan_of_tiles_without_barrier",
        {"race", "uninitialised"},
        [
            Edit(
                SCHEDULER,
                "warp_exclusive_scan(m_tiles_before_, args.num_experts);\n    __syncthreads();",
                "warp_exclusive_scan(m_tiles_before_, args.num_experts);",
            )
        ],
        "empty_experts",
    ),
    BrokenKernel(
        "tiles_counted_before_all_rows_are_known",
        {"race", "uninitialised"},
        [
            Edit(
                SCHEDULER,
                "0, args.num_rows);\n    __syncthreads();",
                "0, args.num_rows);",
            )
        ],
        "empty_experts",
    ),
    BrokenKernel(
        "one_row_too_many_stored",
        {"out-of-bounds"},
        [Edit(EPILOGUE, "if (row >= tile.row_end) continue;", "if (row > tile.row_end) continue;")],
        "one_row",
    ),
    BrokenKernel(
        "columns_past_n_stored",
        {"race", "out-of-bounds"},
        [Edit(EPILOGUE, "if (col >= out_n) continue;", "if (col > out_n) continue;")],
        "n_of_eight_columns",
    ),
    BrokenKernel(
        "store_misaligned",
        {"undefined-behaviour", "misaligned"},
        [Edit(EPILOGUE, "(2 * Columns::kBlocks);", "(2 * Columns::kBlocks) + 2;")],
        "full_tile",
    ),
    BrokenKernel(
        "fragments_of_a_taller_tile_forgotten",
        {"wrong-result"},
        [Edit(MAINLOOP, "load_a_from<kBlocks - kBlocksBefore>();", "")],
        "several_tiles_of_one_cta",
        _tall_warps,
    ),
    BrokenKernel(
        "next_tile_read_before_it_is_known",
        {"race", "uninitialised"},
        [Edit(QUEUE, "? 1 : Config::kStages + 1;", "? 1 : Config::kStages;")],
        "more_m_tiles_than_a_band",
        _one_stage_a_tile,
    ),
    BrokenKernel(
        "queue_of_tiles_too_short",
        {"race", "wrong-result"},
        [
            Edit("gemm/problem.h", "kLength = 8", "kLength = 2"),
            Edit(QUEUE, "static_assert(kLength > Config::kStages + 1,", "static_assert(kLength,"),
        ],
        "more_m_tiles_than_a_band",
        _one_stage_a_tile,
    ),
    BrokenKernel(
        "tiles_left_out",
        {"wrong-result"},
        [
            Edit(
                QUEUE,
                "fixed_tiles(args_) * gridDim.x + atomicAdd",
                "fixed_tiles(args_) * gridDim.x + 1 + atomicAdd",
            )
        ],
        "more_m_tiles_than_a_band",
        _one_stage_a_tile,
    ),
    BrokenKernel(
        "warps_added_up_without_barrier",
        {"race", "uninitialised"},
        [
            Edit(
                "gemm/reduce_warps.cuh",
                "__syncthreads();\n    if (group > 0) return;",
                "if (group > 0) return;",
            )
        ],
        "full_tile",
        _several_warps_in_k,
    ),
    BrokenKernel(
        "operands_of_mma_swapped",
        {"wrong-result"},
        [
            Edit(
                "common/ptx.cuh",
                'f32.bf16.bf16.f32 "\n               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}',
                'f32.bf16.bf16.f32 "\n               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%9, %8}',
            )
        ],
        "full_tile",
    ),
    BrokenKernel(
        "counts_read_without_barrier",
        {"race", "uninitialised"},
        [
            Edit(
                SORT,
                "own_up_to_lane};\n  __syncthreads();",
                "own_up_to_lane};",
            )
        ],
        command="sort",
        options={"tokens": 200},
    ),
    BrokenKernel(
        "rows_begin_after_the_thread_s_own",
        {"race", "wrong-result"},
        [Edit(SORT, "own_up_to_lane - counts.own", "own_up_to_lane")],
        command="sort",
        options={"tokens": 50},
    ),
    BrokenKernel(
        "ends_believed",
        {"out-of-bounds"},
        [
            Edit(
                "routing/group_ends.cu",
                "clamp(args.ends[args.num_groups - 1], 0, args.num_rows)",
                "args.ends[args.num_groups - 1]",
            )
        ],
        command="ends",
        options={"rows": [2, 3], "garbage": "low"},
    ),
    BrokenKernel(
        "row_without_a_group_left_as_it_was",
        {"wrong-result"},
        [Edit("routing/group_ends.cu", "int64_t{num_grouped} *", "int64_t{num_grouped + 1} *")],
        command="ends",
        options={"rows": [2, 3], "tail": 2},
    ),
    BrokenKernel(
        "rows_read_as_if_contiguous",
        {"wrong-result", "misaligned", "uninitialised"},
        [Edit(SORT, "args.topk_ids.row_stride == args.top_k &&", "")],
        command="sort",
        options={"tokens": 50, "pad": 2},
    ),
    BrokenKernel(
        "invalid_pairs_left_unmarked",
        {"wrong-result", "uninitialised"},
        [Edit(SORT, "if (expert != 0) return;", "return;")],
        command="sort",
        options={"tokens": 50, "invalid": 1},
    ),
    broken_int8(
        "zero_point_of_activations_forgotten",
        Edit(INT8_EPILOGUE, "zero_point * w_sums[w_row]", "w_sums[w_row]"),
        {"wrong-result"},
        fixed=1,
    ),
    broken_int8(
        "scales_used_before_they_are_fetched",
        Edit(INT8_SCALES, "    __syncwarp();\n    return scales;", "    return scales;"),
        {"race", "uninitialised", "wrong-result"},
    ),
    broken_int8(
        "padding_of_int8_rows_left_out",
        Edit(INT8_STORE, "col >= args.int8.out_stride", "col >= args.columns.total"),
        {"wrong-result"},
        output=1,
        gated=0,
        n=264,
    ),
    BrokenKernel(
        "largest_of_a_row_of_one_warp",
        {"wrong-result"},
        [Edit("quantize/quantize.cu", "value = max_of(value, of_warp[warp]);", ";")],
        command="quantize",
        options={"rows": 4, "columns": 2056, "type": "bf16"},
    ),
    BrokenKernel(
        "padding_of_quantised_rows_left_out",
        {"wrong-result"},
        [Edit("quantize/quantize.cu", "col >= args.row_bytes", "col >= args.num_columns")],
        command="quantize",
        options={"rows": 4, "columns": 72, "stride": 80, "type": "fp16"},
    ),
    broken_packed(
        "int8_stored_64_above_zero",
        Edit(FORMATS, "kBelow<7>", "kBelow<6>"),
        "kBf16Int8",
    ),
    broken_packed(
        "unit_of_the_second_nibble_forgotten",
        Edit(DEQUANTIZE, "kLargest - kShift", "kLargest"),
        "kFp16Int4",
    ),
    broken_packed(
        "scales_of_a_stage_s_first_group_only",
        Edit(WEIGHT_GROUPS, "k < stage_end; k += group", "k < stage_end; k += stage_end"),
        "kBf16Int4",
        group=32,
    ),
    broken_packed(
        "words_of_zero_points_not_copied",
        Edit(WEIGHT_GROUPS, "for (uint32_t i = 0; i < words;", "for (uint32_t i = 1; i < 1;"),
        "kFp16Int8Group",
        group=64,
        zero_points=1,
    ),
    broken_packed(
        "nibbles_of_the_step_before",
        Edit(FORMATS, "b0 = nibble_pair<T, 0>(raw >> (8 * part), below);", NIBBLES_OF_PART_0),
        "kBf16Int4",
    ),
    broken_packed(
        "rows_of_packed_weights_without_swizzle",
        Edit(
            "gemm/weight_format.cuh",
            "return Tile::byte_offset(row + lane, 0);",
            "return (row + lane) * Tile::kRowBytes;",
        ),
        "kFp16Int8",
    ),
    broken_packed(
        "units_never_changed",
        Edit(WEIGHT_GROUPS, "return k > 0 && k < end", "return k > end && k < end"),
        "kBf16Int8Group",
        group=64,
    ),
    broken_packed(
        "units_of_the_group_before",
        Edit(WEIGHT_GROUPS, "offset(2 * slice + 1, row)", "offset(2 * slice, row)"),
        "kBf16Fp8",
        group=128,
    ),
    broken_packed(
        "units_changed_at_a_stage_s_first_group_only",
        Edit(MAINLOOP, "return step % Groups::steps(is_fine) == 0;", "return step == 0;"),
        "kBf16Int4",
        group=32,
    ),
    broken_packed(
        "sums_of_groups_that_go_on",
        Edit(WEIGHT_GROUPS, "group[block][mma][e] = 0;", ""),
        "kBf16Int4",
        tactic=9,
        group=64,
    ),
    broken_packed(
        "scales_of_a_stage_s_first_group",
        Edit(WEIGHT_GROUPS, "Tile::offset(slice, place(", "Tile::offset(slice & ~1, place("),
        "kFp16Int8Group",
        tactic=9,
        group=32,
    ),
    broken_packed(
        "codes_of_a_deep_stage_s_first_part",
        Edit(WEIGHT_GROUPS, "offset(Tile::kCodeWord + part, row)", "offset(Tile::kCodeWord, row)"),
        "kBf16Mxfp4",
        tactic=14,
        group=32,
    ),
    broken_packed(
        "codes_of_the_next_slice",
        Edit(WEIGHT_GROUPS, "kKeepsCodes ? slice % 4", "kKeepsCodes ? (slice + 1) % 4"),
        "kFp16Mxfp4",
        tactic=9,
        group=32,
    ),
    broken_packed(
        "units_of_one_block_changed_in_a_step_of_its_own",
        Edit(
            MAINLOOP,
            "[&](int block) { groups_.change_units",
            "[&](int block) { if (block == 0) groups_.change_units",
        ),
        "kBf16Int4",
        group=128,
        rows=[45],
    ),
    broken_packed(
        "copies_of_a_looped_stage_s_second_step_lost",
        Edit(MAINLOOP, "if (step < 2) loader_.", "if (step < 1) loader_."),
        "kBf16Int4",
        tactic=17,
        group=128,
    ),
    broken_packed(
        "two_steps_of_a_loop_left_out",
        Edit(MAINLOOP, "for (int step = 2; step <", "for (int step = 4; step <"),
        "kFp16Int4",
        tactic=18,
        group=128,
        rows=[70],
    ),
    broken_packed(
        "operands_swapped_but_not_their_order",
        Edit(SWAPPED, "{w[i][0], w[i][2], w[i][1], w[i][3]}", "w[i]"),
        "kBf16Int8",
        tactic=13,
    ),
    broken_packed(
        "even_rows_turned_alone",
        Edit(SWAPPED, "row % 2 == 0 ? even : odd", "row >= 0 ? even : odd"),
        "kFp16Fp8",
        tactic=13,
        group=128,
    ),
    broken_packed(
        "activations_replaced_before_their_mma",
        Edit(MAINLOOP, "(step * kBlocks + block) % kASlots", "block % kASlots"),
        "kFp16Int4",
        rows=[45],
    ),
    broken_packed(
        "zero_points_of_the_stage_before",
        Edit(WEIGHT_GROUPS, "k >> args_.packed.group_shift & 3;", "0;"),
        "kFp16Int4",
        group=32,
        zero_points=1,
    ),
    broken_packed(
        "exponents_copied_for_gates_alone",
        Edit(WEIGHT_GROUPS, "+ is_up * packed.up_rows", ""),
        "kBf16Mxfp4",
        group=32,
        gated=1,
    ),
    broken_packed(
        "gates_taken_for_the_first_rows",
        Edit(WEIGHT_GROUPS, "packed.first_row + (column", "(column"),
        "kFp16Mxfp4",
        group=32,
        gated=1,
        order=1,
    ),
    broken_packed(
        "scale_of_the_first_group_at_the_end",
        Edit("gemm/column_scale.cuh", "to_word(packed.groups - 1)", "0"),
        "kFp16Fp8",
        group=128,
    ),
    broken_packed(
        "scales_of_the_first_of_eight_rows",
        Edit("common/packed_words.cuh", " + row % kRowsSideBySide", ""),
        "kBf16Int4",
        group=32,
    ),
    BrokenKernel(
        "weights_divided_by_one_lane_s_sum",
        {"wrong-result"},
        [Edit("routing/topk.cu", "sum = warp_sum(sum);", "")],
        command="topk",
        options={"experts": 8, "top_k": 4},
    ),
    BrokenKernel(
        "lanes_without_a_rank_leave",
        {"deadlock", "divergence"},
        [Edit("routing/topk.cu", "if (lane_index() >= num_ranks) continue;", LEAVE)],
        command="topk",
        options={"experts": 8, "top_k": 4},
    ),
    BrokenKernel(
        "expert_past_the_last_read",
        {"out-of-bounds"},
        [Edit("routing/topk.cu", "num_mine ? as_finite(", "num_mine + 1 ? as_finite(")],
        command="topk",
        options={"experts": 40},
    ),
    BrokenKernel(
        "ties_to_the_highest_expert",
        {"wrong-result"},
        [
            Edit(
                TOPK_PARTS,
                "warp_min(key == warp_max(key) ? mine : kNowhere)",
                "-warp_min(key == warp_max(key) ? -mine : kNowhere)",
            )
        ],
        command="topk",
        options={"experts": 40, "top_k": 8},
    ),
    BrokenKernel(
        "zeros_of_both_signs_differ",
        {"wrong-result"},
        [Edit(TOPK_PARTS, "__float_as_uint(value + 0.0f)", "__float_as_uint(value)")],
        command="topk",
        options={"experts": 40, "top_k": 40, "values": "zeros"},
    ),
    BrokenKernel(
        "groups_overlap_by_an_expert",
        {"wrong-result"},
        [Edit(TOPK_PARTS, "< begin + group_size", "<= begin + group_size")],
        command="topk",
        options={"experts": 40, "top_k": 8, "n_group": 5, **DISTINCT},
    ),
    BrokenKernel(
        "wrong_position_believed",
        {"out-of-bounds"},
        [Edit("routing/combine.cu", "row >= 0 && row < args.num_rows", "row >= 0")],
        command="combine",
        options={"tokens": 9, "wrong_position": 1},
    ),
    broken_decode(
        "chunk_of_weights_past_the_row_copied",
        {"out-of-bounds"},
        Edit(STREAM, "chunk_ < weight_chunks_", "chunk_ <= weight_chunks_"),
        ids="last",
    ),
    broken_decode(
        "chunk_of_activations_past_the_row_copied",
        {"out-of-bounds"},
        Edit(DENSE_ROWS, "chunk < activation_chunks_", "chunk <= activation_chunks_"),
    ),
    broken_decode(
        "column_past_the_last_copied",
        {"out-of-bounds", "shared-out-of-bounds"},
        Edit(STREAM, "column < work_.num_columns() ? work_.depth() : 0", "work_.depth()"),
        tokens=2,
        top_k=1,
        ids="last",
    ),
    broken_decode(
        "up_row_of_the_column_before",
        {"wrong-result"},
        Edit(
            GATE_UP,
            "num_chunks(args_.w13_second_row)",
            "num_chunks(args_.w13_second_row - args_.w13_column_stride)",
        ),
    ),
    broken_decode(
        "weights_awaited_one_step_late",
        {"in-flight"},
        Edit(STREAM, "cp_async_wait<kStages - 1>", "cp_async_wait<kStages>"),
        hidden=8 * 256,
    ),
    broken_decode(
        "rings_of_warps_overlap",
        {"race", "in-flight"},
        Edit(STREAM, "* (kStages * kStepBytes)", "* ((kStages - 1) * kStepBytes)"),
        hidden=8 * 256,
        sms=1,
    ),
    broken_decode(
        "stored_for_another_pair",
        {"race", "wrong-result"},
        Edit(
            STREAM,
            "work_.store(expert, pair, column",
            "work_.store(expert, groups_.pair(pairs_, 0), column",
        ),
        ids="last",
    ),
    broken_decode(
        "odd_slices_read_from_the_even_sum",
        {"wrong-result"},
        Edit(STREAM, "if (lane_index() / 4 % 2 == 1) {", "if (false) {"),
    ),
    broken_decode(
        "pairs_beyond_a_group_forgotten",
        {"uninitialised", "wrong-result", "undefined-behaviour"},
        Edit(
            GROUPS,
            "expert_ * kMaxPairs + rank / kMaxPairsOfGroup",
            "expert_",
        ),
        top_k=9,
        ids="last",
    ),
    broken_decode(
        "invalid_expert_multiplied",
        {"out-of-bounds", "shared-out-of-bounds"},
        Edit(GROUPS, "const bool valid = expert_ != kInvalidExpert;", "const bool valid = true;"),
        tokens=2,
        ids="mixed",
    ),
    broken_decode(
        "wide_id_cut",
        {"wrong-result", "out-of-bounds"},
        Edit("common/expert_ids.cuh", "const int64_t id =", "const int32_t id ="),
        top_k=12,
        ids="mixed",
        int64=True,
    ),
    broken_decode(
        "id_past_the_map_believed",
        {"out-of-bounds"},
        Edit("common/expert_ids.cuh", "id < 0 || id >= ids.num_ids", "id < 0"),
        top_k=12,
        ids="mixed",
        map=True,
    ),
    broken_decode(
        "products_added_up_without_barrier",
        {"race", "uninitialised"},
        Edit(LAYER_KERNELS, "    __syncthreads();\n    down.combine();", "    down.combine();"),
    ),
    broken_decode(
        "second_half_does_not_wait_for_the_grid",
        {"race", "uninitialised"},
        Edit(LAYER_KERNELS, "cooperative_groups::this_grid().sync();", "__syncthreads();"),
    ),
    broken_decode(
        "intermediate_read_before_the_grid_has_met",
        {"race", "uninitialised"},
        Edit(
            STREAM, "send_first_steps<Sent::kWeights>(ahead", "send_first_steps<Sent::kAll>(ahead"
        ),
    ),
    broken_decode(
        "products_of_a_turn_not_waited_for",
        {"race"},
        Edit(LAYER_KERNELS, "      else\n        __syncthreads();\n", ""),
        top_k=32,
        hidden=264,
        intermediate=8,
        sms=1,
    ),
    broken_decode(
        "columns_of_the_first_turn_again",
        {"wrong-result", "uninitialised"},
        Edit(DOWN, "(first_column_ + column) * gridDim.x", "column * gridDim.x"),
        top_k=32,
        hidden=264,
        intermediate=8,
        sms=1,
    ),
    broken_decode(
        "invalid_pair_added_up",
        {"uninitialised"},
        Edit(DOWN, "index >= num_sums || !groups_.is_valid(pair)", "index >= num_sums"),
        tokens=2,
        ids="mixed",
    ),
    broken_decode(
        "choices_added_up_backwards",
        {"wrong-result"},
        Edit(
            DOWN,
            "const int pair = token * args_.top_k + j;",
            "const int pair = token * args_.top_k + args_.top_k - 1 - j;",
        ),
        tokens=2,
        top_k=3,
        ids="last",
        weights="cancelling",
    ),
    broken_packed_decode(
        "groups_of_a_quad_not_told_apart",
        Edit(PACKED_ROWS, "return min_of(4u,", "return max_of(4u,"),
        format="int4",
        group=32,
    ),
    broken_packed_decode(
        "second_chain_of_mma_lost",
        Edit(PACKED_ROWS, "sums[i] += others[i]", "sums[i] += 0 * others[i]"),
        format="int4",
        group=128,
    ),
    broken_packed_decode(
        "second_row_with_the_scale_of_the_first",
        Edit(PACKED_ROWS, "second = first + packed.up_rows", "second = first"),
        format="fp8",
        group=128,
    ),
    broken_packed_decode(
        "code_of_the_first_group_of_four",
        Edit(PACKED_ROWS, "(group_of(packed, chunk) & 3) * 0x0101", "0"),
        format="mxfp4",
        group=32,
    ),
    broken_packed_decode(
        "activations_past_the_row_read",
        Edit(
            PACKED_ROWS, "chunk * kChunks + i < num_chunks_", "chunk * kChunks + i <= num_chunks_"
        ),
        format="int8",
    ),
    broken_packed_decode(
        "activations_stored_with_the_scale_of_the_first_token",
        Edit(GATE_UP, "token_of(args_, lane_index()),", "0,"),
        format="w8a8",
        tokens=5,
    ),
    broken_packed_decode(
        "scales_used_before_all_rows_are_seen",
        Edit(ACTIVATION_SCALES, "    __syncthreads();\n", ""),
        {"race", "uninitialised", "wrong-result"},
        format="w8a8",
    ),
    broken_packed_decode(
        "parts_of_a_row_in_one_place",
        Edit(ACTIVATION_SCALES, "+ part] = largest", "] = largest"),
        {"race", "uninitialised"},
        format="w8a8",
        tokens=2,
        top_k=2,
    ),
    BrokenKernel(
        "quantised_rows_written_before_all_is_read",
        {"race", "uninitialised", "wrong-result"},
        [
            Edit(
                "quantize/quantize.cu",
                "    if (lane_index() == 0) of_warp[warp_index()] = value;\n    __syncthreads();",
                "    if (lane_index() == 0) of_warp[warp_index()] = value;",
            )
        ],
        command="quantize",
        options={"rows": 4, "columns": 2056, "type": "bf16", "in_place": 1, "range": 1},
    ),
    BrokenKernel(
        "quantised_row_written_before_the_warp_has_read",
        {"race"},
        [Edit("quantize/quantize.cu", "__syncwarp();", ";")],
        command="quantize",
        options={"rows": 1027, "columns": 72, "type": "bf16", "in_place": 1},
    ),
    BrokenKernel(
        "quantised_row_of_another_warp",
        {"race"},
        [Edit("quantize/quantize.cu", "+ threadIdx.x / kThreads;", "+ 0;")],
        command="quantize",
        options={"rows": 1027, "columns": 72, "type": "bf16"},
    ),
    broken_epilogue(
        "bias_of_the_gates_added_to_the_ups",
        {"wrong-result"},
        Edit(GENERAL, "is_up * bias.second", "0"),
        bias=1,
    ),
    broken_epilogue(
        "bias_of_an_interleaved_column_before",
        {"wrong-result"},
        Edit(GENERAL, "(col + block * 2) * bias.column_step", "(col + block * 2)"),
        bias=1,
        order=2,
    ),
    broken_epilogue(
        "bias_read_past_the_last_column",
        {"out-of-bounds", "uninitialised"},
        Edit(GENERAL, "if (col + is_up * columns.up >= columns.total) continue;", ""),
        bias=1,
        gated=0,
        rows=[3],
        n=136,
        pad=0,
    ),
    broken_epilogue(
        "scale_of_the_first_choice",
        {"wrong-result"},
        Edit(EPILOGUE, "pair - source * args.top_k : 0", "0 : 0"),
        scale=1,
    ),
    broken_epilogue(
        "scale_of_a_wrong_index_read",
        {"out-of-bounds"},
        Edit(EPILOGUE, "if (pair < 0 || source >= args.num_source_rows) return 0;", ""),
        scale=1,
        wrong_index=True,
    ),
    broken_epilogue(
        "constants_of_the_first_expert",
        {"wrong-result"},
        Edit(GENERAL, "SwigluLimits limits(options, expert)", "SwigluLimits limits(options, 0)"),
        constants=1,
    ),
    broken_epilogue(
        "alpha_of_the_first_expert",
        {"wrong-result"},
        Edit(GENERAL, "options, tile.expert);", "options, 0);"),
        constants=1,
    ),
    broken_epilogue(
        "block_of_rows_not_activated",
        {"wrong-result"},
        Edit(
            GENERAL,
            "activate_block(activation, args, tile.expert, acc[i]);",
            "if (i > 0) activate_block(activation, args, tile.expert, acc[i]);",
        ),
        activation=3,
    ),
    broken_epilogue(
        "second_half_of_ungated_columns_forgotten",
        {"wrong-result", "uninitialised"},
        Edit(GENERAL, "if (args.gated) return;\n    store_acc", "return;\n    store_acc"),
        gated=0,
    ),
    broken_epilogue(
        "ungated_columns_past_the_last_copied",
        {"out-of-bounds", "shared-out-of-bounds", "wrong-result"},
        Edit(LOADER, "+ Columns::is_up(tile_row) * columns.up;", ";"),
        gated=0,
        rows=[3],
        n=136,
        pad=0,
    ),
    BrokenKernel(
        "up_rows_where_other_orders_have_them",
        {"wrong-result", "out-of-bounds"},
        [Edit(LOADER, "? args_.w_up_bytes : 0", "? args_.w_column_bytes : 0")],
        options={"table": "kBf16Swiglu", "tactic": 4, "rows": [9], "n": 144, "k": 72, "order": 1},
        instance=("kBf16Swiglu", 4),
    ),
    BrokenKernel(
        "bias_of_the_first_expert_combined",
        {"wrong-result"},
        [Edit(COMBINE, "expert * args.bias_stride", "0 * expert * args.bias_stride")],
        command="combine",
        options={"bias": 3, "tokens": 9},
    ),
    BrokenKernel(
        "residual_forgotten",
        {"wrong-result"},
        [Edit(COMBINE, "kHasOptions && args.residual != nullptr)", "false)")],
        command="combine",
        options={"residual": 1},
    ),
    broken_decode(
        "input_weighed_twice",
        {"wrong-result"},
        Edit(DOWN, "kHasOptions && args.weighs_input", "false"),
        weigh_input=1,
    ),
    broken_decode(
        "bias_of_another_column",
        {"wrong-result", "out-of-bounds"},
        Edit(GATE_UP, "column * bias.column_step", "(column + 1) * bias.column_step"),
        bias=1,
    ),
    broken_decode(
        "ungated_columns_stored_once",
        {"wrong-result"},
        Edit(GATE_UP, "activation.apply(sums.y)", "activation.apply(sums.x)"),
        gated=0,
    ),
    broken_decode(
        "bias_of_the_pair_for_its_expert",
        {"wrong-result", "out-of-bounds"},
        Edit(DOWN, "groups_.expert_of(pair)", "pair"),
        w2_bias=1,
        tokens=3,
    ),
    broken_decode(
        "residual_of_another_token",
        {"wrong-result", "race"},
        Edit(DOWN, "token * args_.residual_row_stride", "0 * args_.residual_row_stride"),
        residual=1,
        tokens=3,
    ),
]
