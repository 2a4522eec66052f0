"""What a process pays before its second call of `fused_moe`, with lazy and with eager loading.

    python benchmarks/first_call.py [--repeat 5]

Every row is the median over fresh processes. With CUDA_MODULE_LOADING=LAZY, CUDA's default, the
first call loads the kernels that it runs; with EAGER the first use of the library loads all. The
last row is device memory that is not torch's allocator's and was free before the first call.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOADING = ("LAZY", "EAGER")


def measure(device: str) -> dict[str, float]:
    """Milliseconds of each step in this process, in the order in which a program takes them."""
    costs: dict[str, float] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        costs[f"{name}, ms"] = 1000 * (time.perf_counter() - start)

    with step("import torch"):
        import torch
    with step("import torch_sm80moe"):
        import torch_sm80moe

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def taken_bytes() -> int:
        if device != "cuda":
            return 0
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    with step("context and torch's first kernel"):
        torch.ones(1, device=device).add_(1)
        wait()
    layer = torch_sm80moe.FusedMoE(1024, 512, num_experts=8, top_k=2, device=device).experts
    x = torch.zeros(4, 1024, device=device).bfloat16()
    weights = torch.ones(4, 2, device=device)
    ids = torch.zeros(4, 2, dtype=torch.int32, device=device)
    wait()
    before = taken_bytes()
    for name in ("first call", "second call"):
        with step(name):
            layer(x, weights, ids)
            wait()
    costs["device memory of the calls, MB"] = (taken_bytes() - before) / 1e6
    return costs


def median_costs(loading: str, device: str, repeat: int) -> dict[str, float]:
    """The same over `repeat` processes, after one that fills the caches of the file system."""
    command = [sys.executable, __file__, "--measure", "--device", device]
    environment = {**os.environ, "CUDA_MODULE_LOADING": loading}
    runs = []
    for _ in range(repeat + 1):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{Path(__file__).name}: every process must succeed, see above")
        runs.append(json.loads(done.stdout))
    return {name: statistics.median(run[name] for run in runs[1:]) for name in runs[0]}


def main() -> None:
    """Print a row for every step and a column for every way of loading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="processes for each column")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--measure", action="store_true", help="measure this process, print JSON")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.device)))
        return
    columns = [median_costs(loading, options.device, options.repeat) for loading in LOADING]
    print(f"{'':34}" + "".join(f"{loading:>10}" for loading in LOADING))
    for name in columns[0]:
        print(f"{name:34}" + "".join(f"{column[name]:10.2f}" for column in columns))


if __name__ == "__main__":
    main()
