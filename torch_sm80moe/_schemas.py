"""The operators' schemas, written once.

The build generates the C++ definitions from this tuple, and a CPU-only installation defines the
operators from it. This file imports nothing, so that a build can read it without torch.
"""

NAMESPACE = "sm80moe"

_ACTIVATION_OPTIONS = (
    "int activation=0, int gate_up_order=0,"
    " Tensor? swiglu_alpha=None, Tensor? swiglu_beta=None, Tensor? swiglu_limit=None"
)
_LAYER_OPTIONS = (
    "Tensor? expert_map=None, Tensor? w13_bias=None, Tensor? w2_bias=None, bool gated=True,"
    f" {_ACTIVATION_OPTIONS}, bool apply_router_weight_on_input=False, Tensor? residual=None,"
    " bool batch_invariant=False"
)

SCHEMAS: tuple[str, ...] = (
    "fused_moe(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights, Tensor topk_ids,"
    f" *, {_LAYER_OPTIONS}, int tactic_w13=-1, int tactic_w2=-1) -> Tensor",
    "fused_moe_out(Tensor hidden_states, Tensor w13, Tensor w2, Tensor topk_weights,"
    f" Tensor topk_ids, Tensor(a!) out, *, {_LAYER_OPTIONS},"
    " int tactic_w13=-1, int tactic_w2=-1) -> ()",
    "fused_moe_quantized(Tensor hidden_states, Tensor w13, Tensor w13_scale, Tensor? w13_codes,"
    " Tensor w2, Tensor w2_scale, Tensor? w2_codes, Tensor topk_weights, Tensor topk_ids,"
    " int weight_format, int group_size, *, Tensor? w13_input=None, Tensor? w2_input=None,"
    f" {_LAYER_OPTIONS}, int tactic_w13=-1, int tactic_w2=-1) -> Tensor",
    "fused_moe_quantized_out(Tensor hidden_states, Tensor w13, Tensor w13_scale, Tensor? w13_codes,"
    " Tensor w2, Tensor w2_scale, Tensor? w2_codes, Tensor topk_weights, Tensor topk_ids,"
    " int weight_format, int group_size, Tensor(a!) out, *, Tensor? w13_input=None,"
    f" Tensor? w2_input=None, {_LAYER_OPTIONS}, int tactic_w13=-1, int tactic_w2=-1) -> ()",
    "topk_route(Tensor router_logits, int top_k, bool renormalize=True, *, int scoring=0,"
    " Tensor? correction_bias=None, int n_group=1, int topk_group=1, int group_score=1,"
    " float routed_scaling_factor=1.0, Tensor? expert_map=None,"
    " bool return_tokens_per_expert=False)"
    " -> (Tensor topk_weights, Tensor topk_ids, Tensor tokens_per_expert)",
    "sort_by_expert(Tensor topk_ids, int num_experts, *, Tensor? expert_map=None)"
    " -> (Tensor expert_offsets, Tensor row_index, Tensor row_position)",
    "grouped_gemm(Tensor a, Tensor w, Tensor expert_offsets, Tensor? row_index=None,"
    f" *, int top_k=1, int epilogue=0, Tensor? bias=None, {_ACTIVATION_OPTIONS},"
    " Tensor? row_scale=None, int tactic=-1) -> Tensor",
    "grouped_mm(Tensor mat_a, Tensor mat_b, *, Tensor offs, int tactic=-1) -> Tensor",
    "grouped_gemm_quantized(Tensor a, Tensor w, Tensor w_scale, Tensor? w_codes,"
    " Tensor expert_offsets, Tensor? row_index, int weight_format, int group_size, *,"
    f" Tensor? w_input=None, int top_k=1, int epilogue=0, Tensor? bias=None, {_ACTIVATION_OPTIONS},"
    " Tensor? row_scale=None, int tactic=-1) -> Tensor",
    "quantize_activations(Tensor a, Tensor? input_range=None) -> (Tensor values, Tensor scale)",
    "combine(Tensor rows, Tensor topk_weights, Tensor row_position) -> Tensor",
    "tactic_table() -> Tensor",
    "select_tactic(int num_rows, int num_experts, int n, int k, int epilogue, int dtype,"
    " int device_index, *, bool batch_invariant=False) -> int",
    "set_tuning(Tensor measurements, int device_index) -> ()",
    "decode_limit(int num_experts, int hidden_size, int intermediate_size, int device_index)"
    " -> int",
    "workspace_size(int num_tokens, int num_experts, int top_k, int hidden_size,"
    " int intermediate_size) -> int",
    "configure(int? shared_memory_limit=None, int? workspace_limit=None) -> ()",
)
