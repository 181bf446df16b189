"""The loop on tiny models: every recipe from start to exported file, and what the loop's options promise."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from comfyui_lavie.lavie_models import UNetConfig
from comfyui_lavie.lavie_models.attention import sdpa_attention
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.unet import is_temporal
from comfyui_lavie.tests.tiny_training import (
    SIZES,
    make_catalogue,
    make_unet,
    make_upscaler_vae,
    save_unet,
    tiny_recipe,
)
from comfyui_lavie.training.__main__ import main
from comfyui_lavie.training.checkpoints import Checkpoints, OtherRunError
from comfyui_lavie.training.loop import Training
from comfyui_lavie.training.start import starting_unet
from comfyui_lavie.training.trainee import Average, eager_attention
from safetensors import safe_open


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder with a catalogue and starting weights of every kind."""
    folder = tmp_path_factory.mktemp("world")
    make_catalogue(folder / "catalogue")
    save_unet(make_unet(), folder / "base.safetensors")
    sizes = {**SIZES, "attention_levels": [False, True], "in_channels": 7}
    save_unet(make_unet("super_resolution", **sizes), folder / "vsr.safetensors", "v")
    make_upscaler_vae(folder / "vae")
    return folder


def recipe_in(world, out, name="base", **values):
    """A shipped recipe on the tiny networks and data."""
    own = {
        "base": {"data__images": 2, "data__stride": [1, 2]},
        "first_frame": {"data__images": 2, "data__stride": [1, 2]},
        "interpolation": {"data__fps": 8.0},
        "super_resolution": {"encoders__vae": world / "vae", "model__start": world / "vsr.safetensors"},
        "nano_joint": {"data__images": 2}, "nano_refine": {"data__images": 3}, "nano_shapes": {"data__images": 2},
        "nano_headed": {"data__images": 2}, "nano_outlines": {"data__images": 2}, "nano_fish": {"data__images": 2},
        "nano_images": {"model__start": "random", "model__config": SIZES},
    }.get(name, {})  # fmt: skip
    start = {"model__start": world / "base.safetensors"}
    if name in ("lora", "nano_images", "nano_lora"):
        own["data__buckets"] = [{"frames": 1, "height": 32, "width": 32, "rows": 4}]
    shared = {"samples__every": 0, "validation__every": 0, "validation__heldout": 0}
    return tiny_recipe(name, out, world / "catalogue", **{**shared, **start, **own, **values})


def steps(training, count):
    return [training.train_step(training.inputs.read(training.data, training.recipe.run.seed, training.step))
            for _ in range(count)]  # fmt: skip


