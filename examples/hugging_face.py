"""A Hugging Face model whose experts run through fused_moe: one import and one argument."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from torch_sm80moe.integrations.transformers import NAME  # importing registers it

MODEL = Path(__file__).parents[1] / "tests" / "data" / "tiny_moe"

device = "cuda" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(
    MODEL, dtype=torch.bfloat16, experts_implementation=NAME
).to(device)

prompt = "import argparse\n\n\ndef main():\n"  # the model's tokens are bytes
token_ids = torch.tensor([list(prompt.encode())], device=device)
generated = model.generate(token_ids, max_new_tokens=80, do_sample=False)
print(bytes(generated[0].tolist()).decode(errors="replace"))
