"""The tensors of a measured call: weights in as many copies as a model would keep L2 busy with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from torch_sm80moe import reference, testing
from torch_sm80moe.bench import formats, timing
from torch_sm80moe.bench.floor import Work
from torch_sm80moe.bench.models import Model, num_active
from torch_sm80moe.bench.routings import Routing, make_routing

# Calls with few tokens differ more, and are shorter.
_FEW_TOKENS, _MANY_ROUTINGS, _FEW_ROUTINGS = 64, 8, 4
# A replay is at least this long by its floor, so that what lies between two does not matter.
_REPLAY_US, _MOST_CALLS = 1000, 64
_CHECKED_TOKENS = 16  # of each routing

DEVICE = torch.device("cuda")

Experts = Callable[..., torch.Tensor]  # takes testing.Inputs, in their order


class Weights(NamedTuple):
    """The weights of one layer: tensors, or packed weights."""

    w13: Any  # [E, 2I, H]
    w2: Any  # [E, H, I]


class Layers:
    """Layers of one model with the same random weights in different memory."""

    def __init__(
        self, model: Model, dtype: torch.dtype, weight_format: str = formats.DENSE
    ) -> None:
        """Make one layer.

        Raises:
            ValueError: the model's sizes do not suit the format.
        """
        self.model, self.dtype, self.format = model, dtype, weight_format
        # Activations of size one throughout, as in testing.Problem.
        weights = (
            formats.random_weight((model.num_experts, n, k), dtype, weight_format, DEVICE)
            for n, k in model.matrices
        )
        self.layers = [Weights(*weights)]

    @property
    def num_bytes(self) -> int:
        """The memory that one layer takes."""
        return sum(formats.num_bytes(weight) for weight in self.layers[0])

    def copy_until(self, wanted: int) -> None:
        """Copy the layer until there are `wanted`, or until half of the free memory is used."""
        free, _ = torch.cuda.mem_get_info()
        affordable = len(self.layers) + free // 2 // self.num_bytes
        while len(self.layers) < min(wanted, affordable):
            self.layers.append(Weights(*map(formats.copy, self.layers[0])))


def copies_wanted(expert_bytes: int, active_bytes: int, l2_bytes: int) -> int:
    """Return how many layers make every weight twice an L2 away from where it was last read.

    In a model, a layer's weights have left L2 when their turn comes again. Calls in turn on so many
    layers keep at least two L2 sizes of other weights between two uses of the same expert, also
    when only w2, a third of the layer, is multiplied.
    """
    return math.ceil((2 * l2_bytes + expert_bytes / 3) / (active_bytes / 3))


class Case:
    """One cell's calls: each with a routing and a layer of its own turn."""

    def __init__(self, layers: Layers, routing: str, num_tokens: int) -> None:
        """Draw activations and routings; copy layers if few weights are active."""
        self.model, self.format = layers.model, layers.format
        sizes = (num_tokens, self.model.num_experts, self.model.top_k)
        num_routings = _MANY_ROUTINGS if num_tokens <= _FEW_TOKENS else _FEW_ROUTINGS
        self.x = torch.randn((num_tokens, self.model.hidden_size), device=DEVICE).to(layers.dtype)
        self.routings = [make_routing(routing, *sizes, DEVICE) for _ in range(num_routings)]
        expert_bytes = formats.expert_bytes(self.model, self.format)
        self.works = [
            Work(num_active(r.topk_ids) * expert_bytes, self.model.flops(num_tokens))
            for r in self.routings
        ]
        least = min(work.weight_bytes for work in self.works)
        l2_bytes = torch.cuda.get_device_properties().L2_cache_size
        self.copies_wanted = copies_wanted(expert_bytes, least, l2_bytes)
        layers.copy_until(self.copies_wanted)
        self.layers = layers.layers[: self.copies_wanted]

    def num_calls(self, floor_us: float) -> int:
        """Return how many calls make a replay; each routing has the same share of them."""
        wanted = max(len(self.layers), min(math.ceil(_REPLAY_US / floor_us), _MOST_CALLS))
        return math.ceil(wanted / len(self.routings)) * len(self.routings)

    def inputs(self, call: int) -> testing.Inputs:
        """Return the arguments of one call of a replay."""
        routing = self.routings[call % len(self.routings)]
        layer = self.layers[call % len(self.layers)]
        return testing.Inputs(self.x, *layer, *routing)

    def calls(self, experts: Experts, num_calls: int) -> list[timing.Call]:
        """Return the calls of a replay of `experts`."""
        return [functools.partial(experts, *self.inputs(i)) for i in range(num_calls)]

    @functools.cached_property
    def expected(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Some tokens of each routing, and their outputs by the fp32 reference.

        Where activations become int8, what becomes int8 has first been rounded as documented.
        """
        num_tokens, hidden_size = self.x.shape
        chosen = [
            torch.randperm(num_tokens, device=DEVICE)[:_CHECKED_TOKENS] for _ in self.routings
        ]
        routed = [
            Routing(r.topk_weights[tokens], r.topk_ids[tokens])
            for r, tokens in zip(self.routings, chosen, strict=True)
        ]
        weights, ids = (torch.cat(tensors) for tensors in zip(*routed, strict=True))
        w13, w2 = self.layers[0]
        meant: Any = formats.Meaning(w13), formats.Meaning(w2)
        int8 = formats.multiplies_int8(self.format)
        x = self.x[torch.cat(chosen)]
        round_to = x.dtype if int8 else None
        out = reference.fused_moe(x, meant[0], meant[1], weights, ids, int8=int8, round_to=round_to)
        outs = out.view(len(self.routings), -1, hidden_size).unbind()
        return list(zip(chosen, outs, strict=True))

    def check(self, outputs: list[torch.Tensor], roundings: int, what: object) -> float:
        """Fail if an output of a replay is wrong; return the largest relative error."""
        worst = 0.0
        has_ties = formats.multiplies_int8(self.format)
        assert_close = testing.assert_close_but_for_ties if has_ties else testing.assert_close
        for call, out in enumerate(outputs):
            tokens, expected = self.expected[call % len(self.routings)]
            got = out[tokens]
            assert_close(got, expected, roundings, f"{what}, call {call}")
            worst = max(worst, testing.measure_error(got, expected).relative)
        return worst


def checked_replay(
    case: Case, experts: Experts, num_calls: int, roundings: int, what: object
) -> tuple[Callable[[], None], float]:
    """Capture a replay and check what it leaves in poisoned outputs; return it and its error."""
    captured = timing.capture(case.calls(experts, num_calls))
    for out in captured.outputs:
        out.fill_(math.nan)
    captured.graph.replay()
    return captured.graph.replay, case.check(captured.outputs, roundings, what)


fused_moe: Experts = formats.fused_moe
