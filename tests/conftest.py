"""What all tests share: devices and their skips, seeds, poisoned memory."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import torch_sm80moe

POISON = 0x7FFF  # NaN in both 16-bit types and in fp32, and as int32 an index far out of bounds.
POISONED_SIZES = [2**n for n in range(9, 27)]  # bytes; one block of each of the allocator's bins


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="other random inputs for every test")


def pytest_report_header(config: pytest.Config) -> str:
    gpu = missing_for_gpu_tests() or torch.cuda.get_device_name()
    return f"torch_sm80moe {torch_sm80moe.__version__}, gpu: {gpu}, --seed {seed_of(config)}"


def seed_of(config: pytest.Config) -> int:
    return config.getoption("--seed")


@functools.cache
def missing_for_gpu_tests() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if not torch_sm80moe.tactic_table():
        return "this installation has no CUDA kernels"
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    missing = missing_for_gpu_tests()
    if missing and item.get_closest_marker("gpu"):
        pytest.skip(missing)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Give every test its own random numbers, the same in every order of tests."""
    seed = zlib.crc32(request.node.nodeid.encode()) + seed_of(request.config)
    print(f"torch.manual_seed({seed})")
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def exact_fp32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run the test on the CPU, and on the GPU with a poisoned allocator."""
    chosen = torch.device(request.param)
    if chosen.type == "cuda":
        poison_allocator()
    return chosen


@pytest.fixture
def cuda() -> torch.device:
    """Be a CUDA device with a poisoned allocator; for tests that are marked gpu."""
    poison_allocator()
    return torch.device("cuda")


def poison_allocator() -> None:
    """Leave NaN in the blocks that the next allocations get."""
    blocks = [
        torch.full((size // 2,), POISON, dtype=torch.int16, device="cuda")
        for size in POISONED_SIZES
    ]
    del blocks


@pytest.fixture
def shared_memory_of_sm86() -> Iterator[int]:
    """Make the GPU pretend to have the 99 KB of SM86 and SM89."""
    limit = 99 * 1024
    torch_sm80moe.configure(shared_memory_limit=limit)
    yield limit
    torch_sm80moe.configure(shared_memory_limit=0)


@pytest.fixture
def tiny_moe() -> Path:
    return Path(__file__).parent / "data" / "tiny_moe"
