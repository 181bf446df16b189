"""Joint training as mathematics: who influences whom, what the loss is, and what each stage is given."""

import numpy as np
import pytest
import torch
from comfyui_lavie.datasets.catalogue import Catalogue
from comfyui_lavie.lavie_models.conditioning import low_resolution_alphas
from comfyui_lavie.lavie_models.schedule import add_noise, alphas_cumprod, target, to_x0
from comfyui_lavie.lavie_models.unet import is_temporal
from comfyui_lavie.tests.tiny_training import make_catalogue, make_unet, make_upscaler_vae, tiny_recipe
from comfyui_lavie.training.batch import Inputs
from comfyui_lavie.training.data import TrainingData
from comfyui_lavie.training.recipe import FocusSettings
from comfyui_lavie.training.sampling import sample_clip
from comfyui_lavie.training.step import Batch, draw_timestep, row_losses, snr_weights, weigh_losses

ALPHAS = alphas_cumprod()


def make_batch(rows=2, frames=4, images=3, seed=0, channels=0) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    shape = (rows, frames + images, 4, 8, 8)
    text = torch.randn(rows * ((frames > 0) + images), 7, 64, generator=rng)
    latents, noise = (torch.randn(shape, generator=rng) for _ in range(2))
    return Batch(latents, noise, torch.tensor([700, 150])[:rows], text, frames, images)


def part(batch: Batch, images: bool) -> Batch:
    """The batch with other clips (or other images) in the same places."""
    other = make_batch(len(batch.timesteps), batch.num_frames, batch.num_images, seed=9)
    where = slice(batch.num_frames, None) if images else slice(None, batch.num_frames)
    latents, noise, text = batch.latents.clone(), batch.noise.clone(), batch.text.unflatten(0, (-1, 4)).clone()
    latents[:, where], noise[:, where] = other.latents[:, where], other.noise[:, where]
    of_texts = slice(1, None) if images else slice(0, 1)
    text[:, of_texts] = other.text.unflatten(0, (-1, 4))[:, of_texts]
    return Batch(latents, noise, batch.timesteps, text.flatten(0, 1), batch.num_frames, batch.num_images)


@pytest.fixture(scope="module")
def unet():
    return make_unet()


def losses(unet, batch, prediction="v"):
    return row_losses(unet, batch, batch.text, ALPHAS, prediction)


def test_video_and_images_meet_in_shared_parameters_only(unet):
    """Other images in a row leave the video's loss bit for bit what it was, and the other way round."""
    batch = make_batch()
    with torch.no_grad():
        whole, other_images, other_video = (losses(unet, b) for b in (batch, part(batch, True), part(batch, False)))
    assert torch.equal(whole[:, 0], other_images[:, 0]) and not torch.equal(whole[:, 1], other_images[:, 1])
    assert torch.equal(whole[:, 1], other_video[:, 1]) and not torch.equal(whole[:, 0], other_video[:, 0])


def test_image_gradients_reach_every_spatial_parameter_and_no_temporal_one(unet):
    def reached(column):
        unet.zero_grad()
        losses(unet, make_batch())[:, column].sum().backward()
        return {name for name, p in unet.named_parameters() if p.grad is not None and p.grad.any()}

    by_images, by_video = reached(1), reached(0)
    assert by_images == {name for name, _ in unet.named_parameters() if not is_temporal(name)}
    assert by_video == {name for name, _ in unet.named_parameters()}


def test_gradients_of_a_row_add_up(unet):
    """The gradient of MSE(video) + alpha MSE(images) is the sum of both parts' own gradients."""
    def gradient(weights):
        unet.zero_grad()
        (losses(unet, make_batch()) * torch.tensor(weights)).sum().backward()
        return unet.output_blocks[0][0].out_layers[3].weight.grad.clone()

    torch.testing.assert_close(gradient([1.0, 0.25]), gradient([1.0, 0.0]) + 0.25 * gradient([0.0, 1.0]))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_loss_is_what_it_says(unet, prediction):
    batch = make_batch()
    with torch.no_grad():
        got = losses(unet, batch, prediction)
        alpha = ALPHAS[batch.timesteps][:, None, None, None, None]
        noisy = add_noise(batch.latents, batch.noise, alpha)
        out = unet(noisy.flatten(0, 1), batch.timesteps, batch.text, 4, 3).view_as(noisy)
    error = (out - target(prediction, batch.latents, batch.noise, alpha)) ** 2
    expected = torch.stack((error[:, :4].mean((1, 2, 3, 4)), error[:, 4:].mean((1, 2, 3, 4))), 1)
    torch.testing.assert_close(got, expected)
    total = weigh_losses(got, torch.tensor([1.0, 0.5]), 0.25)
    torch.testing.assert_close(total, torch.stack([got[0, 0] + got[0, 1] / 4, (got[1, 0] + got[1, 1] / 4) / 2]))


