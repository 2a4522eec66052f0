"""The host program, compiled once a session, and the seed of each test's schedule."""

import zlib
from pathlib import Path

import pytest

from tests.host.build import build
from tests.host.running import instances


@pytest.fixture(scope="session")
def program() -> Path:
    return build()


@pytest.fixture(scope="session")
def tactics(program: Path) -> dict[tuple[str, int], dict[str, int]]:
    return instances(program)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Choose the schedule by the test's name, and by --seed others; the failing command has it."""
    return zlib.crc32(request.node.name.encode()) + request.config.getoption("--seed")
