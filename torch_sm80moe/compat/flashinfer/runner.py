"""`FusedMoeRunner`: the layer and its two GEMMs with tactics of the caller's choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torch_sm80moe.compat._words import require_same_dtype
from torch_sm80moe.compat.flashinfer.activation import ActivationType, activation_of
from torch_sm80moe.compat.flashinfer.arguments import Parallel, require_available, tactic_of
from torch_sm80moe.compat.flashinfer.formats import format_of
from torch_sm80moe.compat.flashinfer.layer import cutlass_fused_moe
from torch_sm80moe.compat.flashinfer.profile import FirstGemm, Preparation, SortedRows

_OP = "FusedMoeRunner"


class FusedMoeRunner:
    """Runs the layer, or one of its GEMMs, with given tactics; what an autotuner calls.

    Tactics are numbered in one list: first those of GEMM 1 (gate and up), then those of GEMM 2
    (down). -1 means the default. Each is a row of `torch_sm80moe.tactic_table()`.

    Example:
        >>> runner = FusedMoeRunner(torch.float16, torch.float16, torch.float16)
        >>> runner.get_tactic_num() == runner.get_tactic_num(1) + runner.get_tactic_num(2)
        True
    """

    def __init__(
        self,
        x_dtype: torch.dtype,
        weight_dtype: torch.dtype,
        output_dtype: torch.dtype,
        use_deepseek_fp8_block_scale: bool = False,
        use_w4_group_scaling: bool = False,
        use_mxfp8_act_scaling: bool = False,
        use_packed_weights: bool = False,
        use_fused_finalize: bool = True,
        use_wfp4afp8_humming: bool = False,
        *,
        gate_up_order: str = "up_gate",
    ) -> None:
        """Take the dtypes of activations, weights and result, and how weights are laid out.

        Args:
            x_dtype: float16 or bfloat16.
            weight_dtype: the same.
            output_dtype: the same.
            use_deepseek_fp8_block_scale: False.
            use_w4_group_scaling: False.
            use_mxfp8_act_scaling: False.
            use_packed_weights: False.
            use_fused_finalize: either.
            use_wfp4afp8_humming: False.
            gate_up_order: as in `cutlass_fused_moe`.

        Raises:
            TypeError: a dtype is another.
            ValueError: something is asked for that there is not.
        """
        require_available(
            _OP,
            use_deepseek_fp8_block_scale=use_deepseek_fp8_block_scale,
            use_w4_group_scaling=use_w4_group_scaling,
            use_mxfp8_act_scaling=use_mxfp8_act_scaling,
            use_packed_weights=use_packed_weights,
            use_wfp4afp8_humming=use_wfp4afp8_humming,
        )
        self._weights = format_of(_OP, "weight_dtype", weight_dtype)
        require_same_dtype(_OP, "x_dtype", x_dtype, "weight_dtype", weight_dtype)
        require_same_dtype(_OP, "output_dtype", output_dtype, "weight_dtype", weight_dtype)
        self._dtype = output_dtype
        self._gate_up_order = gate_up_order
        self._prepared: Preparation | None = None

    def get_tactic_num(self, gemm_idx: int | None = None) -> int:
        """Return how many tactics there are, of both GEMMs or of GEMM 1 or 2."""
        if gemm_idx is None:
            return 2 * self._weights.num_tactics
        _require_gemm(gemm_idx)
        return self._weights.num_tactics

    def get_gemm1_tactic_count(self) -> int:
        """Return how many tactics of the list are GEMM 1's, its first."""
        return self.get_tactic_num(1)

    def get_gemm2_tactic_count(self) -> int:
        """Return how many tactics of the list are GEMM 2's, its last."""
        return self.get_tactic_num(2)

    def run_gemm_profile(
        self,
        x: torch.Tensor,
        fc1_expert_weights: torch.Tensor,
        fc1_expert_biases: torch.Tensor | None,
        fc2_expert_weights: torch.Tensor,
        fc2_expert_biases: torch.Tensor | None,
        top_k: int,
        tp_size: int = 1,
        tp_rank: int = 0,
        ep_size: int = 1,
        ep_rank: int = 0,
        cluster_size: int = 1,
        cluster_rank: int = 0,
        enable_alltoall: bool = False,
        min_latency_mode: bool = False,
        gemm_idx: int = 1,
        profile_id: int = -1,
        do_preparation: bool = False,
        enable_pdl: bool | None = None,
        activation_type: int = ActivationType.Swiglu,
    ) -> None:
        """Run one GEMM of a layer, so that the caller can time it.

        Tokens take experts in turn. Rows of GEMM 2 are what GEMM 1 makes of `x`.

        Args:
            x: activations `[T, H]`.
            fc1_expert_weights: as in `cutlass_fused_moe`.
            fc1_expert_biases: as in `cutlass_fused_moe`.
            fc2_expert_weights: as in `cutlass_fused_moe`.
            fc2_expert_biases: as in `cutlass_fused_moe`; belongs to neither GEMM, the sum over
                experts adds it.
            top_k: k.
            tp_size: as in `cutlass_fused_moe`.
            tp_rank: as in `cutlass_fused_moe`.
            ep_size: as in `cutlass_fused_moe`.
            ep_rank: as in `cutlass_fused_moe`.
            cluster_size: 1.
            cluster_rank: 0.
            enable_alltoall: False.
            min_latency_mode: False.
            gemm_idx: 1 or 2.
            profile_id: a place in the list of tactics that is the GEMM's, or -1.
            do_preparation: whether to sort the rows first, and to make those of GEMM 2. Later calls
                of the same sizes may leave it out, and should be the ones that are timed.
            enable_pdl: None or False.
            activation_type: as in `cutlass_fused_moe`.

        Returns:
            Nothing.

        Raises:
            ValueError: a shape or range is wrong, something is asked for that there is not, or the
                sizes were not prepared.
            TypeError: a dtype is wrong.
            RuntimeError: the tactic does not fit the device's shared memory.

        Behaviour:
            Current stream, no synchronisation. Keeps what was prepared until the next preparation.
        """
        op = f"{_OP}.run_gemm_profile"
        require_available(
            op,
            cluster_size=cluster_size,
            cluster_rank=cluster_rank,
            enable_alltoall=enable_alltoall,
            min_latency_mode=min_latency_mode,
            enable_pdl=bool(enable_pdl),
        )
        _require_gemm(gemm_idx)
        tactic = tactic_of(op, gemm_idx, profile_id, self._weights)
        activation = activation_of(op, activation_type)
        parallel = Parallel(tp_size, tp_rank, ep_size, ep_rank)
        parallel.check(op)

        first = FirstGemm(
            x, fc1_expert_weights, fc1_expert_biases, top_k, activation, self._gate_up_order
        )
        sizes = (x.shape, x.device, top_k, fc1_expert_weights.size(0), parallel, gemm_idx)
        if do_preparation:
            rows = SortedRows.of_tokens_in_turn(first, parallel)
            intermediate = first.run(self._weights, rows, -1) if gemm_idx == 2 else None
            self._prepared = Preparation(sizes, rows, intermediate)
        if self._prepared is None or self._prepared.sizes != sizes:
            raise ValueError(f"{op}: do_preparation must be True for new sizes, got False")
        _, rows, intermediate = self._prepared
        if intermediate is None:
            first.run(self._weights, rows, tactic)
        else:
            self._weights.gemm(intermediate, fc2_expert_weights, rows.offsets, tactic=tactic)

    def run_moe(
        self,
        output: torch.Tensor,
        x: torch.Tensor,
        token_selected_experts: torch.Tensor,
        token_final_scales: torch.Tensor | None,
        fc1_expert_weights: torch.Tensor,
        fc1_expert_biases: torch.Tensor | None,
        fc2_expert_weights: torch.Tensor,
        fc2_expert_biases: torch.Tensor | None,
        quant_scales: Sequence[torch.Tensor] | None = None,
        input_sf: torch.Tensor | None = None,
        swiglu_alpha: torch.Tensor | None = None,
        swiglu_beta: torch.Tensor | None = None,
        swiglu_limit: torch.Tensor | None = None,
        situ_beta: torch.Tensor | None = None,
        situ_linear_beta: torch.Tensor | None = None,
        swizzled_input_sf: bool = True,
        tp_size: int = 1,
        tp_rank: int = 0,
        ep_size: int = 1,
        ep_rank: int = 0,
        cluster_size: int = 1,
        cluster_rank: int = 0,
        enable_alltoall: bool = False,
        min_latency_mode: bool = False,
        profile_ids: Sequence[int] | None = None,
        enable_pdl: bool | None = None,
        activation_type: int = ActivationType.Swiglu,
        workspace_buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run the layer into `output`; the arguments are those of `cutlass_fused_moe`."""
        (result,) = cutlass_fused_moe(
            x,
            token_selected_experts,
            token_final_scales,
            fc1_expert_weights,
            fc2_expert_weights,
            self._dtype,
            quant_scales,
            fc1_expert_biases=fc1_expert_biases,
            fc2_expert_biases=fc2_expert_biases,
            input_sf=input_sf,
            swiglu_alpha=swiglu_alpha,
            swiglu_beta=swiglu_beta,
            swiglu_limit=swiglu_limit,
            tp_size=tp_size,
            tp_rank=tp_rank,
            ep_size=ep_size,
            ep_rank=ep_rank,
            cluster_size=cluster_size,
            cluster_rank=cluster_rank,
            output=output,
            enable_alltoall=enable_alltoall,
            min_latency_mode=min_latency_mode,
            enable_pdl=enable_pdl,
            activation_type=activation_type,
            swizzled_input_sf=swizzled_input_sf,
            profile_ids=profile_ids,
            workspace_buffer=workspace_buffer,
            situ_beta=situ_beta,
            situ_linear_beta=situ_linear_beta,
            gate_up_order=self._gate_up_order,
        )
        return result


def _require_gemm(gemm_idx: int) -> None:
    if gemm_idx not in (1, 2):
        raise ValueError(f"{_OP}: gemm_idx must be 1 or 2, got {gemm_idx}")