def test_images_alone_are_images_beside_a_clip(unet):
    """Rows without clips go the way that images go in joint training, past all temporal layers."""
    joint = make_batch(rows=2, frames=1, images=1)
    alone = Batch(joint.latents[:, 1:], joint.noise[:, 1:], joint.timesteps, joint.text[1::2], 0, 1)
    with torch.no_grad():
        torch.testing.assert_close(losses(unet, alone)[:, 1], losses(unet, joint)[:, 1])
        as_clip = Batch(alone.latents, alone.noise, alone.timesteps, alone.text, 1, 0)
        assert not torch.allclose(losses(unet, as_clip)[:, 0], losses(unet, alone)[:, 1], atol=1e-4)


def test_rows_of_a_batch_are_batches(unet):
    batch = make_batch()
    with torch.no_grad():
        apart = torch.cat([losses(unet, batch.rows(i, i + 1)) for i in range(2)])
    torch.testing.assert_close(apart, losses(unet, batch), atol=1e-5, rtol=1e-5)


def test_min_snr_weights():
    t = torch.tensor([0, 300, 999])
    snr = (ALPHAS / (1 - ALPHAS))[t]
    assert torch.equal(snr_weights(t, ALPHAS, "v", None), torch.ones(3))
    torch.testing.assert_close(snr_weights(t, ALPHAS, "epsilon", 5.0), torch.minimum(snr, torch.tensor(5.0)) / snr)
    torch.testing.assert_close(snr_weights(t, ALPHAS, "v", 5.0), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1))


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_model_has_no_loss_and_samples_its_clip(prediction):
    """A stand-in that knows the answer: the objective and the sampler agree with each other about it."""
    batch = make_batch(rows=1, images=0)
    clip = batch.latents

    class Oracle(torch.nn.Module):
        def forward(self, x, timesteps, context, num_frames, num_images=0):
            alpha = ALPHAS[timesteps][:, None, None, None, None]
            x = x.unflatten(0, (len(timesteps), -1))
            known = clip.expand_as(x)
            noise = (x - alpha.sqrt() * known) / (1 - alpha).sqrt()
            return target(prediction, known, noise, alpha).flatten(0, 1)

    assert losses(Oracle(), batch, prediction)[0, 0].item() < 1e-8
    text = batch.text[:1]
    out = sample_clip(Oracle(), text, text, (4, 4, 8, 8), ALPHAS, prediction, steps=5)
    torch.testing.assert_close(out, clip[0], atol=1e-3, rtol=0)
    noisy = add_noise(clip, batch.noise, ALPHAS[300])
    recovered = to_x0(prediction, target(prediction, clip, batch.noise, ALPHAS[300]), noisy, ALPHAS[300])
    torch.testing.assert_close(recovered, clip, atol=1e-4, rtol=0)


def test_timesteps_prefer_the_focus():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_timestep(rng, FocusSettings(0.35, 400, 800)) for _ in range(20000)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert ((drawn >= 400) & (drawn < 800)).mean() == pytest.approx(0.35 + 0.65 * 0.4, abs=0.02)


# Batches from data


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    return make_catalogue(tmp_path_factory.mktemp("data") / "catalogue")


def inputs_of(name, tmp_path, catalogue, **values):
    recipe = tiny_recipe(name, tmp_path, catalogue, model__start=str(tmp_path / "none"), **values)
    return Inputs(recipe, "cpu"), TrainingData(recipe.data, Catalogue.load(catalogue))


def test_batches_are_a_pure_function_of_seed_and_step_whoever_reads_them(tmp_path, catalogue):
    inputs, data = inputs_of("base", tmp_path, catalogue, data__images=2, data__stride=[1, 2],
                             data__buckets=[{"frames": 4, "height": 32, "width": 32, "rows": 4}])  # fmt: skip
    whole = inputs.batch(inputs.read(data, 0, 5))
    halves = [inputs.batch(inputs.read(data, 0, 5, rank, 2)) for rank in range(2)]
    others = [inputs.batch(inputs.read(data, *place)) for place in ((0, 6), (1, 5))]
    assert whole.latents.shape == (4, 6, 4, 4, 4) and whole.text.shape == (12, 77, 64)
    for name in ("latents", "noise", "timesteps", "text"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(half, name) for half in halves])), name
        assert not any(torch.equal(getattr(whole, name), getattr(other, name)) for other in others)


