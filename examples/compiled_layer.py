"""A layer with its router inside torch.compile: one graph, whatever the number of tokens."""

import torch

from torch_sm80moe import FusedMoE

device = "cuda" if torch.cuda.is_available() else "cpu"
layer = FusedMoE(256, 512, num_experts=8, top_k=2, device=device)


@torch.compile(fullgraph=True, dynamic=True)
def block(hidden_states: torch.Tensor) -> torch.Tensor:
    """Add the layer's output to its normalised input, as a transformer does."""
    normalised = torch.nn.functional.rms_norm(hidden_states, (hidden_states.size(-1),))
    return hidden_states + layer(normalised)


for num_tokens in (3, 17, 100):
    hidden_states = torch.randn(num_tokens, 256, device=device).bfloat16()
    print(f"{num_tokens} tokens: output {list(block(hidden_states).shape)}")
