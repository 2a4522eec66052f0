"""A toolkit out of packages that are laid out as Debian's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from build_tools import debian_cuda
from build_tools.debian_cuda import LAYOUT, NVCC_PROFILE, PROGRAMS, unpack, usual_mirror

needs_dpkg = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed: not a Debian machine"
)


def make_package(folder: Path, name: str, *files: str) -> Path:
    """A package with these files, each of which holds its own path."""
    tree = folder / name
    for file in (*files, "usr/share/doc/anything"):
        path = tree / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
        path.chmod(0o755)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: a\n"
    )
    package = folder / f"{name}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(package)], check=True)
    return package


@needs_dpkg
def test_the_parts_come_to_lie_as_in_nvidias_toolkit(tmp_path: Path) -> None:
    debians, libraries = "usr/lib/nvidia-cuda-toolkit", "usr/lib/x86_64-linux-gnu"
    packages = [
        make_package(
            tmp_path,
            "nvidia-cuda-toolkit",
            *(f"usr/bin/{name}" for name in ("nvcc", *PROGRAMS)),
            *(f"{debians}/bin/{name}" for name in ("nvcc", "g++", "cicc", "crt/link.stub")),
            f"{debians}/libdevice/libdevice.10.bc",
        ),
        make_package(
            tmp_path,
            "nvidia-cuda-dev",
            "usr/include/cuda_runtime_api.h",
            *(
                f"{libraries}/{name}"
                for name in ("libcudart_static.a", "libcudadevrt.a", "libnpp.a")
            ),
        ),
        make_package(tmp_path, "libcu++-dev", "usr/include/nv/target"),
    ]
    toolkit = tmp_path / "toolkit"
    for package in packages:
        unpack(package, toolkit)
    found = {
        path.relative_to(toolkit).as_posix(): path.read_text()
        for path in toolkit.rglob("*")
        if path.is_file()
    }
    assert found == {
        "bin/crt/link.stub": f"{debians}/bin/crt/link.stub",
        # Debian's usr/bin/nvcc is a script with the path of an installed package.
        "bin/nvcc": f"{debians}/bin/nvcc",
        **{f"bin/{name}": f"usr/bin/{name}" for name in PROGRAMS},
        "include/cuda_runtime_api.h": "usr/include/cuda_runtime_api.h",
        "include/nv/target": "usr/include/nv/target",
        "lib64/libcudadevrt.a": f"{libraries}/libcudadevrt.a",
        "lib64/libcudart_static.a": f"{libraries}/libcudart_static.a",
        "nvvm/bin/cicc": f"{debians}/bin/cicc",
        "nvvm/libdevice/libdevice.10.bc": f"{debians}/libdevice/libdevice.10.bc",
    }
    assert (toolkit / "bin" / "nvcc").stat().st_mode & 0o100


@needs_dpkg
def test_a_broken_package_ends_the_script(tmp_path: Path) -> None:
    package = tmp_path / "libcu++-dev_1_all.deb"
    package.write_bytes(b"not a package")
    with pytest.raises(SystemExit, match="dpkg-deb must succeed, got"):
        unpack(package, tmp_path / "toolkit")


def test_nvcc_finds_every_folder_of_the_layout() -> None:
    targets = {path for layout in LAYOUT.values() for path in layout.values()}
    for folder in ("nvvm/bin", "nvvm/libdevice", "include", "lib64"):
        assert f"$(TOP)/{folder}" in NVCC_PROFILE
        assert any(target.startswith(f"{folder}/") for target in targets)


def test_without_a_mirror_the_script_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_cuda, "call", lambda *command: "first\nsecond\n")
    assert usual_mirror() == "first"
    monkeypatch.setattr(debian_cuda, "call", lambda *command: "")
    with pytest.raises(SystemExit, match="apt or --mirror must name"):
        usual_mirror()


def test_an_existing_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["debian_cuda", str(tmp_path)])
    with pytest.raises(SystemExit, match="folder must not exist"):
        debian_cuda.main()
