"""LoRA: what is adapted, files that ComfyUI's core loader reads whole, and a colour learned from sixteen images."""

from __future__ import annotations

import json
import shutil

import comfy.lora
import comfy.lora_convert
import comfy.utils
import numpy as np
import pytest
import torch
from comfyui_lavie.comfyui_api.clips import frames_only, make_clip
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.datasets.video import encode_video
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.comfyui.text_encoder import load_text_encoder as load_clip
from comfyui_lavie.nano.example_lora import COLOR, write_pictures
from comfyui_lavie.nano.figures.graphs import with_lora
from comfyui_lavie.nano.figures.lora import hue, is_new_color
from comfyui_lavie.nano.measure import measure_clip
from comfyui_lavie.nano.shapes import caption, render, sample_scene
from comfyui_lavie.tests.tiny_training import (
    TEXT,
    TINY,
    VAE,
    WEIGHTS,
    make_catalogue,
    make_unet,
    recipe_named,
    save_unet,
    settings,
    tiny_recipe,
)
from comfyui_lavie.training.__main__ import main
from comfyui_lavie.training.loop import Training
from comfyui_lavie.training.lora import FORMATS, TARGETS, LoRA, unet_layers
from comfyui_lavie.training.pack_encoders import encode, load_text_encoder
from diffusers import UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

BASE = WEIGHTS / "diffusion_models" / "lavie_nano_base.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of three steps that adapts everything that can be adapted, and its starting file."""
    folder = tmp_path_factory.mktemp("lora")
    make_catalogue(folder / "catalogue")
    base = save_unet(make_unet(), folder / "base.safetensors")
    recipe = tiny_recipe(
        "nano_lora", folder / "run", folder / "catalogue", model__start=base, run__steps=3, lora__rank=3,
        lora__alpha=6.0, lora__targets=list(TARGETS),
        data__buckets=[{"frames": 1, "height": 32, "width": 32, "rows": 4}],
    )  # fmt: skip
    training = Training(recipe)
    training.run()
    return folder, base, training


def test_only_adapters_of_spatial_layers_learn(trained):
    _, base, training = trained
    plain = make_unet().state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in training.plain.unet.state_dict().items())
    assert all(name.startswith(("unet_lora.", "text_lora.")) for name in training.parameters)
    assert not any("temp" in name for name in training.parameters)
    ups = [value for name, value in training.parameters.items() if name.endswith("up.weight")]
    assert ups and all(up.any() for up in ups), "every adapter has learned something"


def test_clips_beside_the_images_are_learned_jointly(tmp_path):
    """`lora IMAGES CLIPS`: two folders, one catalogue, and rows of a clip and images."""
    write_pictures(tmp_path / "pictures")
    (tmp_path / "clips").mkdir()
    for seed in range(3):
        scene = sample_scene(seed)
        encode_video(render(scene), tmp_path / f"clips/{seed}.mp4", 8)
        (tmp_path / f"clips/{seed}.txt").write_text(caption(scene))
    base = save_unet(make_unet(), tmp_path / "base.safetensors")
    changes = {**TINY, **{"model.start": str(base), "encoders.text": str(TEXT), "encoders.vae": str(VAE)}}
    words = [word for change in settings(**changes) for word in ("--set", change)]
    folders = [str(tmp_path / "pictures"), str(tmp_path / "clips")]
    out = tmp_path / "run"
    assert main(["lora", *folders, "--recipe", recipe_named("nano_joint_lora"), "--out", str(out), *words]) == 0
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(step["video"] > 0 and step["images"] > 0 and step["bad"] == 0 for step in steps) and len(steps) == 2
    assert {item.kind for item in Catalogue.load(out / "catalogue").items} == {"video", "image"}
    assert all((out / f"run_{naming}.safetensors").exists() for naming in FORMATS)


def test_targets_mean_what_they_say():
    unet = LaVieUNet(UNetConfig.base(), device="meta")
    counts = {target: len(unet_layers(unet, (target,))) for target in TARGETS}
    assert counts == {"attention": 16 * 8, "feed_forward": 16 * 4, "convolutions": 22 * 2 + 14 + 3 + 3}
    assert len(unet_layers(unet, tuple(TARGETS))) == sum(counts.values())


def test_an_adapter_adds_its_product_to_linear_layers_and_convolutions():
    """The hook computes what merging the product into the weight would."""
    torch.manual_seed(0)

    def make():
        convolution = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
        return torch.nn.Sequential(convolution, torch.nn.Flatten(), torch.nn.Linear(24, 5))

    net = make()
    x = torch.randn(2, 4, 4, 4)
    before = net(x)
    lora = LoRA(net, ["0", "2"], rank=2, alpha=4.0)
    assert torch.equal(net(x), before)
    for layer in lora.layers.values():
        torch.nn.init.normal_(layer.up.weight)
    after = net(x)
    merged = make()
    merged.load_state_dict(net.state_dict())
    with torch.no_grad():
        for name, layer in (("0", merged[0]), ("2", merged[2])):
            adapter = lora.layers[name]
            product = adapter.up.weight.flatten(1) @ adapter.down.weight.flatten(1)
            layer.weight += 2.0 * product.view_as(layer.weight)
        torch.testing.assert_close(merged(x), after)


