"""Runs the experts of Hugging Face models: importing registers the implementation "sm80moe".

`model.set_experts_implementation("sm80moe")` or `from_pretrained(...,
experts_implementation="sm80moe")` selects it; `use_sm80moe(model)` does the same and prepares the
experts at once. `docs/models.md` says what runs how. `quantize_experts(model, scheme)` quantises
them; `from_pretrained` loads checkpoints that were quantised (`docs/quantization.md`).
"""

from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS
from transformers.integrations.moe import ExpertsInterface

from torch_sm80moe.integrations.transformers.experts import (
    NAME,
    describe,
    experts_forward,
    use_sm80moe,
)
from torch_sm80moe.integrations.transformers.quantization import quantize_experts

__all__ = ["NAME", "describe", "experts_forward", "quantize_experts", "use_sm80moe"]

ExpertsInterface.register(NAME, experts_forward)
ALL_FP8_EXPERTS_FUNCTIONS.register(NAME, experts_forward)  # to say why they are not run
