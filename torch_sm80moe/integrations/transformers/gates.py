"""Recognises what an experts module computes between its two GEMMs, by asking it.

The module's own function is called on numbers of every size, and what it returns is compared with
everything that `fused_moe` can compute there. So it does not matter whose function it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.activations import SiLUActivation
from transformers.integrations.moe import _default_apply_gate

from torch_sm80moe import reference
from torch_sm80moe._options import GATE_UP_ORDERS

_SILU_CLASSES = (nn.SiLU, SiLUActivation)

# Enough pairs of gate and up for each to meet numbers of every size and sign of the other.
_NUM_PAIRS = 1024
_SMALLEST, _LARGEST = 1e-3, 6e4  # float16 holds nothing larger

# Two ways to write one function differ by some roundings of fp32; two functions that the layer
# tells apart differ by more (gelu and its tanh form by 4e-4).
_RELATIVE, _ABSOLUTE = 1e-5, 4e-6

# Tensors that are no part of a gate. Any other may change what a gate computes after it was asked.
_WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")
_OTHERS = (
    *_WEIGHTS,
    *(f"{name}_bias" for name in _WEIGHTS),
    "parametrizations",
    "post_expert_norm",
)


class Gate(NamedTuple):
    """What becomes of the first GEMM's columns, in the words of `reference.activate`."""

    activation: str
    gated: bool
    gate_up_order: str = "gate_up"
    swiglu: reference.Swiglu | None = None

    def __str__(self) -> str:
        """Name what differs from SwiGLU in the default order."""
        words = [self.activation]
        if not self.gated:
            words.append("not gated")
        if self.gate_up_order != "gate_up":
            words.append(self.gate_up_order)
        if self.swiglu is not None:
            given = set(self.swiglu._asdict().items()) - set(reference.Swiglu()._asdict().items())
            words += [f"{name} {value:g}" for name, value in sorted(given)]
        return ", ".join(words)


SWIGLU = Gate("silu", gated=True)


def gate_of(experts: Any) -> Gate | None:
    """Return the gate of a module, by its class or by asking it; None if it is its own."""
    if is_swiglu(experts):
        return SWIGLU
    with torch.inference_mode(False), torch.no_grad():
        return recognise(experts)


def is_swiglu(experts: Any) -> bool:
    """Return whether the module is known to compute silu(gate) * up, without asking it."""
    return (
        experts.has_gate
        and type(experts)._apply_gate is _default_apply_gate
        and (isinstance(experts.act_fn, _SILU_CLASSES) or experts.act_fn is nn.functional.silu)
    )


def recognise(experts: Any) -> Gate | None:
    """Return the gate that computes what the module computes; None if there is none."""
    if _has_tensors_of_its_own(experts):
        return None
    columns = _numbers_of_every_size(experts)
    theirs = _ask(experts, columns)
    if theirs is None:
        return None
    for gate in _candidates(experts):
        if _agree(gate, columns, theirs):
            return gate
    return None


def own_gate(experts: Any, columns: torch.Tensor) -> torch.Tensor:
    """Apply the module's own function, as transformers does."""
    result: torch.Tensor = (experts._apply_gate if experts.has_gate else experts.act_fn)(columns)
    return result


def constants(experts: Any) -> dict[str, float]:
    """Return the module's numbers; alpha and limit are among them, whatever they are called."""
    return {
        name: value
        for name, value in vars(experts).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _has_tensors_of_its_own(experts: Any) -> bool:
    tensors = [*experts.named_parameters(), *experts.named_buffers()]
    return any(name.split(".")[0] not in _OTHERS for name, _ in tensors)


def _numbers_of_every_size(experts: Any) -> torch.Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    width = experts.down_proj.size(1 if experts.is_transposed else 2)
    shape = (math.ceil(_NUM_PAIRS / width), width * (2 if experts.has_gate else 1))
    exponents = torch.empty(shape, dtype=torch.float32, device="cpu")
    exponents.uniform_(math.log(_SMALLEST), math.log(_LARGEST), generator=generator)
    signs = torch.randint(0, 2, shape, generator=generator, device="cpu") * 2 - 1
    return exponents.exp() * signs


def _ask(experts: Any, columns: torch.Tensor) -> torch.Tensor | None:
    try:
        return own_gate(experts, columns.clone()).float()
    except Exception:  # Whatever keeps it from running on the CPU in fp32 is no fault of the model.
        return None


def _candidates(experts: Any) -> Iterator[Gate]:
    orders = GATE_UP_ORDERS if experts.has_gate else GATE_UP_ORDERS[:1]
    for order in orders:
        for activation in reference.ACTIVATIONS:
            yield Gate(activation, experts.has_gate, order)
    if experts.has_gate:
        for order in orders:
            for swiglu in _candidates_for_swiglu(experts):
                yield Gate("silu", True, order, swiglu)


def _candidates_for_swiglu(experts: Any) -> Iterator[reference.Swiglu]:
    # A number with a fraction is more likely a constant of the gate than a size of the layer.
    numbers = sorted(constants(experts).values(), key=lambda value: isinstance(value, int))
    for limit in (*numbers, math.inf):
        for alpha in (1.0, *numbers):
            for beta in (0.0, 1.0):
                if limit > 0:
                    yield reference.Swiglu(float(alpha), beta, float(limit))


def _agree(gate: Gate, columns: torch.Tensor, theirs: torch.Tensor) -> bool:
    ours = reference.activate(columns, **gate._asdict())
    if ours.shape != theirs.shape:
        return False
    allowed = _RELATIVE * ours.abs() + _ABSOLUTE
    if gate.gated:
        _, up = reference.split_gate_up(columns, gate.gate_up_order)
        allowed += _ABSOLUTE * up.abs()
    return bool(((ours - theirs).abs() <= allowed).all())
