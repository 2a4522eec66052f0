"""Quantised experts as a module: in files as files have them, in use as kernels read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from torch_sm80moe.functional_quantized import fused_moe_quantized
from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.experts import QuantizedExperts
from torch_sm80moe.quantization.packing import PackedWeight, pack, unpack
from torch_sm80moe.quantization.scheme import QuantScheme

SWIGLU_OPTIONS = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")

_WEIGHTS = ("w13", "w2")
_BIASES = ("w13_bias", "w2_bias")  # of the activations' type
_DEFAULTS = {"activation": "silu", "gate_up_order": "gate_up", "gated": True}


class QuantizedFusedExperts(nn.Module):
    """Quantised experts whose router lives elsewhere.

    In use it holds packed weights, and `fused_moe_quantized` runs them. Its state dict has the
    tensors of files instead, by the names of `state.to_tensors`: `w13.values`, `w13.scale`, ...
    Loading one fills the memory that CUDA graphs may be reading. Tensors among the
    options are buffers, as in `FusedExperts`. Schemes with int8 activations have no kernels yet:
    they can be made and kept in files, and `quantization.reference` says what they compute.
    """

    _not_in_state_dict: ClassVar[tuple[str, ...]] = ()  # of the options
    _experts: QuantizedExperts | None  # what was checked, of the tensors of files
    _packed_shapes: dict[str, tuple[int, int, int]] | None
    _previous: dict[str, torch.Tensor]  # what was packed before a state dict was loaded

    def __init__(
        self,
        scheme: QuantScheme,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        *,
        device: torch.device | str = "meta",
        **options: Any,
    ) -> None:
        """Make a module whose tensors are still to be loaded; options as in `FusedExperts`."""
        super().__init__()
        require_options(scheme, options)
        self.scheme = scheme
        self.sizes = (num_experts, hidden_size, intermediate_size)
        self.options: dict[str, Any] = {}
        self.set_options(**options)
        self._set_empty(device)
        hooks: Any = self  # torch does not annotate these
        hooks.register_state_dict_post_hook(_add_tensors_of_files)
        hooks.register_load_state_dict_pre_hook(_expect_tensors_of_files)

    @classmethod
    def from_experts(cls, experts: QuantizedExperts, **options: Any) -> QuantizedFusedExperts:
        """Make a module of quantised experts."""
        module = cls(experts.scheme, *experts.w2.shape, **options)
        module._set(state.to_tensors(experts))
        module._experts = experts
        return module.pack_()

    def set_options(self, **options: Any) -> None:
        """Set options of the layer; others stay as they are."""
        for name, value in options.items():
            if isinstance(value, torch.Tensor):
                persistent = name not in self._not_in_state_dict
                self.register_buffer(name, value, persistent=persistent)
            elif value is not None:
                self.options[name] = value

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        values: torch.Tensor = self.get_buffer("w2.values")
        return values.device

    @property
    def is_packed(self) -> bool:
        """Whether the module holds what kernels read."""
        return self._packed_shapes is not None

    def pack_(self) -> QuantizedFusedExperts:
        """Turn the tensors of files into what kernels read, where there are kernels.

        Raises:
            TypeError: a tensor that was loaded has another dtype.
            ValueError: a tensor that was loaded does not fit the scheme.
        """
        if self.is_packed:
            return self
        experts = self.quantized()
        if not self.scheme.has_kernels:
            return self
        packed = {name: pack(getattr(experts, name)) for name in _WEIGHTS}
        tensors = {
            f"{name}.{field}": getattr(weight, field)
            for name, weight in packed.items()
            for field in ("values", "scale", "codes")
            if getattr(weight, field) is not None
        }
        tensors |= {
            name: previous.copy_(tensors[name]) for name, previous in self._previous.items()
        }
        self._set(tensors, persistent=False)
        self._packed_shapes = {name: weight.shape for name, weight in packed.items()}
        return self

    def unpack_(self) -> None:
        """Turn what kernels read back into the tensors of files, until the next call."""
        if self.is_packed:
            packed = self._tensors()
            self._set(state.to_tensors(self.quantized()))
            self._previous = packed

    def quantized(self) -> QuantizedExperts:
        """Return the experts; tensors that were loaded are checked, once."""
        if self._packed_shapes is not None:
            return QuantizedExperts(unpack(self._packed("w13")), unpack(self._packed("w2")))
        if self._experts is None:
            self._experts = state.from_tensors(self._tensors(), self.scheme)
        return self._experts

    def forward(
        self,
        hidden_states: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run `[..., H]` with routing `[..., k]`; return `[..., H]`.

        Raises:
            ValueError: the scheme has int8 activations, for which there are no kernels yet.
        """
        if not self.scheme.has_kernels:
            raise ValueError(
                f"QuantizedFusedExperts: scheme must have kernels to run, got {self.scheme}: there "
                "are none for int8 activations yet"
            )
        if not self.is_packed:  # after a state dict was loaded
            self.pack_()
        hidden_size, top_k = hidden_states.size(-1), topk_ids.size(-1)
        tensors: dict[str, Any] = dict(self.named_buffers(recurse=False))
        out = fused_moe_quantized(
            hidden_states.reshape(-1, hidden_size),
            self._packed("w13"),
            self._packed("w2"),
            topk_weights.reshape(-1, top_k),
            topk_ids.reshape(-1, top_k),
            residual=None if residual is None else residual.reshape(-1, hidden_size),
            **tensors,
            **self.options,
        )
        return out.reshape(hidden_states.shape)

    def _packed(self, name: str) -> PackedWeight:
        assert self._packed_shapes is not None
        tensors = dict(self.get_submodule(name).named_buffers())
        return PackedWeight(
            tensors["values"],
            tensors["scale"],
            tensors.get("codes"),
            self._packed_shapes[name],
            self.scheme,
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.named_buffers() if "." in name}

    def _set_empty(self, device: torch.device | str) -> None:
        specs = state.tensor_specs(self.scheme, *self.sizes, gated=self.options.get("gated", True))
        self._set(
            {
                name: torch.empty(shape, dtype=dtype, device=device)
                for name, (shape, dtype) in specs.items()
            }
        )

    def _set(self, tensors: Mapping[str, torch.Tensor], *, persistent: bool = True) -> None:
        """Hold these tensors and no others, in the form of files until it is said otherwise."""
        self._experts = self._packed_shapes = None
        self._previous = {}
        for name in {name.partition(".")[0] for name in tensors}:
            self.add_module(name, nn.Module())
        for name, tensor in tensors.items():
            part, _, field = name.partition(".")
            self.get_submodule(part).register_buffer(field, tensor, persistent=persistent)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        # What `model.half()` and the like change is the type of activations, not of stored numbers.
        biases = [tensor for name, tensor in self.named_buffers(recurse=False) if name in _BIASES]

        def keep_dtype(tensor: torch.Tensor) -> torch.Tensor:
            changed = fn(tensor)
            follows = changed.dtype == tensor.dtype or any(tensor is bias for bias in biases)
            return changed if follows else tensor.to(changed.device)

        self._experts, self._previous = None, {}
        return super()._apply(keep_dtype, recurse)  # type: ignore[no-untyped-call]


def _add_tensors_of_files(
    module: QuantizedFusedExperts, state_dict: dict[str, torch.Tensor], prefix: str, _: Any
) -> None:
    if module.is_packed:
        tensors = state.to_tensors(module.quantized())
        state_dict.update({f"{prefix}{name}": tensor for name, tensor in tensors.items()})


def _expect_tensors_of_files(module: QuantizedFusedExperts, *_: Any) -> None:
    module.unpack_()


def require_options(scheme: QuantScheme, options: Mapping[str, Any]) -> None:
    """Refuse options of the layer that no kernel has for a scheme.

    Raises:
        ValueError: an option is not the default, and activations are int8.
    """
    if scheme.has_kernels:
        return
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, torch.Tensor) or value != _DEFAULTS.get(name, False):
            got = "a tensor" if isinstance(value, torch.Tensor) else value
            raise ValueError(f"{scheme}: {name} must be the default one, got {got}")
