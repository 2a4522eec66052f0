"""Quantised experts as a module: in files as files have them, in use as kernels read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from torch_sm80moe.functional_quantized import fused_moe_quantized
from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation
from torch_sm80moe.quantization.packing import PackedWeight, pack, unpack
from torch_sm80moe.quantization.scheme import QuantScheme

SWIGLU_OPTIONS = ("swiglu_alpha", "swiglu_beta", "swiglu_limit")

_WEIGHTS = ("w13", "w2")
_BIASES = ("w13_bias", "w2_bias")  # of the activations' type
_FIELDS = ("values", "scale", "codes", "range")  # of what is packed


class QuantizedFusedExperts(nn.Module):
    """Quantised experts whose router lives elsewhere.

    In use it holds packed weights, and `fused_moe_quantized` runs them. Its state dict has the
    tensors of files instead, by the names of `state.to_tensors`: `w13.values`, `w13.scale`, ...
    Loading one fills the memory that CUDA graphs may be reading. Tensors among the
    options are buffers, as in `FusedExperts`.
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
        """Turn the tensors of files into what kernels read.

        Raises:
            TypeError: a tensor that was loaded has another dtype.
            ValueError: a tensor that was loaded does not fit the scheme.
        """
        if self.is_packed:
            return self
        experts = self.quantized()
        packed = {name: pack(getattr(experts, name)) for name in _WEIGHTS}
        tensors: dict[str, torch.Tensor] = {}
        for name, weight in packed.items():
            stored: StaticActivation | None = getattr(experts, f"{name}_input")
            fields = (weight.values, weight.scale, weight.codes, _as_range(stored, weight.device))
            named = zip(_FIELDS, fields, strict=True)
            tensors |= {f"{name}.{field}": t for field, t in named if t is not None}
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
            w13, w2 = (unpack(self._packed(name)) for name in _WEIGHTS)
            inputs = (_from_range(self._range(name)) for name in _WEIGHTS)
            return QuantizedExperts(w13, w2, *inputs)
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
        """Run `[..., H]` with routing `[..., k]`; return `[..., H]`."""
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
            w13_input=self._range("w13"),
            w2_input=self._range("w2"),
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

    def _range(self, name: str) -> torch.Tensor | None:
        """Return how the input of a GEMM is stored, as the operator takes it."""
        return dict(self.get_submodule(name).named_buffers()).get("range")

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
        for name, _ in [*self.named_children()]:
            delattr(self, name)
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


def _as_range(activation: StaticActivation | None, device: torch.device) -> torch.Tensor | None:
    """Return scale and zero point as the operators take them."""
    if activation is None:
        return None
    return torch.tensor([activation.scale, float(activation.zero_point)], device=device)


def _from_range(input_range: torch.Tensor | None) -> StaticActivation | None:
    if input_range is None:
        return None
    scale, zero_point = input_range.tolist()
    return StaticActivation(scale, int(zero_point))