def test_captions_are_dropped_at_the_asked_rate(tmp_path, catalogue):
    inputs, data = inputs_of("nano_images", tmp_path, catalogue, objective__caption_drop=0.3,
                             data__buckets=[{"frames": 1, "height": 16, "width": 16, "rows": 300}])  # fmt: skip
    share, empty = inputs.read(data, 0, 0), inputs.texts([""])
    dropped = (inputs.batch(share).text == empty).flatten(1).all(1).float().mean().item()
    assert dropped == pytest.approx(0.3, abs=0.08)
    assert not (inputs.batch(share, drop=False).text == empty).flatten(1).all(1).any()


def test_interpolation_is_given_every_fourth_latent(tmp_path, catalogue):
    inputs, data = inputs_of("interpolation", tmp_path, catalogue, data__fps=8.0,
                             data__buckets=[{"frames": 9, "height": 32, "width": 32, "rows": 2}])  # fmt: skip
    batch = inputs.batch(inputs.read(data, 0, 0))
    for frame, source in enumerate((0, 0, 0, 4, 4, 4, 4, 8, 8)):
        assert torch.equal(batch.condition[:, frame], batch.latents[:, source]), frame


def test_the_first_frame_is_on_every_frame_of_its_clip_and_on_no_image(tmp_path, catalogue):
    values = {"data__images": 1, "data__stride": [1, 2], "objective__condition_drop": 0.5,
              "data__buckets": [{"frames": 4, "height": 32, "width": 32, "rows": 8}]}  # fmt: skip
    inputs, data = inputs_of("first_frame", tmp_path, catalogue, **values)
    share = inputs.read(data, 0, 0)
    batch = inputs.batch(share, drop=False)
    assert torch.equal(batch.condition[:, :4], batch.latents[:, :1].expand(-1, 4, -1, -1, -1))
    assert not batch.condition[:, 4:].any()
    given = inputs.batch(share).condition.flatten(1).any(1)
    assert given.any() and not given.all()


def test_super_resolution_is_given_noisy_small_frames_and_their_level(tmp_path, catalogue):
    values = {"encoders__vae": make_upscaler_vae(tmp_path / "vae"), "data__image_clips": 0.0,
              "data__buckets": [{"frames": 4, "height": 32, "width": 32, "rows": 6}]}  # fmt: skip
    inputs, data = inputs_of("super_resolution", tmp_path, catalogue, **values)
    share = inputs.read(data, 0, 0)
    batch = inputs.batch(share)
    assert batch.latents.shape == (6, 4, 4, 8, 8) and batch.condition.shape == (6, 4, 3, 8, 8)
    assert batch.noise_level.shape == (6,) and 0 <= batch.noise_level.min() and batch.noise_level.max() <= 350
    small = torch.from_numpy(np.stack(share.small)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    alpha = low_resolution_alphas()[batch.noise_level][:, None, None, None, None]
    noise = (batch.condition - alpha.sqrt() * small) / (1 - alpha).sqrt()
    torch.testing.assert_close(noise.flatten(1).std(1), torch.ones(6), atol=0.15, rtol=0)
    quiet, _ = inputs_of("super_resolution", tmp_path, catalogue, **values, objective__noise_level=[0, 0])
    torch.testing.assert_close(quiet.batch(share).condition, small, atol=0.06, rtol=0)


def test_caches_give_what_they_were_given(tmp_path, catalogue, caplog):
    values = {"encoders__cache": tmp_path / "cache", "data__images": 1, "data__stride": [1, 1], "data__variants": 1,
              "data__buckets": [{"frames": 4, "height": 32, "width": 32, "rows": 2}]}  # fmt: skip
    inputs, data = inputs_of("base", tmp_path, catalogue, **values)
    first = inputs.batch(inputs.read(data, 0, 0))
    again, _ = inputs_of("base", tmp_path, catalogue, **values)
    share = again.read(data, 0, 0)
    assert all(pixels is None for pixels in share.pixels), "what is cached is not decoded again"
    second = again.batch(share)
    assert torch.equal(first.latents, second.latents) and torch.equal(first.text, second.text)
