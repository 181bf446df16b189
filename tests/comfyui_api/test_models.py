"""Model files of a workflow: missing ones named all at once, those that are there known by their content."""

from __future__ import annotations

import hashlib
import os

import pytest
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from comfyui_lavie.comfyui_api.models import check_models, model_digests
from comfyui_lavie.place import ROOT

NANO = "lavie_nano_text_to_video.json"


def test_digests_are_those_of_the_files(comfyui):
    files = {
        f"lavie_nano_{name}.safetensors": ROOT / "weights" / folder / f"lavie_nano_{name}.safetensors"
        for name, folder in (("base", "diffusion_models"), ("text_encoder", "text_encoders"), ("vae", "vae"))
    }
    expected = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    api = comfyui.workflow(NANO)
    check_models(api, comfyui.object_info)
    assert model_digests(comfyui.server, api) == expected


def test_all_missing_models_are_named_with_what_there_is(comfyui):
    api = comfyui.workflow(NANO, model_name="lost.safetensors", vae_name="gone.ckpt")
    with pytest.raises(WorkflowError) as error:
        check_models(api, comfyui.object_info)
    for part in ("lost.safetensors", "gone.ckpt", "lavie_nano_vae.safetensors", "LaVieVAELoader", "models folder"):
        assert part in str(error.value)


def test_one_name_in_two_folders_and_a_file_elsewhere(comfyui):
    """Different content under one name is told apart; what the server does not list is unknown."""
    models = comfyui.server.base_directory / "models"
    files = [models / folder / "twice_named.safetensors" for folder in ("loras", "checkpoints")]
    try:
        for number, file in enumerate(files):
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(bytes([number]))
            os.utime(file, (1e9, 1e9))
        api = {"1": {"class_type": "Any", "inputs": {"a": "twice_named.safetensors", "b": "nowhere.pth", "c": 3}}}
        found = model_digests(comfyui.server, api)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    assert found.pop("nowhere.pth").startswith("unknown: ")
    assert found == {
        f"{folder}/twice_named.safetensors": hashlib.sha256(bytes([number])).hexdigest()
        for number, folder in enumerate(("loras", "checkpoints"))
    }
