"""How a call is cut into chunks, and how large its workspace is; no GPU is asked."""

import itertools
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.host.running import run_ok

pytestmark = pytest.mark.host

GIB = 2**30
ROWS_PER_EXPERT = 2048  # of a chunk, at the least, unless the user sets a limit


@dataclass(frozen=True)
class Layer:
    """The sizes of a layer without its tokens, named as the program names them."""

    experts: int
    top_k: int
    hidden: int
    intermediate: int

    def row_bytes(self) -> tuple[int, int]:
        """Of the intermediate and of an expert's rows; int8 tokens and scales must fit those."""
        return 2 * self.intermediate, 2 * max(self.hidden, 16)

    def matrix_bytes(self, tokens: int) -> int:
        """The two matrices that a workspace holds."""
        return tokens * self.top_k * sum(self.row_bytes())


MODELS = {
    "mixtral": Layer(8, 2, 4096, 14336),
    "phi": Layer(16, 2, 4096, 6400),
    "gpt-oss": Layer(32, 4, 2880, 2880),
    "deepseek-v2-lite": Layer(64, 6, 2048, 1408),
    "olmoe": Layer(64, 8, 2048, 1024),
    "qwen3": Layer(128, 8, 2048, 768),
    "many-large-experts": Layer(256, 8, 7168, 2048),
    "one-expert": Layer(1, 1, 64, 8),
}


@dataclass(frozen=True)
class Plan:
    """What the program said."""

    chunks: int
    smallest: int
    largest: int
    offsets: list[int]

    @property
    def size(self) -> int:
        return self.offsets[-1]


def plan(program: Path, layer: Layer, tokens: int, limit: int = 0) -> Plan:
    output = run_ok(program, "plan", tokens=tokens, limit=limit, **asdict(layer)).output
    if re.search(r"^chunks 0$", output, re.MULTILINE):
        return Plan(0, 0, 0, [0])
    found = re.search(
        r"^chunks (\d+)\ntokens smallest=(\d+) largest=(\d+)\noffsets ([\d ]+)$",
        output,
        re.MULTILINE,
    )
    assert found is not None, output
    counts = map(int, found.groups()[:3])
    return Plan(*counts, [int(word) for word in found[4].split()])


def test_buffers_are_apart_and_aligned(program: Path) -> None:
    for layer, tokens in itertools.product(MODELS.values(), (1, 7, 4096)):
        made = plan(program, layer, tokens)
        rows = tokens * layer.top_k
        lengths = [
            rows * layer.row_bytes()[0],
            4 * rows,
            rows * layer.row_bytes()[1],
            4 * (layer.experts + 1),
            4 * rows,
            4 * rows,
            4 * 2,
        ]
        for (begin, end), length in zip(itertools.pairwise(made.offsets), lengths, strict=True):
            assert begin % 256 == 0
            assert 0 <= end - begin - length < 256


@pytest.mark.parametrize("model", MODELS)
def test_a_workspace_is_two_matrices_and_lists(program: Path, model: str) -> None:
    layer = MODELS[model]
    for tokens in (1, 64, 4096):
        lists = 4 * (3 * tokens * layer.top_k + layer.experts)
        padding = 7 * 256
        assert plan(program, layer, tokens).size <= layer.matrix_bytes(tokens) + lists + padding


@pytest.mark.parametrize("model", MODELS)
def test_four_thousand_tokens_are_one_chunk_by_default(program: Path, model: str) -> None:
    assert plan(program, MODELS[model], 4096).chunks == 1


@pytest.mark.parametrize("model", MODELS)
def test_the_default_bounds_the_workspace(program: Path, model: str) -> None:
    layer = MODELS[model]
    enough_rows = plan(program, layer, ROWS_PER_EXPERT * layer.experts // layer.top_k).size
    for tokens in (10**5, 10**6, (2**31 - 1) // layer.top_k):
        made = plan(program, layer, tokens)
        assert made.size <= max(GIB, enough_rows)
        # Halved at worst, when the tokens are just too many for one chunk.
        assert made.largest * layer.top_k * 2 >= min(tokens * 2, ROWS_PER_EXPERT * layer.experts)


@pytest.mark.parametrize("tokens", [999, 1000, 1001, 65537, 10**6])
@pytest.mark.parametrize("model", MODELS)
def test_a_limit_holds_and_chunks_are_few_and_even(program: Path, model: str, tokens: int) -> None:
    layer = MODELS[model]
    for allowed in (1, 2, 333, 500, 1000, 10**5):
        limit = plan(program, layer, allowed, limit=2**40).size
        made = plan(program, layer, tokens, limit=limit)
        assert made.size <= limit
        assert made.largest - made.smallest <= 1
        if made.chunks > 1:
            fewer = -(-tokens // (made.chunks - 1))
            assert plan(program, layer, fewer, limit=2**40).size > limit


def test_a_limit_below_one_token_is_told(program: Path) -> None:
    layer = MODELS["mixtral"]
    one_token = plan(program, layer, 1).size
    assert plan(program, layer, 5, limit=one_token).chunks == 5
    assert plan(program, layer, 5, limit=one_token - 1).chunks == 0


def test_matrices_stay_addressable_whatever_the_limit(program: Path) -> None:
    """Kernels count 16-byte chunks from the start of a matrix in 32 bits."""
    for layer in (MODELS["mixtral"], Layer(1, 8, 8, 2**30), Layer(8, 2**20, 4096, 64)):
        made = plan(program, layer, (2**31 - 1) // layer.top_k, limit=2**62)
        assert made.chunks > 0
        widest = max(layer.hidden, layer.intermediate)
        assert 2 * made.largest * layer.top_k * widest < 16 * 2**32
    assert plan(program, Layer(1, 2**30, 2**30, 2**30), 1, limit=2**62).chunks == 0


@pytest.mark.parametrize("columns", [8, 16, 24, 64, 72, 2880])
def test_int8_rows_fit_where_16_bits_would(columns: int) -> None:
    """Both matrices of the workspace hold int8 rows of w8a8 layers for a time."""
    intermediate, expert_row = Layer(1, 1, columns, columns).row_bytes()
    row_bytes = -(-columns // 16) * 16
    assert row_bytes <= intermediate and row_bytes + 4 <= expert_row