@pytest.mark.parametrize("name", [
    "base", "first_frame", "interpolation", "super_resolution", "nano_images", "nano_joint", "nano_refine",
    "nano_shapes", "nano_headed", "nano_outlines", "nano_fish",
])  # fmt: skip
def test_every_recipe_trains_and_its_export_is_what_comfyui_loads(world, tmp_path, name):
    recipe = recipe_in(world, tmp_path / "run", name, validation__every=2, validation__heldout=2,
                       samples__every=2, samples__prompts=[], samples__steps=2, samples__count=1,
                       samples__evaluate="comfyui_lavie.evaluation.watch:figures")  # fmt: skip
    before = starting_unet(recipe)[0].state_dict()
    training = Training(recipe)
    training.run()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    (heldout,) = (row["heldout"] for row in rows if "heldout" in row)
    assert list(heldout) == ["t100", "t300", "t500", "t700", "t900"] and all(map(math.isfinite, heldout.values()))
    assert {path.suffix for path in (tmp_path / "run" / "samples").iterdir()} == {".mp4", ".png"}
    (figures,) = (row["samples"] for row in rows if "samples" in row)
    assert "sharpness" in figures and all(map(math.isfinite, figures.values()))
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))

    learned = {key for key, value in training.plain.unet.state_dict().items() if not torch.equal(value, before[key])}
    kinds = {is_temporal(key) for key in learned}
    assert kinds == {"super_resolution": {True}, "nano_images": {False}}.get(name, {True, False})

    files = {}
    for names, dtype in (("comfyui", "fp16"), ("published", "bf16"), ("comfyui", "fp32")):
        files[dtype] = tmp_path / f"{dtype}.safetensors"
        options = ["--out", str(files[dtype]), "--names", names, "--dtype", dtype]
        assert main(["export", str(tmp_path / "run"), *options]) == 0
    average = {key.removeprefix("unet."): value for key, value in training.average.values.items()}
    expected = {**before, **average}
    for dtype, path in files.items():
        model = load_model(str(path), recipe.model.stage, {"dtype": torch.float32})
        got = model.model.diffusion_model.state_dict()
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        assert all(torch.equal(got[key].float(), value.to(kind).float()) for key, value in expected.items()), dtype
    with safe_open(files["bf16"], "pt") as file:
        about = file.metadata()
    assert about["lavie.stage"] == recipe.model.stage and about["lavie.step"] == "2"
    assert about["lavie.prediction"] == recipe.model.prediction
    assert about["lavie.data"] == training.settings["data"] and about["lavie.start"] == training.settings["start"]
    assert UNetConfig.from_dict(json.loads(about["lavie.config"])) == training.config


def test_one_run_starts_from_another(world, tmp_path):
    """nano_images trains spatial layers; nano_joint begins with their average, temporal layers without effect."""
    images = Training(recipe_in(world, tmp_path / "images", "nano_images"))
    images.run()
    joint = Training(recipe_in(world, tmp_path / "joint", "nano_joint", model__start=tmp_path / "images"))
    average = {key.removeprefix("unet."): value for key, value in images.average.values.items()}
    begun = joint.plain.unet.state_dict()
    assert all(torch.equal(begun[key], value) for key, value in average.items())
    assert not begun["middle_block.1.transformer_blocks.0.attn_temp.to_out.0.weight"].any()


def test_the_loss_falls(world, tmp_path):
    training = Training(recipe_in(world, tmp_path, "nano_joint", run__steps=60, optimizer__lr=2e-3))
    losses = [row["loss"] for row in steps(training, 30)]
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


@pytest.mark.parametrize("name", ["base", "interpolation", "super_resolution"])
@pytest.mark.parametrize("option", [{"run__gradient_checkpointing": True}, {"run__accumulate": 2}], ids=str)
def test_options_that_save_memory_change_no_gradient(world, tmp_path, name, option):
    quiet = {"run__gradient_checkpointing": False, "optimizer__clip": 1e9}
    norms, losses = [], []
    for index, options in enumerate((quiet, {**quiet, **option})):
        training = Training(recipe_in(world, tmp_path / str(index), name, **options))
        row = steps(training, 1)[0]
        norms.append(row["grad_norm"])
        losses.append(row["loss"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) and losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_checkpointing_keeps_less_for_the_backward_pass(world, tmp_path):
    kept = []
    for on in (False, True):
        recipe = recipe_in(world, tmp_path / str(on), run__gradient_checkpointing=on)
        training = Training(recipe)
        batch = training.inputs.batch(training.inputs.read(training.data, 0, 0))
        saved = {}

        def pack(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training.plain(batch)
        kept.append(sum(saved.values()))
    assert kept[1] < 0.4 * kept[0]


def test_bf16_is_near_float32(world, tmp_path):
    rows = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        rows += steps(Training(recipe_in(world, tmp_path / precision, run__precision=precision)), 1)
    assert rows[0]["loss"] != rows[1]["loss"] and rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=0.02)


def test_frozen_weights_take_the_precision_of_the_run(world, tmp_path):
    training = Training(recipe_in(world, tmp_path, "super_resolution", run__precision="bf16"))
    kinds = {(p.requires_grad, p.dtype) for p in training.plain.unet.parameters() if p.ndim > 1}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert all(math.isfinite(row["loss"]) for row in steps(training, 2))


def test_learning_rate_warms_up_holds_and_falls(world, tmp_path):
    values = {"optimizer__warmup": 2, "run__decay": 2, "run__steps": 10, "optimizer__lr": 1.0}
    training = Training(recipe_in(world, tmp_path, **values))
    rates = []
    for training.step in range(10):
        rates.append(training.learning_rate())
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 1, 0.5])


