"""How each experts module runs: what is found out, and done, once; not part of its state_dict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from torch_sm80moe.integrations.transformers import gates, layouts

_ATTRIBUTE = "_sm80moe_prepared"


class Plan(NamedTuple):
    """What the operators are told about a module's function."""

    gate: gates.Gate | None  # None: the module's own function runs between two grouped GEMMs
    activation: dict[str, Any]  # the gate as arguments, with tensors on the module's device


_SWIGLU = Plan(gates.SWIGLU, {"activation": "silu"})


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A plan, and what it depends on besides the layout of the weights."""

    plan: Plan
    experts_class: type
    act_fn: Any
    constants: dict[str, float]
    device: torch.device

    def holds_for(self, experts: Any) -> bool:
        return (
            getattr(experts, "act_fn", None) is self.act_fn
            and experts.down_proj.device == self.device
            and all(getattr(experts, name, None) == self.constants[name] for name in self.constants)
            and layouts.are_packed(experts)
            and type(experts) is self.experts_class
        )


def plan_of(experts: Any) -> Plan:
    """Return the module's plan; prepare the module if that was not done since it changed."""
    if gates.is_swiglu(experts) and not experts.is_transposed:
        return _SWIGLU
    prepared: _Prepared | None = getattr(experts, _ATTRIBUTE, None)
    if prepared is None or not prepared.holds_for(experts):
        prepared = _prepare_eagerly(experts)
    return prepared.plan


def _prepare(experts: Any) -> _Prepared:
    """Ask the module what it computes, and pack its weights if they are transposed."""
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "sm80moe: use_sm80moe(model) must be called before the model is exported"
        )
    # Tensors that are made here outlive a caller's inference mode.
    with torch.inference_mode(False), torch.no_grad():
        layouts.pack(experts)
        gate = gates.recognise(experts)
        prepared = _Prepared(
            Plan(gate, _arguments(gate, experts.down_proj)),
            type(experts),
            getattr(experts, "act_fn", None),
            gates.constants(experts),
            experts.down_proj.device,
        )
    setattr(experts, _ATTRIBUTE, prepared)
    return prepared


_prepare_eagerly: Callable[[Any], _Prepared] = torch.compiler.disable(
    _prepare,
    reason="sm80moe prepares experts in their first call: before torch.compile(fullgraph=True) call"
    " the model once, or use_sm80moe(model)",
)


def _arguments(gate: gates.Gate | None, down: torch.Tensor) -> dict[str, Any]:
    if gate is None:
        return {"activation": "identity"}
    return arguments(gate, down.size(0), down.device)


def arguments(gate: gates.Gate, num_experts: int, device: torch.device | str) -> dict[str, Any]:
    """Return what `fused_moe` and `grouped_gemm` are told; constants once for each of E experts."""
    found: dict[str, Any] = {"activation": gate.activation, "gate_up_order": gate.gate_up_order}
    if gate.swiglu is not None:
        for name, value in gate.swiglu._asdict().items():
            constant = torch.full((), value, dtype=torch.float32, device=device)
            found[f"swiglu_{name}"] = constant.expand(num_experts)
    return found
