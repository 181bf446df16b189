"""Training of the base UNet on tiny models: pure batches, exact resume, the objective, export."""

import argparse
import dataclasses
import json

import numpy as np
import pytest
import torch
from comfyui_lavie.lavie_models import LaVieUNet, UNetConfig
from comfyui_lavie.lavie_models.attention import sdpa_attention
from comfyui_lavie.lavie_models.schedule import add_noise, alphas_cumprod, target, to_x0
from comfyui_lavie.training import latents, objective, sample, unet
from safetensors import safe_open

TINY = UNetConfig.base(
    block_channels=(32, 64), attention_levels=(True, True), num_heads=1, layers_per_block=1, context_dim=16
)
JOINT = dataclasses.replace(unet.RECIPES["joint"], rows=2, images=2, warmup=2)
FOCUS = objective.TimestepFocus(0.35, 400, 800)
IMAGES = dataclasses.replace(unet.RECIPES["images"], rows=4, warmup=2)


@pytest.fixture
def data():
    """Flat colours that depend on the caption, with a little noise."""
    rng = torch.Generator().manual_seed(0)
    color = torch.randn(3, 4, 1, 1, generator=rng)
    clips = color.repeat(2, 1, 1, 1)[:, None] + 0.1 * torch.randn(6, 4, 4, 8, 8, generator=rng)
    images = color.repeat(3, 1, 1, 1) + 0.1 * torch.randn(9, 4, 8, 8, generator=rng)
    return latents.LatentSet(
        clips=clips.half(),
        images=images.half(),
        captions=("a", "b", "c"),
        clip_captions=torch.tensor([0, 1, 2, 0, 1, 2]),
        image_captions=torch.tensor([0, 1, 2] * 3),
    )


@pytest.fixture
def text():
    return torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(1))


def run_in(folder, recipe, steps=6, init=None):
    args = argparse.Namespace(out=str(folder), init=init, bf16=False, steps=steps, decay=2)
    return unet.Run(args, recipe, TINY)


def weights(run):
    return {**run.unet.state_dict(), **{f"average {k}": v for k, v in run.average.module.state_dict().items()}}


@pytest.mark.parametrize("recipe", [IMAGES, JOINT], ids=["images", "joint"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, data, text, recipe):
    whole = run_in(tmp_path / "whole", recipe)
    losses = [whole.train_step(data, text) for _ in range(6)]
    part = run_in(tmp_path / "part", recipe)
    resumed_losses = [part.train_step(data, text) for _ in range(3)]
    part.save()
    part.train_step(data, text)  # lost, as in a run stopped between two saves
    part = run_in(tmp_path / "part", recipe)
    assert part.step == 3
    resumed_losses += [part.train_step(data, text) for _ in range(3)]
    assert resumed_losses == losses
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(part).values(), strict=True))


def test_another_recipe_does_not_resume_a_run(tmp_path, data, text):
    run = run_in(tmp_path, JOINT)
    run.train_step(data, text)
    run.save()
    with pytest.raises(ValueError, match=r"other settings \(lr: then .* another --out"):
        run_in(tmp_path, dataclasses.replace(JOINT, lr=1.0))


def test_image_training_leaves_temporal_layers_and_joint_training_moves_them(tmp_path, data, text):
    images = run_in(tmp_path / "images", IMAGES)
    before = {k: v.clone() for k, v in images.unet.state_dict().items()}
    for _ in range(3):
        images.train_step(data, text)
    changed = {k for k, v in images.unet.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if not unet.is_temporal(k)}
    images.save()

    joint = run_in(tmp_path / "joint", JOINT, init=str(images.state_file))
    start = {k: v.clone() for k, v in joint.unet.state_dict().items()}
    assert all(torch.equal(start[k], v) for k, v in images.average.module.state_dict().items())
    for _ in range(3):
        joint.train_step(data, text)
    moved = {k for k, v in joint.unet.state_dict().items() if not torch.equal(v, start[k])}
    assert any("attn_temp.to_out" in k for k in moved) and any("attn1" in k for k in moved)


def test_the_loss_falls(tmp_path, data, text):
    run = run_in(tmp_path, JOINT, steps=60)
    losses = [run.train_step(data, text) for _ in range(60)]
    assert np.mean(losses[-15:]) < 0.8 * np.mean(losses[:15])


def test_an_unbounded_loss_stops_the_run(tmp_path, data, text):
    run = run_in(tmp_path, JOINT)
    run.train_step(data, text)
    with torch.no_grad():
        run.unet.out[2].bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step 1"):
        run.train_step(data, text)


