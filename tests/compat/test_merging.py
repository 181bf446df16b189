"""Merging and saving.

The base network is merged with an image checkpoint of Stable Diffusion's layout, loaded by core's own loader; weights
and outputs are compared with the sums computed here.
"""

import comfy.model_management
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import (
    NODE_CLASS_MAPPINGS,
    CheckpointSave,
    CLIPMergeSimple,
    ModelAdd,
    ModelMergeBlocks,
    ModelMergeSimple,
    ModelSave,
    ModelSubtract,
)
from comfy_extras.nodes_model_merging_model_specific import NODE_CLASS_MAPPINGS as SPECIFIC_MAPPINGS
from comfy_extras.nodes_model_merging_model_specific import ModelMergeSD1
from comfyui_lavie.lavie_models import LaVieUNet
from comfyui_lavie.lavie_models.comfyui.model import load_model
from comfyui_lavie.lavie_models.unet import is_temporal
from comfyui_lavie.tests.compat.kit import WIDE, guider, noise, predict, relative, run, step, text
from safetensors.torch import load_file, save_file

from nodes import UNETLoader


@pytest.fixture(scope="module")
def image_weights(files):
    """An image UNet of Stable Diffusion's names and the wide model's size."""
    torch.manual_seed(7)
    weights = {key: value for key, value in LaVieUNet(WIDE).state_dict().items() if not is_temporal(key)}
    save_file({f"model.diffusion_model.{key}": value for key, value in weights.items()}, files / "sd.safetensors")
    return weights


@pytest.fixture
def image_model(image_weights):
    """As core loads it: an SD 1.x MODEL."""
    (model,) = run(UNETLoader, unet_name="sd.safetensors", weight_dtype="default")
    assert type(model.model).__name__ == "BaseModel"
    return model


def merged_weights(model) -> dict:
    comfy.model_management.load_models_gpu([model])
    weights = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    model.unpatch_model()
    return weights


def blocks(key: str) -> float:
    return {"input": 0.2, "middle": 0.5, "out": 0.9, "output": 0.9}.get(key.split(".")[0].split("_")[0], 0.2)


def keyed(key: str) -> float:
    """ModelMergeSD1: one ratio for each block; here 0.25 everywhere but in the middle."""
    return 0.75 if key.startswith("middle_block.1.") else 0.25


SD1_RATIOS = {
    **{f"{part}_blocks.{i}.": 0.25 for part in ("input", "output") for i in range(12)},
    **{f"middle_block.{i}.": 0.75 if i == 1 else 0.25 for i in range(3)},
    "time_embed.": 0.25, "label_emb.": 0.25, "out.": 0.25,
}  # fmt: skip
# Some nodes share a class: the first name counts.
NAMES = {node: name for name, node in reversed({**NODE_CLASS_MAPPINGS, **SPECIFIC_MAPPINGS}.items())}
MERGES = [
    (ModelMergeSimple, {"ratio": 0.3}, lambda key, a, b: 0.3 * a + 0.7 * b),
    (ModelMergeBlocks, {"input": 0.2, "middle": 0.5, "out": 0.9}, lambda k, a, b: blocks(k) * a + (1 - blocks(k)) * b),
    (ModelMergeSD1, SD1_RATIOS, lambda k, a, b: keyed(k) * a + (1 - keyed(k)) * b),
    (ModelAdd, {}, lambda key, a, b: a + b),
    (ModelSubtract, {"multiplier": 0.4}, lambda key, a, b: 0.4 * a - 0.4 * b),
]


@pytest.mark.parametrize(
    ("node", "inputs", "formula"),
    [
        pytest.param(*m, id=m[0].__name__, marks=pytest.mark.core(f"{NAMES[m[0]]}, with an SD 1.x model"))
        for m in MERGES
    ],
)
def test_merge_with_an_image_model_changes_spatial_layers_alone(
    wide, wide_file, image_model, image_weights, node, inputs, formula
):
    (merged,) = run(node, model1=wide, model2=image_model, **inputs)
    before, after = load_file(wide_file), merged_weights(merged)
    for key, value in before.items():
        if is_temporal(key):
            assert torch.equal(after[key], value), key
        else:
            torch.testing.assert_close(after[key], formula(key, value, image_weights[key]), atol=1e-5, rtol=1e-4)
    assert any(is_temporal(key) for key in before)


@pytest.fixture
def output(tmp_path):
    kept = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(kept)


@pytest.mark.core("ModelSave")
def test_a_saved_merge_loads_again_and_computes_the_same(wide, image_model, output):
    (merged,) = run(ModelMergeSimple, model1=wide, model2=image_model, ratio=0.6)
    wanted = predict(merged, frames=2)
    run(ModelSave, model=merged, filename_prefix="merged")
    (file,) = output.glob("*.safetensors")
    assert relative(predict(load_model(str(file), "base"), frames=2), wanted) < 1e-6


@pytest.mark.core("ModelSave", note="Prediction type and sizes of small models are kept.")
def test_a_saved_model_keeps_its_prediction(nano, output):
    """The nano base predicts velocity; ModelSave writes core's mark for it."""
    run(ModelSave, model=nano, filename_prefix="nano")
    (file,) = output.glob("*.safetensors")
    again = load_model(str(file), "base")
    assert again.model.model_type == nano.model.model_type
    assert relative(predict(again, frames=2), predict(nano, frames=2)) < 1e-6


@pytest.mark.core("CheckpointSave, CLIPMergeSimple")
def test_checkpoint_of_model_text_encoder_and_vae(nano, clip, nano_vae, output):
    """The loaders find their part in one file."""
    (merged,) = run(CLIPMergeSimple, clip1=clip, clip2=clip, ratio=0.5)
    run(CheckpointSave, model=nano, clip=merged, vae=nano_vae, filename_prefix="all")
    (file,) = output.glob("*.safetensors")
    assert relative(predict(load_model(str(file), "base"), frames=2), predict(nano, frames=2)) < 1e-6


@pytest.mark.core(
    "UNETLoader (Load Diffusion Model), for LaVie files",
    works=False,
    note="Takes the file for an image model of SD 1.5 without its layers across frames: use Load LaVie Base Model.",
)
def test_core_loader_makes_an_image_model_of_a_lavie_file(wide_file):
    """Documented, as this pack cannot change core's loader; the frames are then independent images."""
    (model,) = run(UNETLoader, unet_name=wide_file.name, weight_dtype="default")
    assert type(model.model).__name__ == "BaseModel"
    x = noise(3)
    together = step(guider(model, text(1, 768)), x)
    alone = torch.cat([step(guider(model, text(1, 768)), x[i : i + 1]) for i in range(3)])
    assert relative(together, alone) < 1e-4
