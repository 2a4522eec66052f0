"""Packing loses nothing, and puts weights where the kernels look for them."""

from __future__ import annotations

import pytest
import torch

from tests.quantization.random_weights import SCHEMES_16BIT, random_weight
from torch_sm80moe.quantization import QuantizedWeight, QuantScheme, pack, unpack
from torch_sm80moe.quantization.packing import dequantize_rows

SIZES = [(1, 8, 128), (3, 24, 384), (2, 136, 256)]


def assert_same(actual: QuantizedWeight, expected: QuantizedWeight) -> None:
    assert actual.scheme == expected.scheme
    assert actual.values.view(torch.uint8).equal(expected.values.view(torch.uint8))
    assert actual.scale.equal(expected.scale)
    if expected.zero_point is None:
        assert actual.zero_point is None
    else:
        assert actual.zero_point is not None
        assert actual.zero_point.equal(expected.zero_point)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SCHEMES_16BIT)
def test_unpacking_is_the_exact_inverse(name, size):
    weight = random_weight(name, *size)
    assert_same(unpack(pack(weight)), weight)


@pytest.mark.parametrize("k", [8, 40, 72])
@pytest.mark.parametrize("name", ["w8a16", "w8a16-asym", "w4a16", "w4a16-asym", "fp8-block"])
def test_rows_that_end_within_a_chunk(name, k):
    weight = random_weight(name, 2, 16, k)
    assert_same(unpack(pack(weight)), weight)


def test_every_exponent_of_mxfp4():
    codes = torch.arange(255, dtype=torch.uint8).reshape(3, 1, 85).repeat(1, 8, 1)
    codes = torch.cat([codes, codes.flip(0)], dim=2)
    values = torch.randint(0, 16, (3, 8, 32 * codes.size(2)), dtype=torch.uint8)
    weight = QuantizedWeight(values, codes.contiguous(), None, QuantScheme.parse("mxfp4"))
    assert_same(unpack(pack(weight)), weight)


@pytest.mark.parametrize("name", SCHEMES_16BIT)
def test_packed_rows_mean_what_the_weight_means(name):
    weight = random_weight(name, 2, 24, 384)
    packed = pack(weight)
    rows = packed.tensors()
    actual = dequantize_rows(
        rows.values, rows.scale, rows.codes, rows.format_name, rows.group_size, 384
    )
    assert actual.equal(weight.dequantize())


def test_words_of_eight_rows_are_side_by_side():
    """Nine rows of five groups: a second octet of one row, a second word of one code."""
    scheme = QuantScheme.parse("w4a16-g32-asym")
    values = torch.zeros(1, 9, 160, dtype=torch.int8)
    number = torch.arange(1, 46).reshape(1, 9, 5)
    packed = pack(QuantizedWeight(values, number.float(), (number % 16 - 8).to(torch.int8), scheme))
    assert packed.scale.shape == (1, 2, 5, 8) and packed.codes.shape == (1, 2, 2, 8, 4)
    for row in range(9):
        for group in range(5):
            octet, place, word, byte = row // 8, row % 8, group // 4, group % 4
            assert packed.scale[0, octet, group, place] == 5 * row + group + 1
            assert packed.codes[0, octet, word, place, byte] == (5 * row + group + 1) % 16
    assert not packed.scale[0, 1, :, 1:].any() and not packed.codes[0, :, 1, :, 1:].any()


def test_where_bytes_go():
    """The lanes of a quad hold k = 2t, 2t + 8, 2t + 1, 2t + 9, from the lowest byte up.

    Zero is stored as 128.
    """
    values = torch.arange(32, dtype=torch.int8).reshape(1, 1, 32)
    weight = QuantizedWeight(values, torch.ones(1, 1, 1), None, QuantScheme.parse("w8a16"))
    lane = [0, 8, 1, 9]
    first = [2 * t + k for t in range(4) for k in lane]
    expected = [128 + k for k in (*first, *(k + 16 for k in first))]
    assert pack(weight).values.flatten().tolist() == expected


def test_where_nibbles_go():
    """A lane's 4 bytes: k = 2t and its neighbour in the halves, then 8, 16 and 24 further."""
    for k in range(32):
        values = torch.full((1, 1, 32), -8, dtype=torch.int8)
        values[0, 0, k] = 7
        weight = QuantizedWeight(values, torch.ones(1, 1, 1), None, QuantScheme.parse("w4a16"))
        words = pack(weight).values.view(torch.int32).flatten().tolist()
        lane, half, nibble = k % 8 // 2, k % 2, k // 8
        shift = 16 * half + 4 * nibble
        expected = [(0xF << shift if i == lane else 0) for i in range(4)]
        assert [word & 0xFFFFFFFF for word in words] == expected


def test_memory_is_counted():
    packed = pack(random_weight("w4a16-g128-asym", 2, 16, 256))
    assert packed.num_bytes == 2 * 16 * (128 + 2 * 4 + 4)


def test_moving_keeps_everything():
    packed = pack(random_weight("mxfp4", 2, 16, 64))
    assert_same(unpack(packed.to("cpu")), unpack(packed))
