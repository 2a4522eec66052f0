"""Tokens a second of a whole transformers model that decodes, by implementation of its experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, StaticCache

from torch_sm80moe.bench import layer, timing
from torch_sm80moe.bench.formats import DENSE
from torch_sm80moe.bench.rivals import has_native_grouped_mm
from torch_sm80moe.bench.summary import summarize
from torch_sm80moe.integrations.transformers import NAME, quantize_experts
from torch_sm80moe.integrations.transformers.quantized_experts import QuantizedModelExperts

_PROMPT_TOKENS, _NEW_TOKENS = 64, 256
_RUNS = 5
# Calls that compile, before a graph is captured: none is left that would still compile.
_WARMUP_STEPS = 3


class Implementation(NamedTuple):
    """One way to run the experts, and what its decoding step may be put into."""

    name: str
    compiles: bool
    fits_a_graph: Callable[[torch.dtype], bool]


OURS = Implementation(NAME, True, lambda dtype: True)
IMPLEMENTATIONS = (
    OURS,
    Implementation("grouped_mm", True, has_native_grouped_mm),
    Implementation("batched_mm", True, lambda dtype: True),
    Implementation("eager", False, lambda dtype: False),  # it synchronises with the host
)


# The layers of Qwen3-30B-A3B, eight of them, with so few words that they dominate.
RANDOM_MODEL: dict[str, Any] = {
    "vocab_size": 16384,
    "hidden_size": 2048,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "intermediate_size": 6144,
    "norm_topk_prob": True,
}


def load_model(checkpoint: Path | None, weights: str = DENSE) -> Any:
    """Load a checkpoint, or make a model with random weights, in bf16; quantise its experts.

    Raises:
        ValueError: the format does not suit the model, or the checkpoint is quantised already.
    """
    auto_class: Any = AutoModelForCausalLM
    with torch.device(layer.DEVICE):
        if checkpoint:
            model = auto_class.from_pretrained(checkpoint, dtype=torch.bfloat16)
        else:
            config = Qwen3MoeConfig(**RANDOM_MODEL)
            model = auto_class.from_config(config, dtype=torch.bfloat16)
    model = model.to(layer.DEVICE).eval()
    return model if weights == DENSE else quantize_experts(model, weights, method="absmax")


def implementations_for(model: Any) -> tuple[Implementation, ...]:
    """Return what runs the experts of a model; packed ones nobody else can run."""
    return (OURS,) if quantized_experts(model) else IMPLEMENTATIONS


def quantized_experts(model: Any) -> list[QuantizedModelExperts]:
    """Return the modules of a model's quantised experts."""
    return [module for module in model.modules() if isinstance(module, QuantizedModelExperts)]


def format_of(model: Any) -> str:
    """Return the format of a model's experts, which a checkpoint may have brought along."""
    experts = quantized_experts(model)
    return str(experts[0].scheme) if experts else DENSE


def bytes_per_token(model: Any) -> int:
    """Return the weights that decoding one token reads: all but other experts and other words."""
    experts = quantized_experts(model)
    packed_bytes = sum(buffer.nbytes for module in experts for buffer in module.buffers())
    dense = [module for module in model.modules() if hasattr(module, "gate_up_proj")]
    expert_bytes = packed_bytes + sum(p.nbytes for module in dense for p in module.parameters())
    num_experts = experts[0].sizes[0] if experts else dense[0].gate_up_proj.size(0)
    share = model.config.num_experts_per_tok / num_experts
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    unused = 0 if embeddings.weight is head.weight else embeddings.weight.nbytes
    total = packed_bytes + sum(parameter.nbytes for parameter in model.parameters())
    return int(total - unused - expert_bytes + share * expert_bytes)