@pytest.mark.parametrize("naming", FORMATS)
def test_core_loads_every_key_and_computes_what_training_computed(trained, tmp_path, naming, caplog):
    folder, base, training = trained
    path = tmp_path / f"{naming}.safetensors"
    assert main(["export", str(folder / "run"), "--out", str(path), "--format", naming, "--dtype", "fp32"]) == 0
    lora, about = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    assert about["ss_network_dim"] == "3" and about["lavie.step"] == "3" and about["lavie.data"]
    model, clip = load_model(str(base), "base"), load_clip(str(TEXT))
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, comfy.lora.model_lora_keys_unet(model.model, {}))
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(lora), keys)
    assert "not loaded" not in caplog.text
    adapters = len(training.plain.unet_lora.layers) + len(training.plain.text_lora.layers)
    assert len(loaded) == adapters and len(lora) == adapters * (3 if naming == "kohya" else 2)
    patched_model, patched_clip = model.clone(), clip.clone()
    used = {*patched_model.add_patches(loaded, 1.0), *patched_clip.add_patches(loaded, 1.0)}
    assert used == set(loaded)

    patched_model.patch_model()
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 7, 64)
    with torch.no_grad():
        got = patched_model.model.diffusion_model(x, t, text)
        expected, plain = training.plain.unet(x, t, text, 1), make_unet()(x, t, text, 1)
    patched_model.unpatch_model()
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 1e-3
    caption = "a red fish moving left"
    got = patched_clip.encode_from_tokens(patched_clip.tokenize(caption))
    expected = encode(training.inputs.texts.tokenizer, training.plain.text, [caption])
    torch.testing.assert_close(got.float(), expected, atol=1e-2, rtol=0)
    assert (expected - encode(*load_text_encoder(TEXT), [caption])).abs().max() > 2e-2


def test_diffusers_understands_its_format(trained, tmp_path):
    """diffusers' own conversion turns the file's keys into those of its UNet's and text encoder's modules."""
    folder, _, training = trained
    path = tmp_path / "diffusers.safetensors"
    main(["export", str(folder / "run"), "--out", str(path), "--format", "diffusers", "--dtype", "fp32"])
    lora = comfy.utils.load_torch_file(str(path))
    unet = {key.removeprefix("unet."): value for key, value in lora.items() if key.startswith("unet.")}
    text = {key.removeprefix("text_encoder."): v for key, v in lora.items() if key.startswith("text_encoder.")}
    image_model = UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    modules = dict(image_model.named_modules())
    for key, value in convert_unet_state_dict_to_peft(unet).items():
        name, side, _ = key.rsplit(".", 2)
        weight = modules[name].weight
        assert side in ("lora_A", "lora_B") and value.shape[side == "lora_A"] == weight.shape[side == "lora_A"]
    for key in convert_state_dict_to_peft(text):
        name, side, _ = key.rsplit(".", 2)
        assert side in ("lora_A", "lora_B") and name.removeprefix("text_model.").startswith("encoder.layers.")


# A new colour


def frames_of(comfyui, lora: str, prompt: str, seed: int) -> np.ndarray:
    """The nano workflow's frames with a LoRA, which so few pictures teach that it takes more guidance than the base."""
    api = frames_only(comfyui.workflow("lavie_nano_text_to_video.json", steps=20, cfg=4.0))
    return make_clip(comfyui.server, with_lora(api, lora), prompt, seed).frames


def test_a_colour_learned_from_sixteen_images_appears_and_moves(comfyui, tmp_path):
    """From pictures to a file to ComfyUI's own Load LoRA: what was never seen moving moves, and is orange."""
    write_pictures(tmp_path / "pictures")
    out = tmp_path / "orange"
    places = settings(model__start=BASE, encoders__text=TEXT, encoders__vae=VAE)
    changes = [word for change in places for word in ("--set", change)]
    recipe = recipe_named("nano_lora")
    assert main(["lora", str(tmp_path / "pictures"), "--recipe", recipe, "--out", str(out), *changes]) == 0
    folder = comfyui.server.base_directory / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    for naming in FORMATS:
        shutil.copy(out / f"orange_{naming}.safetensors", folder)

    seen = []
    for number, (thing, direction) in enumerate((("circle", "left"), ("square", "up"), ("circle", "down"))):
        lora = f"orange_{FORMATS[number % 2]}.safetensors"
        frames = frames_of(comfyui, lora, f"a {COLOR} {thing} moving {direction}", seed=number + 1)
        assert frames.shape == (16, 64, 64, 3)
        seen.append((hue(frames), measure_clip(frames).direction, direction))
    assert sum(is_new_color(angle) for angle, _, _ in seen) >= 2, seen
    # Sixteen pictures cost some of the motion; how often the shipped LoRA moves as asked stands in docs/nano.md.
    assert sum(got == wanted for _, got, wanted in seen) >= 1, seen

    log = comfyui.server.log_path.read_text()
    assert "lora key not loaded" not in log
    workflow = comfyui.workflow("lavie_nano_text_to_video.json", prompt=f"a {COLOR} circle moving left", seed=1)
    assert not is_new_color(hue(comfyui.video(workflow))), "without the LoRA the word means nothing"
    with_lora = frames_of(comfyui, "orange_kohya.safetensors", "a blue square moving left", seed=4)
    assert measure_clip(with_lora).color == "blue", "other words mean what they meant"
