"""What C++ says of arguments, on a machine without a GPU.

C++ checks a call before it asks for a device. So its sentences can be heard when CPU tensors are
handed to the implementation for CUDA.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_sm80moe import tactic_table
from torch_sm80moe._ops import overload

_CUDA = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)


def can_speak() -> bool:
    """Return whether there are kernels, and no GPU that would follow the CPU's pointers."""
    return bool(tactic_table()) and not torch.cuda.is_available()


def sentence_of_kernels(op: str, arguments: dict[str, Any]) -> str | None:
    """Return what C++ objects to, None if it would go on and use a device."""
    with pytest.raises(RuntimeError) as caught:
        overload(op).redispatch(_CUDA, **arguments)
    first = str(caught.value).splitlines()[0]
    return None if first.startswith("aoti_torch_create_device_guard") else first
