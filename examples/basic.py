"""Route tokens to experts and run the experts: two calls."""

import torch

from torch_sm80moe import fused_moe, topk_route

device = "cuda" if torch.cuda.is_available() else "cpu"
num_tokens, num_experts, top_k, hidden_size, intermediate_size = 16, 8, 2, 256, 512

hidden_states = torch.randn(num_tokens, hidden_size, device=device).bfloat16()
router_logits = torch.randn(num_tokens, num_experts, device=device)
w13 = torch.randn(num_experts, 2 * intermediate_size, hidden_size, device=device).bfloat16() / 16
w2 = torch.randn(num_experts, hidden_size, intermediate_size, device=device).bfloat16() / 22

topk_weights, topk_ids = topk_route(router_logits, top_k)
out = fused_moe(hidden_states, w13, w2, topk_weights, topk_ids)
print(
    f"{list(out.shape)} on {out.device}, root mean square {out.float().square().mean().sqrt():.2f}"
)
