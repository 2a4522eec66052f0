"""Problems to try the operators on, and how an error is judged; every tolerance is in this file.

An error is judged by the scale of the result: its norm over the reference's norm, and its largest
element over the reference's RMS. How much is allowed is not guessed but derived from what the same
exact result loses when it is rounded to the dtype, times the roundings that the operator documents.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from torch_sm80moe import reference

ROUNDINGS_FUSED_MOE = 3  # the intermediate, each expert's row, the output
ROUNDINGS_GEMM = 1
ROUNDINGS_COMBINE = 1

# The promise for fused_moe in fp16, whatever the roundings come to.
FP16_RELATIVE_LIMIT = 1e-3

# Router weights are fp32 throughout; exponentials of the GPU and of the CPU differ by this much.
ROUTER_TOLERANCE = {"rtol": 4e-6, "atol": 1e-12}

# Independent roundings add up like a random walk. A small sample strays from the average further.
_SLACK = 1.25
_SMALL_SAMPLE_SLACK = 4.0  # divided by the root of the number of elements
# Of a normal error, hardly one element in a billion is further out than this many deviations.
_SIGMAS = 6.5
# fp32 sums in another order differ by this much.
_FP32_NOISE = 5e-6
# Of int8 activations: one row in so many, and one more, may be stored anew, by which a layer
# differs by no more than this, relatively. Rows of 14336 normal numbers are off by a third of it.
_ROWS_PER_TIE = 50
_STORED_ANEW = 0.1
# An operator that rounds where exact_then_round rounds differs from it where a sum lies next to
# the middle between two numbers of the dtype. One rounding more or less differs everywhere.
_MAX_FLIP_SHARE = 0.5


class Inputs(NamedTuple):
    """The five tensors of a `fused_moe` call, in its order."""

    hidden_states: torch.Tensor
    w13: torch.Tensor
    w2: torch.Tensor
    topk_weights: torch.Tensor
    topk_ids: torch.Tensor

    @property
    def num_experts(self) -> int:
        """E."""
        return self.w13.size(0)


@dataclass(frozen=True)
class Problem:
    """The sizes of a layer, its dtype, and the hazard that its inputs hold (see `HAZARDS`)."""

    num_tokens: int = 16
    num_experts: int = 8
    top_k: int = 2
    hidden_size: int = 64
    intermediate_size: int = 72
    dtype: torch.dtype = torch.bfloat16
    hazard: str = "none"

    def __str__(self) -> str:
        """Return a name that can stand in a test's id."""
        dtype = "bf16" if self.dtype == torch.bfloat16 else "fp16"
        sizes = (
            f"T{self.num_tokens}-E{self.num_experts}-k{self.top_k}"
            f"-H{self.hidden_size}-I{self.intermediate_size}-{dtype}"
        )
        return sizes if self.hazard == "none" else f"{sizes}-{self.hazard}"

    def make(self, device: torch.device | str = "cpu") -> Inputs:
        """Make the inputs with torch's random generator of the device."""
        return HAZARDS[self.hazard](self.make_plain(device))

    def make_plain(self, device: torch.device | str) -> Inputs:
        """Make inputs without a hazard: distinct experts, activations of size one throughout."""

        def random(*shape: int) -> torch.Tensor:
            values = torch.randn(shape, device=device) / math.sqrt(shape[-1])
            return values.to(self.dtype)

        experts, hidden, intermediate = self.num_experts, self.hidden_size, self.intermediate_size
        x = torch.randn((self.num_tokens, hidden), device=device).to(self.dtype)
        logits = torch.randn((self.num_tokens, experts), device=device)
        topk_weights, topk_ids = reference.topk_route(logits, self.top_k)
        return Inputs(
            x,
            random(experts, 2 * intermediate, hidden),
            random(experts, hidden, intermediate),
            topk_weights,
            topk_ids,
        )


