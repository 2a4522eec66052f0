"""One wheel: its name, what is in it, and that it works where it was not built."""

import json
import re
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from build_tools.native import PACKAGE
from tests.packaging.helpers import build_wheel, run_wheel

pytestmark = pytest.mark.slow

CALL_AN_OPERATOR = """
import torch, torch_sm80moe
x, w13, w2 = torch.ones(2, 8), torch.ones(4, 16, 8), torch.ones(4, 8, 8)
x, w13, w2 = (t.to(torch.bfloat16) for t in (x, w13, w2))
ids, weights = torch.zeros(2, 1, dtype=torch.int32), torch.ones(2, 1)
print(torch.ops.sm80moe.fused_moe(x, w13, w2, weights, ids).shape)
print(torch.ops.sm80moe.tactic_table().shape)
"""


def package_files() -> set[str]:
    """The package in the tree, less what a build or Python itself adds to it."""
    return {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.suffix in (".py", ".typed")
    }


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def dist_info(wheel: Path, name: str) -> str:
    (found,) = (
        data for path, data in contents(wheel).items() if path.endswith(f"dist-info/{name}")
    )
    return found.decode()


def test_the_name_promises_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"torch_sm80moe-[\d.]+-py3-none-linux_\w+\.whl", wheel.name)
    assert "Root-Is-Purelib: false" in dist_info(wheel, "WHEEL")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    built = {"torch_sm80moe/_C.so", "torch_sm80moe/_build_info.json"}
    files = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert files == package_files() | built


def test_the_metadata_is_complete(wheel: Path) -> None:
    metadata = HeaderParser().parsestr(dist_info(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "torch>=2.10" in metadata.get_all("Requires-Dist")
    assert metadata["Version"] in wheel.name
    assert "Apache License" in dist_info(wheel, "licenses/LICENSE")
    assert "sm80moe = torch_sm80moe.cli:main" in dist_info(wheel, "entry_points.txt")


def test_the_build_is_described(wheel: Path) -> None:
    info = json.loads(contents(wheel)["torch_sm80moe/_build_info.json"])
    assert not info["cpu_only"]
    assert info["version"] in wheel.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["nvcc"])
    assert re.fullmatch(r"[0-9a-f]{64}", info["sources_sha256"])


def test_it_works_away_from_the_tree(wheel: Path, tmp_path: Path) -> None:
    output = run_wheel(wheel, tmp_path, CALL_AN_OPERATOR)
    assert output.startswith("torch.Size([2, 8])")
    assert "torch.Size([0," not in output, "the table must come from the library"


def test_importing_needs_only_torch(wheel: Path, tmp_path: Path) -> None:
    absent = "import sys\nfor name in ('rich', 'transformers'): sys.modules[name] = None\n"
    run_wheel(wheel, tmp_path, absent + "import torch_sm80moe")


def test_a_cpu_only_wheel_needs_no_compiler_and_works(cpu_wheel: Path, tmp_path: Path) -> None:
    assert cpu_wheel.name.endswith("-py3-none-any.whl")
    files = {name for name in contents(cpu_wheel) if ".dist-info/" not in name}
    assert files == package_files() | {"torch_sm80moe/_build_info.json"}
    info = json.loads(contents(cpu_wheel)["torch_sm80moe/_build_info.json"])
    assert info["cpu_only"]
    assert info["nvcc"] is None
    assert info["architectures"] == []
    assert run_wheel(cpu_wheel, tmp_path, CALL_AN_OPERATOR).startswith("torch.Size([2, 8])")


def test_a_cpu_only_wheel_keeps_nothing_of_an_earlier_build(wheel: Path, tmp_path: Path) -> None:
    # `wheel` has just been built in the same tree.
    later = build_wheel(tmp_path, SM80MOE_CPU_ONLY="1")
    assert "torch_sm80moe/_C.so" not in contents(later)
