"""How the packaging tests build, install and run what they look at."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from build_tools.native import ROOT


def run(*command: str, cwd: Path = ROOT, **variables: str) -> str:
    """The output of a command; if it fails, the output is the message."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build_wheel(folder: Path, **variables: str) -> Path:
    """What `pip wheel .` makes in the current environment."""
    pip = (sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps")
    run(*pip, "--wheel-dir", str(folder), **variables)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_wheel(wheel: Path, folder: Path, code: str) -> str:
    """Run Python code that imports the package from an installation of the wheel in `folder`."""
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(folder)
    return run(sys.executable, "-c", code, cwd=folder, PYTHONPATH=str(folder))