def _one_expert(inputs: Inputs) -> Inputs:
    last = inputs.num_experts - 1
    return inputs._replace(topk_ids=torch.full_like(inputs.topk_ids, last))


def _repeated_ids(inputs: Inputs) -> Inputs:
    first = inputs.topk_ids[:, :1].expand_as(inputs.topk_ids)
    return inputs._replace(topk_ids=first.contiguous())


def _out_of_range(inputs: Inputs) -> Inputs:
    """Replace every other id by one just outside the range, or as far outside as there is."""
    ids = inputs.topk_ids.clone()
    limits = torch.iinfo(ids.dtype)
    wrong = [-1, inputs.num_experts, limits.min, limits.max]
    flat = ids.view(-1)
    for i, value in enumerate(wrong):
        flat[2 * i :: 2 * len(wrong)] = value
    return inputs._replace(topk_ids=ids)


def _none_in_range(inputs: Inputs) -> Inputs:
    return inputs._replace(topk_ids=torch.full_like(inputs.topk_ids, inputs.num_experts))


def _int64_ids(inputs: Inputs) -> Inputs:
    return inputs._replace(topk_ids=inputs.topk_ids.long())


def _wide_ids(inputs: Inputs) -> Inputs:
    """Add ids that are in range once someone keeps only their lower 32 bits."""
    ids = inputs.topk_ids.long()
    ids.view(-1)[::3] += 2**32
    return inputs._replace(topk_ids=ids)


def _few_experts(inputs: Inputs) -> Inputs:
    """Leave most experts without a token, among them the first and the last."""
    middle = inputs.num_experts // 2
    return inputs._replace(topk_ids=torch.full_like(inputs.topk_ids, middle))


def _outliers(inputs: Inputs) -> Inputs:
    x = inputs.hidden_states.clone()
    x[:, ::61] *= 50
    return inputs._replace(hidden_states=x)


def _strided(inputs: Inputs) -> Inputs:
    """Take activations and weights out of larger tensors that hold NaN around them."""
    x, w13, w2 = (embed(t) for t in inputs[:3])
    return inputs._replace(hidden_states=x, w13=w13, w2=w2)


def embed(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values as a part of a larger tensor that holds NaN around them."""
    shape = [size + 2 for size in tensor.shape[:-1]] + [tensor.shape[-1] + 24]
    frame = torch.full(shape, math.nan, dtype=tensor.dtype, device=tensor.device)
    window = frame[(slice(1, -1),) * (tensor.dim() - 1) + (slice(8, -16),)]
    return window.copy_(tensor)


HAZARDS: dict[str, Callable[[Inputs], Inputs]] = {
    "none": lambda inputs: inputs,
    "one_expert": _one_expert,
    "few_experts": _few_experts,
    "repeated_ids": _repeated_ids,
    "out_of_range": _out_of_range,
    "none_in_range": _none_in_range,
    "int64_ids": _int64_ids,
    "wide_ids": _wide_ids,
    "outliers": _outliers,
    "strided": _strided,
}


def problems(base: Problem, **choices: Iterable[Any]) -> list[Problem]:
    """Return `base` with every combination of the choices that is possible (k is at most E)."""
    result = [base]
    for field, values in choices.items():
        options: list[dict[str, Any]] = [{field: value} for value in values]
        result = [replace(problem, **option) for problem in result for option in options]
    return [problem for problem in result if problem.top_k <= problem.num_experts]


class Error(NamedTuple):
    """How far a result is from its reference, by the reference's scale."""

    relative: float  # ||out - reference|| / ||reference||
    element: float  # max |out - reference| / RMS(reference)
    worst: tuple[int, ...]  # where the largest difference is

    def __str__(self) -> str:
        """Return the three numbers, for a failure's message."""
        return f"relative {self.relative:.3e}, element {self.element:.3e} at {list(self.worst)}"


def measure_error(out: torch.Tensor, expected: torch.Tensor) -> Error:
    """Compare a result with its reference; a NaN counts as an infinite error."""
    if out.shape != expected.shape:
        raise ValueError(
            f"measure_error: out must have shape {list(expected.shape)}, got {list(out.shape)}"
        )
    if out.numel() == 0:
        return Error(0.0, 0.0, ())
    difference = (out.double() - expected.double()).abs().nan_to_num(nan=math.inf)
    scale = expected.double().square().mean().sqrt().item()
    flat_index = int(difference.argmax())
    worst = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat_index), out.shape))
    largest = difference.flatten()[flat_index].item()
    rms = difference.square().mean().sqrt().item()
    if scale == 0:
        return Error(*((0.0, 0.0) if largest == 0 else (math.inf, math.inf)), worst)
    return Error(rms / scale, largest / scale, worst)


