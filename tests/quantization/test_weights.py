"""The canonical form: names of schemes, the numbers that a weight means, everything it refuses."""

import dataclasses

import pytest
import torch

from torch_sm80moe.quantization import SCHEMES, QuantizedWeight, QuantScheme
from torch_sm80moe.quantization.weights import VALUE_DTYPES, VALUE_RANGES

SHAPE = (2, 192, 256)


def random_weight(name: str, shape: tuple[int, int, int] = SHAPE) -> QuantizedWeight:
    """Make a weight with every value that its format has."""
    scheme = QuantScheme.parse(name)
    scale_shape = scheme.scale_shape(shape)
    if scheme.weight_format == "fp8":
        values = torch.randn(shape).mul(100).clamp(-448, 448).to(torch.float8_e4m3fn)
    else:
        low, high = VALUE_RANGES[scheme.weight_format]
        values = torch.randint(low, high + 1, shape).to(VALUE_DTYPES[scheme.weight_format])
    if scheme.weight_format == "mxfp4":
        return QuantizedWeight(
            values, torch.randint(100, 140, scale_shape, dtype=torch.uint8), None, scheme
        )
    zero_point = None
    if not scheme.symmetric:
        zero_point = torch.randint(low, high + 1, scale_shape).to(torch.int8)
    return QuantizedWeight(values, torch.rand(scale_shape) + 0.1, zero_point, scheme)


@pytest.mark.parametrize("name", SCHEMES)
def test_scheme_and_name_are_inverses(name):
    assert str(QuantScheme.parse(name)) == name


@pytest.mark.parametrize(
    "name",
    ["int8", "fp8", "W8A16", "w8a16-channel", "w8a16-static", "w8a16-block", "w8a16-g", "w8a8-g32",
     "w8a8-asym", "w8a8-static-tensor", "w4a16-tensor", "w4a16-g16", "w4a16-g128-sym",
     "w4a16-asym-g32", "fp8-g128", "fp8-block-asym", "mxfp4-g32", "mxfp4-block"],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=f"name must be one of w8a16, .*, got {name}$"):
        QuantScheme.parse(name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_format": "int3"}, "weight_format must be one of"),
        ({"weight_format": "int8", "activation": "fp8"}, "activation must be one of"),
        ({"weight_format": "int4", "activation": "int8_static"}, "activation must be 16bit"),
        ({"weight_format": "int8", "block": (128, 128)}, "block must be .128, 128. with fp8"),
        ({"weight_format": "fp8", "block": (64, 128)}, "block must be .128, 128. with fp8"),
        ({"weight_format": "fp8", "block": (128, 128), "group_size": 0}, "group_size must be -1"),
        ({"weight_format": "mxfp4"}, "group_size must be one of .32,. with mxfp4, got -1"),
        ({"weight_format": "int4", "group_size": 0}, "group_size must be one of"),
        ({"weight_format": "fp8", "symmetric": False}, "symmetric must be True with fp8"),
        (
            {"weight_format": "int8", "activation": "int8_dynamic", "symmetric": False},
            "symmetric must be True with int8_dynamic",
        ),
    ],
)
def test_impossible_schemes_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"QuantScheme: {message}"):
        QuantScheme(**fields)


