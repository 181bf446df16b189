"""First-frame-conditioned base.

No trained weights of this kind are published: tiny random ones show that the condition reaches the network.
"""

import pytest
import torch
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from comfyui_lavie.lavie_models import LaVieUNet
from comfyui_lavie.lavie_models.checkpoint import detect_config, export_published
from comfyui_lavie.lavie_models.schedule import noise_levels, sigmas_to_timesteps
from comfyui_lavie.nodes.first_frame import LaVieFirstFrameConditioning
from comfyui_lavie.tests.compat.kit import (
    SCALE,
    TINY,
    extended,
    guider,
    noise,
    random,
    relative,
    run,
    step,
    text,
    windows,
)
from safetensors.torch import load_file


@pytest.fixture
def model(tiny):
    return tiny("first_frame")


@pytest.fixture(scope="module")
def plain(tiny_files):
    unet = LaVieUNet(TINY["first_frame"])
    unet.load_state_dict(load_file(tiny_files["first_frame"]))
    return unet.eval().requires_grad_(False)


def conditioned(frame):
    return run(LaVieFirstFrameConditioning, positive=text(1), negative=text(2), latent={"samples": frame})


def expected(plain, x, frame, conditioning, sigma=1.0):
    """The network's own prediction with the frame, scaled as the VAE's latents are, beside every frame."""
    scaled = x / (1 + sigma**2) ** 0.5
    beside = (frame * SCALE).expand(len(x), -1, -1, -1)
    t = sigmas_to_timesteps(torch.tensor([sigma]), noise_levels())
    return x - sigma * plain(torch.cat((scaled, beside), dim=1), t, conditioning[0][0], num_frames=len(x))


@pytest.mark.core("LaVieFirstFrameConditioning")
def test_the_first_frame_reaches_every_frame_of_the_network(model, plain):
    x, frame = noise(), random(1, 4, 8, 8, seed=7) / SCALE
    positive, negative = conditioned(frame)
    got = step(guider(model, positive, negative, 3.0), x)
    with_text, without = (expected(plain, x, frame, c) for c in (text(1), text(2)))
    assert relative(got, without + 3.0 * (with_text - without)) < 1e-4
    other, _ = conditioned(-frame)
    assert relative(step(guider(model, other), x), step(guider(model, positive), x)) > 1e-3


@pytest.mark.core("LaVieFirstFrameConditioning inside context windows")
def test_every_window_gets_the_first_frame(model):
    x, frame = noise(8), random(1, 4, 8, 8, seed=7) / SCALE
    positive, _ = conditioned(frame)
    got = step(guider(windows(model), positive), x)
    parts = [step(guider(model, positive), x[s : s + 4]) for s in (0, 4)]
    assert relative(got, torch.cat(parts)) < 1e-5


def test_a_condition_for_each_frame_follows_the_windows(model):
    """Set by hand, one latent per frame."""
    x, each = noise(8), random(8, 4, 8, 8, seed=7) / SCALE
    conds = [[text(1)[0][0], {"concat_latent_image": each}]]
    got = step(guider(windows(model), conds), x)
    parts = [
        step(guider(model, [[text(1)[0][0], {"concat_latent_image": each[s : s + 4]}]]), x[s : s + 4]) for s in (0, 4)
    ]
    assert relative(got, torch.cat(parts)) < 1e-5


def test_image_is_encoded_and_the_first_of_several_counts(model, nano_vae):
    images = random(3, 70, 64, 3, seed=1).sigmoid()
    prompts = {"positive": text(1), "negative": text(2)}
    positive, negative = run(LaVieFirstFrameConditioning, **prompts, image=images, vae=nano_vae)
    wanted = nano_vae.encode(images[:1, 3:67])
    for conditioning in (positive, negative):
        assert torch.equal(conditioning[0][1]["concat_latent_image"], wanted)
    assert step(guider(model, positive, negative, 2.0), noise()).isfinite().all()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "connect the first frame"),
        ({"image": torch.zeros(1, 64, 64, 3)}, "needs a VAE"),
        ({"latent": {"samples": torch.zeros(1, 16, 8, 8)}}, "must be a latent"),
    ],
)
def test_inputs_that_do_not_fit(inputs, said):
    with pytest.raises(ValueError, match=said):
        run(LaVieFirstFrameConditioning, positive=text(1), negative=text(2), **inputs)


def test_a_first_frame_model_without_its_frame_is_refused(model):
    with pytest.raises(ValueError, match="LaVie First Frame Conditioning"):
        step(guider(model, text(1)), noise())


def test_a_first_frame_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match="16 x 8 latent pixels"):
        step(guider(model, conditioned(torch.ones(1, 4, 8, 16))[0]), noise())


@pytest.mark.core(
    "LaVieFirstFrameConditioning, InstructPixToPixConditioning with a base that takes no frame",
    works=False,
    note="Refused.",
)
def test_a_first_frame_for_the_published_base_is_refused(tiny, nano_vae):
    base = tiny("base")
    with pytest.raises(ValueError, match="takes no frames to start from"):
        step(guider(base, conditioned(torch.ones(1, 4, 8, 8))[0]), noise())
    pixels = torch.zeros(1, 64, 64, 3)
    positive, *_ = run(InstructPixToPixConditioning, positive=text(1), negative=text(2), vae=nano_vae, pixels=pixels)
    with pytest.raises(ValueError, match="takes no frames to start from"):
        step(guider(base, positive), noise())


def test_the_layout_is_told_from_shapes_alone(tiny_files):
    """Without metadata, under our names and the published ones."""
    config, weights = TINY["first_frame"], load_file(tiny_files["first_frame"])
    for named in (weights, export_published(weights, config)):
        assert detect_config(named, {}) == (config, "epsilon")


@pytest.mark.core("LaVieExtendVideo with the first-frame-conditioned base, recursively")
def test_each_clip_is_given_the_frame_that_it_begins_with(model):
    """Clips of 4 from one frame: each is sampled with the last frame before it as its condition."""
    seen = []

    def record(executor, x, *args, **kwargs):
        seen.append(x[:, 4:].clone())
        return executor(x, *args, **kwargs)

    model.add_wrapper("diffusion_model", record)
    video = random(3, 4, 8, 8, seed=1) / SCALE
    got = extended(guider(model, text(1)), video, 9, clip_frames=4, overlap=1, steps=2)
    assert got.shape[0] == 9 and torch.equal(got[:3], video)
    first, second = seen[0], seen[2]
    assert len(seen) == 4 and len(first) == 4
    for condition, frame in ((first, got[2:3]), (second, got[5:6])):
        torch.testing.assert_close(condition, (frame * SCALE).expand(4, -1, -1, -1), atol=1e-5, rtol=1e-4)
