"""Tuning files: what is written is read, what cannot be used is told and never raised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import timeit
import warnings

import pytest
import torch

import torch_sm80moe
from torch_sm80moe import _build, _ops, _settings, info, load_tuning, select_tactic, tactic_table
from torch_sm80moe.tuning import file, loading
from torch_sm80moe.tuning.file import Device, Gemm, Tuning, TuningError

A100 = Device("NVIDIA A100-SXM4-80GB", "8.0", 108, 166912)
RTX3090 = Device("NVIDIA GeForce RTX 3090", "8.6", 82, 101376)
GEMM1 = Gemm("bfloat16", "swiglu", 8, 28672, 4096, 128)
GEMM2 = Gemm("bfloat16", "none", 8, 4096, 14336, 128)

needs_kernels = pytest.mark.skipif(
    not tactic_table(), reason="this installation has no CUDA kernels"
)


def tuning_of(device: Device = A100, **changes: object) -> Tuning:
    times = {GEMM1: {3: 1200.128, 4: 1100.5}, GEMM2: {3: 1150.0, 4: 1250.0}}
    return Tuning(device, **{"times": times, **changes})


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Be a machine with two A100, and keep what would be handed to C++."""
    handed: dict[int, list[list[int]]] = {}
    monkeypatch.setattr(loading, "_devices", lambda: {0: A100, 1: A100})
    monkeypatch.setattr(loading, "in_use", {})
    monkeypatch.setattr(
        _ops, "set_tuning", lambda rows, index: handed.update({index: rows.tolist()})
    )
    monkeypatch.setattr(
        _ops, "tactic_table", lambda: torch.ones(9, len(_ops.TACTIC_COLUMNS), dtype=torch.int32)
    )
    monkeypatch.setattr(_settings, "TUNING", None)
    monkeypatch.setattr(_settings, "CONFIG_HOME", tmp_path / "config")
    return handed


ROWS = [[2, 1, 8, 28672, 4096, 128, 4], [2, 0, 8, 4096, 14336, 128, 3]]


def load_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loading.load_found()


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a100.json"
    tuning_of().write(path)
    read = file.read(path)
    assert read == tuning_of(times={GEMM1: {3: 1200.13, 4: 1100.5}, GEMM2: {3: 1150.0, 4: 1250.0}})
    assert read.rows() == [ROWS[1], ROWS[0]]  # sorted
    assert [path.name for path in path.parent.iterdir()] == ["a100.json"]


def test_a_file_can_be_compared_line_by_line():
    text = tuning_of(version="1.0", gemm_sha256="0123").text()
    assert text == (
        "{\n"
        '  "format": 1,\n'
        '  "version": "1.0",\n'
        '  "gemm_sha256": "0123",\n'
        '  "device": {\n'
        '    "name": "NVIDIA A100-SXM4-80GB",\n'
        '    "capability": "8.0",\n'
        '    "num_sms": 108,\n'
        '    "shared_memory": 166912\n'
        "  },\n"
        '  "measurements": [\n'
        '    {"dtype": "bfloat16", "epilogue": "none", "num_experts": 8, "n": 4096, "k": 14336, '
        '"num_rows": 128, "us": {"3": 1150.0, "4": 1250.0}},\n'
        '    {"dtype": "bfloat16", "epilogue": "swiglu", "num_experts": 8, "n": 28672, "k": 4096, '
        '"num_rows": 128, "us": {"3": 1200.13, "4": 1100.5}}\n'
        "  ]\n"
        "}\n"
    )
    reversed_times = dict(reversed(tuning_of().times.items()))
    assert tuning_of(times=reversed_times).text() == tuning_of().text()


def test_nothing_measured_is_a_file_too(tmp_path):
    tuning_of(times={}).write(tmp_path / "empty.json")
    assert file.read(tmp_path / "empty.json").rows() == []


def edited(**changes: object) -> str:
    return json.dumps({**json.loads(tuning_of().text()), **changes})


def edited_row(**changes: object) -> str:
    rows = json.loads(tuning_of().text())["measurements"]
    return edited(measurements=[rows[0], {**rows[1], **changes}])