def test_learning_rate_warms_up_holds_and_falls(tmp_path):
    run = run_in(tmp_path, JOINT, steps=10)
    rates = []
    for run.step in range(10):
        rates.append(run.learning_rate() / JOINT.lr)
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 1, 0.5])


def test_batches_are_a_pure_function_of_seed_and_step(data, text):
    def draw(seed, step):
        return objective.draw_batch(data, text, seed, step, rows=3, images=2, video=True, drop=0.5, focus=FOCUS)

    one, same, later, other = draw(0, 5), draw(0, 5), draw(0, 6), draw(1, 5)
    for name in ("latents", "noise", "timesteps", "text"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(later, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    assert one.latents.shape == (3, 6, 4, 8, 8) and one.text.shape == (9, 7, 16) and one.timesteps.shape == (3,)
    # Every clip and image comes with its own caption or, dropped, with the empty one.
    texts, pictures = one.text.unflatten(0, (3, 3)), data.images.float()
    for row in range(3):
        number = [i for i, c in enumerate(data.clips.float()) if torch.equal(c, one.latents[row, :4])]
        assert any(torch.equal(texts[row, 0], text[k]) for k in (data.clip_captions[number[0]], 3))
        for m in range(2):
            number = [i for i, c in enumerate(pictures) if torch.equal(c, one.latents[row, 4 + m])]
            assert any(torch.equal(texts[row, 1 + m], text[k]) for k in (data.image_captions[number[0]], 3))


def test_captions_are_dropped_at_the_asked_rate(data, text):
    batch = objective.draw_batch(data, text, 0, 0, rows=2000, images=0, video=False, drop=0.1, focus=FOCUS)
    dropped = (batch.text == text[3]).flatten(1).all(1).float().mean().item()
    assert dropped == pytest.approx(0.1, abs=0.03)


def test_timesteps_prefer_the_focus():
    drawn = FOCUS.draw(np.random.default_rng(0), 20000)
    assert drawn.min() >= 0 and drawn.max() <= 999
    central = ((drawn >= 400) & (drawn < 800)).float().mean().item()
    assert central == pytest.approx(0.35 + 0.65 * 0.4, abs=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_model_has_no_loss_and_samples_its_clip(data, text, prediction):
    """A stand-in that knows the answer: the objective and the sampler agree with each other about it."""
    alphas, clip = alphas_cumprod(), data.clips[:1].float()

    class Oracle(torch.nn.Module):
        def forward(self, x, timesteps, context, num_frames, num_images=0):
            alpha = alphas[timesteps][:, None, None, None, None]
            x = x.unflatten(0, (len(timesteps), -1))
            known = clip.expand_as(x)
            noise = (x - alpha.sqrt() * known) / (1 - alpha).sqrt()
            return target(prediction, known, noise, alpha).flatten(0, 1)

    noise = torch.randn(clip.shape)
    batch = objective.Batch(clip, noise, torch.tensor([500]), text[:1], 4, 0)
    assert objective.diffusion_loss(Oracle(), batch, alphas, prediction).item() < 1e-8
    out = sample.sample(Oracle(), text[0], text[3], (4, 4, 8, 8), alphas, prediction, steps=5)
    torch.testing.assert_close(out, clip[0], atol=1e-3, rtol=0)

    alpha = alphas[300]
    noisy = add_noise(clip, noise, alpha)
    recovered = to_x0(prediction, target(prediction, clip, noise, alpha), noisy, alpha)
    torch.testing.assert_close(recovered, clip, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="prediction must be one of"):
        target("sample", clip, noise, alpha)


def test_eager_attention_equals_the_fused_kernel():
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, n, 8, generator=rng) for n in (5, 7, 7))
    mask = torch.randn(1, 2, 5, 7, generator=rng)
    for given in (None, mask):
        torch.testing.assert_close(unet.eager_attention(q, k, v, 2, given), sdpa_attention(q, k, v, 2, given))


def test_export_keeps_the_average_and_says_what_it_is(tmp_path, data, text):
    run = run_in(tmp_path, JOINT)
    run.train_step(data, text)
    run.save()
    path = tmp_path / "base.safetensors"
    unet.export(run.state_file, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    assert metadata["lavie.stage"] == "base" and metadata["lavie.prediction"] == "v" and metadata["lavie.step"] == "1"
    assert UNetConfig.from_dict(json.loads(metadata["lavie.config"])) == TINY
    LaVieUNet(TINY).load_state_dict({k: v.float() for k, v in stored.items()}, strict=True)
    average = run.average.module.state_dict()
    assert all(torch.equal(v, average[k].half()) for k, v in stored.items())
