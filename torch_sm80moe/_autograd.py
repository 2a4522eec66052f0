"""No operator has a derivative, so each refuses an input that asks for one.

Without a registration torch would compute the result and treat it as a constant: gradients and
tangents of zero, with a warning at best. These kernels stand before an operator wherever autograd
is on the way, and cost about 3 us of the host's time. Inference mode leaves autograd out and pays
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.autograd import forward_ad

from torch_sm80moe import _ops

_BELOW_AUTOGRAD = torch._C._after_autograd_keyset


def refuse_gradients(operator: str, arguments: dict[str, Any]) -> None:
    """Raise what the operator raises for arguments that ask for a derivative."""
    overload = _ops.overload(operator)
    any_requires_grad = torch._C._any_requires_grad
    if torch.is_grad_enabled() and any_requires_grad(**arguments):
        _refuse(overload, any_requires_grad, "require grad", (), arguments)
    if forward_ad._current_level >= 0 and _has_tangent(*arguments.values()):
        _refuse(overload, _has_tangent, "have a tangent", (), arguments)


def _refusing(operator: str) -> Callable[..., Any]:
    overload = _ops.overload(operator)
    redispatch = overload.redispatch
    is_grad_enabled, any_requires_grad = torch.is_grad_enabled, torch._C._any_requires_grad

    def run_without_gradients(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if is_grad_enabled() and any_requires_grad(*args, **kwargs):
            _refuse(overload, any_requires_grad, "require grad", args, kwargs)
        # The level is -1 outside of forward-mode differentiation.
        if forward_ad._current_level >= 0 and _has_tangent(*args, *kwargs.values()):
            _refuse(overload, _has_tangent, "have a tangent", args, kwargs)
        return redispatch(keyset & _BELOW_AUTOGRAD, *args, **kwargs)

    return run_without_gradients


def _has_tangent(*values: Any) -> bool:
    return any(
        isinstance(value, torch.Tensor) and forward_ad.unpack_dual(value).tangent is not None
        for value in values
    )


def _refuse(
    overload: Any,
    asks: Callable[[Any], bool],
    question: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> NoReturn:
    operator = overload._schema.name.partition("::")[2]
    names = [argument.name for argument in overload._schema.arguments]
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    name = next(name for name, value in arguments.items() if asks(value))
    raise RuntimeError(
        f"{operator}: {name} must not {question} because there is no derivative, got a tensor that "
        "does (call it under torch.no_grad() or torch.inference_mode(), or detach the tensor)"
    )


def _takes_tensors(operator: str) -> bool:
    arguments = _ops.overload(operator)._schema.arguments
    return any("Tensor" in str(argument.type) for argument in arguments)


for _operator in filter(_takes_tensors, _ops.OPERATOR_NAMES):
    _ops.LIBRARY.impl(_operator, _refusing(_operator), "Autograd", with_keyset=True)
