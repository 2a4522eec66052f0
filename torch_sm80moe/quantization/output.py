"""A checkpoint folder that is written file by file, and can be gone on with after an interruption.

A file in it is complete, because it was renamed. A record says what was asked for; it is there
while files are missing. `config.json` is written last.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from torch_sm80moe.quantization.checkpoint import INDEX, CheckpointError, read_json
from torch_sm80moe.quantization.files import write_tensors

_RECORD = "sm80moe-unfinished.json"
_METADATA = {"format": "pt"}  # transformers loads no other
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")

Tensors = dict[str, torch.Tensor]


class OutputFolder:
    """Where a checkpoint is written to."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        """Check that the folder is free, or was left by the same request; write nothing yet.

        Raises:
            CheckpointError: the folder holds something else.
        """
        self.folder = folder
        self._record = folder / _RECORD
        self._request = request
        if self._record.is_file():
            if read_json(self._record) != request:
                raise CheckpointError(
                    f"{folder}: must be empty or left by the same command, got one of another"
                )
            return
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CheckpointError(f"{folder}: must be empty or not there, got a folder with files")

    def write(self, file_name: str, make: Callable[[], Tensors]) -> None:
        """Write the tensors that `make` returns, unless the file is there."""
        path = self.folder / file_name
        if path.is_file() or not (tensors := make()):
            return
        if not self._record.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_json(self._record, self._request)
        write_tensors(path, tensors, _METADATA)

    def finish(self, config: dict[str, Any], source: Path) -> None:
        """Write the index, copy what is neither weights nor configuration, write `config`."""
        files = sorted(self.folder.glob("*.safetensors"))
        weight_map: dict[str, str] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                weight_map |= dict.fromkeys(file.keys(), path.name)
        size = sum(path.stat().st_size for path in files)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(self.folder / INDEX, index)
        for path in source.iterdir():
            is_weights = path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json")
            if path.is_file() and not is_weights and path.name != "config.json":
                shutil.copyfile(path, self.folder / path.name)
        _write_json(self.folder / "config.json", config)
        self._record.unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)
