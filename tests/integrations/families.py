"""Every model family of transformers that uses its experts interface: how small ones are made, and
what runs their experts. The tests run each of them; `docs/models.md` is written from this file.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

VOCABULARY = 128
# Whatever a configuration calls its sizes. Two layers, so that one of them has experts.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "max_position_embeddings"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_hidden_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 8),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_shared_experts", "moe_num_shared_experts", "num_shared_experts"), 1),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("head_dim", "global_head_dim", "linear_head_dim", "index_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim"), 16),
    **dict.fromkeys(("v_head_dim", "index_topk", "linear_key_head_dim"), 16),
    **dict.fromkeys(("linear_value_head_dim", "mamba_head_dim", "mamba_d_head"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_d_state", "ssm_state_size", "sliding_window"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("linear_num_value_heads", "mamba_num_heads", "mamba_dt_rank"), 4),
    **dict.fromkeys(("linear_conv_kernel_dim",), 4),
    **dict.fromkeys(("num_hidden_layers", "linear_num_key_heads", "index_n_heads"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **{"first_k_dense_replace": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def _axes(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


# What runs: each family, and what its configuration needs besides the sizes; None leaves a default.
FAMILIES: dict[str, dict[str, dict[str, Any]]] = {
    "fused_moe: silu": {
        "afmoe": {},
        "axk1": {},
        "axk2": {},
        "bailing_hybrid": {},
        "beam": {"mlp_layer_types": ["dense", "sparse"]},
        "cohere2_moe": {},
        "deepseek_ocr2": {"mlp_layer_types": ["sparse", "sparse"]},
        "deepseek_v2": {},
        "deepseek_v3": {},
        "deepseek_v32": {},
        "dots1": {},
        "dots3_note": {},
        "ernie4_5_moe": {},
        "ernie4_5_vl_moe": {
            "moe_intermediate_size": [32, 32],
            "rope_parameters": _axes(2, 2, 4),
        },
        "exaone_moe": {},
        "flex_olmo": {},
        "flint": {"mlp_only_layers": []},
        "glm4_moe": {},
        "glm4_moe_lite": {},
        "glm4v_moe": {"rope_parameters": {**_axes(2, 3, 3), "partial_rotary_factor": 1.0}},
        "glm_moe_dsa": {},
        "granitemoe": {},
        "granitemoe_swa": {},
        "granitemoehybrid": {},
        "granitemoeshared": {},
        "hunyuan_v1_moe": {},
        "hy_v3": {},
        "inkling": {},
        "jamba": {},
        "kimi_linear": {"layer_types": ["linear_attention", "full_attention"]},
        "kolibri1": {},
        "laguna": {},
        "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 0},
        "mellum": {},
        "mimo_v2_flash": {"num_key_value_heads": 2},
        "minimax": {},
        "minimax_m2": {},
        "mistral4": {"head_dim": None},
        "mistral_large4": {},
        "mixtral": {},
        "olmoe": {},
        "phimoe": {},
        "qwen2_moe": {},
        "qwen3_5_moe": {},
        "qwen3_moe": {},
        "qwen3_next": {},
        "qwen3_omni_moe": {},
        "qwen3_vl_moe": {},
        "qwen4_exp": {},
        "solar_open": {},
        "unlimited_ocr": {},
        "zaya": {"num_experts_per_tok": 1},
    },
    "fused_moe: silu, transposed": {"aria": {}},
    "fused_moe: gelu_tanh": {
        "diffusion_gemma": {},
        "gemma4": {"enable_moe_block": True},
    },
    "fused_moe: relu2, not gated": {"nemotron_h": {}},
    "fused_moe: silu, limit 10": {
        "deepseek_v4": {},
        "glm5_next": {
            "mlp_layer_types": ["dense", "sparse"],
            "qk_rope_head_dim": 0,
            "index_kpool": 4,
        },
        "hy_v4": {},
    },
    "fused_moe: silu, alpha 1.702, beta 1, limit 7": {"minimax_m3_vl": {}},
    "fused_moe: silu, alpha 1.702, beta 1, limit 7, biases, transposed": {
        "openai_privacy_filter": {}
    },
    "fused_moe: silu, interleaved, alpha 1.702, beta 1, limit 7, biases, transposed": {
        "gpt_oss": {}
    },
    "in parts: a gate of its own": {"inkling2": {}},
    "in parts: silu, a norm of each expert's output": {"muse_spark": {}},
}
WHAT_RUNS = {family: runs for runs, families in FAMILIES.items() for family in families}


def families_of_transformers() -> set[str]:
    """Return the families of the installed version whose experts use the interface."""
    models = Path(transformers.__file__).parent / "models"
    return {
        path.parent.name
        for path in models.glob("*/modeling_*.py")
        if re.search(r"^@use_experts_implementation", path.read_text(), re.MULTILINE)
    }


def random_model(
    family: str, dtype: torch.dtype = torch.bfloat16, **changes: Any
) -> PreTrainedModel:
    """Make a small model of a family with random weights."""
    model_class = _model_class(family)
    config_class = model_class.config_class
    names = {*config_class().to_dict(), *getattr(config_class, "attribute_map", ())}
    sizes = {name: size for name, size in _SIZES.items() if name in names}
    arguments = {**sizes, **FAMILIES[WHAT_RUNS[family]][family], **changes}
    config = config_class(**{name: v for name, v in arguments.items() if v is not None})
    model = model_class._from_config(config, dtype=dtype).eval()
    for experts in experts_of(model):
        _randomise(experts)
    _keep_in_fp32(model)
    return model


def experts_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules that transformers' decorator marked."""
    return [module for module in model.modules() if hasattr(module, "_apply_gate")]


def _model_class(family: str) -> type[PreTrainedModel]:
    """Return the class that makes logits of text, or else the one that makes hidden states."""
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    classes = {
        name: model_class
        for name, model_class in inspect.getmembers(module, inspect.isclass)
        if issubclass(model_class, PreTrainedModel) and model_class.__module__ == module.__name__
    }
    for suffix in ("ForCausalLM", "ForTokenClassification", "TextModel"):
        for name, model_class in classes.items():
            if name.endswith(suffix):
                return model_class
    raise LookupError(f"{family} has no model of text among {sorted(classes)}")


def _randomise(experts: nn.Module) -> None:
    """Give experts weights whose share is seen, and first products that reach every clamp."""
    for name, parameter in experts.named_parameters(recurse=False):
        if name.endswith("_bias"):
            nn.init.normal_(parameter, std=0.5)
        else:
            fan_in = parameter.size(1 if experts.is_transposed else 2)
            gain = 1 if name == "down_proj" else 5
            nn.init.normal_(parameter, std=gain / math.sqrt(fan_in))


def _keep_in_fp32(model: PreTrainedModel) -> None:
    """Convert what `from_pretrained` leaves in float32, but for norms: some return their dtype."""
    kept = [part for part in model._keep_in_fp32_modules_strict or () if "norm" not in part]
    for name, parameter in model.named_parameters():
        if any(f".{part}." in f".{name}." for part in kept):
            parameter.data = parameter.data.float()
