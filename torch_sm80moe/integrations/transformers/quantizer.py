"""Loads and saves the checkpoints of `sm80moe quantize`.

Importing registers the quantisation method "sm80moe", which `from_pretrained` finds in the
configuration of such a checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from torch_sm80moe.integrations.transformers.quantized_experts import (
    FusedLayer,
    QuantizedModelExperts,
    find_experts,
    require_layer,
)
from torch_sm80moe.quantization.convert import QUANT_METHOD, VERSION
from torch_sm80moe.quantization.scheme import QuantScheme


def mark_as_quantized(model: Any, scheme: QuantScheme) -> Any:
    """Let a model be saved as what it has become; return it."""
    config = ExpertsQuantizationConfig(scheme=str(scheme))
    model.config.quantization_config = config
    model.hf_quantizer = ExpertsQuantizer(config, pre_quantized=True)
    return model


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

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        """Take the configuration."""
        super().__init__(*arguments, **settings)
        self._layers: dict[str, FusedLayer] = {}

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> nn.Module:
        scheme = QuantScheme.parse(self.quantization_config.scheme)
        names: Counter[str] = Counter()
        for name, experts in find_experts(model).items():
            layer = require_layer(name, experts)
            self._layers[name] = layer
            module = QuantizedModelExperts(scheme, *layer.sizes, **layer.options("meta"))
            model.set_submodule(name, module)
            names.update(list(module.state_dict()))
        _require_tensors(names, checkpoint_files or ())
        return model

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, layer in self._layers.items():
            module: Any = model.get_submodule(name)
            module.set_options(**layer._replace(biases={}).options(module.device))
            _pack(name, module)
        self._layers = {}
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
        return True


def _require_tensors(wanted: Counter[str], files: Sequence[str]) -> None:
    """Refuse a checkpoint that lacks tensors of experts: transformers would make them up.

    Names are compared by their ends, because a checkpoint may name a model's layers otherwise.
    """
    held: Counter[str] = Counter()
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = tuple(file.keys())
        held.update(end for end in wanted for name in names if name.endswith(f".{end}"))
    for end, count in wanted.items():
        if files and held[end] != count:
            raise ValueError(
                f"{QUANT_METHOD}: checkpoint must hold {end} of {count} layers, got {held[end]}"
            )


def _pack(name: str, module: QuantizedModelExperts) -> None:
    try:
        module.pack_()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: must be what its scheme says, got {error}") from error
