"""The ceiling kernels on a GPU: they do the work that the rates divide."""

from __future__ import annotations

import functools

import pytest
import torch

from torch_sm80moe.bench import ceilings

pytestmark = pytest.mark.gpu

DTYPES = [torch.float16, torch.bfloat16, torch.int8]


def test_everything_is_read(cuda):
    src = torch.randint(-(2**31), 2**31, (2**20 + 2048,), dtype=torch.int32, device=cuda)
    checksums = torch.zeros(1 << 15, dtype=torch.int32, device=cuda)
    ceilings.read(src, checksums)
    xor = functools.partial(functools.reduce, lambda a, b: a ^ b)
    assert xor(checksums.tolist()) == xor(src.tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_products_are_right(cuda, dtype):
    depth = 128 // dtype.itemsize
    tiles = torch.randint(-8, 9, (2, 128, depth), device=cuda).to(dtype)
    sums = torch.empty(
        128, 128, device=cuda, dtype=torch.int32 if dtype == torch.int8 else torch.float32
    )
    operations = ceilings.multiply(tiles, sums, 3)
    expected = 3 * tiles[0].double() @ tiles[1].double().T
    assert torch.equal(sums.double(), expected)
    sms = torch.cuda.get_device_properties(cuda).multi_processor_count
    assert operations % (sms * 3 * 2 * 128 * 128 * depth) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tiles_that_are_timed_are_random_and_cancel(cuda, dtype):
    a, b = ceilings.random_tiles(dtype).double()
    assert (a @ b.T).abs().max() < 1e-9
    assert a.unique().numel() > 200


def test_wrong_arguments_are_refused(cuda):
    src = torch.zeros(2048, dtype=torch.int32, device=cuda)
    checksums = torch.zeros(8, dtype=torch.int32, device=cuda)
    ceilings.read(src, checksums)
    with pytest.raises(RuntimeError, match="read ceiling: the CUDA call must succeed, got error 1"):
        ceilings.read(src[:1000], checksums)
    with pytest.raises(RuntimeError, match=r"mma ceiling: .* got error 1"):
        ceilings.multiply(torch.zeros(2, 128, 64, device=cuda).half(), checksums, 0)
