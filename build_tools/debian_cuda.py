"""Makes a CUDA 12 toolkit of Debian's packages, for a machine that has none; installs nothing.

    python -m build_tools.debian_cuda FOLDER [--mirror URL]
    CUDA_HOME=FOLDER make release-wheel

PyPI has CUDA 13's compiler alone, and what it makes needs drivers from R580 on; what CUDA 12 makes
runs from R525 on. The packages are fetched by apt, which checks their signatures, and laid out as
NVIDIA's own toolkit. The mirror is the one of this machine's apt unless another is named.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The last release whose nvcc still belongs to CUDA 12.
SUITE = "trixie"
COMPONENTS = "main non-free"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# Package -> path in it -> path in the toolkit; what ends in a slash is a folder. The rest of the
# packages, more than a gigabyte of libraries, stays behind.
PROGRAMS = ("bin2c", "cudafe++", "cuobjdump", "fatbinary", "nvdisasm", "nvlink", "ptxas")
LAYOUT = {
    "nvidia-cuda-toolkit": {
        **{f"usr/bin/{name}": f"bin/{name}" for name in PROGRAMS},
        "usr/lib/nvidia-cuda-toolkit/bin/nvcc": "bin/nvcc",
        "usr/lib/nvidia-cuda-toolkit/bin/crt/": "bin/crt/",
        "usr/lib/nvidia-cuda-toolkit/bin/cicc": "nvvm/bin/cicc",
        "usr/lib/nvidia-cuda-toolkit/libdevice/": "nvvm/libdevice/",
    },
    "nvidia-cuda-dev": {
        "usr/include/": "include/",
        "usr/lib/x86_64-linux-gnu/libcudart_static.a": "lib64/libcudart_static.a",
        "usr/lib/x86_64-linux-gnu/libcudadevrt.a": "lib64/libcudadevrt.a",
    },
    "libcu++-dev": {"usr/include/": "include/"},
}

# Debian's own names the folders of an installed package.
NVCC_PROFILE = """\
TOP = $(_HERE_)/..
CICC_PATH = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include"
LIBRARIES =+ "-L$(TOP)/lib64"
"""


def call(*command: str, cwd: Path | None = None) -> str:
    """The output of a step; the script ends where one fails."""
    print("+", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"debian_cuda: {command[0]} must succeed, got exit code {done.returncode}")
    return done.stdout


def usual_mirror() -> str:
    """The first mirror of Debian in this machine's apt configuration."""
    listed = call("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian").split()
    if not listed:
        sys.exit("debian_cuda: apt or --mirror must name a mirror of Debian, got none")
    return listed[0]


def download(mirror: str, folder: Path) -> list[Path]:
    """The packages, by an apt of our own: the machine's configuration and lists stay untouched."""
    sources = folder / "debian.sources"
    sources.write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: {COMPONENTS}\n"
        f"Architectures: amd64\nSigned-By: {KEYRING}\n"
    )
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    settings = {
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": folder / "cache",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    call(*apt, "update")
    call(*apt, "download", *LAYOUT, cwd=folder)
    return sorted(folder.glob("*.deb"))


def unpack(package: Path, toolkit: Path) -> None:
    """Put what a build needs of a package where NVIDIA's toolkit has it."""
    tree = package.with_suffix("")
    call("dpkg-deb", "--extract", str(package), str(tree))
    for source, target in LAYOUT[package.name.split("_")[0]].items():
        (toolkit / target).parent.mkdir(parents=True, exist_ok=True)
        if source.endswith("/"):
            shutil.copytree(tree / source, toolkit / target, dirs_exist_ok=True)
        else:
            shutil.copy2(tree / source, toolkit / target)
    shutil.rmtree(tree)


def main() -> None:
    """Exits with a sentence at the first step that fails."""
    parser = argparse.ArgumentParser(prog="python -m build_tools.debian_cuda")
    parser.add_argument("folder", type=Path, help="where the toolkit goes; must not exist")
    parser.add_argument("--mirror", help="URL of a Debian mirror")
    options = parser.parse_args()
    if options.folder.exists():
        sys.exit(f"debian_cuda: folder must not exist, got {options.folder}")

    mirror = options.mirror or usual_mirror()
    toolkit = options.folder.resolve()
    # Beside the toolkit, not in /tmp, which may be small: the packages are a gigabyte.
    toolkit.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=toolkit.parent) as temporary:
        for package in download(mirror, Path(temporary)):
            unpack(package, toolkit)
    (toolkit / "bin" / "nvcc.profile").write_text(NVCC_PROFILE)
    print(call(str(toolkit / "bin" / "nvcc"), "--version"), end="")
    print(f"CUDA_HOME={toolkit}")


if __name__ == "__main__":
    main()
