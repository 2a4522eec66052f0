"""Writes tests/data/quantized_layouts: layers that other projects packed, and what they mean there.

Each file has the tensors of one linear layer, packed by the project's own published package, and
`expected`, what the same package makes of them. The packages are many and heavy, and of their code
only the packing is needed, so they are unpacked and not installed:

    pip install --no-deps --target DIR auto-gptq==0.7.1 autoawq==0.2.9 gptqmodel==7.7.0 \
        accelerate datasets defuser device-smi dill kernels logbar maturin multiprocess peft \
        pyarrow pypcre threadpoolctl tokenicer xxhash
    PYTHONPATH=DIR python tests/quantization/make_golden.py
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parents[1] / "data" / "quantized_layouts"
N, K, GROUP_SIZE = 64, 96, 32
GROUPS = K // GROUP_SIZE
# Their __init__ files import everything.
BARE = (
    *("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"),
    *("awq", "awq.modules", "awq.modules.linear", "gptqmodel", "gptqmodel.models"),
)


def main() -> None:
    torch.manual_seed(0)
    for name in BARE:
        import_bare(name)
    OUT.mkdir(exist_ok=True)
    write("gptq_auto_gptq", *auto_gptq(zero_points(1)))
    write("gptq_auto_gptq_sym", *auto_gptq(torch.full((N, GROUPS), 8.0)))
    for bits in (4, 8):
        write(f"gptq_v2_gptqmodel_{bits}_bits", *gptqmodel(bits, is_v2=True))
        write(f"gptq_gptqmodel_{bits}_bits", *gptqmodel(bits, is_v2=False))
    write("awq_autoawq", *autoawq())


def import_bare(name: str) -> None:
    """Make a package importable without running its __init__."""
    spec = importlib.util.find_spec(name)
    package: Any = types.ModuleType(name)
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    package.DEBUG_ON = False
    package.DEVICE_THREAD_POOL = None
    sys.modules[name] = package


def write(name: str, tensors: dict[str, torch.Tensor], expected: torch.Tensor) -> None:
    """Write one layer; `expected` is [N, K], float16."""
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    save_file(tensors | {"expected": expected.half().contiguous()}, OUT / f"{name}.safetensors")


def zero_points(least: int, bits: int = 4) -> torch.Tensor:
    return torch.randint(least, 2**bits, (N, GROUPS)).float()


def linear(scales: torch.Tensor, zeros: torch.Tensor, bits: int) -> torch.nn.Linear:
    """Make a layer whose weights are (number - zero point) * scale for random numbers."""
    numbers = torch.randint(0, 2**bits, (N, K)).float()
    layer = torch.nn.Linear(K, N, bias=False)
    spread = (part.repeat_interleave(GROUP_SIZE, 1) for part in (scales, zeros))
    scale, zero = spread
    layer.weight.data = (numbers - zero) * scale
    return layer


def auto_gptq(zeros: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    module = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda_old")
    packed = module.QuantLinear(4, GROUP_SIZE, K, N, False, weight_dtype=torch.float16)
    scales = (torch.rand(N, GROUPS) + 0.5).half()
    layer = linear(scales.float(), zeros, 4)
    packed.pack(layer.half(), scales, zeros, None)
    expected = packed(torch.eye(K).half()).T
    return {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}, expected


def gptqmodel(bits: int, is_v2: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    module = importlib.import_module("gptqmodel.nn_modules.qlinear.torch")
    convert = importlib.import_module("gptqmodel.utils.model").convert_gptq_v2_to_v1_format_module
    packed = module.TorchLinear(
        bits, GROUP_SIZE, sym=False, desc_act=False, in_features=K, out_features=N
    )
    scales = (torch.rand(N, GROUPS) + 0.5).half().float()
    zeros = zero_points(0, bits)
    g_idx = torch.arange(K, dtype=torch.int32) // GROUP_SIZE
    packed.pack_original(linear(scales, zeros, bits), scales, zeros, g_idx)
    packed.post_init()
    expected = packed.dequantize_weight().T
    if not is_v2:
        convert(packed, types.SimpleNamespace(bits=bits, pack_dtype=torch.int32))
    names = ("qweight", "qzeros", "scales", "g_idx")
    return {name: getattr(packed, name).clone() for name in names}, expected


def autoawq() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    module = importlib.import_module("awq.modules.linear.gemm")
    scales = (torch.rand(N, GROUPS) + 0.5).half()
    zeros = zero_points(0)
    layer = linear(scales.float(), zeros, 4).half()
    packed = module.WQLinear_GEMM.from_linear(
        layer, 4, GROUP_SIZE, scales=scales.T.contiguous(), zeros=zeros.T.contiguous()
    )
    tensors = {name: getattr(packed, name) for name in ("qweight", "qzeros", "scales")}
    return tensors, module.dequantize_gemm(*tensors.values(), 4, GROUP_SIZE).T


if __name__ == "__main__":
    main()
