"""Which experts the tokens of a measured call choose."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

ROUTINGS = ("balanced", "zipf", "half")
_HOT = math.inf


class Routing(NamedTuple):
    """What a router hands to the layer."""

    topk_weights: torch.Tensor  # [T, k] float32
    topk_ids: torch.Tensor  # [T, k] int32


def make_routing(
    kind: str, num_tokens: int, num_experts: int, top_k: int, device: torch.device
) -> Routing:
    """Draw a routing.

    balanced: every expert is as likely as any other. zipf: the expert of rank r is chosen in
    proportion to 1 / r, without replacement. half: one expert is the first choice of every second
    token; everything else is balanced.
    """
    # The k largest of log(p) + Gumbel noise are a draw of k experts in proportion to p.
    noise = torch.rand((num_tokens, num_experts), device=device).clamp_min(1e-20)
    scores = -torch.log(-torch.log(noise))
    if kind == "zipf":
        ranks = 1 + torch.randperm(num_experts, device=device)
        scores -= ranks.float().log()
    elif kind == "half":
        scores[::2, int(torch.randint(num_experts, ()))] = _HOT
    ids = scores.topk(top_k, dim=-1).indices.int()
    weights = torch.softmax(torch.randn((num_tokens, top_k), device=device), dim=-1)
    return Routing(weights, ids)
