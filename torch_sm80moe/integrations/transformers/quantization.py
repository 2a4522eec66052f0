"""Quantises the experts of Hugging Face models, and loads checkpoints of `sm80moe quantize`.

Importing registers the quantisation method "sm80moe", which `from_pretrained` finds in the
configuration of such a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from torch_sm80moe.quantization.calibration import Calibration, LayerActivations
from torch_sm80moe.quantization.convert import QUANT_METHOD, VERSION
from torch_sm80moe.quantization.module import QuantizedFusedExperts
from torch_sm80moe.quantization.quantizers import quantize_experts as quantize_layer
from torch_sm80moe.quantization.scheme import QuantScheme
from torch_sm80moe.quantization.source import Inputs


class QuantizedModelExperts(QuantizedFusedExperts):
    """Quantised experts in the place of an experts module of transformers."""

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Run `[T, H]` with ids and weights `[T, k]`, in the order that transformers has."""
        return super().forward(hidden_states, top_k_weights.float(), top_k_index)


def quantize_experts(
    model: Any,
    scheme: QuantScheme | str,
    *,
    method: str = "mse",
    calibration: Iterable[Any] | None = None,
    settings: Calibration | None = None,
    console: Console | None = None,
) -> Any:
    """Quantise the experts of a transformers model in place, layer by layer.

    Beside the model, one layer of quantised experts and float32 copies of one expert are in
    memory.

    Args:
        model: whose experts are gate, up and down projections with SiLU, in 16 bits.
        scheme: what they become, or its name.
        method: how scales of weights are chosen: "absmax" or "mse".
        calibration: for static schemes batches to run the model on: token ids `[B, T]`, or
            mappings of the model's arguments. None for all other schemes.
        settings: how ranges of activations are chosen; by least squared error if None.
        console: where to show progress; None for silence.

    Returns:
        The model.

    Raises:
        ValueError: the model has no experts, or others; the scheme does not suit their sizes; or
            there are batches and no static scheme, or the reverse.

    Example:
        >>> quantize_experts(model, "w4a16-g128")  # doctest: +SKIP
    """
    scheme = QuantScheme.parse(scheme) if isinstance(scheme, str) else scheme
    layers = find_experts(model)
    inputs: Mapping[str, Inputs] = {}
    if scheme.needs_calibration(calibration):
        inputs = calibrate_experts(model, calibration or (), settings, console=console)
    for name, experts in _show(list(layers.items()), f"quantise to {scheme}", console):
        quantized = quantize_layer(
            experts.gate_up_proj,
            experts.down_proj,
            scheme,
            method=method,
            inputs=inputs.get(name),
        )
        model.set_submodule(name, QuantizedModelExperts.from_experts(quantized))
    config = ExpertsQuantizationConfig(scheme=str(scheme))
    model.config.quantization_config = config
    model.hf_quantizer = ExpertsQuantizer(config, pre_quantized=True)
    return model


def find_experts(model: nn.Module) -> dict[str, Any]:
    """Return the modules whose experts can be quantised, by name.

    Raises:
        ValueError: there are none, or one does what `fused_moe` does not.
    """
    from torch_sm80moe.integrations.transformers import unsupported_reason  # which imports this

    found = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "gate_up_proj") and getattr(module.gate_up_proj, "ndim", 0) == 3
    }
    if not found:
        raise ValueError("quantize_experts: model must have experts in 16 bits, got one without")
    for name, module in found.items():
        # On the CPU everything runs: what the device can do matters when the model does.
        nowhere = torch.empty(0, dtype=module.gate_up_proj.dtype, device="cpu")
        reason = unsupported_reason(module, nowhere)
        if reason is not None:
            raise ValueError(f"quantize_experts: {name} must be what fused_moe runs, but {reason}")
    return found


@torch.no_grad()
def calibrate_experts(
    model: Any,
    batches: Iterable[Any],
    settings: Calibration | None = None,
    *,
    console: Console | None = None,
) -> dict[str, Inputs]:
    """Run a model on batches; return how each layer of experts stores its activations.

    Args:
        model: with experts in 16 bits.
        batches: token ids `[B, T]`, or mappings of the model's arguments.
        settings: how ranges are chosen; by least squared error if None.
        console: where to show progress; None for silence.

    Returns:
        The inputs of w13 and w2, by the name of the experts' module.

    Raises:
        ValueError: there are no batches, or an activation is NaN or infinite.
    """
    seen = {name: LayerActivations() for name in find_experts(model)}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda experts, inputs, layer=layer: layer.add(
                inputs[0], inputs[1], experts.gate_up_proj
            )
        )
        for name, layer in seen.items()
    ]
    try:
        for batch in _show(batches, "calibrate", console):
            if isinstance(batch, Mapping):
                model(**batch)
            else:
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    chosen = settings or Calibration()
    return {name: layer.choose(chosen) for name, layer in seen.items()}


def _show(steps: Iterable[Any], what: str, console: Console | None) -> Iterator[Any]:
    return iter(steps) if console is None else iter(track(steps, what, console=console))


@register_quantization_config(QUANT_METHOD)
class ExpertsQuantizationConfig(QuantizationConfigMixin):
    """What the configuration of a checkpoint says."""

    def __init__(self, scheme: str, version: int = VERSION, **_: Any) -> None:
        """Check the settings.

        Raises:
            ValueError: the scheme is unknown, or the checkpoint is of another version.
        """
        if version != VERSION:
            raise ValueError(f"{QUANT_METHOD}: version must be {VERSION}, got {version}")
        self.quant_method: Any = QUANT_METHOD  # transformers' own are members of an enum
        self.version = version
        self.scheme = str(QuantScheme.parse(scheme))


@register_quantizer(QUANT_METHOD)
class ExpertsQuantizer(HfQuantizer):
    """Puts modules with the checkpoint's tensors in the place of the model's experts."""

    quantization_config: ExpertsQuantizationConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        scheme = QuantScheme.parse(self.quantization_config.scheme)
        for name, experts in find_experts(model).items():
            num_experts, hidden_size, intermediate_size = experts.down_proj.shape
            module = QuantizedModelExperts(scheme, num_experts, hidden_size, intermediate_size)
            model.set_submodule(name, module)
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, module in model.named_modules():
            if isinstance(module, QuantizedModelExperts):
                _pack(name, module)
        return model

    def is_serializable(self) -> bool:
        """Whether `save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether there is a backward."""
        return False

    @property
    def is_compileable(self) -> bool:
        """Whether `generate` may compile the model."""
        return QuantScheme.parse(self.quantization_config.scheme).activation == "16bit"


def _pack(name: str, module: QuantizedModelExperts) -> None:
    try:
        module.pack_()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: must be what its scheme says, got {error}") from error
