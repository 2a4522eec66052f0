"""`sm80moe demo`: a small trained model generates text through `fused_moe`, in one graph."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from torch_sm80moe import _ops, functional, reference, testing
from torch_sm80moe.integrations.transformers import NAME

_MODEL_IN_CLONE = Path("tests", "data", "tiny_moe")
_COMPILABLE = "grouped_mm"  # transformers' default where it runs
_TIMED_RUNS = 2


class Call(NamedTuple):
    """What one experts module was called with."""

    experts: Any
    inputs: testing.Inputs


def run(model_path: Path | None, prompt: str, num_tokens: int, device_name: str | None) -> None:
    """Load the model, show its text, its error, the path it took and its speed."""
    silence_transformers()
    console = Console(highlight=False, soft_wrap=True)
    device = choose_device(device_name)
    path = find_model(model_path)
    model = load(path, device)
    prompt_ids = torch.tensor([list(prompt.encode())], device=device)

    calls = record_calls(model, prompt_ids)
    print_path(console, device, calls[0].inputs)
    print_error(console, calls)
    console.print("\ncompiling the model as one graph ...")
    model.forward = torch.compile(model.forward, fullgraph=True)
    text_ids, speed = generate(model, prompt_ids, num_tokens)
    console.print(bytes(text_ids.tolist()).decode(errors="replace"), style="green", markup=False)
    console.print(f"\n{num_tokens} tokens, {speed:.0f} a second\n")
    print_rivals(console, path, prompt_ids, num_tokens, text_ids, speed)


def silence_transformers() -> None:
    """Keep progress bars, and advice on transformers' own code, out of the output."""
    transformers_log: Any = logging
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")


def choose_device(name: str | None) -> torch.device:
    """Return the device asked for, or the GPU if the kernels and a GPU are there."""
    usable = _ops.HAS_KERNELS and torch.cuda.is_available()
    if name == "cuda" and not usable:
        raise ValueError(
            "--device must be cpu here, got cuda (`sm80moe info` says what is missing)"
        )
    return torch.device(name or ("cuda" if usable else "cpu"))


def find_model(path: Path | None) -> Path:
    """Return the folder of the checkpoint; without a path, the one that a clone holds."""
    folders = [path] if path else [_MODEL_IN_CLONE, Path(__file__).parents[1] / _MODEL_IN_CLONE]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    if path:
        raise FileNotFoundError(f"--model must be a folder with a config.json, got {path}")
    raise FileNotFoundError(
        f"--model must be given outside a clone, where {_MODEL_IN_CLONE} is not found"
    )


def load(path: Path, device: torch.device, experts: str = NAME) -> Any:
    """Load the checkpoint in bf16 with this implementation of its experts."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, experts_implementation=experts
    )
    return model.to(device).eval()


def record_calls(model: Any, token_ids: torch.Tensor) -> list[Call]:
    """Run the model once and keep what its experts were called with."""
    calls: list[Call] = []

    def keep(experts: Any, arguments: tuple[torch.Tensor, ...]) -> None:
        x, ids, weights = arguments
        weights = weights.float()
        calls.append(
            Call(experts, testing.Inputs(x, experts.gate_up_proj, experts.down_proj, weights, ids))
        )

    modules = [module for module in model.modules() if hasattr(module, "gate_up_proj")]
    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    with torch.no_grad():
        model(token_ids)
    for hook in hooks:
        hook.remove()
    if not calls:
        raise ValueError("--model must be a model with experts, got one without")
    return calls


def print_path(console: Console, device: torch.device, inputs: testing.Inputs) -> None:
    """Say which implementation the operators run."""
    if device.type == "cpu":
        console.print("path: the CPU implementation (plain PyTorch)")
        return
    major, minor = torch.cuda.get_device_capability(device)
    console.print(f"path: CUDA kernels on {torch.cuda.get_device_name(device)}, SM {major}.{minor}")
    num_experts, hidden_size, intermediate_size = inputs.w2.shape
    top_k = inputs.topk_ids.size(1)
    for stage, num_tokens in (("prompt", inputs.hidden_states.size(0)), ("each token", 1)):
        rows = num_tokens * top_k
        if rows <= functional.decode_limit(
            num_experts, hidden_size, intermediate_size, device=device
        ):
            console.print(f"      {stage}: the decode kernels")
            continue
        first = functional.select_tactic(
            rows, num_experts, 2 * intermediate_size, hidden_size, epilogue="swiglu", device=device
        )
        second = functional.select_tactic(
            rows, num_experts, hidden_size, intermediate_size, device=device
        )
        console.print(f"      {stage}: tactic {first} for w13, tactic {second} for w2")


def print_error(console: Console, calls: list[Call]) -> None:
    """Compare each layer's experts with the fp32 reference, on the model's own activations."""
    with torch.no_grad():
        for layer, (_, inputs) in enumerate(calls):
            expected = reference.fused_moe(*inputs)
            out = functional.fused_moe(*inputs)
            error = testing.measure_error(out, expected).relative
            rounding = testing.measure_error(expected.to(out.dtype), expected).relative
            console.print(
                f"layer {layer}: relative error {error:.1e} from the fp32 reference "
                f"(rounding the exact result alone costs {rounding:.1e})"
            )


def generate(model: Any, prompt_ids: torch.Tensor, num_tokens: int) -> tuple[torch.Tensor, float]:
    """Generate greedily; return the text and the tokens per second of the fastest run."""
    fastest = float("inf")
    for _ in range(1 + _TIMED_RUNS):  # the first compiles, and is never the fastest
        start = time.perf_counter()
        result = model.generate(
            prompt_ids,
            max_new_tokens=num_tokens,
            do_sample=False,
            cache_implementation="static",
            disable_compile=True,  # what is to be compiled is compiled already
        )
        text_ids: torch.Tensor = result[0].cpu()
        fastest = min(fastest, time.perf_counter() - start)
    return text_ids, num_tokens / fastest


def print_rivals(
    console: Console,
    path: Path,
    prompt_ids: torch.Tensor,
    num_tokens: int,
    text_ids: torch.Tensor,
    speed: float,
) -> None:
    """Generate the same text with transformers' own experts and print everyone's speed."""
    table = Table("experts", "compiled", "tokens a second", "same text", box=None)
    table.add_row(NAME, "one graph", f"{speed:.0f}", "")
    for rival in ("eager", _COMPILABLE):
        model = load(path, prompt_ids.device, rival)
        torch._dynamo.reset()  # the models share code, whose number of graphs is limited
        if rival == _COMPILABLE:
            with torch.no_grad():
                model(prompt_ids)  # transformers installs its hooks in the first call
            model.forward = torch.compile(model.forward, fullgraph=True)
        ids, rival_speed = generate(model, prompt_ids, num_tokens)
        compiled = "one graph" if rival == _COMPILABLE else "cannot be"
        same = "yes" if torch.equal(ids, text_ids) else "no"
        table.add_row(rival, compiled, f"{rival_speed:.0f}", same)
    console.print(table)
