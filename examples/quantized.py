"""A Hugging Face model whose experts become 4 bits in place, are saved and loaded again."""

import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from torch_sm80moe.integrations.transformers import quantize_experts

MODEL = Path(__file__).parents[1] / "tests" / "data" / "tiny_moe"


def experts_bytes(model: torch.nn.Module) -> int:
    """Return the memory of all experts, as parameters or as buffers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return sum(tensor.nbytes for name, tensor in tensors if ".experts." in name)


device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.bfloat16).to(device)
before = experts_bytes(model)
quantize_experts(model, "w4a16-g32-asym")
print(f"experts: {before / 1e6:.2f} MB before, {experts_bytes(model) / 1e6:.2f} MB now")

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).to(device)

prompt = "import argparse\n\n\ndef main():\n"  # the model's tokens are bytes
token_ids = torch.tensor([list(prompt.encode())], device=device)
generated = loaded.generate(token_ids, max_new_tokens=60, do_sample=False)
print(bytes(generated[0].tolist()).decode(errors="replace"))
