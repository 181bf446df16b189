"""The nano text encoder (vocabulary, training, file) and text encoder files as ComfyUI's CLIP, through core's nodes."""

import json
from pathlib import Path

import comfy.lora
import comfy.sd
import folder_paths
import pytest
import torch
from comfyui_lavie.lavie_models.checkpoint import CheckpointError
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder as load_clip
from comfyui_lavie.lavie_models.tokenizer import make_tokenizer
from comfyui_lavie.lavie_models.weights_file import load_checkpoint, read_metadata
from comfyui_lavie.nano import shapes
from comfyui_lavie.nano import text_encoder as training
from comfyui_lavie.nano.__main__ import main
from comfyui_lavie.nodes.text_encoder import LaVieTextEncoderLoader
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

import nodes as core

NANO = Path(__file__).parents[2] / "weights" / "text_encoders" / training.FILE_NAME
TEXTS = ["a red fish moving right", "A BLUE car Facing left on a white background", "", "naïve 日本語 🙂 \u202e <|x|>"]
PHRASE = "a red fish moving right, "


@pytest.fixture(scope="module")
def nano():
    return training.load_text_encoder(NANO)


@pytest.fixture(scope="module")
def clip():
    return load_clip(str(NANO))


def encode(clip, text: str) -> torch.Tensor:
    ((conditioning, _),) = core.CLIPTextEncode().encode(clip, text)[0]
    return conditioning


# Vocabulary


def test_every_word_of_the_grammar_is_one_token(nano):
    tokenizer, _ = nano
    for word in training.WORDS:
        for form in (word, word.upper()):
            assert len(tokenizer(form)["input_ids"]) == 3, form
    scene = shapes.sample_scene(0)
    assert len(tokenizer(shapes.caption(scene))["input_ids"]) == len(shapes.caption(scene).split()) + 2


@pytest.mark.parametrize(
    "text", ["naïve café", "日本語", "🙂🚀", "\u202e\u200bx", "redfish greenish", "\x00\x7f", "ß\U0010ffff"]
)
def test_any_text_comes_back_from_its_tokens(nano, text):
    tokenizer, _ = nano
    vocabulary = tokenizer.get_vocab()
    ids = tokenizer(text)["input_ids"][1:-1]
    assert not set(ids) & {vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]}, "a byte without a token"
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")  # punctuation gets spaces around it


def test_later_words_do_not_break_earlier_ones():
    words = ("green", "red", "greed", "reed")
    tokenizer = make_tokenizer(*training.build_vocabulary(words))
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in words)


# Training


def test_resuming_is_exact(tmp_path, capsys):
    options = ["--steps", "4", "--batch", "4", "--hidden", "32", "--save-every", "2"]
    main(["text_encoder", *options, "--out", str(tmp_path / "whole")])
    main(["text_encoder", *options, "--out", str(tmp_path / "parts"), "--stop-at", "2"])
    main(["text_encoder", *options, "--out", str(tmp_path / "parts")])
    whole, parts = (load_file(tmp_path / name / training.FILE_NAME) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    assert main(["text_encoder", "--steps", "5", *options[2:], "--out", str(tmp_path / "parts")]) == 1
    assert "steps: then 4, now 5" in capsys.readouterr().err


def test_shipped_encoder_keeps_attributes_apart(nano):
    for attribute in training.ATTRIBUTES:
        assert min(training.distances(*nano, attribute).values()) > 0.5, attribute
    states = training.encode(*nano, [TEXTS[0], TEXTS[0].upper(), ""])
    torch.testing.assert_close(states[0], states[1])
    assert (states[0] - states[2]).square().mean().sqrt() > 0.5


def test_other_files_are_refused_by_training(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="none of this pack's files of a text_encoder"):
        training.load_text_encoder(tmp_path / "x.safetensors")


# ComfyUI's CLIP from the nano file


@pytest.mark.parametrize("text", TEXTS)
def test_conditioning_equals_training(nano, clip, text):
    torch.testing.assert_close(encode(clip, text), training.encode(*nano, [text]), atol=1e-5, rtol=1e-5)


def test_prompt_weights_scale_the_difference_to_the_empty_prompt(clip):
    plain, empty = encode(clip, TEXTS[0]), encode(clip, "")
    strong = encode(clip, "a (red:1.5) fish moving right")
    torch.testing.assert_close(strong[:, 2], empty[:, 2] + 1.5 * (plain[:, 2] - empty[:, 2]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(strong[:, 3:], plain[:, 3:])


def test_long_prompts_are_chunked(clip):
    text = (PHRASE * (10_000 // len(PHRASE) + 1))[:10_000]
    states = encode(clip, text)
    assert states.shape[1] % 77 == 0 and states.shape[1] > 77 * 20 and states.isfinite().all()
    torch.testing.assert_close(states[:, :5], encode(clip, TEXTS[0])[:, :5])


def test_clip_skip_takes_an_earlier_layer(clip, nano):
    tokenizer, model = nano
    (skipping,) = core.CLIPSetLastLayer().set_last_layer(clip, -2)
    hidden = model(training.tokens_of(tokenizer, TEXTS[:1]), output_hidden_states=True).hidden_states[-2]
    norm = next(module for name, module in model.named_modules() if name.endswith("final_layer_norm"))
    torch.testing.assert_close(encode(skipping, TEXTS[0]), norm(hidden), atol=1e-5, rtol=1e-5)


def test_lora_reaches_the_encoder(clip):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    weight = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})[name]
    rows, columns = clip.cond_stage_model.state_dict()[weight].shape
    lora = {f"{name}.lora_up.weight": torch.ones(rows, 1), f"{name}.lora_down.weight": torch.ones(1, columns)}
    _, changed = comfy.sd.load_lora_for_models(None, clip, lora, 0.0, 1.0)
    before = encode(clip, TEXTS[0])
    assert not torch.allclose(encode(changed, TEXTS[0]), before, atol=1e-3)
    torch.testing.assert_close(encode(clip, TEXTS[0]), before)


def test_cached_patcher_init_makes_the_same_patcher(clip):
    make, args = clip.patcher.cached_patcher_init
    again = make(*args, disable_dynamic=True)
    for key, value in clip.patcher.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)


def test_loader_node_lists_and_loads(tmp_path, monkeypatch, nano):
    (tmp_path / NANO.name).write_bytes(NANO.read_bytes())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("text_encoders", None)
    (names,) = (entry.options for entry in LaVieTextEncoderLoader.define_schema().inputs)
    assert names == [NANO.name]
    (loaded,) = LaVieTextEncoderLoader.execute(NANO.name).result
    torch.testing.assert_close(encode(loaded, TEXTS[1]), training.encode(*nano, TEXTS[1:2]), atol=1e-5, rtol=1e-5)
    folder_paths.filename_list_cache.pop("text_encoders", None)


# CLIP ViT-L/14


@pytest.fixture(scope="module")
def clip_l():
    """Random weights of the published size: (model, its state dict in fp16)."""
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        bos_token_id=49406, eos_token_id=49407,
    )).half().eval()  # fmt: skip
    return model, {"text_model." + k.removeprefix("text_model."): v for k, v in model.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "cond_stage_model.transformer."])
