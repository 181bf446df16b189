"""The command line: help that teaches, errors without stack traces, and a run from images to files."""

import subprocess
import sys

import pytest
from comfyui_lavie.tests.tiny_training import (
    SIZES,
    TEXT,
    VAE,
    make_catalogue,
    make_unet,
    recipe_named,
    save_unet,
    settings,
)
from comfyui_lavie.training.__main__ import COMMANDS, main
from comfyui_lavie.training.checkpoints import Checkpoints


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and "examples:" in text and len(text) > 600


def test_the_list_of_commands(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    assert main(["fly"]) == 2 and "unknown command fly" in capsys.readouterr().err


def test_the_module_runs():
    result = subprocess.run(
        [sys.executable, "-P", "-m", "comfyui_lavie.training", "train", "nowhere"], capture_output=True, text=True
    )
    assert result.returncode == 1 and "there is no recipe nowhere" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_recipe_is_checked_without_its_files(capsys):
    assert main(["train", "base", "--check"]) == 0 and "base is sound" in capsys.readouterr().out
    assert main(["train", "base", "--check", "--set", "run.speed=1", "--set", "data.flip=3"]) == 1
    assert "run.speed: unknown" in capsys.readouterr().err


def test_missing_files_are_named(tmp_path, capsys):
    catalogue = make_catalogue(tmp_path / "catalogue", size=32)
    places = settings(data__catalogues=[str(catalogue)], run__out=tmp_path / "run", validation__heldout=1,
                      data__buckets=[{"frames": 4, "height": 32, "width": 32, "rows": 2}])  # fmt: skip
    changes = [word for change in places for word in ("--set", change)]
    assert main(["train", "base", *changes]) == 1
    assert "encoders.vae: there is no" in capsys.readouterr().err
    assert main(["train", "base", *changes, "--set", "data.catalogues=['nowhere']"]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", "x.safetensors"]) == 1
    assert "no run of ours" in capsys.readouterr().err


def test_train_sample_and_export(tmp_path, capsys):
    catalogue = make_catalogue(tmp_path / "catalogue")
    places = settings(
        data__catalogues=[str(catalogue)], run__out=tmp_path / "run", encoders__text=TEXT, encoders__vae=VAE,
        encoders__cache=tmp_path / "cache", model__start=save_unet(make_unet(), tmp_path / "base.safetensors"),
        data__buckets=[{"frames": 4, "height": 32, "width": 32, "rows": 2}], run__steps=2, run__precision="no",
        data__images=1, validation__heldout=2, validation__every=0, samples__every=0, run__threads=1,
    )  # fmt: skip
    command = ["train", recipe_named("nano_joint"), *(word for change in places for word in ("--set", change))]
    assert main(command) == 0
    assert main(command) == 0, "a finished run has nothing left to do"
    assert Checkpoints(tmp_path / "run").load()["step"] == 2
    capsys.readouterr()
    looks = tmp_path / "looks"
    sampling = ["--steps", "2", "--out", str(looks)]
    assert main(["sample", str(tmp_path / "run"), "--prompt", "a red fish", "--frames", "6", *sampling]) == 0
    assert "a red fish" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run"), "--count", "2", *sampling]) == 0
    assert sorted(path.name for path in looks.glob("*.mp4")) == ["00000002_0.mp4", "00000002_1.mp4"]
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "model.bin")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
    save_unet(make_unet(seed=1, **SIZES), tmp_path / "base.safetensors")
    assert main(["sample", str(tmp_path / "run"), *sampling]) == 1
    assert "is not what it was when" in capsys.readouterr().err


def test_lora_wants_a_lora_recipe_and_images(tmp_path, capsys):
    assert main(["lora", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 1
    assert "does not exist" in capsys.readouterr().err
