"""Which symbols a library leaves to others: only torch's stable C functions and the system's."""

import re
import subprocess
import sys
from pathlib import Path

# torch's C functions, and names that carry the version of a system library (`free@GLIBC_2.2.5`).
_ALLOWED = re.compile(r"^(aoti_torch_\w+|torch_\w+|.+@(GLIBC|GLIBCXX|CXXABI|GCC)_[\w.]+)$")


def undefined_symbols(library: Path) -> dict[str, str]:
    """Name -> kind of every undefined dynamic symbol; kind `w` is weak, `U` is required."""
    command = ["nm", "-D", "--undefined-only", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: kind for kind, name in (line.split() for line in text.splitlines())}


def unresolved_symbols(library: Path) -> list[str]:
    """Required symbols that no libtorch.so and no system library will ever define."""
    undefined = undefined_symbols(library)
    return sorted(
        name for name, kind in undefined.items() if kind == "U" and not _ALLOWED.match(name)
    )


if __name__ == "__main__":
    unresolved = unresolved_symbols(Path(sys.argv[1]))
    print("\n".join(unresolved))
    sys.exit(bool(unresolved))
