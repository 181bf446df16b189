"""Metrics that need networks, with small random ones of the same interfaces.

What this proves: how files are found, called and cut. Not proved: that the published files give published numbers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comfyui_lavie.evaluation.errors import EvaluationError
from comfyui_lavie.evaluation.manifest import ClipRecord
from comfyui_lavie.evaluation.metrics import METRICS
from comfyui_lavie.evaluation.metrics.base import Clip, Setup
from comfyui_lavie.place import find_comfyui

RECORD = ClipRecord("0", "clip", "a red fish moving right", 0, 17, 48, 32, 8.0)
FRAMES = np.random.default_rng(0).integers(0, 256, (17, 32, 48, 3), dtype=np.uint8)
REFERENCE = np.clip(FRAMES.astype(int) + 9, 0, 255).astype(np.uint8)
CLIP = Clip(FRAMES, RECORD, REFERENCE)


def start(name, folder):
    return METRICS[name].start(Setup(folder))


class C3D(torch.nn.Module):
    """Probabilities of 101 classes."""

    def forward(self, x: torch.Tensor):
        assert x.shape[1] == 3 and x.shape[2] == 16 and bool(x.max() > 200)
        return torch.softmax(x.mean((2, 3, 4)).sum(1, keepdim=True) * torch.linspace(0, 0.01, 101), 1)


class VGG(torch.nn.Module):
    """The mean of each picture, as its only feature."""

    def forward(self, x: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
        assert not resize_images and return_lpips
        return x.mean((1, 2, 3))[:, None] / 255


def test_torchscript_files_are_called_as_their_publishers_do(tmp_path):
    torch.jit.script(C3D()).save(str(tmp_path / "c3d_ucf101.pt"))
    torch.jit.script(VGG()).save(str(tmp_path / "vgg16.pt"))
    said = start("inception_score", tmp_path)(CLIP)
    assert said.shape == (101,) and said.sum() == pytest.approx(1, abs=1e-5)
    judged = METRICS["inception_score"].judge(np.eye(101, dtype=np.float32)[np.arange(40) % 2], None)
    assert judged.value.value == pytest.approx(2) and judged.value.low <= 2 <= judged.value.high
    apart = np.square((FRAMES.mean((1, 2, 3)) - REFERENCE.mean((1, 2, 3))) / 255).mean()
    assert start("lpips_vgg", tmp_path)(CLIP) == pytest.approx(apart, rel=1e-3)
    short = Clip(FRAMES[:5], RECORD)
    with pytest.raises(EvaluationError, match="has 5 frames; expected 16"):
        start("inception_score", tmp_path)(short)


def test_clip_and_dino_are_read_from_their_folders(tmp_path):
    """Their own forwards give the cosines."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTokenizer,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=small, vision_config={**small, "patch_size": 32}, projection_dim=8)
    tokenizer = CLIPTokenizer.from_pretrained(str(find_comfyui() / "comfy" / "sd1_tokenizer"))
    model, folder = CLIPModel(config).eval(), tmp_path / "clip-vit-base-patch32"
    for part in (model, tokenizer, CLIPImageProcessor()):
        part.save_pretrained(folder)
    with torch.no_grad():
        pixels = CLIPImageProcessor()(list(FRAMES), return_tensors="pt")["pixel_values"]
        told = model(pixel_values=pixels, **tokenizer(RECORD.prompt, return_tensors="pt"))
    cosines = told.logits_per_image[:, 0] / model.logit_scale.exp()
    assert start("clipsim", tmp_path)(CLIP) == pytest.approx(float(cosines.mean()), abs=1e-5)
    images = told.image_embeds
    neighbours = float((images[1:] * images[:-1]).sum(1).mean())
    assert start("frame_consistency_clip", tmp_path)(CLIP) == pytest.approx(neighbours, abs=1e-5)

    model, folder = ViTModel(ViTConfig(**small)).eval(), tmp_path / "dino-vitb16"
    for part in (model, ViTImageProcessor()):
        part.save_pretrained(folder)
    with torch.no_grad():
        seen = model(ViTImageProcessor()(list(FRAMES), return_tensors="pt")["pixel_values"]).last_hidden_state[:, 0]
    neighbours = float(torch.cosine_similarity(seen[1:], seen[:-1]).mean())
    assert start("frame_consistency_dino", tmp_path)(CLIP) == pytest.approx(neighbours, abs=1e-5)