def tolerance(expected: torch.Tensor, dtype: torch.dtype, roundings: int) -> Error:
    """Return the largest error that an operator with this many roundings may have."""
    exact_then_rounded = measure_error(expected.to(dtype), expected)
    slack = _SLACK + _SMALL_SAMPLE_SLACK / math.sqrt(max(expected.numel(), 1))
    relative = slack * math.sqrt(roundings) * exact_then_rounded.relative + _FP32_NOISE
    largest_deviation = _SIGMAS * relative * _largest_row(expected)
    return Error(relative, exact_then_rounded.element + largest_deviation, ())


def _largest_row(expected: torch.Tensor) -> float:
    """Return how much larger the largest row is than the average: its errors are, too."""
    mean_square = expected.double().square().mean(dim=-1)
    if mean_square.numel() == 0 or mean_square.max() == 0:
        return 1.0
    return (mean_square.max() / mean_square.mean()).sqrt().item()


def assert_close(out: torch.Tensor, expected: torch.Tensor, roundings: int, what: object) -> None:
    """Fail unless `out` is as near to the exact result as its dtype and its roundings allow."""
    error, allowed = measure_error(out, expected), tolerance(expected, out.dtype, roundings)
    if error.relative > allowed.relative or error.element > allowed.element:
        raise AssertionError(f"{what}: {error}, allowed {allowed}")


def assert_close_but_for_ties(
    out: torch.Tensor, expected: torch.Tensor, roundings: int, what: object
) -> None:
    """Fail unless all rows but a few are as near as `assert_close` wants, and those near.

    For int8 activations: where fp32's own error decides how a number of the intermediate becomes 16
    bits, it may be stored as another int8, and if it is its row's largest, by another scale all of
    them.
    """
    distance = (out.double() - expected.double()).square().mean(dim=-1).nan_to_num(nan=math.inf)
    num_few = 1 + out.size(0) // _ROWS_PER_TIE
    most = distance.argsort()[: out.size(0) - num_few]
    assert_close(out[most], expected[most], roundings, what)
    error = measure_error(out, expected)
    if error.relative > _STORED_ANEW:
        raise AssertionError(f"{what}: {error}, allowed relative {_STORED_ANEW} of a few rows")


def exact_then_round(inputs: Inputs, **options: Any) -> torch.Tensor:
    """Compute `fused_moe` in fp32 and round exactly where its documentation says."""
    dtype = inputs.hidden_states.dtype
    return reference.fused_moe(*inputs, **options, round_to=dtype).to(dtype)


def assert_rounds_as_documented(
    out: torch.Tensor, inputs: Inputs, what: object, **options: Any
) -> None:
    """Fail if `out` has a rounding more, or less, than `exact_then_round`."""
    expected = exact_then_round(inputs, **options)
    exact = reference.fused_moe(*inputs, **options)
    one_rounding = measure_error(exact.to(out.dtype), expected).relative
    error = measure_error(out, expected)
    if error.relative > _MAX_FLIP_SHARE * one_rounding + _FP32_NOISE:
        raise AssertionError(
            f"{what}: {error} from the documented roundings, one rounding is {one_rounding:.3e}"
        )