CORRUPT = {
    "empty": ("", "must be a readable JSON file"),
    "torn": (tuning_of().text()[:300], "must be a readable JSON file"),
    "binary": ("\0\x01", "must be a readable JSON file"),
    "deep": ("[" * 10**5, "must be a readable JSON file"),
    "list": ("[]", "must have 'format' as int, got None"),
    "format": (edited(format=2), "must have format 1, got 2"),
    "no-device": (edited(device=None), "must have 'device' as dict, got None"),
    "device-name": (edited(device={"name": 7}), "must have 'name' as str, got 7"),
    "version": (edited(version=1), "must have 'version' as str, got 1"),
    "hash": (edited(gemm_sha256=None), "must have 'gemm_sha256' as str, got None"),
    "rows": (edited(measurements={}), "must have 'measurements' as list, got {}"),
    "row": (edited(measurements=[3]), "must have 'dtype' as str, got None"),
    "dtype": (edited_row(dtype="int3"), "must hold times of tactics for possible sizes"),
    "epilogue": (edited_row(epilogue="gelu"), "must hold times of tactics for possible sizes"),
    "experts": (edited_row(num_experts=1025), "must hold times of tactics for possible sizes"),
    "no-rows": (edited_row(num_rows=0), "must hold times of tactics for possible sizes"),
    "long": (edited_row(n=2**31), "must hold times of tactics for possible sizes"),
    "text-size": (edited_row(k="4096"), "must have 'k' as int, got '4096'"),
    "no-times": (edited_row(us={}), "must hold times of tactics for possible sizes"),
    "time": (edited_row(us={"1": -1}), "must hold times of tactics for possible sizes"),
    "nan": (edited_row(us={"1": float("nan")}), "must hold times of tactics for possible sizes"),
    "tactic": (edited_row(us={"-1": 1}), "must hold times of tactics for possible sizes"),
    "unknown-tactic": (edited_row(us={"9": 1}), "must name tactics up to 8, got 9"),
    "kernels": (edited(gemm_sha256="0123", version="0.0.9"), "must be measured with these kernels"),
    "foreign": (tuning_of(RTX3090).text(), "must be measured on NVIDIA A100-SXM4-80GB"),
    "other-slice": (
        tuning_of(A100._replace(num_sms=42)).text(),
        r"must be measured on .*108 SMs.* got .*42 SMs",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_a_file_that_cannot_be_used_is_told_once(case, machine, tmp_path, monkeypatch):
    text, reason = CORRUPT[case]
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text(text)
    tuning_of().write(good)
    monkeypatch.setattr(_settings, "TUNING", f"{bad}{os.pathsep}{good}")
    with pytest.warns(UserWarning, match=f"does not use a tuning file: {bad} {reason}") as told:
        loading.load_found()
    assert len(told) == 1
    assert machine[0] == file.read(good).rows()
    assert loading.in_use == {0: (good,), 1: (good,)}
    with pytest.raises(ValueError, match=f"load_tuning: {bad} {reason}"):
        load_tuning(good, bad)


def test_a_file_that_is_not_there_is_told(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(_settings, "TUNING", f"{tmp_path / 'none.json'}{os.pathsep}{tmp_path}")
    with pytest.warns(UserWarning, match="must be a readable JSON file") as told:
        loading.load_found()
    assert len(told) == 2
    assert machine == {0: [], 1: []}


def test_the_user_s_file_is_found(machine, tmp_path):
    path = tmp_path / "config" / "torch_sm80moe" / "tuning" / "NVIDIA-A100-SXM4-80GB.json"
    assert loading.user_file(A100) == path
    tuning_of().write(path)
    tuning_of(RTX3090).write(loading.user_file(RTX3090))  # of another machine with this home
    load_without_a_warning()
    assert machine == {0: file.read(path).rows(), 1: file.read(path).rows()}
    assert info._tuning() == [f"cuda:0 {path}", f"cuda:1 {path}"]


def test_without_files_nothing_is_in_use(machine):
    load_without_a_warning()
    assert machine == {0: [], 1: []}
    assert info._tuning() == []


def test_named_files_replace_the_user_s(machine, tmp_path, monkeypatch):
    tuning_of().write(loading.user_file(A100))
    monkeypatch.setattr(_settings, "TUNING", "")
    load_without_a_warning()
    assert machine == {0: [], 1: []}

    other = tmp_path / "other.json"
    tuning_of(times={GEMM1: {7: 1.0}}).write(other)
    monkeypatch.setattr(_settings, "TUNING", str(other))
    load_without_a_warning()
    assert machine[0] == [[2, 1, 8, 28672, 4096, 128, 7]]


def test_files_add_up_and_the_last_counts(machine, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    tuning_of().write(first)
    tuning_of(times={GEMM1: {7: 1.0}}).write(second)
    load_tuning(first, second)
    assert machine[0] == [ROWS[1], ROWS[0], [2, 1, 8, 28672, 4096, 128, 7]]
    assert loading.in_use[0] == (first, second)
    load_tuning()
    assert machine == {0: [], 1: []}
    assert loading.in_use == {0: (), 1: ()}


def test_each_device_gets_its_files(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_devices", lambda: {0: RTX3090, 1: A100})
    tuning_of(times={GEMM1: {7: 1.0}}).write(tmp_path / "a100.json")
    tuning_of(RTX3090, times={GEMM1: {6: 1.0}}).write(tmp_path / "rtx.json")
    load_tuning(tmp_path / "a100.json", tmp_path / "rtx.json")
    assert {index: rows[0][-1] for index, rows in machine.items()} == {0: 6, 1: 7}


def test_no_device(monkeypatch):
    monkeypatch.setattr(loading, "_devices", dict)
    with pytest.raises(RuntimeError, match="load_tuning: there must be a CUDA device, got none"):
        load_tuning()


def test_kernels_of_an_unknown_build(machine, monkeypatch):
    monkeypatch.setattr(file, "build_info", dict)
    tuning_of().check(A100)
    with pytest.raises(TuningError, match="must be measured with these kernels"):
        tuning_of(gemm_sha256="0123").check(A100)


@needs_kernels
def test_a_build_names_its_kernels():
    assert len(_build.build_info()["gemm_sha256"]) == 64


@needs_kernels
def test_files_are_read_when_cuda_starts():
    code = (
        "import torch, torch_sm80moe; from torch_sm80moe.tuning.loading import load_found;"
        "print([call for call, _ in torch.cuda._queued_calls].count(load_found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@needs_kernels
@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([[2, 0, 8, 64, 64, 1, 99]], "tactic must be between 0 and .*, got 99"),
        ([[2, 0, 8, 64, 64, 1, -1]], "tactic must be between 0 and .*, got -1"),
        ([[0, 0, 8, 64, 64, 1, 0]], "dtype must be between 1 and 2, got 0"),
        ([[2, 4, 8, 64, 64, 1, 0]], "epilogue must be between 0 and 3, got 4"),
        ([[2, 0, 0, 64, 64, 1, 0]], "num_experts must be between 1 and 1024, got 0"),
        ([[2, 0, 8, 0, 64, 1, 0]], "n must be between 1 and .*, got 0"),
        ([[2, 0, 8, 64, 0, 1, 0]], "k must be between 1 and .*, got 0"),
        ([[2, 0, 8, 64, 64, 0, 0]], "num_rows must be between 1 and .*, got 0"),
        ([[2, 0, 8, 64, 64, 1]], r"measurements must have shape \[R, 7\], got \[1, 6\]"),
    ],
)
def test_wrong_measurements(rows, sentence):
    with pytest.raises(RuntimeError, match=f"set_tuning: {sentence}"):
        torch.ops.sm80moe.set_tuning(torch.tensor(rows, dtype=torch.int32), 0)


@needs_kernels
def test_wrong_tensors_of_measurements():
    set_tuning = torch.ops.sm80moe.set_tuning
    rows = torch.tensor([ROWS[0]] * 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="set_tuning: measurements must be int32, got int64"):
        set_tuning(rows.long(), 0)
    with pytest.raises(RuntimeError, match="set_tuning: measurements must be contiguous"):
        set_tuning(rows.repeat(1, 2)[:, ::2], 0)
    with pytest.raises(RuntimeError, match=r"set_tuning: device_index must be .* got -1"):
        set_tuning(rows, -1)


@pytest.mark.skipif(bool(tactic_table()), reason="this installation has CUDA kernels")
def test_without_kernels_there_is_nothing_to_tune():
    with pytest.raises(RuntimeError, match=r"set_tuning: .* got a CPU-only one"):
        torch.ops.sm80moe.set_tuning(torch.zeros(0, 7).int(), 0)


@pytest.mark.gpu
def test_selection_follows_the_file(cuda, tmp_path):
    load_tuning()
    estimated = {rows: select_tactic(rows, 8, 4096, 4096) for rows in (63, 64, 100, 128, 129)}
    tactic = next(t.id for t in tactic_table() if t.id not in estimated.values())
    times = {Gemm("bfloat16", "none", 8, 4096, 4096, rows): {tactic: 1.0} for rows in (64, 128)}
    Tuning(file.describe_device(torch.cuda.current_device()), times).write(tmp_path / "t.json")
    load_tuning(tmp_path / "t.json")
    try:
        for rows, without in estimated.items():
            expected = tactic if 64 <= rows <= 128 else without
            assert select_tactic(rows, 8, 4096, 4096) == expected
            half = select_tactic(rows, 8, 4096, 4096, dtype=torch.float16)
            assert half == without
    finally:
        load_tuning()
    assert select_tactic(100, 8, 4096, 4096) == estimated[100]


@pytest.mark.gpu
def test_named_file_is_in_use_from_the_first_tensor_on(cuda, tmp_path):
    estimated = select_tactic(100, 8, 4096, 4096)
    tactic = next(t.id for t in tactic_table() if t.id != estimated)
    times = {Gemm("bfloat16", "none", 8, 4096, 4096, 100): {tactic: 1.0}}
    Tuning(file.describe_device(0), times).write(tmp_path / "t.json")
    code = (
        "import torch, torch_sm80moe; torch.zeros(1, device='cuda');"
        "print(torch.ops.sm80moe.select_tactic(100, 8, 4096, 4096, 0, 2, 0))"
    )
    for name, expected in ((str(tmp_path / "t.json"), tactic), ("", estimated)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "SM80MOE_TUNING": name},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) == expected


@pytest.mark.gpu
def test_selecting_costs_the_host_little(cuda):
    """Beside an operator that only counts bytes, so that the cost of any call is left out."""
    select = torch.ops.sm80moe.select_tactic.default
    count = torch.ops.sm80moe.workspace_size.default
    calls = 100

    def us(call) -> float:
        # Many short tries: other processes leave a core alone for a moment, hardly for longer.
        return min(timeit.repeat(call, number=calls, repeat=500)) / calls * 1e6

    assert us(lambda: select(1000, 8, 4096, 4096, 0, 2, 0)) - us(lambda: count(9, 8, 2, 64, 64)) < 2


def test_public_name():
    assert torch_sm80moe.load_tuning is load_tuning
