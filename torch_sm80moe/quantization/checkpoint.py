"""Reads a transformers checkpoint tensor by tensor, and finds the experts in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

_ONE_EXPERT = re.compile(
    r"(?P<layer>.+\.experts)\.(?P<expert>\d+)"
    r"\.(?P<projection>gate_proj|up_proj|down_proj|w1|w3|w2)\.(?P<part>[^.]+)"
)
_ALL_EXPERTS = re.compile(
    r"(?P<layer>.+\.experts)\.(?P<projection>gate_up_proj|up_proj|down_proj)"
    r"(?P<part>|_blocks|_scales|_bias)"
)
_OF_EXPERTS = re.compile(r"(?P<layer>.+\.experts)\.")
# Mixtral's names.
_PROJECTIONS = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what it must be, and what it is."""


class ExpertLayer(NamedTuple):
    """Where the experts of a layer are.

    Attributes:
        name: of the module that holds the experts.
        experts: for each expert the modules of its projections, gate (if there is one), up and
            down; empty if the layer is stacked.
        stacked: the names of the tensors that hold all experts; empty if there are modules.
    """

    name: str
    experts: tuple[tuple[str, ...], ...] = ()
    stacked: frozenset[str] = frozenset()

    @property
    def projections(self) -> tuple[str, str]:
        """The names of both weights of a stacked layer."""
        has_gate = any(name.startswith("gate_up_proj") for name in self.stacked)
        first, second = "gate_up_proj" if has_gate else "up_proj", "down_proj"
        return f"{self.name}.{first}", f"{self.name}.{second}"

    @property
    def has_blocks(self) -> bool:
        """Whether it is stacked as blocks and scales of mxfp4."""
        return "down_proj_blocks" in self.stacked

    @property
    def has_bias(self) -> bool:
        """Whether it is stacked, with biases."""
        return "down_proj_bias" in self.stacked


class Checkpoint:
    """The tensors and the configuration in a folder."""

    def __init__(self, folder: str | Path) -> None:
        """Read the configuration and the names; no tensors.

        Raises:
            CheckpointError: the folder is no checkpoint in safetensors, or a part of it is missing
                or unreadable.
        """
        self.folder = Path(folder)
        self.config = read_json(self.folder / "config.json")
        self.file_of = self._read_index()
        self._open_file: tuple[str, Any] | None = None

    def _read_index(self) -> dict[str, str]:
        if (self.folder / INDEX).is_file():
            file_of = read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(file_of, dict) or not file_of:
                raise CheckpointError(f"{self.folder / INDEX}: must have a weight_map, got none")
        else:
            file_of = {SINGLE_FILE: SINGLE_FILE}
        names: dict[str, str] = {}
        for file_name in sorted(set(file_of.values())):
            with _open(self.folder / file_name) as file:
                names |= dict.fromkeys(file.keys(), file_name)
        missing = sorted(file_of.keys() - names.keys() - {SINGLE_FILE})
        if missing:
            raise CheckpointError(f"{self.folder}: must hold {missing[0]} of its index, got none")
        return names

    @property
    def files(self) -> list[str]:
        """The names of the files, in order."""
        return sorted(set(self.file_of.values()))

    @property
    def dtype(self) -> torch.dtype:
        """The 16-bit type that the model computes in; bfloat16 if it does not say."""
        name = self.config.get("dtype") or self.config.get("torch_dtype")
        return torch.float16 if name == "float16" else torch.bfloat16

    @property
    def quantization_config(self) -> dict[str, Any] | None:
        """What the checkpoint says about its own quantisation; None if its weights are 16-bit."""
        config: dict[str, Any] | None = self.config.get("quantization_config")
        return config

    def read(self, name: str, index: int | None = None) -> torch.Tensor:
        """Return a tensor, or one slice of its first dimension, on the CPU."""
        file = self._file_with(name)
        tensor: torch.Tensor
        tensor = file.get_tensor(name) if index is None else file.get_slice(name)[index]
        return tensor

    def shape(self, name: str) -> list[int]:
        """Return the shape of a tensor without reading it."""
        shape: list[int] = self._file_with(name).get_slice(name).get_shape()
        return shape

    def _file_with(self, name: str) -> Any:
        if name not in self.file_of:
            raise CheckpointError(f"{self.folder}: must hold {name}, got none")
        file_name = self.file_of[name]
        if self._open_file is None or self._open_file[0] != file_name:
            self._open_file = (file_name, _open(self.folder / file_name))
        return self._open_file[1]

    def read_module(self, module: str) -> dict[str, torch.Tensor]:
        """Return the tensors of a module, by the last part of their names."""
        prefix = f"{module}."
        names = [name for name in self.file_of if name.startswith(prefix)]
        return {
            name.removeprefix(prefix): self.read(name)
            for name in names
            if "." not in name.removeprefix(prefix)
        }

    def expert_layers(self) -> list[ExpertLayer]:
        """Return the layers that have experts, in order.

        Raises:
            CheckpointError: there are none, an expert is incomplete, or has other tensors.
        """
        layers = list(_find_layers(self.file_of))
        if not layers:
            raise CheckpointError(f"{self.folder}: must hold experts, got a model without")
        return layers


