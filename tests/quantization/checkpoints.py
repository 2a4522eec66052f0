"""Small checkpoints to convert: files only, no model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

EXPERTS = "model.layers.{}.mlp.experts"
SIZES = (2, 64, 128)  # E, H, I
NUM_LAYERS = 11  # so that the order of numbers is not that of letters


def weights(num_layers: int = NUM_LAYERS) -> dict[str, torch.Tensor]:
    """Make the tensors of a model, in transformers' names for a checkpoint."""
    num_experts, hidden_size, intermediate_size = SIZES
    tensors = {"model.embed_tokens.weight": torch.randn(16, hidden_size)}
    for number in range(num_layers):
        layer = EXPERTS.format(number)
        attention = layer.replace("mlp.experts", "self_attn.q_proj.weight")
        tensors[attention] = torch.randn(hidden_size, hidden_size)
        tensors[attention.replace("weight", "bias")] = torch.randn(hidden_size)
        tensors[layer.replace("experts", "gate.weight")] = torch.randn(num_experts, hidden_size)
        for expert in range(num_experts):
            for projection in ("gate_proj", "up_proj"):
                name = f"{layer}.{expert}.{projection}.weight"
                tensors[name] = torch.randn(intermediate_size, hidden_size)
            name = f"{layer}.{expert}.down_proj.weight"
            tensors[name] = torch.randn(hidden_size, intermediate_size)
    return {name: tensor.bfloat16() for name, tensor in tensors.items()}


def stacked(tensors: dict[str, torch.Tensor], layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return w13 and w2 of a layer."""
    gate, up, down = (
        torch.stack([tensors[f"{layer}.{e}.{part}_proj.weight"] for e in range(SIZES[0])])
        for part in ("gate", "up", "down")
    )
    return torch.cat((gate, up), dim=1), down


def write(folder: Path, tensors: dict[str, torch.Tensor], num_files: int = 1, **config) -> Path:
    """Write a checkpoint of one or more files, and a file of the tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", **config}))
    (folder / "tokenizer.json").write_text("{}")
    names = list(tensors)
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    weight_map = {}
    for number in range(num_files):
        file_name = f"model-{number}.safetensors"
        mine = names[number::num_files]
        save_file({name: tensors[name] for name in mine}, folder / file_name)
        weight_map |= dict.fromkeys(mine, file_name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
