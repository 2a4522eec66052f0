"""FlashInfer's numbers of activations, and what each is here."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class ActivationType(IntEnum):
    """What the first GEMM's results become; the members and numbers are FlashInfer's."""

    Gelu = 0
    Relu = 1
    Silu = 2
    Swiglu = 3
    Geglu = 4
    SwigluBias = 5
    Relu2 = 6
    SwigluStep = 7
    GegluTanh = 8
    Identity = 9
    Situ = 10


class Activation(NamedTuple):
    """Two options of `fused_moe`."""

    name: str
    gated: bool


_ACTIVATIONS = {
    ActivationType.Gelu: Activation("gelu", gated=False),
    ActivationType.Relu: Activation("relu", gated=False),
    ActivationType.Silu: Activation("silu", gated=False),
    ActivationType.Swiglu: Activation("silu", gated=True),
    ActivationType.Geglu: Activation("gelu", gated=True),
    # Swiglu with constants; which are given decides, not the number.
    ActivationType.SwigluBias: Activation("silu", gated=True),
    ActivationType.Relu2: Activation("relu2", gated=False),
    ActivationType.GegluTanh: Activation("gelu_tanh", gated=True),
    ActivationType.Identity: Activation("identity", gated=False),
}


def activation_of(op: str, activation_type: int) -> Activation:
    """Return the options that stand for the number."""
    number = int(activation_type)
    if number not in _ACTIVATIONS:
        known = {int(member): member.name for member in ActivationType}
        names = ", ".join(member.name for member in _ACTIVATIONS)
        raise ValueError(
            f"{op}: activation_type must be one of {names}, got {known.get(number, number)}"
        )
    return _ACTIVATIONS[ActivationType(number)]
