"""Real processes: one that is killed and goes on, and two that do the work of one."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from comfyui_lavie.tests.tiny_training import make_catalogue, make_unet, save_unet, tiny_recipe
from comfyui_lavie.training.checkpoints import Checkpoints
from comfyui_lavie.training.recipe_file import save_recipe

STEPS = 8
COMMAND = [sys.executable, "-P", "-c",
           "import logging, sys; from comfyui_lavie.training.recipe_file import recipe_of_run; "
           "from comfyui_lavie.training.train import train; logging.basicConfig(level=logging.INFO); "
           "train(recipe_of_run(sys.argv[1]))"]  # fmt: skip
THREADS_LEFT = (  # what COMMAND also says; a thread of gloo's that is still at work when Python ends aborts the process
    "; from pathlib import Path; "
    "names = [(task / 'comm').read_text() for task in Path('/proc/self/task').glob('*')]; "
    "print('threads left:', sum('gloo' in name for name in names))"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    make_catalogue(folder / "catalogue")
    save_unet(make_unet(), folder / "base.safetensors")
    return folder


def recipe_in(world, name, **values):
    """The joint recipe with everything that has a state: average, warm-up, drops, cached and uncached latents."""
    out = world / name
    out.mkdir(exist_ok=True)
    shared = {
        "model__start": world / "base.safetensors", "data__images": 2, "data__stride": [1, 2], "run__steps": STEPS,
        "data__buckets": [{"frames": 4, "height": 32, "width": 32, "rows": 4, "probability": 0.5},
                          {"frames": 5, "height": 24, "width": 40, "rows": 2, "probability": 0.5}],
        "optimizer__warmup": 4, "run__decay": 3, "samples__every": 0, "run__save_every": 1,
        "validation__every": 4, "validation__heldout": 2, "validation__quantiles": 2,
    }  # fmt: skip
    save_recipe(tiny_recipe("base", out, world / "catalogue", **{**shared, **values}), out)
    return out


def metrics(out):
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def run(command, out):
    """What it says."""
    result = subprocess.run([*command, str(out)], capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def kill_after(out, steps: int) -> None:
    """Start a run and kill it, without warning, as soon as it has recorded that many steps."""
    process = subprocess.Popen([*COMMAND, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while sum("loss" in row for row in metrics(out)) < steps:
            assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def whole(world):
    """A run that nobody stops."""
    out = recipe_in(world, "whole", run__keep=STEPS)
    run(COMMAND, out)
    return out


def assert_same(out, whole):
    one, other = Checkpoints(out).load(), Checkpoints(whole).load()
    assert one["step"] == other["step"] == STEPS
    for part in ("model", "average"):
        assert all(torch.equal(value, other[part][key]) for key, value in one[part].items()), part
    states = zip(one["optimizer"]["state"].values(), other["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in states for key in a)
    assert metrics(out) == metrics(whole)


def test_a_killed_run_goes_on_bit_for_bit(world, whole):
    """Killed twice with kill -9, its newest checkpoint damaged in between: all that is recorded is the same."""
    out = recipe_in(world, "killed", run__keep=3)
    kill_after(out, 3)
    files = Checkpoints(out).files()
    files[-1].write_bytes(files[-1].read_bytes()[:-1000])
    reached = int(files[-1].name[5:13])
    kill_after(out, reached + 2)
    assert "INFO:comfyui_lavie.training.loop:going on from step" in run(COMMAND, out)
    assert_same(out, whole)


def torchrun(count: int, more: str = ""):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [sys.executable, "-P", "-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}",
            "--no-python", *COMMAND[:-1], COMMAND[-1] + more]  # fmt: skip


def assert_close(out, whole, first: int):
    """Records from step ``first`` on, and what was learned, are equal up to the rounding of sums."""
    ours, theirs = ([row for row in metrics(folder) if row["step"] >= first] for folder in (out, whole))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] and ours[-1]["step"] == STEPS
    for one, other in zip(ours, theirs, strict=True):
        assert one.get("heldout", {}) == pytest.approx(other.get("heldout", {}), rel=1e-4)
        for key in other.keys() & {"loss", "video", "images", "grad_norm", "lr"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4), (one["step"], key)
    one, other = (Checkpoints(folder).load()["model"] for folder in (out, whole))
    begun = {f"unet.{key}": value for key, value in make_unet().state_dict().items()}
    moved = sum((other[key] - begun[key]).square().sum() for key in other)
    apart = sum((other[key] - one[key]).square().sum() for key in other)
    assert apart < 1e-3 * moved


def test_two_processes_do_the_work_of_one(world, whole):
    """The same global batch over two gloo processes."""
    out = recipe_in(world, "two")
    assert run(torchrun(2, THREADS_LEFT), out).count("threads left: 0") == 2
    assert_close(out, whole, 1)


def test_two_processes_with_shared_out_states_go_on_where_one_was(world, whole):
    """FSDP2, from a checkpoint of one process: it does not depend on how many wrote it."""
    out = recipe_in(world, "handed_over", run__parallel="fsdp")
    for file in Checkpoints(whole).files()[:4]:
        shutil.copy(file, out)
    shutil.copy(whole / "metrics.jsonl", out)
    assert "going on from step 4" in run(torchrun(2), out)
    assert_close(out, whole, 5)