class Decoder:
    """Greedy decoding of one text, a step at a time, with all of its state on the device."""

    def __init__(self, model: Any, prompt: torch.Tensor, num_tokens: int) -> None:
        """Make room for a prompt `[1, P]` and so many tokens after it."""
        length = prompt.size(1) + num_tokens
        self.model, self.prompt = model, prompt
        self.columns = torch.arange(length, device=layer.DEVICE)
        self.cache: Any = StaticCache(config=model.config, max_cache_len=length)
        self.token = torch.zeros((1, 1), dtype=torch.long, device=layer.DEVICE)
        # At the position of each token the one that follows it.
        self.text = torch.zeros((1, length), dtype=torch.long, device=layer.DEVICE)

    def prefill(self) -> None:
        """Begin the text again."""
        self.cache.reset()
        self._advance(self.prompt, self.columns[: self.prompt.size(1)])

    def step(self) -> torch.Tensor:
        """Read the newest token and write the next."""
        return self._advance(self.token, self.cache.get_seq_length().clone().view(1))

    def _advance(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        # transformers takes a mask of four dimensions as it is.
        mask = (self.columns <= positions[:, None])[None, None]
        logits = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions[None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits
        self.token.copy_(logits[:, -1:].argmax(dim=-1))
        self.text.index_copy_(1, positions[-1:], self.token)
        return self.token


def measure(
    model: Any, implementation: Implementation, prompt: torch.Tensor
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return an implementation's row, and the text that it decoded.

    Raises:
        AssertionError: two runs of `fused_moe` decoded different texts.
    """
    model.set_experts_implementation(implementation.name)
    torch._dynamo.reset()  # implementations share code, whose number of graphs is limited
    decoder = Decoder(model, prompt, _NEW_TOKENS + _WARMUP_STEPS)
    in_graph = implementation.compiles and implementation.fits_a_graph(model.dtype)
    advance = _make_advance(decoder, implementation.compiles, in_graph)
    texts, samples = [], []
    for _ in range(_RUNS):
        decoder.prefill()
        text_us = timing.elapsed_us(lambda: [advance() for _ in range(_NEW_TOKENS)])
        samples.append(text_us / _NEW_TOKENS)
        texts.append(decoder.text[0, prompt.size(1) - 1 : prompt.size(1) + _NEW_TOKENS].clone())
    repeatable = all(torch.equal(text, texts[0]) for text in texts)
    if implementation is OURS and not repeatable:
        raise AssertionError("decode: every run must give the same text, got another")
    us = summarize(samples)
    row = {
        "experts": implementation.name,
        "us_per_token": us._asdict(),
        "tokens_per_second": 1e6 / us.median,
        "compiled": implementation.compiles,
        "in_graph": in_graph,
        "repeatable": repeatable,
    }
    return row, texts[0]


def _make_advance(decoder: Decoder, compiles: bool, in_graph: bool) -> Callable[[], object]:
    step = torch.compile(decoder.step, fullgraph=True) if compiles else decoder.step
    decoder.prefill()
    for _ in range(_WARMUP_STEPS - 1):
        step()
    return timing.capture([step]).graph.replay if in_graph else step


class Session:
    """Implementations in turn on one model and one prompt; their texts are compared with ours."""

    def __init__(self, model: Any) -> None:
        """Choose the prompt."""
        self._model = model
        vocabulary = model.config.vocab_size
        self._prompt = torch.randint(vocabulary, (1, _PROMPT_TOKENS), device=layer.DEVICE)
        self._our_text: torch.Tensor | None = None

    def row(self, implementation: Implementation) -> dict[str, Any]:
        """Measure an implementation, or say why that was not possible."""
        try:
            row, text = measure(self._model, implementation, self._prompt)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            message = f"{type(error).__name__}: {error}".partition("\n")[0]
            return {"experts": implementation.name, "error": message}
        if implementation is OURS:
            self._our_text = text
        if self._our_text is not None:
            row["same_tokens"] = _common_prefix(text, self._our_text)
        return row


def _common_prefix(text: torch.Tensor, other: torch.Tensor) -> int:
    """Return how many tokens are the same before the first that differs."""
    return int((text == other).int().cumprod(dim=0).sum())