def test_the_average_follows_and_gives_the_weights_back():
    parameter = torch.nn.Parameter(torch.zeros(3))
    average = Average({"w": parameter}, 0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    average.update({"w": parameter}, step=0)
    torch.testing.assert_close(average.values["w"], torch.full((3,), 0.9))  # 1 / 10 of the old at first
    average.update({"w": parameter}, step=1000)
    torch.testing.assert_close(average.values["w"], torch.full((3,), 0.91))
    with average.in_place_of({"w": parameter}):
        torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.91))
    assert torch.equal(parameter.detach(), torch.ones(3))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(world, tmp_path):
    training = Training(recipe_in(world, tmp_path, run__steps=5))
    steps(training, 1)
    share = training.inputs.read(training.data, 0, training.step)
    broken = [torch.full((frames, 4, 4, 4), float("nan")) for frames in (5, 1, 1)]
    poisoned = dataclasses.replace(share, latents=broken + share.latents[3:])
    with pytest.raises(FloatingPointError) as error:
        training.train_step(poisoned)
    keys = [draw.item.key for draw in share.draws]
    message = str(error.value)
    assert "at step 1" in message and "row 0 (nan)" in message and "row 1" not in message
    assert all(key in message for key in keys[:3]) and "the state of step 1 is saved" in message
    state = Checkpoints(tmp_path).load()
    assert state["step"] == 1 and all(value.isfinite().all() for value in state["model"].values())


def test_broken_weights_are_not_saved(world, tmp_path):
    training = Training(recipe_in(world, tmp_path, run__steps=5))
    steps(training, 1)
    training.save()
    with torch.no_grad():
        training.plain.unet.out[2].bias.fill_(float("inf"))
    training.step += 1
    with pytest.raises(FloatingPointError, match="the last checkpoint is intact"):
        steps(training, 1)
    assert Checkpoints(tmp_path).load()["step"] == 1


def test_what_decides_the_result_may_not_change_between_runs(world, tmp_path):
    Training(recipe_in(world, tmp_path)).run()
    Training(recipe_in(world, tmp_path, run__steps=3, run__decay=1, run__keep=5)).run()
    assert Checkpoints(tmp_path).load()["step"] == 3
    with pytest.raises(OtherRunError, match="objective.caption_drop: then 0.1, now 0.2; optimizer.lr: then"):
        Training(recipe_in(world, tmp_path, objective__caption_drop=0.2, optimizer__lr=1e-2))
    save_unet(make_unet(seed=5), tmp_path / "other.safetensors")
    with pytest.raises(OtherRunError, match="start: then"):
        Training(recipe_in(world, tmp_path, model__start=tmp_path / "other.safetensors"))


def test_eight_bit_states_say_what_they_need(world, tmp_path):
    try:
        training = Training(recipe_in(world, tmp_path, optimizer__name="adamw8bit"))
    except ImportError as error:
        assert "torchao" in str(error) and "bitsandbytes" in str(error)
    else:
        assert all(math.isfinite(row["loss"]) for row in steps(training, 2))


def test_eager_attention_equals_the_fused_kernel():
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, 8, generator=rng) for n in (5, 7, 7))
    mask = torch.randn(1, 2, 5, 7, generator=rng)
    for given in (None, mask):
        torch.testing.assert_close(eager_attention(q, k, v, 2, given), sdpa_attention(q, k, v, 2, given))
