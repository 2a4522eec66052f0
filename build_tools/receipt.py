"""The receipt of the last GPU run: which sources were proven, where, and with what result."""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECEIPT = ROOT / "tests" / "gpu_receipt.json"

# What decides the behaviour of the wheel.
_SOURCES = ("build_tools", "kernels", "setup.py", "torch_sm80moe")
# What decides how fast a tactic is.
GEMM_SOURCES = ("kernels/common", "kernels/gemm")
_BUILT = ("_C.so", "_build_info.json")


def sources_sha256(root: Path = ROOT, sources: tuple[str, ...] = _SOURCES) -> str:
    """A hash of names and contents, the same in a clone, a copy and an unpacked sdist."""
    digest = hashlib.sha256()
    for path in sorted(
        _source_files(root, sources), key=lambda path: path.relative_to(root).as_posix()
    ):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _source_files(root: Path, sources: tuple[str, ...]) -> list[Path]:
    candidates = [path for name in sources for path in (root / name, *(root / name).rglob("*"))]
    return [
        path
        for path in candidates
        if path.is_file() and path.name not in _BUILT and path.parent.name != "__pycache__"
    ]


def staleness(receipt: Path = RECEIPT, root: Path = ROOT) -> str | None:
    """Why the receipt does not speak for this tree, or None if it does."""
    if not receipt.is_file():
        return f"{receipt.name} does not exist: these kernels have not been run on a GPU"
    facts = json.loads(receipt.read_text())
    if facts["sources_sha256"] != sources_sha256(root):
        return f"{receipt.name} is stale: the sources changed after its run of {facts['date']}"
    if facts["failed"] or facts["sanitizer_errors"]:
        return f"{receipt.name} records failures: {facts}"
    return None


def main(arguments: list[str]) -> None:
    """`check` only warns, since a machine without a GPU cannot renew the receipt."""
    if arguments == ["hash"]:
        print(sources_sha256())
    elif arguments == ["check"]:
        reason = staleness()
        print(f"warning: {reason}" if reason else f"{RECEIPT.name} is up to date")
    else:
        sys.exit("usage: python -m build_tools.receipt check|hash")


if __name__ == "__main__":
    main(sys.argv[1:])
