"""Weights of a checkpoint, 16-bit or quantised: its experts layer by layer, and the others."""

from __future__ import annotations

import torch

from torch_sm80moe.quantization import importers, join
from torch_sm80moe.quantization.checkpoint import (
    Checkpoint,
    CheckpointError,
    ExpertLayer,
    is_of_experts,
)
from torch_sm80moe.quantization.experts import QuantizedExperts, StaticActivation
from torch_sm80moe.quantization.quantizers import quantize
from torch_sm80moe.quantization.scheme import QuantScheme

Inputs = tuple[StaticActivation, StaticActivation]


class Source:
    """Reads the weights of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Find out how the checkpoint stores its weights.

        Raises:
            ValueError: it is quantised in a way that `importers` does not know.
        """
        self._checkpoint = checkpoint
        config = checkpoint.quantization_config
        self._reader = None if config is None else importers.reader_for(config)

    def imported(self, layer: ExpertLayer) -> QuantizedExperts:
        """Return the experts of a quantised layer, with the numbers that they have.

        Raises:
            CheckpointError: a weight is not quantised, or its tensors are not what they must be.
        """
        w13, w2 = [], []
        w13_inputs, w2_inputs = [], []
        for modules in self._modules(layer):
            gate, up, down = map(self._linear, modules)
            w13.append(join.join_rows(gate.weight, up.weight))
            w2.append(join.per_channel(down.weight))
            w13_inputs += [gate.input, up.input]
            w2_inputs += [down.input]
        return QuantizedExperts(
            join.stack(w13), join.stack(w2), join.widest(w13_inputs), join.widest(w2_inputs)
        )

    def imported_scheme(self, layer: ExpertLayer) -> QuantScheme:
        """Return what `imported` would make of a layer."""
        down = self._modules(layer)[0][2]
        return join.per_channel(self._linear(down).weight).scheme

    def quantized(
        self,
        layer: ExpertLayer,
        scheme: QuantScheme,
        *,
        method: str,
        inputs: Inputs | None,
        device: torch.device,
    ) -> QuantizedExperts:
        """Return the experts of a layer, quantised on a device, where one is at a time."""
        w13, w2 = [], []
        for expert in range(self._num_experts(layer)):
            gate_up, down = (matrix.to(device)[None] for matrix in self._matrices(layer, expert))
            w13.append(quantize(gate_up, scheme, method=method).to("cpu"))
            w2.append(quantize(down, scheme, method=method).to("cpu"))
        return QuantizedExperts(join.stack(w13), join.stack(w2), *(inputs or (None, None)))

    def others(self, file_name: str) -> dict[str, torch.Tensor]:
        """Return the weights in a file that are not of experts; what was quantised, in 16 bits."""
        tensors = {}
        for name, file in self._checkpoint.file_of.items():
            if file != file_name or is_of_experts(name):
                continue
            module, _, part = name.rpartition(".")
            if not self._is_quantized(module) or part == "bias":
                tensors[name] = self._checkpoint.read(name)
            elif self._reader is not None and part == self._reader.marker:
                tensors[f"{module}.weight"] = self._matrix(module, self._checkpoint.dtype)
        return tensors

    def _num_experts(self, layer: ExpertLayer) -> int:
        if not layer.is_stacked:
            return len(layer.experts)
        gate_up, down = (self._checkpoint.shape(name) for name in _stacked_names(layer))
        if len(gate_up) != 3 or len(down) != 3 or gate_up != [down[0], 2 * down[2], down[1]]:
            raise CheckpointError(
                f"{layer.name}: must hold gate_up_proj [E, 2I, H] and down_proj [E, H, I], "
                f"got {gate_up} and {down}"
            )
        return down[0]

    def _matrices(self, layer: ExpertLayer, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of one expert: `[2I, H]` and `[H, I]`."""
        if layer.is_stacked:
            gate_up, down = (self._checkpoint.read(name, expert) for name in _stacked_names(layer))
            return gate_up, down
        gate, up, down = (self._matrix(module) for module in layer.experts[expert])
        return torch.cat((gate, up)), down

    def _modules(self, layer: ExpertLayer) -> tuple[tuple[str, str, str], ...]:
        if layer.is_stacked:
            raise CheckpointError(f"{layer.name}: must be quantised, got 16-bit weights")
        return layer.experts

    def _is_quantized(self, module: str) -> bool:
        reader = self._reader
        return reader is not None and f"{module}.{reader.marker}" in self._checkpoint.file_of

    def _linear(self, module: str) -> importers.Linear:
        if self._reader is None or not self._is_quantized(module):
            raise CheckpointError(f"{module}: must be quantised, got a 16-bit weight")
        try:
            return self._reader.read(self._checkpoint.read_module(module), module)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{module}: must be what its settings say, {error}") from error

    def _matrix(self, module: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a weight as it is, or in a dtype what its quantised numbers mean."""
        if self._is_quantized(module):
            return self._linear(module).weight.dequantize(dtype)[0]
        return self._checkpoint.read(f"{module}.weight")


def _stacked_names(layer: ExpertLayer) -> tuple[str, str]:
    return f"{layer.name}.gate_up_proj", f"{layer.name}.down_proj"
