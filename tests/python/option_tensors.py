"""Values for the options of a layer that take a tensor."""

from __future__ import annotations

import torch

from torch_sm80moe.testing import Inputs


def option_tensors(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Make a random value for each, by name."""
    x, w13, w2 = inputs[:3]
    num_experts = w13.size(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=x.device)

    return {
        "w13_bias": random(*w13.shape[:2]).to(x.dtype),
        "w2_bias": random(*w2.shape[:2]).to(x.dtype),
        "residual": random(*x.shape).to(x.dtype),
        "swiglu_alpha": random(num_experts) / 4 + 1.7,
        "swiglu_beta": random(num_experts) / 4 + 1,
        "swiglu_limit": random(num_experts).abs() + 0.2,
    }
