"""The tuner: what it measures, writes and keeps; with a real GPU, what it changes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from tests.bench.conftest import PROPERTIES, time_replays
from torch_sm80moe import _ops, cli, functional, load_tuning, select_tactic, tactic_table
from torch_sm80moe.bench import layer, timing
from torch_sm80moe.bench.models import parse_shape
from torch_sm80moe.bench.summary import summarize
from torch_sm80moe.tuning import checkpoint, file, loading, options, tuner
from torch_sm80moe.tuning.file import Device, Gemm, Tuning, TuningError
from torch_sm80moe.tuning.tuner import Plan, Size

DEVICE = Device("imaginary", "8.0", 108, 166912)
SMALL = parse_shape("8,2,64,32")
W13, W2 = (
    Gemm("bfloat16", *sizes) for sizes in (("swiglu", 8, 64, 64, 40), ("none", 8, 64, 32, 40))
)
# A call takes 100 microseconds, and 10 more for each GEMM with another tactic.
FASTEST = {"tactic_w13": 2, "tactic_w2": 1}


@pytest.fixture
def nine_tactics(monkeypatch):
    rows = torch.ones(9, len(_ops.TACTIC_COLUMNS), dtype=torch.int32)
    monkeypatch.setattr(_ops, "tactic_table", lambda: rows)


@pytest.fixture
def run(imaginary_gpu, nine_tactics, monkeypatch, tmp_path):
    """Tune on a device where tactics 0 to 2 fit, and the estimate always says 0."""
    ran: list[dict[str, int]] = []

    def fused_moe(*inputs, **tactics):
        ran.append(tactics)
        return functional.fused_moe(*inputs)

    def fake_time(replay, loop):
        timed = time_replays(replay, loop)
        call_us = 100.0 + sum(10 * (ran[-1][name] != best) for name, best in FASTEST.items())
        num_calls = len(replay.__self__.calls)
        return timed._replace(us=summarize([num_calls * call_us]))

    monkeypatch.setattr(layer, "fused_moe", fused_moe)
    monkeypatch.setattr(timing, "time_replays", fake_time)
    # Hardly any L2, hence few copies of the layer: every call runs for real, on the CPU.
    small = SimpleNamespace(**{**vars(PROPERTIES), "L2_cache_size": 1 << 10})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *device: small)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(file, "describe_device", lambda index: DEVICE)
    monkeypatch.setattr(tuner, "load_tuning", lambda: None)
    monkeypatch.setattr(tuner, "load_found", lambda: None)
    monkeypatch.setattr(tuner, "estimate", lambda gemm: 0)
    monkeypatch.setattr(tuner, "fitting_tactics", lambda num_experts: (0, 1, 2))
    output = io.StringIO()

    def tune(tokens=(20,), name="tuned.json"):
        plan = Plan((SMALL,), tokens, out=tmp_path / name)
        path = tuner.tune(plan, Console(file=output, width=200))
        return file.read(path), output.getvalue()

    tune.ran, tune.folder = ran, tmp_path
    return tune


def test_sizes_of_the_gemms():
    gemms = Size(parse_shape("8,2,4096,14336"), "float16", 64).gemms()
    assert gemms == {
        "w13": Gemm("float16", "swiglu", 8, 28672, 4096, 128),
        "w2": Gemm("float16", "none", 8, 4096, 14336, 128),
    }


def test_every_tactic_is_timed_in_both_gemms(run):
    tuning, printed = run()
    assert tuning.device == DEVICE
    # W2 keeps the estimated tactic while w13 is measured, and w13 the best one afterwards.
    assert tuning.times == {
        W13: {0: 120.0, 1: 120.0, 2: 110.0},
        W2: {0: 110.0, 1: 100.0, 2: 110.0},
    }
    assert [row[-1] for row in tuning.rows()] == [1, 2]
    assert printed.count(SMALL.name) >= 2
    assert "the layer is 9.5% slower by estimated tactics, on average" in printed


def test_sizes_are_added_to_the_file(run):
    run(tokens=(20,))
    tuning, _ = run(tokens=(40, 30))
    assert sorted({gemm.num_rows for gemm in tuning.times}) == [40, 60, 80]
    run(tokens=(20,))
    assert len(file.read(run.folder / "tuned.json").times) == 6


def test_a_killed_run_keeps_what_it_measured(run, monkeypatch):
    whole = tuner.measure

    def killed(size, layers):
        if size.num_tokens == 40:
            raise KeyboardInterrupt
        return whole(size, layers)

    monkeypatch.setattr(tuner, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tokens=(20, 40))
    assert {gemm.num_rows for gemm in file.read(run.folder / "tuned.json").times} == {40}


def test_a_wrong_tactic_is_not_timed(run, monkeypatch):
    monkeypatch.setattr(layer, "fused_moe", lambda x, *others, **tactics: torch.zeros_like(x))
    with pytest.raises(AssertionError, match=r"T=20 with .*'tactic_w13': 0.*relative"):
        run()
    assert not (run.folder / "tuned.json").exists()


def test_times_of_other_kernels_are_dropped(nine_tactics, tmp_path):
    path = tmp_path / "old.json"
    Tuning(DEVICE, {W13: {0: 1.0}}, gemm_sha256="0123").write(path)
    assert tuner.begin(path, DEVICE).times == {}
    Tuning(DEVICE, {W13: {0: 1.0}}).write(path)
    assert tuner.begin(path, DEVICE).times == {W13: {0: 1.0}}


def test_files_of_others_are_not_replaced(tmp_path):
    path = tmp_path / "other.json"
    for text, reason in (
        ("{}", "must have 'format' as int, got None"),
        (Tuning(DEVICE._replace(num_sms=42)).text(), "must be measured on imaginary"),
    ):
        path.write_text(text)
        with pytest.raises(TuningError, match=f"{path} {reason}"):
            tuner.begin(path, DEVICE)
        assert path.read_text() == text


CONFIGS = {
    "mixtral": ({"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}, 64),
    "qwen3_moe": (
        {
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "intermediate_size": 64,
        },
        32,
    ),
    "olmoe": ({"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64}, 64),
    "deepseek": (
        {
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "intermediate_size": 64,
        },
        32,
    ),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("style", CONFIGS)
def test_sizes_of_a_checkpoint(style, nested, tmp_path):
    config, intermediate_size = CONFIGS[style]
    config = {"model_type": style, "hidden_size": 128, **config}
    folder = tmp_path / "a_model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    assert checkpoint.read_model(str(folder)) == ("a_model", 8, 2, 128, intermediate_size)


def test_sizes_of_a_real_checkpoint(tiny_moe):
    assert checkpoint.read_model(str(tiny_moe)) == ("tiny_moe", 16, 4, 256, 128)


def refusal(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", *arguments])
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "must be a folder with a config.json, got "),
        ("{", "must be a folder with a config.json, got "),
        ("[]", "must have a config.json with an object, got "),
        ('{"hidden_size": 64}', "without num_local_experts or num_experts or n_routed_experts"),
    ],
)
def test_a_folder_without_a_model_is_named(text, sentence, tmp_path, capsys):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    told = refusal(capsys, "--model", str(tmp_path))
    assert "argument --model: must " in told
    assert sentence in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--shape", "1,2"), "argument --shape: must be four positive numbers E,k,H,I, got '1,2'"),
        (("--tokens", "4,0"), "argument --tokens: must be a positive number, got '0'"),
        (("--dtype", "int8"), "argument --dtype: must be among bfloat16,float16, got 'int8'"),
    ],
)
def test_wrong_options_are_named(arguments, sentence, capsys):
    assert sentence in refusal(capsys, *arguments)


def test_nothing_to_tune_is_refused(capsys):
    assert cli.main(["tune"]) == 1
    expected = "sm80moe tune: --model or --shape must be given, got neither\n"
    assert capsys.readouterr().err == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_one_sentence_says_so(capsys):
    assert cli.main(["tune", "--shape", "8,2,64,32"]) == 1
    expected = "sm80moe tune: a CUDA device must be there to be measured, got none\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (TuningError("a.json must be ours"), "a.json must be ours"),
        (AssertionError("x: relative 1"), "every tactic must be right, got x: relative 1"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nmore lines"),
            "the layer must fit the device's memory, got CUDA out of memory.",
        ),
    ],
)
def test_what_stops_a_run_is_one_sentence(error, sentence, monkeypatch, capsys):
    def stop(plan, console):
        raise error

    monkeypatch.setattr(tuner, "tune", stop)
    assert cli.main(["tune", "--shape", "8,2,64,32"]) == 1
    assert capsys.readouterr().err == f"sm80moe tune: {sentence}\n"


def test_the_command_line_makes_the_plan(tiny_moe):
    parser = cli._parser()
    words = ["--model", str(tiny_moe), "--shape", "8,2,64,32", "--dtype", "float16,bfloat16"]
    plan = options.make_plan(parser.parse_args(["tune", *words, "--tokens", "16,32"]))
    assert [model.name for model in plan.models] == ["tiny_moe", SMALL.name]
    assert (plan.tokens, plan.dtypes, plan.out) == ((16, 32), ("float16", "bfloat16"), None)


@pytest.mark.gpu
def test_a_real_run_is_in_use_afterwards(tmp_path):
    """Tune a tiny layer into the user's folder: the next process selects what was fastest."""
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    environment.pop("SM80MOE_TUNING", None)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("-m", "torch_sm80moe", "tune", "--shape", "8,2,256,128", "--tokens", "64,256")
    (path,) = (tmp_path / "torch_sm80moe" / "tuning").iterdir()
    info = run("-m", "torch_sm80moe", "info")
    assert str(path) in "".join(info.split())  # the table breaks long lines
    tuning = file.read(path)
    assert {gemm.num_rows for gemm in tuning.times} == {128, 512}
    fitting = {t.id for t in tactic_table() if t.smem_bytes + 64 <= tuning.device.shared_memory}
    assert all(set(times) == fitting for times in tuning.times.values())

    code = "import sys, torch_sm80moe as m; print([m.select_tactic(int(r), 8, 256, 256,"
    code += " epilogue='swiglu') for r in sys.argv[1:]])"
    selected = json.loads(run("-c", code, "127", "128", "129", "511", "512", "513"))
    fastest = {row[5]: row[6] for row in tuning.rows() if row[1] == 1}
    load_tuning()
    outside = [select_tactic(r, 8, 256, 256, epilogue="swiglu") for r in (127, 513)]
    loading.load_found()
    first, last = fastest[128], fastest[512]
    assert selected == [outside[0], first, first, last, last, outside[1]]
