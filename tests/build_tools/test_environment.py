"""The variables of a build, and the sentence that a wrong value gets."""

import pytest

from build_tools import environment, flags
from build_tools.environment import BuildError


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    switches = ("SM80MOE_CPU_ONLY", "SM80MOE_LINE_INFO")
    for name in (*switches, "SM80MOE_CUDA_ARCHS", "MAX_JOBS", "CUDA_HOME", "CXX"):
        monkeypatch.delenv(name, raising=False)


def test_defaults() -> None:
    assert environment.architectures() == flags.ARCHITECTURES
    assert environment.max_jobs() >= 1
    assert not environment.cpu_only()
    assert not environment.line_info()
    assert environment.cuda_home() is None
    assert environment.host_compiler() == "g++"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("80", ("80",)), ("86;80", ("86", "80")), ("90;90", ("90",)), ("", flags.ARCHITECTURES)],
)
def test_architectures_are_narrowed(
    value: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM80MOE_CUDA_ARCHS", value)
    assert environment.architectures() == expected


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True), ("", False)])
def test_switches(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM80MOE_CPU_ONLY", value)
    monkeypatch.setenv("SM80MOE_LINE_INFO", value)
    assert environment.cpu_only() is expected
    assert environment.line_info() is expected


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("SM80MOE_CPU_ONLY", "yes", environment.cpu_only),
        ("SM80MOE_LINE_INFO", "on", environment.line_info),
        ("SM80MOE_CUDA_ARCHS", "8.0", environment.architectures),
        ("SM80MOE_CUDA_ARCHS", "75", environment.architectures),
        ("SM80MOE_CUDA_ARCHS", "80,86", environment.architectures),
        ("MAX_JOBS", "0", environment.max_jobs),
        ("MAX_JOBS", "many", environment.max_jobs),
    ],
)
def test_a_wrong_value_is_named(
    name: str, value: str, read: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BuildError, match=f"^build: {name} must .*, got '{value}'$"):
        read()
