"""Recipes: the shipped ones are sound, and everything that is wrong with one is said at once."""

from dataclasses import replace
from pathlib import Path

import pytest
from comfyui_lavie.nano.build import RECIPES as NANO
from comfyui_lavie.training.errors import TrainingError
from comfyui_lavie.training.monitor import evaluation
from comfyui_lavie.training.recipe_file import RECIPES, RecipeError, read_recipe, recipe_of_run, save_recipe

SHIPPED = sorted(map(str, (*RECIPES.glob("*.toml"), *NANO.glob("*.toml"))))
GOOD = """
[model]
stage = "base"
start = "random"
[encoders]
text = "text.safetensors"
vae = "vae.safetensors"
[data]
catalogues = ["data"]
buckets = [{ frames = 16, height = 64, width = 64, rows = 8 }]
[optimizer]
lr = 1e-4
[run]
out = "runs/x"
steps = 10
"""


def write(folder, text):
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def complaints(folder, text, *changes) -> str:
    with pytest.raises(RecipeError) as error:
        read_recipe(write(folder, text), changes)
    return str(error.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_are_sound_and_survive_their_run(name, tmp_path):
    recipe = read_recipe(name)
    save_recipe(recipe, tmp_path)
    found = recipe_of_run(tmp_path)
    assert Path(found.run.out) == Path(recipe.run.out).absolute()
    same = {"model": {"start": recipe.model.start}, "data": {"catalogues": recipe.data.catalogues},
            "run": {"out": recipe.run.out}}  # fmt: skip
    parts = {name: replace(getattr(found, name), **values) for name, values in same.items()}
    assert replace(found, encoders=recipe.encoders, **parts) == recipe


def test_shipped_recipes_are_those_of_the_paper():
    assert {Path(name).stem for name in SHIPPED} >= {"base", "interpolation", "super_resolution", "first_frame", "lora"}
    base, vsr = read_recipe("base"), read_recipe("super_resolution")
    assert base.data.images == 4 and base.data.buckets[0].frames == 16 and base.objective.caption_drop == 0.1
    assert base.model.train == "all" and vsr.model.train == "temporal" and vsr.model.prediction == "v"
    assert vsr.objective.noise_level == (0, 350) and vsr.data.buckets[0].height == 320
    assert read_recipe("interpolation").data.buckets[0].frames == 61
    assert read_recipe("lora").lora is not None and read_recipe("first_frame").model.first_frame


def test_unknown_missing_and_mistyped_settings_are_named_at_once(tmp_path):
    text = GOOD.replace('vae = "vae.safetensors"', "").replace("steps = 10", 'steps = "ten"\nspeed = 3')
    text = text.replace("lr = 1e-4", "lr = 1e-4\nbetas = [0.9]\nname = 'sgd'") + "\n[augment]\nflip = 1\n"
    message = complaints(tmp_path, text)
    for part in (
        "encoders.vae: missing", "run.steps: expected a whole number, got 'ten'", "run.speed: unknown; known are out",
        "optimizer.betas: expected a list of 2, each a number", "augment: unknown",
        "optimizer.name: expected one of adamw, adamw8bit, muon",
    ):  # fmt: skip
        assert part in message
    assert message.count("\n") == 6


def test_contradictions_are_named_at_once(tmp_path):
    message = complaints(
        tmp_path, GOOD, "model.stage=interpolation", "model.first_frame=true", "data.flip=2", "run.accumulate=3",
        "run.parallel=fsdp", "optimizer.name=adamw8bit", "run.decay=11", "samples.every=5", "objective.snr_gamma=0",
        "run.precision=fp16",
    )  # fmt: skip
    for part in (
        "model.first_frame belongs to stage base", "data.images must be 0 for stage interpolation, got 4",
        "makes 4 n + 1 frames of n + 1: 5, 9, .. 61; data.buckets have [16]", "data.flip: expected 0 .. 1",
        "rows of data.buckets must divide by run.accumulate = 3, got [8]", "8-bit states cannot be shared out",
        "run.decay 11 is longer than run.steps 10", "validation.heldout is 0", "objective.snr_gamma: expected more",
        "fsdp knows no loss scaling",
    ):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lora.rank=0", "lora.rank: expected 1 or more"),
        ("lora.targets=['attention', 'norms']", "expected some of attention, feed_forward, convolutions, got norms"),
        ("lora.rank=4", "lora needs a trained model"),
        ("model.config.num_heads=7", "model.config: a level of 320 channels with 7 heads"),
        ("model.config.depth=7", "model.config: .*depth"),
        ("objective.focus={fraction=0.5, low=800, high=400}", "objective.focus: expected"),
        ("objective.noise_level=[0, 500]", "objective.noise_level"),
        ("nonsense", "expected section.key=value"),
        ("run.steps.more=1", "steps is no section"),
    ],
)
def test_one_wrong_setting(tmp_path, change, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(tmp_path, GOOD), [change])


def test_changes_override_the_file(tmp_path):
    changes = ["run.steps=20", "run.out=somewhere else", "optimizer.betas=[0.5, 0.6]"]
    recipe = read_recipe(write(tmp_path, GOOD), changes)
    assert (recipe.run.steps, recipe.run.out, recipe.optimizer.betas) == (20, "somewhere else", (0.5, 0.6))


def test_files_that_are_no_recipes(tmp_path):
    assert "not TOML" in complaints(tmp_path, "[model")
    with pytest.raises(RecipeError, match="no recipe nowhere; give a .toml file or one of base, distill, first_frame"):
        read_recipe("nowhere")
    with pytest.raises(RecipeError, match="no run of ours"):
        recipe_of_run(tmp_path)


@pytest.mark.parametrize("name", ("json", "json:no_such_function", "no_such_module:figures"))
def test_an_evaluation_that_is_not_there_is_named(name):
    with pytest.raises(TrainingError, match=f"expected module:function, got '{name}'"):
        evaluation(name)
