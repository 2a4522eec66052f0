"""The sizes of a model's layers, from the config.json of its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch_sm80moe.bench.models import Model, parse_shape

# E, k, H and I by the names that model families give them, the most specific first.
_NAMES = (
    ("num_local_experts", "num_experts", "n_routed_experts"),
    ("num_experts_per_tok", "experts_per_token"),
    ("hidden_size",),
    ("moe_intermediate_size", "intermediate_size"),
)


def read_model(folder: str) -> Model:
    """Return the layer of a transformers checkpoint.

    Raises:
        ValueError: there is no readable config.json, or none of a model with experts.
    """
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"must be a folder with a config.json, got {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"must have a config.json with an object, got {path}")
    config = config.get("text_config", config)  # models that also see keep it there
    sizes = ",".join(str(_find(config, names, path)) for names in _NAMES)
    return parse_shape(sizes)._replace(name=Path(folder).resolve().name)


def _find(config: dict[str, Any], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    raise ValueError(f"must describe experts, got {path} without {' or '.join(names)}")
