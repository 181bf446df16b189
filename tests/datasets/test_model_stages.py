"""Stages with weights, on tiny networks of the real classes with random weights.

What this proves: files are found and loaded, pictures go in as they should, scores come out at the right shots. What it
does not: that scores mean anything, which only the published weights can show.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.blueprint import Selection, load_blueprint
from comfyui_lavie.datasets.build import SHOTS, Work, build
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.parquet import read_vectors
from comfyui_lavie.datasets.select import select
from comfyui_lavie.datasets.shots import Pixels, Shot
from comfyui_lavie.datasets.stages.aesthetics import Aesthetics, load_predictor
from comfyui_lavie.datasets.stages.agreement import Agreement
from comfyui_lavie.datasets.stages.captions import Captions
from comfyui_lavie.datasets.stages.clip import ClipEncoder
from comfyui_lavie.datasets.stages.embeddings import Embeddings
from comfyui_lavie.datasets.stages.learned_quality import LearnedQuality
from comfyui_lavie.datasets.video import encode_video
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
)

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as `weights` of a blueprint: CLIP, the aesthetic predictor, a captioner."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    clip = folder / "clip-vit-large-patch14"
    clip.mkdir()
    (clip / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}))
    (clip / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(clip / "vocab.json"), str(clip / "merges.txt"), model_max_length=77)
    text = {**SIZES, "vocab_size": len(vocabulary), "eos_token_id": len(vocabulary) - 1}
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)).save_pretrained(clip)
    CLIPProcessor(images, tokenizer).save_pretrained(clip)

    widths = (16, 24, 12, 8, 4, 1)  # the published ones are 768, 1024, 128, 64, 16, 1
    layers = {}
    for place, pair in zip((0, 2, 4, 6, 7), zip(widths[:-1], widths[1:], strict=True), strict=True):
        linear = torch.nn.Linear(*pair)
        layers |= {f"layers.{place}.weight": linear.weight.data, f"layers.{place}.bias": linear.bias.data}
    torch.save(layers, folder / Aesthetics.predictor)

    blip = folder / "captioner"
    blip.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *letters, "dog", "cat"]
    (blip / "vocab.txt").write_text("\n".join(words))
    decoder = {**SIZES, "vocab_size": len(words), "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3,
               "pad_token_id": 0, "encoder_hidden_size": 32, "projection_dim": 16}  # fmt: skip
    config = BlipConfig(text_config=decoder, vision_config=VISION, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(blip)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), BertTokenizer(str(blip / "vocab.txt"))
                  ).save_pretrained(blip)  # fmt: skip
    return folder


@pytest.fixture
def shots(footage):
    return [
        Shot(name, {}, 3, 25.0, 256, 144, (caption,) if caption else (), {"caption": caption},
             Pixels(tuple(frames[[0, 20, 40]]), frames[:1], 0.5, np.zeros(2, np.float32)))
        for name, frames, caption in (("bikes", footage.bikes, "bike"), ("face", footage.face, None))
    ]  # fmt: skip


def test_missing_weights_are_named_with_their_source(tmp_path, weights):
    for stage, count in ((Aesthetics(), 2), (Agreement(), 1), (Captions(source="model", model="captioner"), 1)):
        assert len(stage.lacks(tmp_path)) == count and stage.lacks(weights) == []


def test_aesthetics_are_the_predictor_of_normalised_embeddings(weights, shots):
    stage = Aesthetics()
    rows = stage.process(shots, stage.setup("cpu", weights))
    state = torch.load(weights / stage.predictor, weights_only=True)
    clip = CLIPModel.from_pretrained(weights / stage.clip).eval()
    processor = CLIPImageProcessor.from_pretrained(weights / stage.clip)
    for shot, row in zip(shots, rows, strict=True):
        with torch.no_grad():
            pixels = processor(images=list(shot.pixels.stills), return_tensors="pt")["pixel_values"]
            x = clip.visual_projection(clip.vision_model(pixels).pooler_output)
            x = x / x.norm(dim=-1, keepdim=True)
            for place in (0, 2, 4, 6, 7):
                x = x @ state[f"layers.{place}.weight"].T + state[f"layers.{place}.bias"]
        assert row["aesthetics"] == pytest.approx(x.mean().item(), abs=1e-5)
        assert row["aesthetics_least"] == pytest.approx(x.min().item(), abs=1e-5)
    assert rows[0] != rows[1]
    assert sum(isinstance(layer, torch.nn.Linear) for layer in load_predictor(weights / stage.predictor)) == 5


def test_agreement_is_a_cosine_and_needs_a_caption(weights, shots):
    stage = Agreement(categories=("dogs", "cats"))
    rows = stage.process(shots, stage.setup("cpu", weights))
    assert -1 <= rows[0]["agreement"] <= 1 and rows[1]["agreement"] is None
    assert {row["category"] for row in rows} <= {"dogs", "cats"}
    alone = stage.process(shots[:1], stage.setup("cpu", weights))
    assert alone[0]["agreement"] == pytest.approx(rows[0]["agreement"], abs=1e-5), "shots do not see each other"


def test_a_shot_passes_through_clip_once_for_all_stages(weights, shots):
    clip = ClipEncoder.load(weights / Agreement.clip, "cpu")
    assert clip is ClipEncoder.load(weights / Aesthetics.clip, "cpu")
    features = clip.embed_shots(shots)
    passed = []
    hook = clip.network.vision_model.register_forward_hook(lambda *_: passed.append(1))
    rows = [stage.process(shots, stage.setup("cpu", weights)) for stage in (Aesthetics(), Agreement(), Embeddings())]
    hook.remove()
    assert not passed and features.shape == (2, 3, 16)
    means = features.mean(1)
    expected = means / means.norm(dim=1, keepdim=True)
    assert np.allclose([row["embedding"] for row in rows[2]], expected, atol=1e-6)


def test_copies_are_selected_by_embeddings(weights, footage, tmp_path):
    """Plumbing: the threshold is taken from what a network of random weights says of a copy and of other films."""
    (tmp_path / "films").mkdir()
    small = np.stack([np.asarray(Image.fromarray(frame).resize((192, 108))) for frame in footage.bikes[:20]])
    for name, frames in (("a", footage.bikes[:20]), ("b", footage.face[:20]), ("c", small)):
        encode_video(frames, tmp_path / f"films/{name}.mp4", 25)
        (tmp_path / f"films/{name}.txt").write_text("a film")
    text = f"sources = ['films']\nweights = '{weights}'\n[scenes]\nmin_seconds = 0.5\n[stages.captions]\n"
    (tmp_path / "blueprint.toml").write_text(text + "[stages.embeddings]\n[select]\nsimilarity = 0.5\n")
    blueprint = load_blueprint(tmp_path / "blueprint.toml")
    build(blueprint, tmp_path / "out", Work())
    vectors = read_vectors(tmp_path / "out" / SHOTS, "embedding", [0, 1, 2])
    assert vectors.shape == (3, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(read_vectors(tmp_path / "out" / SHOTS, "embedding", [0, 2]), vectors[[0, 2]])
    copy, other, third = vectors[0] @ vectors[2], vectors[0] @ vectors[1], vectors[1] @ vectors[2]
    assert copy > max(other, third)
    costs = select(tmp_path / "out", Selection(similarity=float(copy + max(other, third)) / 2))
    kept = Catalogue.load(tmp_path / "out").items
    assert costs[-1].left == 2 and [item.key.split("#")[0] for item in kept] == ["films/a.mp4", "films/b.mp4"]


class Redness(torch.nn.Module):
    """A network whose right answer is known: the mean red of each picture."""

    def forward(self, pictures):
        return pictures[:, 0].mean((1, 2))


def export(path, network: torch.nn.Module, *shape: int) -> None:
    torch.export.save(torch.export.export(network.eval(), (torch.zeros(*shape),)), path)


def test_a_network_of_ones_own_judges_quality(shots, tmp_path):
    stage = LearnedQuality()
    assert [need.split(":")[0] for need in stage.lacks(tmp_path)] == [str(tmp_path / "quality.pt2")]
    export(tmp_path / "quality.pt2", Redness(), 3, 3, 36, 36)
    assert stage.lacks(tmp_path) == []
    rows = stage.process(shots, stage.setup("cpu", tmp_path))
    for shot, row in zip(shots, rows, strict=True):
        middle = np.stack(shot.pixels.stills)[:, :, 56:200, 0]  # what a square of the middle sees
        assert row["learned_quality"] == pytest.approx(middle.mean() / 255, abs=2e-3)

    (tmp_path / "quality.pt2").write_bytes(b"weights of another kind")
    assert "a file that fails" in stage.lacks(tmp_path)[0]
    export(tmp_path / "quality.pt2", torch.nn.Flatten(), 3, 3, 8, 8)
    assert "expected 3 numbers or one, got (3, 192)" in stage.lacks(tmp_path)[0]
    export(tmp_path / "quality.pt2", torch.nn.Flatten(), 1, 3, 8, 8)
    assert "expected one input (3, 3, height, width), got (1, 3, 8, 8)" in stage.lacks(tmp_path)[0]


def test_a_captioner_describes_what_has_no_caption(weights, shots):
    stage = Captions(source="model", model="captioner", max_tokens=6, tokenizer="clip-vit-large-patch14")
    kept, made = stage.process(shots, stage.setup("cpu", weights))
    assert kept["caption"] == "bike" and kept["caption_tokens"] == 4
    assert made["caption"] and made["caption"] == stage.process(shots, stage.setup("cpu", weights))[1]["caption"]
