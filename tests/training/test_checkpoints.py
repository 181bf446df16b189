"""Checkpoints: whole or not there, damage recognised, the last good one kept when the disk is full."""

import logging
import subprocess
import sys

import pytest
import torch
from comfyui_lavie.training.checkpoints import Checkpoints, OtherRunError
from comfyui_lavie.training.errors import TrainingError

SETTINGS = {"optimizer.lr": 0.1, "data.stride": (3, 10), "lora": None}


def value(step: int) -> torch.Tensor:
    return torch.full((100, 100), float(step))


def saved(folder, *steps, keep=2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.save(step, SETTINGS, model={"w": value(step)})
    return checkpoints


def test_the_newest_is_read_and_the_oldest_go(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3)
    assert [file.name[:13] for file in checkpoints.files()] == ["step-00000002", "step-00000003"]
    state = checkpoints.load()
    assert state["step"] == 3 and torch.equal(state["model"]["w"], value(3))
    assert Checkpoints(tmp_path / "nothing").load() is None


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_damaged_one_is_said_and_the_one_before_is_used(tmp_path, caplog, harm):
    checkpoints = saved(tmp_path, 1, 2)
    file = checkpoints.files()[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[harm])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load()["step"] == 1
    assert f"{file} is damaged" in caplog.text
    assert not file.exists() and file.with_suffix(".damaged").exists(), "moved aside, once"
    caplog.clear()
    assert checkpoints.load()["step"] == 1 and not caplog.text
    checkpoints.save(3, SETTINGS, model={})
    assert [path.name[:13] for path in checkpoints.files()] == ["step-00000001", "step-00000003"]


def test_nothing_but_damaged_ones_is_no_new_beginning(tmp_path):
    checkpoints = saved(tmp_path, 1)
    checkpoints.files()[0].write_bytes(b"")
    with pytest.raises(TrainingError, match="all checkpoints .* are damaged; delete them"):
        checkpoints.load()
    with pytest.raises(TrainingError, match="all checkpoints .* are damaged"):
        checkpoints.load()


def test_another_run_is_refused_naming_the_settings(tmp_path):
    checkpoints = saved(tmp_path, 1)
    with pytest.raises(OtherRunError, match="optimizer.lr: then 0.1, now 0.2; run.new: then None, now 1"):
        checkpoints.load({**SETTINGS, "optimizer.lr": 0.2, "run.new": 1})


def test_a_half_written_one_is_not_seen_and_cleared_away(tmp_path):
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "step-00000002.partial").write_bytes(b"half")
    assert checkpoints.load()["step"] == 1
    checkpoints.save(3, SETTINGS, model={})
    assert not list(tmp_path.glob("*.partial"))


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    """The operating system refuses to write more than 200 kB, as a full disk would in the middle of a file."""
    code = f"""
import resource, torch
from comfyui_lavie.training.checkpoints import Checkpoints, CheckpointWriteError
checkpoints = Checkpoints({str(tmp_path)!r})
checkpoints.save(1, {{}}, model={{"w": torch.zeros(10)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    checkpoints.save(2, {{}}, model={{"w": torch.randn(1000, 1000)}})
except CheckpointWriteError as error:
    print(error)
assert checkpoints.load()["step"] == 1
"""
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    good = Checkpoints(tmp_path).files()
    assert len(good) == 1 and f"the last good one, {good[0]}, is intact. Make room" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == [good[0].name]
