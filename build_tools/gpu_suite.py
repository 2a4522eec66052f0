"""The one command for a machine with a GPU: builds nothing, proves a wheel, writes the receipt.

    python -m build_tools.gpu_suite [--wheel dist/NAME.whl] [--out tests/gpu_receipt.json]

It installs the wheel into an empty folder, copies the tests beside it (so that the sources of this
tree cannot be imported by accident), and runs the tests marked `gpu`, then those marked `sanitizer`
under both tools of compute-sanitizer, in many processes at once: most of a test's time is spent on
the CPU. If the compiler crashes, its file's tests get a process each, so that one is one failure.
No network is used; torch and pytest must be installed.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from build_tools.receipt import RECEIPT, ROOT, sources_sha256

# Not initcheck: with only our kernels watched, what torch's kernels wrote would count as unwritten.
SANITIZERS = ("racecheck", "memcheck")  # the longer first
KERNEL_TESTS = "gpu and not compile"
COMPILER_TESTS = "gpu and compile"
SANITIZER_TESTS = "sanitizer and gpu"
PROCESSES_AT_ONCE = 16
# Of a function with many slow cases the last would be waited for, but each run costs seconds.
TESTS_A_SANITIZER = 8
# These test the build and the sources, not the kernels on a device, and import from this tree.
_NOT_COPIED = ("packaging", "build_tools", "host", "__pycache__", RECEIPT.name)

_DEVICE_FACTS = """
import json, torch
major, minor = torch.cuda.get_device_capability()
print(json.dumps({
    "device": torch.cuda.get_device_name(),
    "capability": f"{major}.{minor}",
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
}))
"""


@dataclass(frozen=True)
class Suite:
    """The tests beside an installed wheel, away from this tree."""

    folder: Path

    @classmethod
    def install(cls, wheel: Path, folder: Path) -> "Suite":
        """Put the wheel, the tests and what they read into `folder`."""
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--target", str(folder / "site"), str(wheel)], check=True)
        ignore = shutil.ignore_patterns(*_NOT_COPIED)
        for name in ("tests", "examples", "docs", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        shutil.copy2(ROOT / "pyproject.toml", folder)
        return cls(folder)

    def run(self, output: Path, *command: str, **variables: str) -> int:
        """Run a command that imports the package from the wheel; returns its exit code."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "site"), **variables}
        start = time.monotonic()
        with output.open("w") as file:
            code = subprocess.run(
                command, cwd=self.folder, env=environment, stdout=file, stderr=subprocess.STDOUT
            ).returncode
        print(f"+ {' '.join(command)} # {time.monotonic() - start:.0f} s", flush=True)
        return code

    def build_info(self) -> dict[str, object]:
        """What the build wrote into the wheel."""
        path = self.folder / "site" / "torch_sm80moe" / "_build_info.json"
        info: dict[str, object] = json.loads(path.read_text())
        return info

    def collect(self, marker: str) -> list[str]:
        """The tests with a marker, as pytest names them."""
        output = self.folder / f"{_name(marker)}.log"
        self.run(output, *_pytest(marker, "tests"), "--collect-only")
        # Warnings name tests too, amid their sentences.
        return re.findall(r"^tests/\S+::.*$", output.read_text(), re.MULTILINE)

    def count(self, marker: str, *tests: str) -> Counter[str]:
        """Counts of passed, failed and skipped tests.

        If pytest crashes, each of the tests has a run of its own; one that crashes is a failure.
        """
        name = _name(f"{marker} {tests[0]}" + (f" {len(tests)}" if len(tests) > 1 else ""))
        junit, output = self.folder / f"{name}.xml", self.folder / f"{name}.log"
        # Compiled in this process: workers for one small kernel cost more than they save.
        code = self.run(
            output,
            *_pytest(marker, *tests),
            f"--junitxml={junit}",
            TORCHINDUCTOR_COMPILE_THREADS="1",
        )
        print(output.read_text(), flush=True)
        if junit.is_file():
            return count_tests(junit)
        print(f"gpu_suite: pytest must run to its end, got exit code {code}", flush=True)
        if len(tests) == 1:
            return Counter(failed=1)
        return sum((self.count(marker, test) for test in tests), Counter())

    def sanitizer_errors(self, tool: str, tests: Sequence[str]) -> int:
        """Errors that a compute-sanitizer tool finds in our kernels in these tests."""
        name = f"{tool}_{_name(tests[0])}"
        log, output = self.folder / f"{name}.log", self.folder / f"{name}_tests.log"
        code = self.run(
            output,
            *(_find_compute_sanitizer(), "--tool", tool, "--log-file", str(log)),
            # Only our kernels, and no complaint about calls that torch makes to see what works.
            *("--kernel-name", "kns=sm80moe", "--report-api-errors", "no"),
            *_pytest(SANITIZER_TESTS, *tests),
            # One allocation a tensor, so that an access past its end is an access to nothing.
            PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )
        found = log.read_text() if log.is_file() else ""
        print(output.read_text() + found, flush=True)
        return count_errors(found, code)


