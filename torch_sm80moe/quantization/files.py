"""Saves quantised experts as safetensors, with their schemes in the metadata; and loads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from torch_sm80moe.quantization import state
from torch_sm80moe.quantization.experts import QuantizedExperts
from torch_sm80moe.quantization.scheme import QuantScheme

FORMAT = "sm80moe"
VERSION = "1"


class FileError(ValueError):
    """A file that cannot be used; the message says what it must be, and what it is."""


def save(path: str | Path, layers: Mapping[str, QuantizedExperts]) -> None:
    """Write layers to one safetensors file, by their names.

    The file is written under a temporary name beside `path` and then renamed, so that `path` is
    either complete or what it was before.

    Args:
        path: of the file; its folder must be there.
        layers: by name, such as the name of the module that they replace.
    """
    tensors = {
        f"{name}.{part}": tensor.contiguous()
        for name, experts in layers.items()
        for part, tensor in state.to_tensors(experts).items()
    }
    schemes = {name: str(experts.scheme) for name, experts in layers.items()}
    metadata = {"format": FORMAT, "version": VERSION, "schemes": json.dumps(schemes)}
    write_tensors(Path(path), tensors, metadata)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file that is either complete or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: torch.device | str = "cpu") -> dict[str, QuantizedExperts]:
    """Read what `save` wrote.

    Returns:
        The layers by name, on the device.

    Raises:
        FileError: the file is not there, is truncated, comes from elsewhere, or its tensors are
            not what its metadata says.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            schemes = _read_schemes(Path(path), file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise FileError(f"{path}: must be a readable safetensors file, got {error}") from error
    layers = {}
    for name, scheme in schemes.items():
        mine = [key for key in tensors if key.rsplit(".", 2)[0] == name]
        parts = {key.removeprefix(f"{name}."): tensors.pop(key) for key in mine}
        try:
            layers[name] = state.from_tensors(parts, scheme)
        except (TypeError, ValueError) as error:
            raise FileError(f"{path}: {name} must be what its scheme says, got {error}") from error
    if tensors:
        raise FileError(f"{path}: tensors must be of layers in the metadata, got {min(tensors)}")
    return layers


def _read_schemes(path: Path, metadata: dict[str, str]) -> dict[str, QuantScheme]:
    if metadata.get("format") != FORMAT:
        got = metadata.get("format")
        raise FileError(f"{path}: metadata must have the format {FORMAT}, got {got}")
    if metadata.get("version") != VERSION:
        got = metadata.get("version")
        raise FileError(f"{path}: version must be {VERSION}, got {got}")
    try:
        schemes = json.loads(metadata["schemes"])
        return {str(name): QuantScheme.parse(scheme) for name, scheme in schemes.items()}
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise FileError(f"{path}: metadata must name layers' schemes, got {error}") from error