@pytest.mark.parametrize("name", SCHEMES)
def test_dequantize_is_the_formula_elementwise(name):
    weight = random_weight(name)
    exact = weight.dequantize(torch.float64)
    for e, n, k in ((0, 0, 0), (1, 191, 255), (0, 129, 127), (1, 127, 128), (0, 5, 63)):
        at = {
            "g32": (n, k // 32), "g64": (n, k // 64), "g128": (n, k // 128), "tensor": (0, 0),
            "block": (n // 128, k // 128), "mxfp4": (n, k // 32),
        }  # fmt: skip
        i, j = next((at[part] for part in name.split("-") if part in at), (n, 0))
        if name == "mxfp4":
            code = int(weight.values[e, n, k])
            magnitude = (0, 0.5, 1, 1.5, 2, 3, 4, 6)[code & 7]
            expected = (-1) ** (code >> 3) * magnitude * 2.0 ** (int(weight.scale[e, i, j]) - 127)
        else:
            zero = 0.0 if weight.zero_point is None else float(weight.zero_point[e, i, j])
            stored = torch.tensor(float(weight.values[e, n, k]) - zero)
            expected = float(stored * weight.scale[e, i, j])
        assert float(exact[e, n, k]) == expected


def test_a_last_block_may_be_short():
    weight = random_weight("fp8-block", (1, 130, 200))
    assert weight.scale.shape == (1, 2, 2)
    assert weight.dequantize().shape == (1, 130, 200)


def test_dequantize_rounds_once():
    weight = random_weight("w8a16-g64-asym")
    rounded = weight.dequantize(torch.bfloat16)
    assert torch.equal(rounded, weight.dequantize().bfloat16())


def broken(name: str, **changes) -> None:
    dataclasses.replace(random_weight(name), **changes)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("w8a16", "values", torch.zeros(SHAPE), "values must be torch.int8, got torch.float32"),
        ("w8a16", "scale", torch.ones(2, 192, 1).half(), "scale must be torch.float32"),
        ("mxfp4", "scale", torch.ones(2, 192, 8), "scale must be torch.uint8"),
        (
            "w4a16-asym",
            "zero_point",
            torch.zeros(2, 192, 1),
            "zero_point must be torch.int8, got torch.float32",
        ),
    ],
)
def test_wrong_dtypes(name, field, value, message):
    with pytest.raises(TypeError, match=f"QuantizedWeight {name}: {message}"):
        broken(name, **{field: value})


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("w8a16", "values", torch.zeros(192, 256, dtype=torch.int8), "values must have shape"),
        ("w8a16", "scale", torch.ones(2, 192), r"scale must have shape \[2, 192, 1\]"),
        ("w8a16-tensor", "scale", torch.ones(2, 192, 1), r"scale must have shape \[2, 1, 1\]"),
        ("w4a16-g64", "scale", torch.ones(2, 192, 2), r"scale must have shape \[2, 192, 4\]"),
        ("fp8-block", "scale", torch.ones(2, 1, 2), r"scale must have shape \[2, 2, 2\]"),
        ("w8a16", "zero_point", torch.zeros(2, 192, 1).char(), "zero_point must be None"),
        ("w8a16-asym", "zero_point", None, "zero_point must be a tensor, got None"),
        ("w8a16", "scale", torch.ones(4, 192, 1)[::2], "scale must be contiguous"),
        ("w8a16", "scale", torch.ones(2, 192, 1, device="meta"), "scale must be on cpu"),
        ("w8a16", "scale", torch.full((2, 192, 1), torch.nan), "be finite and positive, got nan"),
        ("w8a16", "scale", torch.full((2, 192, 1), torch.inf), "be finite and positive, got inf"),
        ("fp8-channel", "scale", torch.zeros(2, 192, 1), r"got 0.0 at \[0, 0, 0\]"),
        ("w8a8", "scale", -torch.ones(2, 192, 1), "be finite and positive, got -1.0"),
        ("mxfp4", "scale", torch.full((2, 192, 8), 255).byte(), r"not be NaN \(code 255\)"),
        ("mxfp4", "values", torch.full(SHAPE, 16).byte(), "values must be 0 to 15, got 16"),
        ("w4a16", "values", torch.full(SHAPE, 8).char(), "values must be -8 to 7, got 8"),
        ("w4a16", "values", torch.full(SHAPE, -9).char(), "values must be -8 to 7, got -9"),
        ("w4a16-asym", "zero_point", torch.full((2, 192, 1), 8).char(), "zero_point must be -8"),
        (
            "fp8-channel",
            "values",
            torch.full(SHAPE, torch.nan).to(torch.float8_e4m3fn),
            "values must be finite, got NaN in expert 0",
        ),
    ],
)
def test_wrong_tensors(name, field, value, message):
    with pytest.raises(ValueError, match=f"QuantizedWeight {name}: .*{message}"):
        broken(name, **{field: value})


def test_group_size_must_divide():
    with pytest.raises(ValueError, match="w4a16-g128: K must be a multiple of 128, got 192"):
        QuantizedWeight(
            torch.zeros(1, 8, 192, dtype=torch.int8),
            torch.ones(1, 8, 2),
            None,
            QuantScheme.parse("w4a16-g128"),
        )
