"""OpenCLIP ViT-H, the text encoder of super-resolution, at its published size: every layout against transformers."""

from pathlib import Path

import comfy.sd1_clip
import comfy.supported_models
import folder_paths
import pytest
import torch
from comfyui_lavie.lavie_models.checkpoint import CheckpointError
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder
from comfyui_lavie.nodes.text_encoder import LaVieTextEncoderLoader
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import nodes as core

PROMPT = "a teddy bear walking on the street, 4k."
GONE = "text_model.encoder.layers.7.mlp.fc2.weight"


@pytest.fixture(scope="module")
def reference():
    """(weights in fp16, token ids, encoded prompt) of transformers' own class, as the x4-upscaler's repository has it.

    That is: the first 23 of 24 layers, then the last LayerNorm; prompts are padded with token 0, "!".
    """
    torch.manual_seed(0)
    model = CLIPTextModel(CLIPTextConfig(
        vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
        hidden_act="gelu", projection_dim=512, bos_token_id=49406, eos_token_id=49407, initializer_factor=2.0,
    )).half().eval().requires_grad_(False)  # fmt: skip
    weights = {"text_model." + key.removeprefix("text_model."): value for key, value in model.state_dict().items()}
    for key, value in weights.items():
        if "norm" in key:  # transformers starts with ones and zeros, which would hide a missing one
            value += torch.randn(value.shape).half() * 0.2
    folder = Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder, pad_token="!")
    ids = tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    return weights, ids, model.float()(ids).last_hidden_state


@pytest.fixture(scope="module")
def layouts(reference):
    """The same encoder as different programs write it; the last layer, where there is one, is to have no influence."""
    short = reference[0]
    last = {key.replace(".22.", ".23."): torch.randn(value.shape).half() * 0.1
            for key, value in short.items() if ".layers.22." in key}  # fmt: skip
    whole = {**short, **last}
    projection = torch.randn(1024, 1024).half()
    ours = {"clip_h.transformer." + key: value for key, value in whole.items()}
    ours |= {"clip_h.transformer.text_projection.weight": projection, "clip_h.logit_scale": torch.tensor(4.6)}
    ldm = comfy.supported_models.SD20.process_clip_state_dict_for_saving(None, ours)
    return {
        "diffusers": short,
        "transformers": {**whole, "text_model.embeddings.position_ids": torch.arange(77)[None]},
        "comfyui": ours,
        "ldm": {key: value.contiguous() for key, value in ldm.items()},
        "open_clip": {
            **{key.removeprefix("cond_stage_model.model."): value.contiguous() for key, value in ldm.items()},
            "visual.transformer.resblocks.0.ln_1.weight": torch.ones(1280),
        },
        "incomplete": {key: value for key, value in short.items() if key != GONE},
    }


@pytest.fixture
def path(layouts, request, tmp_path):
    """The file of the layout that a test is parametrised with; 0.7 GB, so it does not stay."""
    file = tmp_path / f"{request.param}.safetensors"
    save_file(layouts[request.param], file)
    yield file
    file.unlink()


def encode(clip) -> torch.Tensor:
    ((conditioning, _),) = core.CLIPTextEncode().encode(clip, PROMPT)[0]
    return conditioning


def skipping(clip, layer: int) -> torch.Tensor:
    return encode(core.CLIPSetLastLayer().set_last_layer(clip, layer)[0])


@pytest.mark.parametrize("path", ["diffusers", "transformers", "comfyui", "ldm", "open_clip"], indirect=True)
@torch.inference_mode()
def test_penultimate_layer_matches_transformers(reference, path):
    _, ids, expected = reference
    clip = load_text_encoder(str(path))
    tokens = clip.tokenize(PROMPT)["h"]
    assert [token for token, _ in tokens[0]] == ids[0].tolist()
    actual = encode(clip)
    assert actual.shape == (1, 77, 1024)
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(skipping(clip, -2), actual)
    whole = path.stem != "diffusers"
    assert torch.allclose(skipping(clip, -1), actual, atol=1e-3) != whole, "the last layer, if the file has it"


@pytest.mark.parametrize("path", ["diffusers", "open_clip"], indirect=True)
@torch.inference_mode()
def test_core_loader_gives_the_same(path, monkeypatch):
    """Core's Load CLIP, type stable_diffusion, and our node with the same file."""
    entry = ([str(path.parent)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "text_encoders", entry)
    folder_paths.filename_list_cache.pop("text_encoders", None)
    (theirs,) = core.CLIPLoader().load_clip(path.name, type="stable_diffusion")
    (ours,) = LaVieTextEncoderLoader.execute(path.name).result
    folder_paths.filename_list_cache.pop("text_encoders", None)
    assert type(theirs.cond_stage_model) is type(ours.cond_stage_model)
    assert theirs.tokenize(PROMPT) == ours.tokenize(PROMPT)
    torch.testing.assert_close(encode(theirs), encode(ours))
    pooled = core.CLIPTextEncode().encode(ours, PROMPT)[0][0][1]["pooled_output"]
    assert pooled.isfinite().all(), "layers that the file lacks must not come from unwritten memory"


@pytest.mark.parametrize("path", ["diffusers"], indirect=True)
def test_both_loaders_in_a_graph(comfyui, path):
    """On the server both encode the same prompt to the same numbers."""
    folder = comfyui.server.base_directory / "models" / "text_encoders"
    folder.mkdir(exist_ok=True)
    (folder / "openclip_test.safetensors").symlink_to(path)
    loaders = {
        "LaVieTextEncoderLoader": {"text_encoder_name": "openclip_test.safetensors"},
        "CLIPLoader": {"clip_name": "openclip_test.safetensors", "type": "stable_diffusion"},
    }
    texts = []
    for loader, inputs in loaders.items():
        graph = {
            "clip": {"class_type": loader, "inputs": inputs},
            "text": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["clip", 0]}},
            "show": {"class_type": "PreviewAny", "inputs": {"source": ["text", 0]}},
        }
        (text,) = comfyui.run(graph)["show"]["text"]
        texts.append(text.split("pooled_output")[0])  # which core takes from a layer that this file does not have
    (folder / "openclip_test.safetensors").unlink()
    assert texts[0] == texts[1] and "tensor" in texts[0] and "nan" not in texts[0]


@pytest.mark.parametrize("path", ["incomplete"], indirect=True)
def test_missing_weights_are_named(path):
    with pytest.raises(CheckpointError, match=f"1 weights are missing, the first is {GONE}"):
        load_text_encoder(str(path))
