"""The layer as modules: experts alone, and experts with their router. They only call functions."""

from __future__ import annotations

import math

import torch
from torch import nn

from torch_sm80moe import functional


class FusedExperts(nn.Module):
    """Experts whose router lives elsewhere: parameters `w13 [E, 2I, H]` and `w2 [E, H, I]`."""

    def __init__(self, w13: torch.Tensor, w2: torch.Tensor) -> None:
        """Take the weights as they are (no copy), as parameters without gradient."""
        super().__init__()
        self.w13 = nn.Parameter(w13, requires_grad=False)
        self.w2 = nn.Parameter(w2, requires_grad=False)

    def forward(
        self, hidden_states: torch.Tensor, topk_weights: torch.Tensor, topk_ids: torch.Tensor
    ) -> torch.Tensor:
        """Run `fused_moe` on `[..., H]` with routing `[..., k]`; return `[..., H]`."""
        top_k = topk_ids.size(-1)
        out = functional.fused_moe(
            hidden_states.reshape(-1, hidden_states.size(-1)),
            self.w13,
            self.w2,
            topk_weights.reshape(-1, top_k),
            topk_ids.reshape(-1, top_k),
        )
        return out.reshape(hidden_states.shape)


class FusedMoE(nn.Module):
    """A mixture-of-experts layer: softmax top-k router, SwiGLU experts, weighted sum.

    The layer has no backward: its parameters do not require grad.

    Example:
        >>> layer = FusedMoE(64, 32, num_experts=8, top_k=2, dtype=torch.bfloat16)
        >>> layer(torch.randn(2, 5, 64).bfloat16()).shape
        torch.Size([2, 5, 64])
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        top_k: int,
        *,
        renormalize: bool = True,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str | None = None,
    ) -> None:
        """Make a layer with random weights, scaled so that activations keep their size."""

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, dtype=dtype, device=device) / math.sqrt(shape[-1])

        super().__init__()
        self.top_k = top_k
        self.renormalize = renormalize
        self.router_weight = nn.Parameter(random(num_experts, hidden_size), requires_grad=False)
        self.experts = FusedExperts(
            random(num_experts, 2 * intermediate_size, hidden_size),
            random(num_experts, hidden_size, intermediate_size),
        )

    @classmethod
    def from_weights(
        cls,
        router_weight: torch.Tensor,
        w13: torch.Tensor,
        w2: torch.Tensor,
        top_k: int,
        *,
        renormalize: bool = True,
    ) -> FusedMoE:
        """Make a layer of a checkpoint's tensors, without copying them.

        Args:
            router_weight: `[E, H]`, dtype of the experts.
            w13: `[E, 2I, H]`, gate rows, then up rows.
            w2: `[E, H, I]`.
            top_k: experts per token.
            renormalize: whether the k weights of a token sum to one.

        Returns:
            A layer whose parameters share the tensors' memory.
        """
        num_experts, hidden_size, intermediate_size = w2.shape
        layer = cls(
            hidden_size,
            intermediate_size,
            num_experts,
            top_k,
            renormalize=renormalize,
            dtype=w2.dtype,
            device="meta",
        )
        layer.router_weight = nn.Parameter(router_weight, requires_grad=False)
        layer.experts = FusedExperts(w13, w2)
        return layer

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Route and run `[..., H]`; return `[..., H]`."""
        flat = hidden_states.reshape(-1, hidden_states.size(-1))
        logits = nn.functional.linear(flat, self.router_weight)
        weights, ids = functional.topk_route(logits, self.top_k, renormalize=self.renormalize)
        out: torch.Tensor = self.experts(flat, weights, ids)
        return out.reshape(hidden_states.shape)