def is_of_experts(name: str) -> bool:
    """Return whether a tensor belongs to the experts of a layer (not to shared experts)."""
    return _OF_EXPERTS.match(name) is not None


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or raise a CheckpointError that names the file."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: must be a readable JSON file, got {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold an object, got {type(content).__name__}")
    return content


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort the numbers in names by their values."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        message = f"{path}: must be a readable safetensors file, got {error}"
        raise CheckpointError(message) from error


def _find_layers(names: Iterable[str]) -> Iterator[ExpertLayer]:
    modules: dict[str, dict[tuple[int, str], str]] = {}
    stacked: dict[str, set[str]] = {}
    for name in filter(is_of_experts, names):
        if (match := _ONE_EXPERT.fullmatch(name)) and match["part"] != "bias":
            projection = _PROJECTIONS.get(match["projection"], match["projection"])
            mine = modules.setdefault(match["layer"], {})
            mine[int(match["expert"]), projection] = name.rpartition(".")[0]
        elif match := _ALL_EXPERTS.fullmatch(name):
            stacked.setdefault(match["layer"], set()).add(name.rpartition(".")[2])
        else:
            raise _another_tensor(name)
    for layer in modules.keys() & stacked.keys():
        raise _another_tensor(f"{layer}.{min(stacked[layer])}")
    for layer in sorted(modules.keys() | stacked.keys(), key=natural_key):
        if layer in modules:
            yield ExpertLayer(layer, _complete(layer, modules[layer]))
        else:
            yield _complete_stack(ExpertLayer(layer, stacked=frozenset(stacked[layer])))


def _another_tensor(name: str) -> CheckpointError:
    return CheckpointError(
        f"{name}: experts must have gate, up and down projections alone, got another tensor"
    )


def _complete(layer: str, modules: dict[tuple[int, str], str]) -> tuple[tuple[str, ...], ...]:
    num_experts = 1 + max(expert for expert, _ in modules)
    has_gate = any(projection == "gate_proj" for _, projection in modules)
    projections = (*(("gate_proj",) if has_gate else ()), "up_proj", "down_proj")
    for expert in range(num_experts):
        for projection in projections:
            if (expert, projection) not in modules:
                raise CheckpointError(f"{layer}: expert {expert} must have {projection}, got none")
    return tuple(tuple(modules[e, p] for p in projections) for e in range(num_experts))


def _complete_stack(layer: ExpertLayer) -> ExpertLayer:
    parts = ("_blocks", "_scales") if layer.has_blocks else ("",)
    parts = (*parts, "_bias") if layer.has_bias else parts
    projections = [name.rpartition(".")[2] for name in layer.projections]
    wanted = {f"{projection}{part}" for projection in projections for part in parts}
    for name in sorted(wanted ^ layer.stacked):
        got = "one more tensor" if name in layer.stacked else "none"
        names = ", ".join(sorted(wanted))
        raise CheckpointError(f"{layer.name}: must hold {names}, got {got} named {name}")
    return layer
