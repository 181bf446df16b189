"""Every row of docs/mistakes.md: the mistake is made on the real server, and its message is the one in the table.

Contract: `MISTAKES` makes each mistake by its name in the table; `...` in a message stands for any text.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
from comfyui_lavie.bench import hashed
from comfyui_lavie.comfyui_api.graphs import WorkflowError
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
NANO = "lavie_nano_text_to_video.json"
ROW = re.compile(r"^\| (?!what happened)([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TABLE = dict(ROW.findall((ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")))
INTERPOLATION = "mistake_interpolation.pt"


class Desk:
    """An artist's ComfyUI: workflows to change, folders to put files into."""

    def __init__(self, comfyui):
        self.comfyui = comfyui
        self.models = comfyui.server.base_directory / "models"

    def put(self, name: str, content, folder: str = "diffusion_models") -> str:
        """A file among the models: bytes, a dictionary for safetensors, or for torch.save; its name."""
        path = self.models / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return name

    def nano(self, **inputs) -> dict:
        return self.comfyui.workflow(NANO, steps=1, **inputs)

    def loading(self, name: str, content) -> dict:
        """The nano workflow with a file of one's own as the base model."""
        return self.nano(model_name=self.put(name, content))

    def interpolating(self, frames: int = 4, windows: dict | None = None, **given) -> dict:
        """The nano workflow with an interpolation model; ``given`` are inputs of its conditioning node."""
        if not (self.models / "diffusion_models" / INTERPOLATION).exists():
            self.put(INTERPOLATION, hashed.small_published_weights("interpolation"))
        api = self.nano(frames=frames)
        (loader, sampler, latent) = (find(api, k) for k in ("LaVieBaseModelLoader", "KSampler", "EmptyLaVieLatent"))
        api[loader] = {
            "class_type": "LaVieInterpolationModelLoader",
            "inputs": {"model_name": INTERPOLATION, "weight_dtype": "default"},
        }
        inputs = api[sampler]["inputs"]
        prompts = {key: inputs[key] for key in ("positive", "negative")}
        clip = {"latent": [latent, 0]} if given == {} else {k: v for k, v in given.items() if v is not None}
        api["conditioning"] = {"class_type": "LaVieInterpolationConditioning", "inputs": {**prompts, **clip}}
        for slot, key in enumerate(("positive", "negative", "latent_image")):
            inputs[key] = ["conditioning", slot]
        if windows:
            api["windows"] = {"class_type": "LaVieContextWindows", "inputs": {"model": [loader, 0], **windows}}
            inputs["model"] = ["windows", 0]
        return api


def find(api: dict, class_type: str) -> str:
    """Id of the only node of a type."""
    (found,) = (key for key, node in api.items() if node["class_type"] == class_type)
    return found


def zeros(**shapes) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def nano_bytes(file: str) -> bytes:
    return (ROOT / "weights" / file).read_bytes()


def checkpoint_of_images(desk):
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
    weights |= zeros(first_stage_model__decoder__conv_in__weight=(512, 4, 3, 3))
    return desk.loading("mistake_sd.safetensors", weights)


def lora(desk):
    key = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight"
    return desk.loading("mistake_lora.safetensors", {key: torch.zeros(320, 4)})


def vae_of_another_model(desk):
    shapes = {"decoder.conv_in": (512, 16, 3, 3), "decoder.conv_out": (3, 128, 3, 3), "encoder.conv_in": (128, 3, 3, 3)}
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in shapes.items()}
    return desk.nano(vae_name=desk.put("mistake_vae.safetensors", weights, "vae"))


def text_encoder_of_another_model(desk):
    weights = {
        "text_model.embeddings.token_embedding.weight": torch.zeros(64, 96),
        "text_model.encoder.layers.0.layer_norm1.weight": torch.zeros(96),
    }
    return desk.nano(text_encoder_name=desk.put("mistake_text.safetensors", weights, "text_encoders"))


def prompts_past_the_conditioning(desk):
    api = desk.interpolating()
    plain, sampler = api["conditioning"]["inputs"], api[find(api, "KSampler")]["inputs"]
    sampler |= {key: plain[key] for key in ("positive", "negative")}
    return api


def another_latent(desk):
    api = desk.interpolating(frames=4)
    api["longer"] = {"class_type": "EmptyLaVieLatent", "inputs": {"width": 64, "height": 64, "frames": 16}}
    api[find(api, "KSampler")]["inputs"]["latent_image"] = ["longer", 0]
    return api


def windows_beside_the_frames(desk):
    choices = {"length": 30, "overlap": 4, "fuse_method": "pyramid", "freenoise": False}
    return desk.interpolating(windows=choices)


def converted_already(desk):
    desk.put("mistake_convert.pt", b"never read")
    desk.put("mistake_new.safetensors", b"there")
    inputs = {"model_name": "mistake_convert.pt", "dtype": "fp16", "file_name": "mistake_new", "overwrite": False}
    return {"1": {"class_type": "LaVieConvertCheckpoint", "inputs": inputs}}


MISTAKES = {
    "a VAE in the loader of models": lambda desk: desk.loading(
        "mistake_is_a_vae.safetensors", nano_bytes("vae/lavie_nano_vae.safetensors")
    ),
    "a Stable Diffusion checkpoint in the loader of models": checkpoint_of_images,
    "a LoRA in the loader of models": lora,
    "the interpolation network in the base loader": lambda desk: desk.loading(
        INTERPOLATION, hashed.small_published_weights("interpolation")
    ),
    "a download that stopped half-way": lambda desk: desk.loading(
        "mistake_half.safetensors", nano_bytes("diffusion_models/lavie_nano_base.safetensors")[:5_000_000]
    ),
    "a download of nothing": lambda desk: desk.loading("mistake_empty.pt", b""),
    "a web page saved under the model's name": lambda desk: desk.loading("mistake_page.pt", b"<!DOCTYPE html>" * 9),
    "a .pt that holds more than weights": lambda desk: desk.loading(
        "mistake_pickle.pt", {"state_dict": {}, "action": argparse.ArgumentParser}
    ),
    "a workflow that names a file which is not here": lambda desk: desk.nano(model_name="lavie_base_v2.safetensors"),
    "a VAE of another model, with 16 channels": vae_of_another_model,
    "a text encoder of another model": text_encoder_of_another_model,
    "prompts of another model's text encoder": lambda desk: desk.interpolating(),
    "a width that is no multiple of 8": lambda desk: desk.nano(width=60),
    "no frames": lambda desk: desk.nano(frames=0),
    "a single frame to interpolate": lambda desk: desk.interpolating(frames=1),
    "nothing to interpolate connected": lambda desk: desk.interpolating(latent=None),
    "prompts past the conditioning node": prompts_past_the_conditioning,
    "a latent that the conditioning was not made for": another_latent,
    "windows that do not begin at input frames": windows_beside_the_frames,
    "a converted file that is there already": converted_already,
}


def test_the_table_and_the_tests_are_the_same():
    assert set(TABLE) == set(MISTAKES) and len(TABLE) == 20


@pytest.mark.parametrize("mistake", MISTAKES)
def test_message(comfyui, mistake):
    with pytest.raises(WorkflowError) as error:
        comfyui.run(MISTAKES[mistake](Desk(comfyui)))
    wanted = re.escape(TABLE[mistake].strip()).replace(re.escape("..."), ".+")
    assert re.search(wanted, str(error.value), re.DOTALL), str(error.value)
    assert "Traceback" not in str(error.value)