def test_clip_l_matches_transformers(clip_l, prefix, tmp_path):
    model, weights = clip_l
    save_file({prefix + key: value for key, value in weights.items()}, tmp_path / "clip.safetensors")
    clip = load_clip(str(tmp_path / "clip.safetensors"))
    ids = torch.tensor([[token for token, _ in clip.tokenize(TEXTS[0])["l"][0]]])
    with torch.no_grad():
        expected = model.float()(ids).last_hidden_state
    model.half()
    torch.testing.assert_close(encode(clip, TEXTS[0]), expected, atol=2e-4, rtol=2e-4)


# Other files



BAD_FILES = {
    "no layers": (
        {"text_model.embeddings.token_embedding.weight": (9, 1024)},
        "1024 wide with 0 layers.*768 wide, 12 layers.*super-resolution reads OpenCLIP ViT-H.*1024 wide",
    ),
    "another openclip": (
        {"conditioner.embedders.1.model.token_embedding.weight": (9, 1280),
         "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight": (1280,)},
        "1280 wide with 1 layers.*CLIP ViT-L/14.*OpenCLIP ViT-H",
    ),
    "openclip's image half": (
        {"visual.transformer.resblocks.0.ln_1.weight": (1280,)}, "holds no CLIP text encoder.*OpenCLIP ViT-H"
    ),
    "vae": ({"decoder.conv_in.weight": (512, 4, 3, 3)}, "VAE.*Load LaVie VAE"),
    "lora": ({"lora_te_x.lora_up.weight": (4, 4)}, "LoRA"),
    "unknown": ({"x": (1,)}, "no model that this pack knows"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILES)
def test_other_kinds_of_files_are_named(kind, tmp_path):
    shapes_of, message = BAD_FILES[kind]
    save_file({key: torch.zeros(shape) for key, shape in shapes_of.items()}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_clip(str(tmp_path / "file.safetensors"))


def test_incomplete_and_truncated_files(tmp_path):
    weights, metadata = load_checkpoint(NANO)
    gone = "text_model.encoder.layers.1.mlp.fc2.weight"
    save_file({key: value for key, value in weights.items() if key != gone}, tmp_path / "part.safetensors", metadata)
    with pytest.raises(CheckpointError, match=f"1 weights are missing, the first is {gone}"):
        load_clip(str(tmp_path / "part.safetensors"))
    (tmp_path / "cut.safetensors").write_bytes(NANO.read_bytes()[:-1000])
    with pytest.raises(CheckpointError):
        load_clip(str(tmp_path / "cut.safetensors"))


@pytest.mark.parametrize("config", ['{"hidden_size": 64}', "{"])
def test_unusable_metadata_is_named(config, tmp_path):
    weights, metadata = load_checkpoint(NANO)
    save_file(weights, tmp_path / "file.safetensors", {**metadata, "lavie.config": config})
    with pytest.raises(CheckpointError, match="not a text encoder|missing fields|cannot be read as JSON"):
        load_clip(str(tmp_path / "file.safetensors"))


def test_metadata_holds_what_the_file_needs():
    metadata = read_metadata(NANO)
    vocabulary, merges = training.build_vocabulary()
    assert json.loads(metadata["lavie.tokenizer"]) == {"vocab": vocabulary, "merges": merges}
    assert json.loads(metadata["lavie.config"]) == training.model_config(vocabulary, 64, 2, 2)
