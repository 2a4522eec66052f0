"""Weights of a checkpoint, 16-bit or quantised: its experts layer by layer, and the others."""

from __future__ import annotations

from collections.abc import Iterator

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
from torch_sm80moe.quantization.weights import QuantizedWeight

MXFP4 = QuantScheme.parse("mxfp4")

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
        has_reader = config and config.get("quant_method") not in importers.STACKED_METHODS
        self._reader = importers.reader_for(config) if config and has_reader else None

    def imported(self, layer: ExpertLayer) -> QuantizedExperts:
        """Return the experts of a quantised layer, with the numbers that they have.

        Raises:
            CheckpointError: a weight is not quantised, or its tensors are not what they must be.
        """
        if layer.has_blocks:
            w13_blocks, w2_blocks = map(self._blocks, layer.projections)
            return QuantizedExperts(w13_blocks, w2_blocks)
        w13, w2 = [], []
        w13_inputs, w2_inputs = [], []
        for modules in self._modules(layer):
            *first, down = map(self._linear, modules)
            w13.append(join.join_rows([linear.weight for linear in first]))
            w2.append(join.per_channel(down.weight))
            w13_inputs += [linear.input for linear in first]
            w2_inputs += [down.input]
        return QuantizedExperts(
            join.stack(w13), join.stack(w2), join.widest(w13_inputs), join.widest(w2_inputs)
        )

    def imported_scheme(self, layer: ExpertLayer) -> QuantScheme:
        """Return what `imported` would make of a layer."""
        if layer.has_blocks:
            return MXFP4
        down = self._modules(layer)[0][-1]
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
        for matrices in self._matrices(layer):
            first, down = (matrix.to(device)[None] for matrix in matrices)
            w13.append(quantize(first, scheme, method=method).to("cpu"))
            w2.append(quantize(down, scheme, method=method).to("cpu"))
        return QuantizedExperts(join.stack(w13), join.stack(w2), *(inputs or (None, None)))

    def biases(self, layer: ExpertLayer) -> dict[str, torch.Tensor]:
        """Return the biases of a layer, by the names of `fused_moe`, in the activations' type."""
        if not layer.has_bias:
            return {}
        names = zip(("w13_bias", "w2_bias"), layer.projections, strict=True)
        read, dtype = self._checkpoint.read, self._checkpoint.dtype
        return {name: read(f"{projection}_bias").to(dtype) for name, projection in names}

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

    def _matrices(self, layer: ExpertLayer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Return the weights of each expert, `[2I, H]` or `[I, H]`, and `[H, I]`."""
        if layer.has_blocks:
            yield from self._matrices_of_blocks(layer)
        elif layer.stacked:
            yield from self._slices(layer)
        for modules in layer.experts:
            *first, down = (self._matrix(module) for module in modules)
            yield torch.cat(first), down

    def _matrices_of_blocks(
        self, layer: ExpertLayer
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        first, down = map(self._blocks, layer.projections)
        for expert in range(down.shape[0]):
            yield first.dequantize_expert(expert), down.dequantize_expert(expert)

    def _slices(self, layer: ExpertLayer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Return slices of tensors that hold all experts, with K last, as some models store it."""
        names = layer.projections
        first, down = (self._checkpoint.shape(name) for name in names)
        num_rows = 2 if names[0].endswith("gate_up_proj") else 1
        shapes = _stacked_shapes(down, num_rows) if len(down) == 3 else []
        if first not in shapes:
            rows = "2I" if num_rows == 2 else "I"
            raise CheckpointError(
                f"{layer.name}: must hold weights [E, {rows}, H] and [E, H, I], or both with their "
                f"last dimensions exchanged, got {first} and {down}"
            )
        is_transposed = first != shapes[0]
        for expert in range(down[0]):
            matrices = (self._checkpoint.read(name, expert) for name in names)
            gate_up, projected = (m.T if is_transposed else m for m in matrices)
            yield gate_up, projected

    def _blocks(self, name: str) -> QuantizedWeight:
        read = self._checkpoint.read
        try:
            return importers.read_mxfp4(read(f"{name}_blocks"), read(f"{name}_scales"))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{name}: must be what its settings say, {error}") from error

    def _modules(self, layer: ExpertLayer) -> tuple[tuple[str, ...], ...]:
        if layer.stacked:
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


def _stacked_shapes(down: list[int], num_rows: int) -> list[list[int]]:
    """Return the shapes that the first weight may have: with K last like this one, or both not."""
    num_experts, *sizes = down
    return [
        [num_experts, num_rows * sizes[1], sizes[0]],
        [num_experts, sizes[1], num_rows * sizes[0]],
    ]
