"""Every header compiles alone: g++ checks the .h files, nvcc the .cuh files, ninja what changed."""

import subprocess
import sys

from build_tools import environment
from build_tools.native import ninja_command


def check_headers() -> subprocess.CompletedProcess[str]:
    """Compile the headers that changed; the output names those that need another one first."""
    # -k 0: report every broken header, not only the first.
    command = ninja_command("-j", str(environment.max_jobs()), "-k", "0", "headers")
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    result = check_headers()
    print(result.stdout, end="")
    sys.exit(result.returncode)
