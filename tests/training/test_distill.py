"""Consistency distillation: the boundary, a teacher that knows its clip, and a student that learns adapters alone."""

import pytest
import torch
from comfyui_lavie.lavie_models.schedule import alphas_cumprod, target
from comfyui_lavie.tests.tiny_training import make_catalogue, make_unet, save_unet, tiny_recipe
from comfyui_lavie.training.distill import boundary, distillation_losses
from comfyui_lavie.training.loop import Training
from comfyui_lavie.training.lora import LoRA, unet_layers
from comfyui_lavie.training.recipe import DistillationSettings
from comfyui_lavie.training.recipe_file import RecipeError
from comfyui_lavie.training.step import Batch

ALPHAS = alphas_cumprod()


def make_batch(rows=2, frames=3, images=1) -> Batch:
    rng = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(rows, frames + images, 4, 8, 8, generator=rng) for _ in range(2))
    text = torch.randn(rows * 2, 7, 64, generator=rng)
    empty = torch.randn(1, 7, 64, generator=rng)
    return Batch(latents, noise, torch.tensor([7, 900])[:rows], text, frames, images, empty=empty)


def test_the_clean_latent_is_its_own_answer():
    skip, out = boundary(torch.tensor([-1, 0, 999]))
    assert skip.flatten().tolist() == pytest.approx([1, 0.25 / 100.25, 0], abs=1e-5)
    torch.testing.assert_close(skip + out.square(), torch.ones_like(skip))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_teacher_that_knows_the_clip_leaves_nothing_to_learn(prediction):
    """Both ends of a stretch of the trajectory then have the same answer, the clip."""
    batch, unet = make_batch(), make_unet()
    lora = LoRA(unet, unet_layers(unet, ("attention",)), 2, 2.0)

    class Oracle(torch.nn.Module):
        def forward(self, x, timesteps, context, num_frames, num_images=0):
            alpha = ALPHAS[timesteps][:, None, None, None, None]
            x = x.unflatten(0, (len(timesteps), -1))
            noise = (x - alpha.sqrt() * batch.latents) / (1 - alpha).sqrt()
            return target(prediction, batch.latents, noise, alpha).flatten(0, 1)

    settings = DistillationSettings(steps=50, guidance=7.5)
    knowing = distillation_losses(Oracle(), lora, batch, batch.text, ALPHAS, prediction, settings)
    guessing = distillation_losses(unet, lora, batch, batch.text, ALPHAS, prediction, settings)
    assert knowing.max().item() < 2e-3 < guessing.min().item()


def test_the_teacher_is_the_model_without_adapters():
    batch, unet = make_batch(), make_unet()
    lora = LoRA(unet, unet_layers(unet, ("attention",)), 2, 2.0)

    def answer():
        with torch.no_grad():
            return unet(batch.latents.flatten(0, 1), batch.timesteps, batch.text, 3, 1)

    before = answer()
    for layer in lora.layers.values():
        torch.nn.init.ones_(layer.up.weight)
    assert not torch.equal(answer(), before)
    with lora.disabled():
        assert torch.equal(answer(), before)
    assert not torch.equal(answer(), before)


def test_distillation_learns_adapters_from_start_to_file(tmp_path):
    save_unet(make_unet(), tmp_path / "base.safetensors")
    catalogue = make_catalogue(tmp_path / "catalogue", videos=4, images=0)
    recipe = tiny_recipe("distill", tmp_path / "run", catalogue, model__start=tmp_path / "base.safetensors",
                         lora__rank=2, data__stride=[1, 2], run__steps=3)  # fmt: skip
    training = Training(recipe)
    before = {key: value.clone() for key, value in training.plain.unet.state_dict().items()}
    training.run()
    assert all(torch.equal(value, before[key]) for key, value in training.plain.unet.state_dict().items())
    assert any(value.any() for key, value in training.parameters.items() if "up" in key)
    with pytest.raises(RecipeError, match="distillation learns adapters of the UNet alone"):
        tiny_recipe("base", tmp_path, catalogue, distillation__steps=50)
    with pytest.raises(RecipeError, match="distillation.steps: expected a divisor of 1000, got 30"):
        tiny_recipe("distill", tmp_path, catalogue, distillation__steps=30)
