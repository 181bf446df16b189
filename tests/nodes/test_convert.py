"""Published checkpoints written anew as safetensors: the same network, half the size, nothing overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.comfyui_api.graphs import WorkflowError, saved_files
from comfyui_lavie.lavie_models.checkpoint import (
    CheckpointError,
    convert_state_dict,
    detect_config,
    export_published,
    load_checkpoint,
)
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.config import STAGES
from comfyui_lavie.lavie_models.convert import convert_file, default_target, main
from comfyui_lavie.nodes.convert import target_path

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "weights" / "diffusion_models" / "lavie_nano_base.safetensors"


def write_published(stage: str, path: Path) -> dict[str, torch.Tensor]:
    """A small file as the authors' training wrote theirs, under `ema`; returns its weights under our names."""
    weights = hashed.small_published_weights(stage)
    torch.save({"ema": weights, "step": 7}, path)
    return convert_state_dict(weights, detect_config(weights)[0])


@pytest.mark.parametrize("stage", STAGES)
def test_the_new_file_loads_and_is_the_same_network(stage, tmp_path):
    original = write_published(stage, tmp_path / "lavie.pt")
    size = convert_file(tmp_path / "lavie.pt", tmp_path / "new.safetensors")
    assert size < 0.55 * (tmp_path / "lavie.pt").stat().st_size
    loaded = load_model(str(tmp_path / "new.safetensors"), stage).model.diffusion_model.state_dict()
    assert loaded.keys() == original.keys()
    for key, value in original.items():
        torch.testing.assert_close(loaded[key].float(), value, rtol=2**-11, atol=1e-7)
    kept = load_checkpoint(tmp_path / "new.safetensors")
    assert detect_config(*kept) == detect_config(*load_checkpoint(tmp_path / "lavie.pt"))


def test_fp32_keeps_every_bit(tmp_path):
    original = write_published("base", tmp_path / "lavie.pt")
    convert_file(tmp_path / "lavie.pt", tmp_path / "new.safetensors", "fp32")
    weights, _ = load_checkpoint(tmp_path / "new.safetensors")
    assert weights.keys() == original.keys() and all(torch.equal(weights[key], original[key]) for key in original)


def test_nothing_is_overwritten_unasked(tmp_path):
    write_published("base", tmp_path / "lavie.pt")
    target = tmp_path / "new.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already"):
        convert_file(tmp_path / "lavie.pt", target)
    assert target.read_bytes() == b"precious"
    convert_file(tmp_path / "lavie.pt", target, overwrite=True)
    assert load_checkpoint(target)[1]["lavie.stage"] == "base"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lavie.pt", "new.safetensors"]


def test_values_too_large_for_the_dtype(tmp_path):
    weights = hashed.small_published_weights("base")
    weights["conv_in.bias"][0] = 1e6
    torch.save(weights, tmp_path / "lavie.pt")
    with pytest.raises(CheckpointError, match="input_blocks.0.0.bias .* fp16 .* bf16"):
        convert_file(tmp_path / "lavie.pt", tmp_path / "new.safetensors")
    convert_file(tmp_path / "lavie.pt", tmp_path / "new.safetensors", "bf16")


def test_command(tmp_path, capsys):
    """Default name, then a refusal in one line."""
    write_published("base", tmp_path / "lavie.pt")
    assert main([str(tmp_path / "lavie.pt")]) == 0
    assert "lavie_fp16.safetensors" in capsys.readouterr().out
    assert main([str(tmp_path / "lavie.pt")]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../up.safetensors", "folder/new", "C:\\new.safetensors"])
def test_the_new_file_stays_in_its_folder(name):
    with pytest.raises(ValueError, match="plain name"):
        target_path("lavie.pt", name, "fp16")


def test_node_through_the_server(comfyui):
    """A published .pt of the nano network is converted, refused a second time; the loader samples with the result."""
    folder = comfyui.server.base_directory / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    weights, metadata = load_checkpoint(NANO)
    torch.save({"ema": export_published(weights, detect_config(weights, metadata)[0])}, folder / "mine.pt")
    inputs = {"model_name": "mine.pt", "dtype": "fp16", "file_name": "", "overwrite": False}
    convert = {"1": {"class_type": "LaVieConvertCheckpoint", "inputs": inputs}}
    comfyui.run(convert)
    target = folder / default_target(Path("mine.pt"), "fp16").name
    assert target.stat().st_size < 0.6 * weights_bytes(weights, 4)
    inputs["file_name"] = target.name
    with pytest.raises(WorkflowError, match="exists already"):
        comfyui.run(convert)
    outputs = comfyui.run(comfyui.workflow("lavie_nano_text_to_video.json", model_name=target.name, steps=2, seed=41))
    assert saved_files(outputs, ".mp4")


def weights_bytes(weights: dict, each: int) -> int:
    return sum(value.numel() for value in weights.values()) * each