def device_facts() -> dict[str, str]:
    """The device, its driver, and the torch it runs under."""
    done = subprocess.run([sys.executable, "-c", _DEVICE_FACTS], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("gpu_suite: torch must see a CUDA device, got none")
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    return {**json.loads(done.stdout), "driver": driver.splitlines()[0].strip()}


def _name(text: str) -> str:
    return re.sub(r"\W+", "_", text)


def _pytest(marker: str, *tests: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marker, *tests)


def count_tests(junit: Path) -> Counter[str]:
    """Passed, failed and skipped tests of a junit file; an error counts as a failure."""
    keys = ("tests", "failures", "errors", "skipped")
    suites = ElementTree.parse(junit).getroot().iter("testsuite")
    totals = [[int(suite.get(key, 0)) for key in keys] for suite in suites]
    tests, failures, errors, skipped = (sum(column) for column in zip(*totals, strict=True))
    failed = failures + errors
    return Counter(passed=tests - failed - skipped, failed=failed, skipped=skipped)


def count_errors(output: str, exit_code: int) -> int:
    """The sanitizer's own count; a run that failed without one counts as one error."""
    found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    errors = sum(map(int, found))
    failed = exit_code != 0 or not found
    return max(errors, int(failed))


def by_name(tests: Iterable[str], end: str) -> dict[str, list[str]]:
    """The tests by what their names are before `end`: that of their file, or function."""
    found: dict[str, list[str]] = defaultdict(list)
    for test in tests:
        found[test.partition(end)[0]].append(test)
    return found


def parts_of_functions(tests: Iterable[str]) -> list[list[str]]:
    """The tests of each function, in parts of the same size, or nearly."""
    parts = []
    for found in by_name(tests, "[").values():
        num_parts = -(-len(found) // TESTS_A_SANITIZER)
        parts += [found[part::num_parts] for part in range(num_parts)]
    return parts


def _find_compute_sanitizer() -> str:
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if found is None:
        sys.exit("gpu_suite: compute-sanitizer must be on PATH or in /usr/local/cuda/bin, got none")
    return found


def newest_wheel(folder: Path) -> Path:
    """The wheel that was built last."""
    wheels = sorted(folder.glob("torch_sm80moe-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        sys.exit(f"gpu_suite: a wheel must be in {folder}, got none; run `make wheel`")
    return wheels[-1]


def run_all(suite: Suite) -> tuple[Counter[str], dict[str, int]]:
    """Counts of all tests, and errors by sanitizer."""
    with ThreadPoolExecutor(PROCESSES_AT_ONCE) as pool:
        markers = (KERNEL_TESTS, COMPILER_TESTS, SANITIZER_TESTS)
        kernel_tests, compiler_tests, sanitizer_tests = pool.map(suite.collect, markers)
        kernels = [
            pool.submit(suite.count, KERNEL_TESTS, file) for file in by_name(kernel_tests, "::")
        ]
        compiled = [
            pool.submit(suite.count, COMPILER_TESTS, *tests)
            for tests in by_name(compiler_tests, "::").values()
        ]
        parts = parts_of_functions(sanitizer_tests)
        # Sanitizers slow down whatever shares the GPU: they wait for the kernels' tests.
        passed = sum((future.result() for future in kernels), Counter())
        found = {
            tool: [pool.submit(suite.sanitizer_errors, tool, part) for part in parts]
            for tool in SANITIZERS
        }
    if not compiler_tests or not parts or not passed["passed"]:
        sys.exit("gpu_suite: tests marked gpu must run, got none")
    counts = sum((future.result() for future in compiled), passed)
    return counts, {tool: sum(part.result() for part in parts) for tool, parts in found.items()}


def main() -> None:
    """Exits with 1 if a test failed or a sanitizer found something; the receipt says so too."""
    parser = argparse.ArgumentParser(prog="python -m build_tools.gpu_suite")
    parser.add_argument("--wheel", type=Path, help="default: the newest in dist/")
    parser.add_argument("--out", type=Path, default=RECEIPT)
    options = parser.parse_args()
    wheel = options.wheel or newest_wheel(ROOT / "dist")
    facts = device_facts()

    with tempfile.TemporaryDirectory() as folder:
        suite = Suite.install(wheel.resolve(), Path(folder))
        sources = sources_sha256()
        if suite.build_info()["sources_sha256"] != sources:
            sys.exit(f"gpu_suite: {wheel.name} must be built from this tree; run `make wheel`")
        counts, errors = run_all(suite)

    receipt = {
        "sources_sha256": sources,
        **facts,
        **{outcome: counts[outcome] for outcome in ("passed", "failed", "skipped")},
        "sanitizer_errors": sum(errors.values()),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    text = json.dumps(receipt, indent=2)
    options.out.write_text(text + "\n")
    print(f"{text}\nsanitizer errors by tool: {errors}")
    sys.exit(bool(counts["failed"] or sum(errors.values())))


if __name__ == "__main__":
    main()
